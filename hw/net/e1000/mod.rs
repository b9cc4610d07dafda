//! Intel's 82540EM, a PCI Gigabit Ethernet controller (Intel, PCI/PCI-X Family of Gigabit Ethernet
//! Controllers, Software Developer's Manual).
//!
//! The guest's register accesses and frames from the cable come with the device locked; frames to the
//! cable are assembled with the lock held and sent without, by a worker on the main loop.

mod eeprom;
mod phy;
mod receive;
mod registers;
#[cfg(test)]
mod tests;
mod transmit;

use std::sync::Arc;

use base::clock::{ClockKind, Clocks, Timer};
use base::device::{self, Device};
use base::memory::AccessSizes;
use base::props::{MacAddr, Props};
use base::state::{State, StateError};

use net::{Delivery, Frame};

use super::adapter::{Adapter, AdapterEnd, Outgoing};
use super::card::{CardError, NicPlace, NicProps, Socket};
use crate::pci::{
    Bar, BarKind, ConfigSpace, Identity, PciDevice, PciFunction, PciProps, PciWires, ids,
};

use phy::Phy;
use registers::{
    ADDRESS_VALID, ADDRESSES, AT_RESET, CTRL_RST, MASKS, STATUS_LU, WORDS, cause, rctl, reg,
};
use transmit::Transmitter;

const IDENTITY: Identity = Identity {
    vendor: ids::INTEL,
    device: ids::INTEL_82540EM,
    revision: 3,
    class: 0x02_0000,
    subsystem: Some((ids::QUMRANET, ids::QUMRANET_DEFAULT_SUBSYSTEM)),
    interrupt_pin: 1,
};

/// iPXE for it.
const ROM: &str = "efi-e1000.rom";

/// Regions.
const MEMORY: u32 = 0;
const PORTS: u32 = 1;
const MEMORY_SIZE: u64 = 0x2_0000;
const PORTS_SIZE: u64 = 0x40;
/// Ports: which register, and its data.
const IOADDR: u64 = 0;
const IODATA: u64 = 4;

/// How long both sides take to agree on a speed.
const NEGOTIATION: i64 = 500_000_000;
/// The unit of the throttling register.
const THROTTLE_UNIT: i64 = 256;

/// Properties of `e1000`.
#[derive(Debug, Props)]
pub struct E1000Props {
    /// Place on the bus.
    #[prop(flatten)]
    pub pci: PciProps,
    /// The network.
    #[prop(flatten)]
    pub nic: NicProps,
    /// Has no effect: all registers are saved.
    #[prop(default = true)]
    pub extra_mac_registers: bool,
    /// Whether the type of VLAN frames is known without the driver's saying it.
    #[prop(name = "init-vet", default = true)]
    pub init_vet: bool,
    /// Has no effect: both contexts are saved.
    #[prop(default = true)]
    pub migrate_tso_props: bool,
}

/// Registers and what is behind them.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(check)]
pub struct E1000State {
    registers: Vec<u32>,
    /// What the guest chose by the address port.
    port_address: u32,
    phy: Phy,
    eeprom_wires: eeprom::Wires,
    transmitter: Transmitter,
    /// The pin is driven.
    interrupting: bool,
    /// No interrupt before this time.
    quiet_until: i64,
    /// When negotiation ends, if it is under way.
    negotiated_at: Option<i64>,
}

impl Default for E1000State {
    fn default() -> Self {
        E1000State {
            registers: vec![0; WORDS],
            port_address: 0,
            phy: Phy::default(),
            eeprom_wires: eeprom::Wires::default(),
            transmitter: Transmitter::default(),
            interrupting: false,
            quiet_until: 0,
            negotiated_at: None,
        }
    }
}

impl E1000State {
    fn check(&self) -> Result<(), StateError> {
        match self.registers.len() {
            WORDS => Ok(()),
            _ => Err(StateError::invalid("the register file has another size")),
        }
    }

    fn get(&self, register: u32) -> u32 {
        self.registers.get((register / 4) as usize).copied().unwrap_or(0)
    }

