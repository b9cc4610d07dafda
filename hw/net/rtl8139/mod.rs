//! Realtek's RTL8139C+, a PCI Fast Ethernet controller (RTL8139C(L) and RTL8139C(L)+ datasheets). It
//! has two ways to move frames: the older chips' four registers to send from and one buffer to receive
//! in ([`buffers`]), and rings of descriptors ([`rings`]).

mod buffers;
mod eeprom;
mod registers;
mod rings;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use base::clock::{ClockKind, Clocks, Timer};
use base::device::{self, Device};
use base::memory::AccessSizes;
use base::props::{MacAddr, Props};
use base::state::State;
use net::{Delivery, Frame};

use super::adapter::{Adapter, AdapterEnd, Outgoing};
use super::card::{CardError, NicPlace, NicProps, Socket};
use super::frames::{ADDRESS, BROADCAST, FCS, MIN_FRAME, destination, group_hash, is_group};
use crate::pci::{
    Bar, BarKind, ConfigSpace, Identity, PciDevice, PciFunction, PciProps, PciWires, ids,
};

use eeprom::Eeprom;
use registers::{
    BMCR_NEGOTIATES, BMCR_RESET, BMCR_RESTART, BMSR_LINK, BMSR_NEGOTIATED, DTCCR_COMMAND, MASKS,
    MSR_LINKB, cpcr, cr, eecr, isr, poll, rcr, reg, tcr, tsd,
};
use rings::Rings;

const IDENTITY: Identity = Identity {
    vendor: ids::REALTEK,
    device: ids::REALTEK_8139,
    revision: 0x20,
    class: 0x02_0000,
    subsystem: Some((ids::QUMRANET, ids::QUMRANET_DEFAULT_SUBSYSTEM)),
    interrupt_pin: 1,
};

/// iPXE for it.
const ROM: &str = "efi-rtl8139.rom";

/// The timer counts cycles of the bus, of 33 MHz.
const CYCLE: i64 = 30;
/// Longer frames are not the cable's fault; the chip's receive FIFO ends here.
const MAX_FRAME: usize = 4096 - FCS;

/// Properties of `rtl8139`.
#[derive(Debug, Props)]
pub struct Rtl8139Props {
    /// Place on the bus.
    #[prop(flatten)]
    pub pci: PciProps,
    /// The network.
    #[prop(flatten)]
    pub nic: NicProps,
}

/// What the chip has counted (C+ datasheet, 6.4); stored on request.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
struct Tally {
    sent: u64,
    received: u64,
    send_errors: u64,
    receive_errors: u32,
    missed: u16,
    received_broadcast: u64,
    received_group: u32,
    received_own: u64,
}

impl Tally {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        let wide = [self.sent, self.received, self.send_errors];
        wide.iter().for_each(|count| bytes.extend(count.to_le_bytes()));
        bytes.extend(self.receive_errors.to_le_bytes());
        bytes.extend(self.missed.to_le_bytes());
        // There are no alignment errors and no collisions.
        bytes.extend([0; 2 + 4 + 4]);
        let wide = [self.received_own, self.received_broadcast];
        wide.iter().for_each(|count| bytes.extend(count.to_le_bytes()));
        bytes.extend(self.received_group.to_le_bytes());
        bytes.extend([0; 2 + 2]);
        bytes
    }
}

/// Registers and what is behind them.
#[derive(Clone, Debug, PartialEq, Eq, State)]
pub struct Rtl8139State {
    file: [u8; reg::END],
    eeprom: Eeprom,
    /// Which of the four registers is sent from next.
    next_sent: u8,
    rings: Rings,
    tally: Tally,
    /// When the timer was zero.
    timer_begin: i64,
}

impl Rtl8139State {
    fn new(mac: MacAddr) -> Self {
        Rtl8139State {
            file: [0; reg::END],
            eeprom: Eeprom::new(mac),
            next_sent: 0,
            rings: Rings::default(),
            tally: Tally::default(),
            timer_begin: 0,
        }
    }

