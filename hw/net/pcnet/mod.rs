//! AMD's Am79C970A, PCnet-PCI II: an Ethernet controller on PCI that descends from the LANCE (AMD,
//! Am79C970A datasheet). It is told of its rings by a block in memory, and finds the driver's work in
//! them when it is asked to look, or by itself from time to time.

mod control;
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
use super::frames::MIN_FRAME;
use crate::pci::{
    Bar, BarKind, ConfigSpace, Identity, PciDevice, PciFunction, PciProps, PciWires, ids,
};

use registers::{BCR_AT_RESET, CSR_AT_RESET, DWORD_PORTS, PROM_WRITABLE, bcr, csr, mode, status};

const IDENTITY: Identity = Identity {
    vendor: ids::AMD,
    device: ids::AMD_PCNET,
    revision: 0x10,
    class: 0x02_0000,
    subsystem: None,
    interrupt_pin: 1,
};
/// Of its status: it takes back-to-back transactions, and answers at medium speed.
const STATUS: u16 = 0x0280;
/// In the configuration space: how long the controller wants the bus, and how often.
const MIN_GRANT: usize = 0x3e;
const MAX_LATENCY: usize = 0x3f;

/// iPXE for it.
const ROM: &str = "efi-pcnet.rom";

const PORTS: u64 = 0x20;
const PROM: usize = 16;
/// Ports behind the PROM, when they are of 16 bits; those of 32 bits are twice as far from each other.
const DATA: u64 = 0;
const ADDRESS: u64 = 1;
const RESET: u64 = 2;
const BUS_DATA: u64 = 3;

/// The longest frame without its checksum.
const MAX_FRAME: usize = 4096 - 4;

/// Properties of `pcnet`.
#[derive(Debug, Props)]
pub struct PcnetProps {
    /// Place on the bus.
    #[prop(flatten)]
    pub pci: PciProps,
    /// The network.
    #[prop(flatten)]
    pub nic: NicProps,
}

/// Registers and what is behind them.
#[derive(Clone, Debug, PartialEq, Eq, State)]
pub struct PcnetState {
    csr: [u16; csr::COUNT],
    bcr: [u16; bcr::COUNT],
    prom: [u8; PROM],
    /// Which register the data ports show.
    chosen: u8,
    /// The next descriptors.
    receiving: u16,
    transmitting: u16,
    /// The driver has asked to look at what it wants sent.
    demanded: bool,
    /// The begin of a frame that is not complete.
    data: Vec<u8>,
}

impl PcnetState {
    fn new(mac: MacAddr) -> Self {
        let mut st = PcnetState {
            csr: [0; csr::COUNT],
            bcr: [0; bcr::COUNT],
            prom: prom(mac),
            chosen: 0,
            receiving: 0,
            transmitting: 0,
            demanded: false,
            data: Vec::new(),
        };
        BCR_AT_RESET.iter().for_each(|&(at, value)| st.bcr[at] = value);
        st
    }

    fn is(&self, bits: u16) -> bool {
        self.csr[csr::STATUS] & bits != 0
    }

    fn mode(&self, bit: u16) -> bool {
        self.csr[csr::MODE] & bit != 0
    }

    /// Two words that are an address.
    fn pointer(&self, low: usize) -> u32 {
        u32::from(self.csr[low]) | u32::from(self.csr[low + 1]) << 16
    }
}

/// The PROM: the address, and what sums it up.
fn prom(mac: MacAddr) -> [u8; PROM] {
    const HARDWARE_AT: usize = 9;
    const HARDWARE: u8 = 0x11;
    const SUM_AT: usize = 12;
    const SIGNATURE_AT: usize = 14;
    let mut prom = [0; PROM];
    prom[..mac.0.len()].copy_from_slice(&mac.0);
    prom[HARDWARE_AT] = HARDWARE;
    prom[SIGNATURE_AT..].fill(b'W');
    let sum: u16 = prom.iter().map(|byte| u16::from(*byte)).sum();
    prom[SUM_AT..SIGNATURE_AT].copy_from_slice(&sum.to_le_bytes());
    prom
}

/// The adapter.
pub struct Pcnet {
    wires: PciWires,
    clocks: Clocks,
    /// Looks at the rings.
    poll: Timer,
    mac: MacAddr,
    /// The cable; none once the adapter was taken off its bus.
    socket: Option<Socket>,
    end: Arc<AdapterEnd<Pcnet>>,
    /// Reasons for an interrupt that wait for the end of a burst.
    unreported: u16,
    /// A frame waits on the cable for descriptors.
    starved: bool,
    /// Whether the cable has a link.
    cable_up: bool,
    /// Where frames are put together.
    scratch: Vec<u8>,
    st: PcnetState,
}

