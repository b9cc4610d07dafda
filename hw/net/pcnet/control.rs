//! What registers do: initialisation, start and stop, interrupts.

use net::Delivery;

use super::Pcnet;
use super::registers::{
    DWORD_PORTS, LAMP_LINK, LAMP_ON, ONLY_STOPPED, STYLE_32, STYLE_NUMBER, STYLE_PCNET, bcr, csr,
    extended, features, mode, status,
};

/// How long the controller takes to look at its rings again, when its register says nothing: 65536
/// cycles of the bus, of 33 MHz.
const CYCLE: i64 = 30;
const LONGEST_INTERVAL: i64 = 1 << 16;
/// Descriptors of a ring; in a register zero means as many.
const LONGEST_RING: u16 = 512;

impl Pcnet {
    /// Drives the pin by the reasons that are let through.
    pub(super) fn update_interrupt(&mut self) {
        let csr = &mut self.st.csr;
        let events = csr[csr::STATUS] & status::INTERRUPTS & !csr[csr::MASKS];
        let more = csr[csr::FEATURES];
        let more = more & features::EVENTS & !(more << 1) | more & features::UINT;
        let most = csr[csr::EXTENDED];
        let most = most & extended::EVENTS & most << 1;
        let summed = csr[csr::STATUS] & !(status::INTR | status::ERR);
        let interrupts = events | more | most != 0;
        let fails = summed & status::ERRORS != 0;
        csr[csr::STATUS] = summed
            | if interrupts { status::INTR } else { 0 }
            | if fails { status::ERR } else { 0 };
        self.wires.intx.set(interrupts && summed & status::IENA != 0);
    }

    pub(super) fn suspended(&self) -> bool {
        self.st.csr[csr::EXTENDED] & extended::SUSPEND != 0
    }

    pub(super) fn read_csr(&mut self, number: u8) -> u16 {
        let csr = &self.st.csr;
        let left = |length: usize, next: u16| csr[length].saturating_sub(next);
        match usize::from(number) {
            csr::INIT_LOW_ALIAS => csr[csr::INIT_LOW],
            csr::INIT_HIGH_ALIAS => csr[csr::INIT_HIGH],
            csr::RECEIVE_LEFT => left(csr::RECEIVE_LENGTH, self.st.receiving),
            csr::TRANSMIT_LEFT => left(csr::TRANSMIT_LENGTH, self.st.transmitting),
            number => csr.get(number).copied().unwrap_or(0),
        }
    }

    pub(super) fn write_csr(&mut self, number: u8, value: u16) {
        let number = usize::from(number);
        let guarded = ONLY_STOPPED.iter().any(|&(from, to)| (from..=to).contains(&number));
        if guarded && !self.st.is(status::STOP) && !self.suspended() {
            base::guest_error!("pcnet: register {number} is written while the controller runs");
            return;
        }
        let old = self.st.csr[number];
        match number {
            csr::STATUS => return self.write_status(value),
            csr::MASKS => self.st.csr[number] = value,
            csr::FEATURES => {
                let events = features::EVENTS | features::UINT;
                let mut new = value & !events & !features::UINT_COMMAND | old & events & !value;
                if value & features::UINT_COMMAND != 0 {
                    new |= features::UINT;
                }
                self.st.csr[number] = new;
            }
            csr::EXTENDED => {
                let events = extended::EVENTS;
                self.st.csr[number] = value & !events | old & events & !value;
                // The controller has stopped in between two frames.
                self.end.schedule();
                self.end.offer_room();
            }
            csr::INIT_LOW_ALIAS => self.st.csr[csr::INIT_LOW] = value,
            csr::INIT_HIGH_ALIAS => self.st.csr[csr::INIT_HIGH] = value,
            csr::STYLE => self.set_style(value),
            csr::RECEIVE_LEFT | csr::TRANSMIT_LEFT => {
                let (length, next) = match number {
                    csr::RECEIVE_LEFT => (csr::RECEIVE_LENGTH, &mut self.st.receiving),
                    _ => (csr::TRANSMIT_LENGTH, &mut self.st.transmitting),
                };
                *next = self.st.csr[length].saturating_sub(value);
            }
            csr::RECEIVE_LENGTH | csr::TRANSMIT_LENGTH if value == 0 => {
                self.st.csr[number] = LONGEST_RING;
            }
            _ if guarded => self.st.csr[number] = value,
            _ => {}
        }
        self.update_interrupt();
    }

    /// The register that starts and stops the controller.
    fn write_status(&mut self, value: u16) {
        let was = self.st.csr[csr::STATUS];
        let mut new = was & !(value & status::EVENTS) & !status::IENA | value & status::IENA;
        if value & status::STOP != 0 {
            self.st.csr[csr::STATUS] = status::STOP;
            self.stopped();
            return self.update_interrupt();
        }
        // What has begun is not begun again.
        let begins = value & !(was & (status::INIT | status::STRT));
        new |= begins & (status::INIT | status::STRT);
        if begins & (status::INIT | status::STRT) != 0 {
            new &= !status::STOP;
        }
        self.st.csr[csr::STATUS] = new;
        if begins & status::INIT != 0 {
            self.initialise();
        }
        if begins & status::STRT != 0 {
            self.start();
        }
        if value & status::TDMD != 0 && self.st.is(status::TXON) {
            self.st.demanded = true;
            self.end.schedule();
        }
        self.update_interrupt();
        self.end.offer_room();
    }

