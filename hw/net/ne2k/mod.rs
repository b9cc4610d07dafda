//! Realtek's RTL8029AS, an NE2000 on PCI (RTL8029AS datasheet; National Semiconductor, DP8390D
//! datasheet, chapters 8 to 11): the guest moves frames through a port, between its memory and that of
//! the card, where they are sent from and where a ring of pages holds what has come.

mod memory;
mod registers;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use base::device::{self, Device};
use base::memory::AccessSizes;
use base::props::{MacAddr, Props};
use base::state::State;
use net::{Delivery, Frame};

use super::adapter::{Adapter, AdapterEnd, Outgoing};
use super::card::{CardError, NicPlace, NicProps, Socket};
use super::frames::{ADDRESS, BROADCAST, FCS, MIN_FRAME, destination, fcs, group_hash, is_group};
use crate::pci::{
    Bar, BarKind, ConfigSpace, Identity, PciDevice, PciFunction, PciProps, PciWires, ids,
};

use memory::{Memory, PAGE};
use registers::{cr, dcr, isr, rcr, rsr, tcr, tsr};

const IDENTITY: Identity = Identity {
    vendor: ids::REALTEK,
    device: ids::REALTEK_8029,
    revision: 0,
    class: 0x02_0000,
    subsystem: Some((ids::QUMRANET, ids::QUMRANET_DEFAULT_SUBSYSTEM)),
    interrupt_pin: 1,
};

/// iPXE for it.
const ROM: &str = "efi-ne2k_pci.rom";

/// Ports: the controller's registers, the card's data port and reset.
const PORTS: u64 = 0x100;
const DATA: u64 = 0x10;
const RESET: u64 = 0x1f;

/// In the ring, before a frame: status, next page, length.
const HEADER: usize = 4;
/// The longest frame without its checksum.
const MAX_FRAME: usize = 1518;

/// Properties of `ne2k_pci`.
#[derive(Debug, Props)]
pub struct Ne2kProps {
    /// Place on the bus.
    #[prop(flatten)]
    pub pci: PciProps,
    /// The network.
    #[prop(flatten)]
    pub nic: NicProps,
}

/// Registers and memory.
#[derive(Clone, Debug, PartialEq, Eq, State)]
pub struct Ne2kState {
    command: u8,
    /// The ring's first page and the one behind its last.
    start: u8,
    stop: u8,
    /// What the guest has read up to, and where the next frame goes.
    boundary: u8,
    current: u8,
    sent: u8,
    send_page: u8,
    send_count: u16,
    /// Where the data port is in memory, and how many bytes are left.
    remote: u16,
    remote_count: u16,
    received: u8,
    receive_config: u8,
    transmit_config: u8,
    data_config: u8,
    status: u8,
    mask: u8,
    address: [u8; ADDRESS],
    groups: [u8; 8],
    memory: Memory,
}

impl Ne2kState {
    fn new(mac: MacAddr) -> Self {
        Ne2kState {
            command: cr::STOP | cr::NO_DMA,
            start: 0,
            stop: 0,
            boundary: 0,
            current: 0,
            sent: 0,
            send_page: 0,
            send_count: 0,
            remote: 0,
            remote_count: 0,
            received: 0,
            receive_config: 0,
            transmit_config: 0,
            data_config: 0,
            status: isr::RST,
            mask: 0,
            address: [0; ADDRESS],
            groups: [0; 8],
            memory: Memory::new(mac),
        }
    }

    /// Whether both the guest and the controller see to frames.
    fn runs(&self) -> bool {
        self.command & cr::STOP == 0
    }

    /// Pages of the ring that can be filled.
    fn free_pages(&self) -> usize {
        let (start, stop) = (usize::from(self.start), usize::from(self.stop));
        let (current, boundary) = (usize::from(self.current), usize::from(self.boundary));
        match current < boundary {
            true => boundary - current,
            false => (stop + boundary).saturating_sub(start + current),
        }
    }

    /// The page that follows in the ring.
    fn after(&self, page: u8) -> u8 {
        match page.wrapping_add(1) {
            next if next == self.stop => self.start,
            next => next,
        }
    }