    fn u8(&self, at: usize) -> u8 {
        self.file[at % reg::END]
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.u8(at), self.u8(at + 1)])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        for (place, byte) in self.file[at..].iter_mut().zip(bytes) {
            *place = *byte;
        }
    }

    fn set_u16(&mut self, at: usize, value: u16) {
        self.set(at, &value.to_le_bytes());
    }

    fn set_u32(&mut self, at: usize, value: u32) {
        self.set(at, &value.to_le_bytes());
    }
}

/// Whom a frame that was let through is for, as descriptors and headers say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    Own,
    Group,
    Broadcast,
    /// Nobody here: everything is let through.
    Other,
}

/// A write by the guest.
#[derive(Clone, Copy)]
struct Write {
    at: usize,
    size: usize,
    value: u32,
}

impl Write {
    /// What it brings for the register of `len` bytes at `at`: bits, and which of them are written.
    fn part(&self, at: usize, len: usize) -> Option<(u32, u32)> {
        let (mut value, mut mask) = (0, 0);
        for (n, byte) in self.value.to_le_bytes().into_iter().take(self.size).enumerate() {
            if let Some(place) = (self.at + n).checked_sub(at).filter(|place| *place < len) {
                value |= u32::from(byte) << (8 * place);
                mask |= 0xff << (8 * place);
            }
        }
        (mask != 0).then_some((value, mask))
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.part(at, 1).map(|(value, _)| value as u8)
    }

    fn touches(&self, at: usize, len: usize) -> bool {
        self.at < at + len && at < self.at + self.size
    }
}

/// The adapter.
pub struct Rtl8139 {
    wires: PciWires,
    clocks: Clocks,
    timer: Timer,
    /// The cable; none once the adapter was taken off its bus.
    socket: Option<Socket>,
    end: Arc<AdapterEnd<Rtl8139>>,
    /// Reasons for an interrupt that wait for the end of a burst.
    unreported: u16,
    /// Whether the cable has a link.
    cable_up: bool,
    /// Where frames are put together.
    scratch: Vec<u8>,
    st: Rtl8139State,
}

impl Rtl8139 {
    /// Plugs an adapter.
    pub fn plug(place: NicPlace<'_>, props: &Rtl8139Props) -> Result<Arc<PciFunction>, CardError> {
        const SIZE: u64 = reg::END as u64;
        let mut config = ConfigSpace::new(&IDENTITY);
        // Where the chip has its capability, which it does not announce.
        config.set_u8(crate::pci::reg::CAPABILITIES, 0xdc);
        config.add_bar(0, Bar { kind: BarKind::Io, size: SIZE });
        config.add_bar(1, Bar { kind: BarKind::Memory32 { prefetchable: false }, size: SIZE });
        let NicPlace { bus, clocks, main_loop, nics, identity } = place;
        bus.check_place("rtl8139", &props.pci)?;
        let socket = nics.connect("rtl8139", &identity, &props.nic)?;
        let function = bus.plug_with_rom("rtl8139", &props.pci, Some(ROM), config, |wires| {
            let device = device::share(|me| Rtl8139 {
                wires,
                clocks: clocks.clone(),
                timer: device::timer(me, clocks, ClockKind::Virtual, Rtl8139::timed_out),
                cable_up: socket.cable().is_up(),
                end: AdapterEnd::new(me, &socket, &main_loop),
                unreported: 0,
                scratch: Vec::new(),
                st: Rtl8139State::new(socket.mac),
                socket: Some(socket),
            });
            let region = || device::region(&device, 0, "rtl8139", SIZE, AccessSizes::UP_TO_DWORD);
            let bars = vec![(0, region()), (1, region())];
            let card = device.lock();
            card.socket.iter().for_each(|socket| card.end.enter(socket));
            drop(card);
            (device, bars)
        })?;
        Ok(function)
    }

    /// Drives the pin by the reasons that are let through.
    fn update_interrupt(&mut self) {
        let causes = self.st.u16(reg::ISR) & self.st.u16(reg::IMR);
        self.wires.intx.set(causes != 0);
    }

    fn interrupt(&mut self, causes: u16) {
        self.st.set_u16(reg::ISR, self.st.u16(reg::ISR) | causes);
        self.update_interrupt();
    }

    fn unlocked(&self) -> bool {
        self.st.u8(reg::EECR) & eecr::MODE == eecr::UNLOCK
    }