    /// Reads the block that tells of address, filter and rings.
    fn initialise(&mut self) {
        let at = u64::from(self.st.pointer(csr::INIT_LOW));
        let mut block = [0; 28];
        self.wires.dma.read(at, &mut block);
        let word = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
        let csr = &mut self.st.csr;
        let (address, groups, rings, lengths);
        if csr[csr::STYLE] & STYLE_32 != 0 {
            csr[csr::MODE] = word(0);
            (address, groups) = (4, 12);
            lengths = [block[2] >> 4, block[3] >> 4];
            rings = [20, 24].map(|at| (word(at), word(at + 2)));
        } else {
            csr[csr::MODE] = word(0);
            (address, groups) = (2, 8);
            lengths = [block[0x13] >> 5, block[0x17] >> 5];
            // The uppermost byte of any address is that of the block's own.
            let top = csr[csr::INIT_HIGH] & 0xff00;
            rings = [0x10, 0x14].map(|at| (word(at), word(at + 2) & 0xff | top));
        }
        (0..3).for_each(|n| csr[csr::ADDRESS + n] = word(address + 2 * n));
        (0..4).for_each(|n| csr[csr::GROUPS + n] = word(groups + 2 * n));
        let places = [csr::RECEIVE_RING, csr::TRANSMIT_RING];
        for (place, (low, high)) in places.into_iter().zip(rings) {
            (csr[place], csr[place + 1]) = (low, high);
        }
        let length = |log: u8| (1u16 << log.min(9)).min(LONGEST_RING);
        csr[csr::RECEIVE_LENGTH] = length(lengths[0]);
        csr[csr::TRANSMIT_LENGTH] = length(lengths[1]);
        csr[csr::RING_LENGTHS] = u16::from(lengths[1]) << 12 | u16::from(lengths[0]) << 8;
        csr[csr::STATUS] |= status::IDON;
        (self.st.receiving, self.st.transmitting) = (0, 0);
    }

    fn start(&mut self) {
        let mode = self.st.csr[csr::MODE];
        let on = if mode & mode::NO_TRANSMITTER == 0 { status::TXON } else { 0 }
            | if mode & mode::NO_RECEIVER == 0 { status::RXON } else { 0 };
        self.st.csr[csr::STATUS] |= on;
        self.st.data.clear();
        self.st.demanded = true;
        self.end.schedule();
        self.set_poll();
    }

    /// The controller does nothing any more.
    pub(super) fn stopped(&mut self) {
        self.poll.cancel();
        self.unreported = 0;
        self.st.data.clear();
        self.st.demanded = false;
        // What waits on the cable is not for a driver to come.
        self.end.offer_room();
    }

    /// The controller looks at its rings by itself while it is to send, and when it lacks room.
    pub(super) fn set_poll(&mut self) {
        let polls = self.st.csr[csr::FEATURES] & features::NO_POLLING == 0;
        if self.starved || polls && self.st.is(status::TXON) {
            // A negative number of cycles.
            let interval = self.st.csr[csr::POLL_INTERVAL].wrapping_neg();
            let cycles = if interval == 0 { LONGEST_INTERVAL } else { interval.into() };
            self.poll.set(self.clocks.now_virtual() + cycles.max(1 << 10) * CYCLE);
        }
    }

    pub(super) fn polls(&mut self) {
        if self.st.csr[csr::FEATURES] & features::NO_POLLING == 0 && self.has_work() {
            self.st.demanded = true;
            self.end.schedule();
        }
        if std::mem::take(&mut self.starved) {
            self.end.offer_room();
        }
        self.set_poll();
    }

    /// There is no descriptor for a frame: looks for one later.
    pub(super) fn starve(&mut self) -> Delivery {
        if !std::mem::replace(&mut self.starved, true) {
            self.set_poll();
        }
        Delivery::Full
    }

    fn set_style(&mut self, value: u16) {
        let style = match value & STYLE_NUMBER {
            0 => STYLE_PCNET,
            1 => 1 | STYLE_32,
            number @ (2 | 3) => number | STYLE_32 | STYLE_PCNET,
            other => {
                base::guest_error!("pcnet: there is no software style {other}");
                STYLE_PCNET
            }
        };
        self.st.csr[csr::STYLE] = style;
        self.st.bcr[bcr::STYLE] = style;
    }

    pub(super) fn read_bcr(&mut self, number: u8) -> u16 {
        let number = usize::from(number);
        let value = self.st.bcr.get(number).copied().unwrap_or(0);
        match number {
            bcr::LAMPS..=bcr::LAST_LAMP if self.cable_up && value & LAMP_LINK != 0 => {
                value | LAMP_ON
            }
            _ => value,
        }
    }

    pub(super) fn write_bcr(&mut self, number: u8, value: u16) {
        let number = usize::from(number);
        match number {
            bcr::STYLE => self.set_style(value),
            bcr::BURST => {
                let width = self.st.bcr[number] & DWORD_PORTS;
                self.st.bcr[number] = value & !DWORD_PORTS | width;
            }
            bcr::LAMPS..=bcr::LAST_LAMP => self.st.bcr[number] = value & !LAMP_ON,
            bcr::MISCELLANEOUS | bcr::FULL_DUPLEX | bcr::EEPROM | bcr::LATENCY => {
                self.st.bcr[number] = value;
            }
            _ => {}
        }
    }
}