    /// Whether the filter lets a frame through.
    fn wants(&self, address: [u8; ADDRESS]) -> bool {
        let lets = |bit: u8| self.receive_config & bit != 0;
        if lets(rcr::PROMISCUOUS) && !is_group(address) {
            return true;
        }
        match (address == BROADCAST, is_group(address)) {
            (true, _) => lets(rcr::BROADCAST),
            (_, true) => {
                let bit = group_hash(address);
                lets(rcr::MULTICAST) && self.groups[(bit / 8) as usize] >> (bit % 8) & 1 != 0
            }
            _ => address == self.address,
        }
    }

    /// Stores a frame in the ring, for which there is room.
    fn store(&mut self, frame: &[u8]) {
        let status = rsr::PRX | if is_group(destination(frame)) { rsr::PHY } else { 0 };
        let total = HEADER + frame.len() + FCS;
        let mut next = self.current;
        for _ in 0..total.div_ceil(PAGE) {
            next = self.after(next);
        }
        let [low, high] = ((frame.len() + FCS) as u16).to_le_bytes();
        let header = [status, next, low, high];
        let sum = fcs(frame);
        let mut bytes = header.iter().chain(frame).chain(&sum).copied();
        let mut page = self.current;
        while page != next {
            let at = usize::from(page) * PAGE;
            for (n, byte) in bytes.by_ref().take(PAGE).enumerate() {
                self.memory.write(at + n, byte);
            }
            page = self.after(page);
        }
        (self.current, self.received) = (next, status);
    }

    /// Moves the data port on.
    fn move_on(&mut self, len: u16) {
        self.remote = self.remote.wrapping_add(len);
        if self.remote == u16::from(self.stop) << 8 {
            self.remote = u16::from(self.start) << 8;
        }
        self.remote_count = self.remote_count.saturating_sub(len);
        if self.remote_count == 0 {
            self.status |= isr::RDC;
        }
    }
}

/// The card.
pub struct Ne2k {
    wires: PciWires,
    /// The cable; none once the card was taken off its bus.
    socket: Option<Socket>,
    mac: MacAddr,
    end: Arc<AdapterEnd<Ne2k>>,
    /// Reasons for an interrupt that wait for the end of a burst.
    unreported: u8,
    /// Where frames are put together.
    scratch: Vec<u8>,
    st: Ne2kState,
}

impl Ne2k {
    /// Plugs a card.
    pub fn plug(place: NicPlace<'_>, props: &Ne2kProps) -> Result<Arc<PciFunction>, CardError> {
        let mut config = ConfigSpace::new(&IDENTITY);
        config.add_bar(0, Bar { kind: BarKind::Io, size: PORTS });
        let NicPlace { bus, main_loop, nics, identity, .. } = place;
        bus.check_place("ne2k_pci", &props.pci)?;
        let socket = nics.connect("ne2k_pci", &identity, &props.nic)?;
        let function = bus.plug_with_rom("ne2k_pci", &props.pci, Some(ROM), config, |wires| {
            let device = device::share(|me| Ne2k {
                wires,
                mac: socket.mac,
                end: AdapterEnd::new(me, &socket, &main_loop),
                unreported: 0,
                scratch: Vec::new(),
                st: Ne2kState::new(socket.mac),
                socket: Some(socket),
            });
            let ports = device::region(&device, 0, "ne2000", PORTS, AccessSizes::UP_TO_DWORD);
            let card = device.lock();
            card.socket.iter().for_each(|socket| card.end.enter(socket));
            drop(card);
            (device, vec![(0, ports)])
        })?;
        Ok(function)
    }

    /// Drives the pin by the reasons that are let through; a reset is none.
    fn update_interrupt(&mut self) {
        self.wires.intx.set(self.st.status & self.st.mask & !isr::RST != 0);
    }

    fn command(&mut self, command: u8) {
        // What is being sent goes on.
        let sending = self.st.command & cr::TXP;
        self.st.command = command | sending;
        if command & cr::STOP != 0 {
            self.st.status |= isr::RST;
            return;
        }
        self.st.status &= !isr::RST;
        if command & (cr::REMOTE_READ | cr::REMOTE_WRITE) != 0
            && command & cr::NO_DMA == 0
            && self.st.remote_count == 0
        {
            self.st.status |= isr::RDC;
        }
        if command & cr::TXP != 0 {
            self.end.schedule();
        }
        self.end.offer_room();
    }

    /// What the port of the card's own does on any access.
    fn reset_controller(&mut self) {
        self.st.command = cr::STOP | cr::NO_DMA;
        self.st.status = isr::RST;
        self.st.mask = 0;
        self.unreported = 0;
        self.update_interrupt();
    }