impl Pcnet {
    /// Plugs an adapter.
    pub fn plug(place: NicPlace<'_>, props: &PcnetProps) -> Result<Arc<PciFunction>, CardError> {
        let mut config = ConfigSpace::new(&IDENTITY);
        config.set_u16(crate::pci::reg::STATUS, STATUS);
        config.set_u8(MIN_GRANT, 0x06);
        config.set_u8(MAX_LATENCY, 0xff);
        config.add_bar(0, Bar { kind: BarKind::Io, size: PORTS });
        config.add_bar(1, Bar { kind: BarKind::Memory32 { prefetchable: false }, size: PORTS });
        let NicPlace { bus, clocks, main_loop, nics, identity } = place;
        bus.check_place("pcnet", &props.pci)?;
        let socket = nics.connect("pcnet", &identity, &props.nic)?;
        let function = bus.plug_with_rom("pcnet", &props.pci, Some(ROM), config, |wires| {
            let device = device::share(|me| Pcnet {
                wires,
                clocks: clocks.clone(),
                poll: device::timer(me, clocks, ClockKind::Virtual, Pcnet::polls),
                mac: socket.mac,
                cable_up: socket.cable().is_up(),
                end: AdapterEnd::new(me, &socket, &main_loop),
                unreported: 0,
                starved: false,
                scratch: Vec::new(),
                st: PcnetState::new(socket.mac),
                socket: Some(socket),
            });
            let region = |name| device::region(&device, 0, name, PORTS, AccessSizes::UP_TO_DWORD);
            let bars = vec![(0, region("pcnet-io")), (1, region("pcnet-mmio"))];
            let card = device.lock();
            card.socket.iter().for_each(|socket| card.end.enter(socket));
            drop(card);
            (device, bars)
        })?;
        Ok(function)
    }

    /// The control and status registers, as after a reset.
    fn reset_controller(&mut self) {
        self.st.csr = [0; csr::COUNT];
        CSR_AT_RESET.iter().for_each(|&(at, value)| self.st.csr[at] = value);
        self.st.csr[csr::STYLE] = self.st.bcr[bcr::STYLE];
        for (word, pair) in self.st.csr[csr::ADDRESS..].iter_mut().zip(self.mac.0.chunks_exact(2)) {
            *word = u16::from_le_bytes([pair[0], pair[1]]);
        }
        self.st.bcr[bcr::BURST] &= !DWORD_PORTS;
        self.st.chosen = 0;
        (self.st.receiving, self.st.transmitting) = (0, 0);
        self.stopped();
        self.update_interrupt();
    }

    /// Which of the ports behind the PROM is meant, as the guest has set their width.
    fn port(&self, offset: u64, size: u8) -> Option<u64> {
        let wide = self.st.bcr[bcr::BURST] & DWORD_PORTS != 0;
        let behind = offset.checked_sub(PROM as u64)?;
        match (wide, size) {
            (true, 4) => Some(behind / 4),
            (false, 2) => Some(behind / 2).filter(|port| *port <= BUS_DATA),
            _ => None,
        }
    }
}

impl Device for Pcnet {
    fn read(&mut self, _: u32, offset: u64, size: u8) -> u64 {
        let wide = self.st.bcr[bcr::BURST] & DWORD_PORTS != 0;
        if offset < PROM as u64 && (wide || size < 4) {
            let bytes = self.st.prom.iter().skip(offset as usize).take(size.into());
            return bytes.rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        }
        let value = match self.port(offset, size) {
            Some(DATA) => self.read_csr(self.st.chosen),
            Some(ADDRESS) => self.st.chosen.into(),
            Some(RESET) => {
                self.reset_controller();
                0
            }
            Some(BUS_DATA) => self.read_bcr(self.st.chosen),
            _ => return u64::MAX >> (64 - 8 * u32::from(size)),
        };
        value.into()
    }

    fn write(&mut self, _: u32, offset: u64, size: u8, value: u64) {
        if offset < PROM as u64 {
            if self.st.bcr[bcr::MISCELLANEOUS] & PROM_WRITABLE != 0 {
                let places = self.st.prom.iter_mut().skip(offset as usize);
                places.zip(value.to_le_bytes()).take(size.into()).for_each(|(place, byte)| {
                    *place = byte;
                });
            }
            return;
        }
        // The first write of 32 bits to the data port says how wide the driver wants all of them.
        if offset == PROM as u64 && size == 4 {
            self.st.bcr[bcr::BURST] |= DWORD_PORTS;
        }
        let chosen = self.st.chosen;
        match self.port(offset, size) {
            Some(DATA) => self.write_csr(chosen, value as u16),
            Some(ADDRESS) => self.st.chosen = value as u8 & 0x7f,
            Some(BUS_DATA) => self.write_bcr(chosen, value as u16),
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.st = PcnetState::new(self.mac);
        self.reset_controller();
    }
}

impl Adapter for Pcnet {
    fn next_frame(&mut self) -> Option<Outgoing> {
        self.walk_ring().map(Outgoing::from)
    }

    fn receive(&mut self, frame: &Frame<'_>) -> Delivery {
        if !self.st.is(status::RXON) || self.suspended() || frame.len() > MAX_FRAME {
            return Delivery::Taken;
        }
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        bytes.resize(frame.len().max(MIN_FRAME), 0);
        frame.copy(0, &mut bytes);
        let delivery = self.take_frame(&mut bytes);
        self.scratch = bytes;
        delivery
    }

    fn burst_over(&mut self) {
        let events = std::mem::take(&mut self.unreported);
        if events != 0 {
            self.st.csr[csr::STATUS] |= events;
            self.update_interrupt();
        }
    }

    fn loops(&self) -> bool {
        self.st.mode(mode::LOOP)
    }

    fn cable_changed(&mut self, up: bool) {
        self.cable_up = up;
    }

    fn shown_mac(&self) -> MacAddr {
        self.mac
    }
}

impl PciDevice for Pcnet {
    fn unplugged(&mut self) {
        self.socket = None;
    }
}