    fn set(&mut self, register: u32, value: u32) {
        if let Some(word) = self.registers.get_mut((register / 4) as usize) {
            *word = value;
        }
    }

    /// Counts, up to the limit.
    fn count(&mut self, register: u32, by: u32) {
        self.set(register, self.get(register).saturating_add(by));
    }

    /// Counts in a register of 64 bits, up to the limit.
    fn count_wide(&mut self, low: u32, by: usize) {
        let sum = u64::from(self.get(low + 4)) << 32 | u64::from(self.get(low));
        let sum = sum.saturating_add(by as u64);
        self.set(low, sum as u32);
        self.set(low + 4, (sum >> 32) as u32);
    }

    /// Counts a frame among those of its size; `first` is the counter of the smallest.
    fn count_size(&mut self, first: u32, len: usize) {
        let class = match len {
            0..=64 => 0,
            65..=127 => 1,
            128..=255 => 2,
            256..=511 => 3,
            512..=1023 => 4,
            _ => 5,
        };
        self.count(first + 4 * class, 1);
    }
}

/// The adapter.
pub struct E1000 {
    mac: MacAddr,
    init_vet: bool,
    eeprom: [u16; eeprom::WORDS],
    wires: PciWires,
    clocks: Clocks,
    throttle: Timer,
    negotiation: Timer,
    /// The cable; none once the adapter was taken off its bus.
    socket: Option<Socket>,
    end: Arc<AdapterEnd<E1000>>,
    /// Reasons for an interrupt that wait for the end of a burst.
    unreported: u32,
    /// Whether the cable has a link.
    cable_up: bool,
    /// Where frames are put together.
    scratch: Vec<u8>,
    st: E1000State,
}

impl E1000 {
    /// Plugs an adapter.
    pub fn plug(place: NicPlace<'_>, props: &E1000Props) -> Result<Arc<PciFunction>, CardError> {
        let mut config = ConfigSpace::new(&IDENTITY);
        let kind = BarKind::Memory32 { prefetchable: false };
        config.add_bar(0, Bar { kind, size: MEMORY_SIZE });
        config.add_bar(1, Bar { kind: BarKind::Io, size: PORTS_SIZE });
        let NicPlace { bus, clocks, main_loop, nics, identity } = place;
        bus.check_place("e1000", &props.pci)?;
        let socket = nics.connect("e1000", &identity, &props.nic)?;
        let function = bus.plug_with_rom("e1000", &props.pci, Some(ROM), config, |wires| {
            let device = device::share(|me| {
                let end = AdapterEnd::new(me, &socket, &main_loop);
                E1000 {
                    mac: socket.mac,
                    init_vet: props.init_vet,
                    eeprom: eeprom::content(socket.mac),
                    wires,
                    clocks: clocks.clone(),
                    throttle: device::timer(me, clocks, ClockKind::Virtual, E1000::unthrottled),
                    negotiation: device::timer(me, clocks, ClockKind::Virtual, E1000::negotiated),
                    cable_up: socket.cable().is_up(),
                    socket: Some(socket),
                    end,
                    unreported: 0,
                    scratch: Vec::new(),
                    st: E1000State::default(),
                }
            });
            let memory =
                device::region(&device, MEMORY, "e1000-mmio", MEMORY_SIZE, AccessSizes::DWORD);
            let ports =
                device::region(&device, PORTS, "e1000-io", PORTS_SIZE, AccessSizes::UP_TO_DWORD);
            let card = device.lock();
            card.socket.iter().for_each(|socket| card.end.enter(socket));
            drop(card);
            (device, vec![(0, memory), (1, ports)])
        })?;
        Ok(function)
    }

    fn get(&self, register: u32) -> u32 {
        self.st.get(register)
    }

    /// Reasons for an interrupt have come up.
    fn interrupt(&mut self, causes: u32) {
        self.st.set(reg::ICR, self.get(reg::ICR) | causes);
        self.update_interrupt();
    }