    fn receives(&self) -> bool {
        self.st.u8(reg::CR) & cr::RE != 0
    }

    fn transmits(&self) -> bool {
        self.st.u8(reg::CR) & cr::TE != 0
    }

    /// Whether the driver has configured one of these of the C+ mode; [`cpcr::TX`] and [`cpcr::RX`]
    /// say that frames go by rings.
    fn configured(&self, any: u16) -> bool {
        self.st.u16(reg::CPCR) & any != 0
    }

    /// How far the timer is.
    fn ticks(&self) -> u32 {
        ((self.clocks.now_virtual() - self.st.timer_begin) / CYCLE) as u32
    }

    /// Waits for the timer to reach what the driver has set.
    fn arm_timer(&mut self) {
        match self.st.u32(reg::TIMER_INT) {
            0 => self.timer.cancel(),
            due => {
                let left = due.wrapping_sub(self.ticks()).wrapping_sub(1);
                let left = i64::from(left) + 1;
                let now = self.clocks.now_virtual();
                let begun = (now - self.st.timer_begin) % CYCLE;
                self.timer.set(now - begun + left * CYCLE);
            }
        }
    }

    fn timed_out(&mut self) {
        self.interrupt(isr::TIMEOUT);
        self.arm_timer();
    }

    fn show_link(&mut self) {
        let bits = BMSR_LINK | BMSR_NEGOTIATED;
        let status = self.st.u16(reg::BMSR) & !bits;
        let msr = self.st.u8(reg::MSR) & !MSR_LINKB;
        self.st.set_u16(reg::BMSR, status | if self.cable_up { bits } else { 0 });
        self.st.set(reg::MSR, &[msr | if self.cable_up { 0 } else { MSR_LINKB }]);
    }

    /// What the reset command does: all but the address and what the EEPROM has configured.
    fn reset_chip(&mut self) {
        let kept = self.st.u8(reg::EECR);
        let address = self.st.file[..reg::MAR].to_vec();
        let configuration =
            [reg::CONFIG0, reg::CONFIG1, reg::CONFIG3, reg::CONFIG4].map(|at| (at, self.st.u8(at)));
        self.st.file = [0; reg::END];
        self.st.set(reg::IDR, &address);
        self.st.set(reg::EECR, &[kept]);
        for (at, value) in configuration {
            self.st.set(at, &[value]);
        }
        (0..4).for_each(|n| self.st.set_u32(reg::TSD + 4 * n, tsd::OWN));
        self.st.set_u16(reg::CAPR, buffers::CAPR_BEHIND.wrapping_neg());
        self.st.set_u32(reg::TCR, registers::VERSION);
        registers::AT_RESET.iter().for_each(|&(at, value)| self.st.set(at, &[value]));
        self.reset_transceiver();
        self.st.next_sent = 0;
        self.st.rings = Rings::default();
        self.unreported = 0;
        self.restart_timer();
        self.update_interrupt();
    }

    fn reset_transceiver(&mut self) {
        for &(at, value) in registers::TRANSCEIVER_AT_RESET {
            self.st.set_u16(at, value);
        }
        self.show_link();
    }

    fn restart_timer(&mut self) {
        self.st.timer_begin = self.clocks.now_virtual();
        self.arm_timer();
    }

    /// Takes over what the EEPROM holds.
    fn autoload(&mut self) {
        let address = self.st.eeprom.address();
        self.st.set(reg::IDR, &address);
    }

    /// The registers as the guest sees them; only some are not just what the file holds.
    fn refresh(&mut self) {
        let command = self.st.u8(reg::CR) & !cr::EMPTY;
        let empty = if self.buffer_is_empty() { cr::EMPTY } else { 0 };
        self.st.set(reg::CR, &[command | empty]);
        let ticks = self.ticks();
        self.st.set_u32(reg::TCTR, ticks);
        let summary = self.sent_summary();
        self.st.set_u16(reg::TSAD_SUMMARY, summary);
        let wires = self.st.u8(reg::EECR) & !eecr::DO;
        let out = self.st.eeprom.output() && wires & eecr::MODE == eecr::PROGRAM;
        self.st.set(reg::EECR, &[wires | if out { eecr::DO } else { 0 }]);
    }