    /// How many bytes an access of the data port moves: two at least, if it is that wide.
    fn width(&self, size: u8) -> u8 {
        match self.st.data_config & dcr::WORDS != 0 {
            true => size.max(2),
            false => size,
        }
    }

    fn read_data(&mut self, size: u8) -> u32 {
        let width = self.width(size);
        let at = usize::from(self.st.remote);
        let value = (0..usize::from(width))
            .rev()
            .fold(0, |value, n| value << 8 | u32::from(self.st.memory.read(at + n)));
        self.st.move_on(width.into());
        self.update_interrupt();
        value
    }

    fn write_data(&mut self, size: u8, value: u32) {
        if self.st.remote_count == 0 {
            return;
        }
        let width = self.width(size);
        let at = usize::from(self.st.remote);
        for (n, byte) in value.to_le_bytes().into_iter().take(width.into()).enumerate() {
            self.st.memory.write(at + n, byte);
        }
        self.st.move_on(width.into());
        self.update_interrupt();
    }
}

impl Device for Ne2k {
    fn read(&mut self, _: u32, offset: u64, size: u8) -> u64 {
        match offset {
            0..DATA if size == 1 => self.st.read(offset as u8).into(),
            DATA => self.read_data(size).into(),
            RESET if size == 1 => {
                self.reset_controller();
                0
            }
            _ => u64::MAX >> (64 - 8 * u32::from(size)),
        }
    }

    fn write(&mut self, _: u32, offset: u64, size: u8, value: u64) {
        match offset {
            0 if size == 1 => self.command(value as u8),
            1..DATA if size == 1 => {
                self.st.write(offset as u8, value as u8);
                // The guest may have read what was in the ring.
                self.end.offer_room();
            }
            DATA => self.write_data(size, value as u32),
            RESET if size == 1 => {}
            _ => base::guest_error!("ne2k_pci: a write to port {offset:#x}"),
        }
        self.update_interrupt();
    }

    fn reset(&mut self) {
        self.st = Ne2kState::new(self.mac);
        self.unreported = 0;
        self.update_interrupt();
    }
}

impl Adapter for Ne2k {
    fn next_frame(&mut self) -> Option<Outgoing> {
        if self.st.command & cr::TXP == 0 || !self.st.runs() {
            return None;
        }
        self.st.command &= !cr::TXP;
        self.st.sent = tsr::PTX;
        self.unreported |= isr::PTX;
        let at = usize::from(self.st.send_page) * PAGE;
        let bytes = (at..at + usize::from(self.st.send_count)).map(|at| self.st.memory.read(at));
        let bytes: Vec<u8> = bytes.collect();
        // In loopback it comes back into the controller, and gets no further.
        let leaves = self.st.transmit_config & tcr::LOOPBACK == 0 && !bytes.is_empty();
        leaves.then(|| bytes.into())
    }

    fn receive(&mut self, frame: &Frame<'_>) -> Delivery {
        if !self.st.runs() || frame.len() > MAX_FRAME {
            return Delivery::Taken;
        }
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        bytes.resize(frame.len().max(MIN_FRAME), 0);
        frame.copy(0, &mut bytes);
        let monitors = self.st.receive_config & rcr::MONITOR != 0;
        let mut delivery = Delivery::Taken;
        if self.st.wants(destination(&bytes)) && !monitors {
            // A ring that is all filled would look empty.
            match (HEADER + bytes.len() + FCS).div_ceil(PAGE) < self.st.free_pages() {
                true => {
                    self.st.store(&bytes);
                    self.unreported |= isr::PRX;
                }
                false => {
                    // A driver that acknowledges what it has read after it has looked for the last time may
                    // have acknowledged what came since.
                    self.unreported |= isr::PRX;
                    delivery = Delivery::Full;
                }
            }
        }
        self.scratch = bytes;
        delivery
    }

    fn burst_over(&mut self) {
        self.st.status |= std::mem::take(&mut self.unreported);
        self.update_interrupt();
    }

    fn loops(&self) -> bool {
        false
    }

    fn cable_changed(&mut self, _: bool) {}

    fn shown_mac(&self) -> MacAddr {
        self.mac
    }
}

impl PciDevice for Ne2k {
    fn unplugged(&mut self) {
        self.socket = None;
    }
}