    /// Drives the pin by the reasons that are let through, not oftener than the guest allows.
    fn update_interrupt(&mut self) {
        if self.get(reg::ICR) & self.get(reg::IMS) == 0 {
            self.st.interrupting = false;
            return self.wires.intx.lower();
        }
        let interval = i64::from(self.get(reg::ITR)) * THROTTLE_UNIT;
        if self.st.interrupting {
            return;
        }
        if interval > 0 {
            let now = self.clocks.now_virtual();
            if now < self.st.quiet_until {
                return self.throttle.set(self.st.quiet_until);
            }
            self.st.quiet_until = now + interval;
        }
        self.st.interrupting = true;
        self.wires.intx.raise();
    }

    fn unthrottled(&mut self) {
        self.st.quiet_until = 0;
        self.update_interrupt();
    }

    fn negotiated(&mut self) {
        if self.st.negotiated_at.take().is_some() && self.cable_up {
            self.st.phy.negotiated();
            self.set_link(true);
        }
    }

    fn set_link(&mut self, up: bool) {
        let status = self.get(reg::STATUS) & !STATUS_LU;
        self.st.set(reg::STATUS, status | if up { STATUS_LU } else { 0 });
        self.st.phy.set_link(up);
        self.interrupt(cause::LSC);
        self.offer_room();
    }

    fn negotiate(&mut self) {
        let at = self.clocks.now_virtual() + NEGOTIATION;
        self.st.negotiated_at = Some(at);
        self.negotiation.set(at);
    }

    fn has_link(&self) -> bool {
        self.get(reg::STATUS) & STATUS_LU != 0
    }

    /// Has the cable try again what did not fit.
    fn offer_room(&mut self) {
        if self.may_receive() {
            self.end.offer_room();
        }
    }

    fn register_read(&mut self, register: u32) -> u32 {
        match register {
            reg::ICR => {
                let causes = self.get(reg::ICR);
                self.st.set(reg::ICR, 0);
                self.update_interrupt();
                causes
            }
            reg::ICS => self.get(reg::ICR),
            reg::IMC => 0,
            reg::EECD => self.st.eeprom_wires.read(&self.eeprom),
            reg::EERD => eeprom::read(&self.eeprom, self.get(reg::EERD)),
            reg::STATISTICS..reg::STATISTICS_END => self.read_statistic(register),
            _ => self.get(register),
        }
    }

    /// Reading a counter clears it; those of 64 bits go with their upper half.
    fn read_statistic(&mut self, register: u32) -> u32 {
        let value = self.get(register);
        match register {
            reg::GORCL | reg::GOTCL | reg::TORL | reg::TOTL => {}
            _ => {
                self.st.set(register, 0);
                if matches!(register - 4, reg::GORCL | reg::GOTCL | reg::TORL | reg::TOTL) {
                    self.st.set(register - 4, 0);
                }
            }
        }
        value
    }

    fn register_write(&mut self, register: u32, value: u32) {
        match register {
            reg::CTRL if value & CTRL_RST != 0 => self.reset_controller(),
            reg::CTRL => self.st.set(reg::CTRL, value),
            reg::EECD => self.st.eeprom_wires.write(value),
            reg::EERD => self.st.set(reg::EERD, value),
            reg::MDIC => {
                let outcome = self.st.phy.access(value);
                self.st.set(reg::MDIC, outcome.mdic);
                if outcome.negotiating {
                    self.st.phy.set_link(false);
                    self.st.set(reg::STATUS, self.get(reg::STATUS) & !STATUS_LU);
                    self.negotiate();
                }
                if outcome.interrupt {
                    self.interrupt(cause::MDAC);
                }
            }
            reg::ICR => {
                self.st.set(reg::ICR, self.get(reg::ICR) & !value);
                self.update_interrupt();
            }
            reg::ICS => self.interrupt(value),
            reg::IMS => {
                self.st.set(reg::IMS, self.get(reg::IMS) | value);
                self.update_interrupt();
            }
            reg::IMC => {
                self.st.set(reg::IMS, self.get(reg::IMS) & !value);
                self.update_interrupt();
            }
            reg::RCTL => {
                self.st.set(reg::RCTL, value);
                self.offer_room();
            }
            _ => {
                let mask = MASKS.get((register / 4) as usize).copied().unwrap_or(0);
                self.st.set(register, self.get(register) & !mask | value & mask);
                match register {
                    reg::TDT | reg::TCTL if self.may_transmit() => self.end.schedule(),
                    reg::RDT => self.offer_room(),
                    _ => {}
                }
            }
        }
    }