    /// A command is written.
    fn command(&mut self, command: u8) {
        let was = self.st.u8(reg::CR);
        if command & cr::RST != 0 {
            return self.reset_chip();
        }
        self.st.set(reg::CR, &[command & (cr::RE | cr::TE)]);
        if command & !was & cr::RE != 0 {
            self.begin_buffer();
            self.st.rings.begin_receiving();
        }
        if command & !was & cr::TE != 0 {
            self.st.next_sent = 0;
            self.st.rings.begin_transmitting();
        }
        self.end.schedule();
    }

    fn eeprom_control(&mut self, value: u8) {
        self.st.set(reg::EECR, &[value & !eecr::DO]);
        match value & eecr::MODE {
            eecr::PROGRAM => self.st.eeprom.set(value),
            mode => {
                self.st.eeprom.deselect();
                if mode == eecr::AUTOLOAD {
                    self.autoload();
                    // It is done at once, and the mode is left.
                    self.st.set(reg::EECR, &[0]);
                }
            }
        }
    }

    /// Registers that do more than hold what was written.
    fn act(&mut self, write: Write) {
        let half = |at| write.part(at, 2).map(|(value, _)| value as u16);
        if let Some(command) = write.byte(reg::CR) {
            self.command(command);
        }
        if let Some(value) = write.byte(reg::EECR) {
            self.eeprom_control(value);
        }
        if let Some(value) = half(reg::ISR) {
            self.st.set_u16(reg::ISR, self.st.u16(reg::ISR) & !value);
        }
        if write.touches(reg::TCTR, 4) {
            self.restart_timer();
        } else if write.touches(reg::TIMER_INT, 4) {
            self.arm_timer();
        }
        if write.touches(reg::MPC, 4) {
            self.st.set_u32(reg::MPC, 0);
        }
        for &(at, mask) in registers::GUARDED {
            if let Some(value) = write.byte(at).filter(|_| self.unlocked()) {
                self.st.set(at, &[self.st.u8(at) & !mask | value & mask]);
            }
        }
        if let Some(value) = half(reg::BMCR) {
            self.transceiver_control(value);
        }
        if let Some((value, mask)) = write.part(reg::TCR, 4).filter(|_| self.transmits()) {
            let mask = mask & registers::TCR_WRITABLE;
            self.st.set_u32(reg::TCR, self.st.u32(reg::TCR) & !mask | value & mask);
        }
        if let Some(value) = write.byte(reg::TPPOLL) {
            self.st.rings.poll(value);
            if value & poll::SWINT != 0 {
                self.interrupt(isr::SWINT);
            }
            self.end.schedule();
        }
        if write.byte(reg::DTCCR).is_some_and(|value| value & DTCCR_COMMAND != 0)
            && self.configured(cpcr::TX | cpcr::RX)
        {
            let to = self.st.u64(reg::DTCCR) & !0x3f;
            self.wires.dma.write(to, &self.st.tally.bytes());
            self.st.file[reg::DTCCR] &= !DTCCR_COMMAND;
        }
        if write.touches(reg::TSD, 16) && !self.configured(cpcr::TX) {
            self.send_requested(write);
        }
        if write.touches(reg::TNPDS, 16) || write.touches(reg::RDSAR, 8) {
            self.st.rings.moved(write.touches(reg::RDSAR, 8));
        }
        if write.touches(reg::ISR, 2) || write.touches(reg::IMR, 2) {
            self.update_interrupt();
        }
        if self.receives() {
            self.end.offer_room();
        }
    }

    fn transceiver_control(&mut self, value: u16) {
        match value & BMCR_RESET != 0 {
            true => self.reset_transceiver(),
            false => self.st.set_u16(reg::BMCR, BMCR_NEGOTIATES | value & BMCR_RESTART),
        }
    }

    /// Whom a frame is for, if the filter lets it through.
    fn matches(&self, address: [u8; ADDRESS]) -> Option<Match> {
        let wanted = self.st.u32(reg::RCR);
        let lets = |bit: u32| wanted & bit != 0;
        let own = self.st.file[reg::IDR..reg::IDR + ADDRESS] == address;
        if address == BROADCAST && lets(rcr::AB) {
            Some(Match::Broadcast)
        } else if own && lets(rcr::APM) {
            Some(Match::Own)
        } else if is_group(address) && lets(rcr::AM) {
            let bit = group_hash(address);
            let byte = self.st.u8(reg::MAR + (bit / 8) as usize);
            (byte >> (bit % 8) & 1 != 0 || lets(rcr::AAP)).then_some(Match::Group)
        } else {
            lets(rcr::AAP).then_some(Match::Other)
        }
    }

    fn count_received(&mut self, whom: Match) {
        let tally = &mut self.st.tally;
        tally.received += 1;
        match whom {
            Match::Own => tally.received_own += 1,
            Match::Group => tally.received_group = tally.received_group.wrapping_add(1),
            Match::Broadcast => tally.received_broadcast += 1,
            Match::Other => {}
        }
        self.unreported |= isr::ROK;
    }
}

impl Device for Rtl8139 {
    fn read(&mut self, _: u32, offset: u64, size: u8) -> u64 {
        self.refresh();
        let at = offset as usize;
        let bytes = self.st.file.iter().skip(at).take(size.into());
        bytes.rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn write(&mut self, _: u32, offset: u64, size: u8, value: u64) {
        let (at, size) = (offset as usize, usize::from(size));
        let write = Write { at, size, value: value as u32 };
        let places = self.st.file.iter_mut().zip(&MASKS).skip(at);
        for ((place, mask), byte) in places.zip(value.to_le_bytes().into_iter().take(size)) {
            *place = *place & !mask | byte & mask;
        }
        self.act(write);
    }

    fn reset(&mut self) {
        for &(at, value) in registers::CONFIGURATION_AT_RESET {
            self.st.set(at, &[value]);
        }
        self.st.set(reg::EECR, &[0]);
        self.st.eeprom.deselect();
        self.autoload();
        self.st.tally = Tally::default();
        self.reset_chip();
        // As if the driver's own reset were not done yet.
        self.st.set(reg::CR, &[cr::RST]);
    }
}

impl Adapter for Rtl8139 {
    fn next_frame(&mut self) -> Option<Outgoing> {
        if !self.transmits() || !self.wires.dma.is_enabled() {
            return None;
        }
        match self.configured(cpcr::TX) {
            true => self.next_of_rings(),
            false => self.next_of_registers().map(Outgoing::from),
        }
    }

    fn receive(&mut self, frame: &Frame<'_>) -> Delivery {
        if !self.receives() || !self.wires.dma.is_enabled() {
            return Delivery::Taken;
        }
        if frame.len() > MAX_FRAME {
            self.st.tally.receive_errors = self.st.tally.receive_errors.wrapping_add(1);
            self.unreported |= isr::RER;
            return Delivery::Taken;
        }
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        bytes.resize(frame.len().max(MIN_FRAME), 0);
        frame.copy(0, &mut bytes);
        let delivery = match self.matches(destination(&bytes)) {
            None => Delivery::Taken,
            Some(whom) if self.configured(cpcr::RX) => {
                self.store_in_ring(&mut bytes, whom, frame.offload.checksum)
            }
            Some(whom) => self.store_in_buffer(&bytes, whom),
        };
        self.scratch = bytes;
        delivery
    }

    fn burst_over(&mut self) {
        let causes = std::mem::take(&mut self.unreported);
        if causes != 0 {
            self.interrupt(causes);
        }
    }

    fn loops(&self) -> bool {
        self.st.u32(reg::TCR) & tcr::LOOPBACK == tcr::LOOPBACK
    }

    fn cable_changed(&mut self, up: bool) {
        if std::mem::replace(&mut self.cable_up, up) != up {
            self.show_link();
            self.interrupt(isr::LINK);
        }
    }

    fn shown_mac(&self) -> MacAddr {
        MacAddr(destination(&self.st.file))
    }
}

impl PciDevice for Rtl8139 {
    fn config_written(&mut self, _: &mut ConfigSpace, _: usize, _: u8) {
        self.end.offer_room();
    }

    fn unplugged(&mut self) {
        self.socket = None;
    }
}