    /// The controller, but not the transceiver, as after power-up.
    fn reset_controller(&mut self) {
        let link = self.has_link();
        self.throttle.cancel();
        self.st = E1000State {
            phy: self.st.phy.clone(),
            negotiated_at: self.st.negotiated_at,
            ..E1000State::default()
        };
        for &(register, value) in AT_RESET {
            self.st.set(register, value);
        }
        if !self.init_vet {
            self.st.set(reg::VET, 0);
        }
        if !link {
            self.st.set(reg::STATUS, self.get(reg::STATUS) & !STATUS_LU);
        }
        let [a, b, c, d, e, f] = self.mac.0;
        self.st.set(reg::RAL, u32::from_le_bytes([a, b, c, d]));
        self.st.set(reg::RAL + 4, u32::from_le_bytes([e, f, 0, 0]) | ADDRESS_VALID);
        self.wires.intx.lower();
    }

    /// Receive addresses that count.
    fn addresses(&self) -> impl Iterator<Item = [u8; 6]> + '_ {
        (0..ADDRESSES).filter_map(|n| {
            let (low, high) = (self.get(reg::RAL + 8 * n), self.get(reg::RAL + 8 * n + 4));
            let ([a, b, c, d], [e, f, _, _]) = (low.to_le_bytes(), high.to_le_bytes());
            (high & ADDRESS_VALID != 0).then_some([a, b, c, d, e, f])
        })
    }
}

impl Device for E1000 {
    fn read(&mut self, region: u32, offset: u64, _: u8) -> u64 {
        let value = match (region, offset) {
            (MEMORY, _) => self.register_read(offset as u32),
            (_, IOADDR) => self.st.port_address,
            (_, IODATA) => self.register_read(self.st.port_address & !3),
            _ => 0,
        };
        value.into()
    }

    fn write(&mut self, region: u32, offset: u64, _: u8, value: u64) {
        let value = value as u32;
        match (region, offset) {
            (MEMORY, _) => self.register_write(offset as u32, value),
            (_, IOADDR) => self.st.port_address = value,
            (_, IODATA) => self.register_write(self.st.port_address & !3, value),
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.negotiation.cancel();
        self.st.phy = Phy::default();
        self.st.negotiated_at = None;
        self.st.set(reg::STATUS, if self.cable_up { STATUS_LU } else { 0 });
        self.st.phy.set_link(self.cable_up);
        self.reset_controller();
    }
}

impl Adapter for E1000 {
    fn next_frame(&mut self) -> Option<Outgoing> {
        self.walk_ring()
    }

    fn recycle(&mut self, buffer: Vec<u8>) {
        self.st.transmitter.recycle(buffer);
    }

    fn receive(&mut self, frame: &Frame<'_>) -> Delivery {
        self.take_frame(frame)
    }

    fn burst_over(&mut self) {
        let causes = std::mem::take(&mut self.unreported);
        if causes != 0 {
            self.interrupt(causes);
        }
    }

    fn loops(&self) -> bool {
        self.st.phy.loops() || self.get(reg::RCTL) & rctl::LBM == rctl::LBM
    }

    fn cable_changed(&mut self, up: bool) {
        if self.cable_up == up {
            return;
        }
        self.cable_up = up;
        if up && self.st.phy.negotiates() && !self.st.phy.has_negotiated() {
            self.negotiate();
        } else if self.st.negotiated_at.is_none() || !up {
            self.st.negotiated_at = None;
            self.set_link(up);
        }
    }

    /// The first receive address.
    fn shown_mac(&self) -> MacAddr {
        MacAddr(self.addresses().next().unwrap_or(self.mac.0))
    }
}

impl PciDevice for E1000 {
    fn config_written(&mut self, _: &mut ConfigSpace, _: usize, _: u8) {
        self.offer_room();
    }

    fn unplugged(&mut self) {
        self.socket = None;
    }
}
