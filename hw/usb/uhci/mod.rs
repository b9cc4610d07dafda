//! The Universal Host Controller Interface (Intel, revision 1.1), as the PIIX3 has it: once a
//! millisecond a list in memory is walked, from which drivers hang what is to be transferred.

mod schedule;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use base::clock::{ClockKind, Clocks};
use base::device::{self, Device};
use base::memory::AccessSizes;
use base::props::Props;
use base::state::State;
use parking_lot::Mutex;

use super::attention::Attention;
use super::bus::{PortOwner, UsbBus, UsbBuses};
use super::device::UsbDevice;
use super::packet::Speed;
use crate::pci::{
    Bar, BarKind, ConfigSpace, Identity, PciBus, PciDevice, PciError, PciProps, PciWires, ids,
};

/// Type name.
pub const TYPE: &str = "piix3-usb-uhci";

const PORTS: usize = 2;
const SPEEDS: &[Speed] = &[Speed::Low, Speed::Full];
const REGISTERS: u64 = 32;
const BAR: usize = 4;
/// The release of USB, in configuration space.
const RELEASE: usize = 0x60;
const RELEASE_1_0: u8 = 0x10;

/// Nanoseconds of a frame.
const FRAME: i64 = 1_000_000;
/// After more than so many frames in which nobody said anything, how many are walked at once: a driver
/// that has a new wish waits for that long, once.
const BATCHES: [(u32, i64); 2] = [(1024, 32), (64, 8)];

const IDENTITY: Identity = Identity {
    vendor: ids::INTEL,
    device: ids::INTEL_PIIX3_USB,
    revision: 1,
    class: 0x0c0300,
    subsystem: Some((ids::QUMRANET, ids::QUMRANET_DEFAULT_SUBSYSTEM)),
    interrupt_pin: 4,
};

mod reg {
    pub const COMMAND: u64 = 0x00;
    pub const STATUS: u64 = 0x02;
    pub const INTERRUPTS: u64 = 0x04;
    pub const FRAME_NUMBER: u64 = 0x06;
    pub const FRAME_LIST_LOW: u64 = 0x08;
    pub const FRAME_LIST_HIGH: u64 = 0x0a;
    pub const START_OF_FRAME: u64 = 0x0c;
    pub const PORT_1: u64 = 0x10;
    pub const PORT_2: u64 = 0x12;
}

mod command {
    pub const RUN: u16 = 1;
    pub const HOST_RESET: u16 = 1 << 1;
    pub const GLOBAL_RESET: u16 = 1 << 2;
    pub const SUSPEND: u16 = 1 << 3;
}

mod status {
    pub const INTERRUPT: u16 = 1;
    pub const ERROR: u16 = 1 << 1;
    pub const RESUME: u16 = 1 << 2;
    pub const HOST_ERROR: u16 = 1 << 3;
    pub const PROCESS_ERROR: u16 = 1 << 4;
    pub const HALTED: u16 = 1 << 5;
    pub const CLEARED: u16 = 0x1f;
}

/// Bits of the interrupt enable register.
mod enable {
    pub const ERROR: u16 = 1;
    pub const RESUME: u16 = 1 << 1;
    pub const COMPLETE: u16 = 1 << 2;
    pub const SHORT: u16 = 1 << 3;
}

mod port {
    pub const CONNECTED: u16 = 1;
    pub const CONNECT_CHANGE: u16 = 1 << 1;
    pub const ENABLED: u16 = 1 << 2;
    pub const ENABLE_CHANGE: u16 = 1 << 3;
    pub const RESUME: u16 = 1 << 6;
    /// Reads as one.
    pub const ALWAYS: u16 = 1 << 7;
    pub const LOW_SPEED: u16 = 1 << 8;
    pub const RESET: u16 = 1 << 9;
    pub const SUSPENDED: u16 = 1 << 12;
    pub const WRITABLE: u16 = ENABLED | RESUME | RESET | SUSPENDED;
    pub const CLEARED: u16 = CONNECT_CHANGE | ENABLE_CHANGE;
}

const START_OF_FRAME: u8 = 64;

/// Properties of `piix3-usb-uhci`.
#[derive(Debug, Props)]
pub struct UhciProps {
    /// Place on the bus.
    #[prop(flatten)]
    pub pci: PciProps,
    /// Bytes that a frame has time for.
    #[prop(default = 1280)]
    pub bandwidth: u32,
    /// Frames that are made up for if the host was late.
    #[prop(default = 128)]
    pub maxframes: u32,
}

/// Registers.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(reset)]
pub struct UhciState {
    command: u16,
    #[state(reset = status::HALTED)]
    status: u16,
    /// Which of the two reasons for an interrupt there were: [`enable::COMPLETE`], [`enable::SHORT`].
    reasons: u16,
    interrupts: u16,
    frame_number: u16,
    frame_list: u32,
    #[state(reset = START_OF_FRAME)]
    start_of_frame: u8,
    #[state(reset = [port::ALWAYS; PORTS])]
    ports: [u16; PORTS],
    /// When the frame began that comes next.
    next_frame: i64,
    /// Frames since a device last had something to say.
    quiet: u32,
}

/// The controller.
pub struct Uhci {
    bandwidth: u32,
    max_frames: i64,
    wires: PciWires,
    clocks: Clocks,
    attention: Attention,
    buses: Arc<UsbBuses>,
    bus: Arc<UsbBus>,
    devices: [Option<Arc<UsbDevice>>; PORTS],
    st: UhciState,
}

/// Where a controller goes.
pub enum Seat {
    /// It is part of the board.
    Board(u8),
    /// The operator adds it, with this id.
    Added(Option<String>),
}

impl Uhci {
    /// Plugs a controller.
    pub fn plug(
        pci: &PciBus,
        seat: &Seat,
        props: &UhciProps,
        buses: &Arc<UsbBuses>,
        clocks: &Clocks,
    ) -> Result<Arc<UsbBus>, PciError> {
        let mut config = ConfigSpace::new(&IDENTITY);
        config.set_u8(RELEASE, RELEASE_1_0);
        config.add_bar(BAR, Bar { kind: BarKind::Io, size: REGISTERS });
        let attention = Attention::new(clocks, FRAME);
        let id = match seat {
            Seat::Board(_) => None,
            Seat::Added(id) => id.as_deref(),
        };
        let bus = buses.add(id, &attention);
        let build = |wires| {
            let device = device::share(|me| {
                let timer = device::timer(me, clocks, ClockKind::Virtual, Uhci::tick);
                attention.connect(timer);
                bus.add_ports(0..PORTS, SPEEDS, me);
                Uhci {
                    bandwidth: props.bandwidth,
                    max_frames: props.maxframes.into(),
                    wires,
                    clocks: clocks.clone(),
                    attention: attention.clone(),
                    buses: buses.clone(),
                    bus: bus.clone(),
                    devices: Default::default(),
                    st: UhciState::default(),
                }
            });
            let region = device::region(&device, 0, "uhci", REGISTERS, AccessSizes::UP_TO_DWORD);
            (device, vec![(BAR, region)])
        };
        let plugged = match seat {
            Seat::Board(devfn) => pci.plug_chip(TYPE, *devfn, config, build),
            Seat::Added(_) => pci.plug(TYPE, &props.pci, config, build),
        };
        let function = plugged.inspect_err(|_| buses.remove(&bus))?;
        bus.set_controller(function.devfn());
        Ok(bus)
    }

    fn runs(&self) -> bool {
        self.st.command & command::RUN != 0
    }

    /// Makes the interrupt pin follow.
    fn update(&self) {
        let UhciState { status, interrupts, reasons, .. } = self.st;
        let pulled = status & status::INTERRUPT != 0 && reasons & interrupts != 0
            || status & status::ERROR != 0 && interrupts & enable::ERROR != 0
            || status & status::RESUME != 0 && interrupts & enable::RESUME != 0
            || status & (status::HOST_ERROR | status::PROCESS_ERROR) != 0;
        self.wires.intx.set(pulled);
    }

    /// It is time for frames.
    fn tick(&mut self) {
        self.catch_up();
        self.update();
        self.plan();
    }

    /// Calls itself for the next frame.
    fn plan(&mut self) {
        if self.runs() {
            let batch = BATCHES.iter().find(|(quiet, _)| self.st.quiet > *quiet);
            let ahead = batch.map_or(0, |(_, frames)| frames - 1);
            self.attention.call_at(self.st.next_frame + ahead * FRAME);
        } else {
            self.attention.cancel();
        }
    }

    /// Walks the frames whose time has come.
    fn catch_up(&mut self) {
        if !self.runs() {
            return;
        }
        let now = self.clocks.now_virtual();
        let late = (now - self.st.next_frame).div_euclid(FRAME) + 1;
        // What is left out is left out of time as well.
        let missed = (late - self.max_frames).max(0);
        self.st.next_frame += missed * FRAME;
        for _ in missed..late {
            self.st.quiet = match self.walk() {
                true => 0,
                false => self.st.quiet.saturating_add(1),
            };
            self.st.next_frame += FRAME;
            self.st.frame_number = (self.st.frame_number + 1) & 0x7ff;
            if !self.runs() {
                return;
            }
        }
    }

    /// The schedule makes no sense, or is not in memory: the controller stops.
    fn fail(&mut self) {
        self.st.command &= !command::RUN;
        self.st.status |= status::PROCESS_ERROR | status::HALTED;
    }

    fn reset_registers(&mut self) {
        self.st = UhciState::default();
        for n in 0..PORTS {
            if let Some(device) = self.devices[n].clone() {
                device.reset();
                self.connect(n, &device);
            }
        }
        self.plan();
        self.update();
    }

    fn write_command(&mut self, value: u16) {
        if value & command::HOST_RESET != 0 {
            return self.reset_registers();
        }
        if value & command::GLOBAL_RESET != 0 {
            self.devices.iter().flatten().for_each(|device| device.reset());
        }
        let started = value & !self.st.command & command::RUN != 0;
        self.st.command = value;
        if started {
            self.st.status &= !status::HALTED;
            self.st.next_frame = self.clocks.now_virtual() + FRAME;
            self.st.quiet = 0;
        } else if !self.runs() {
            self.st.status |= status::HALTED;
        }
        self.plan();
    }

    fn write_port(&mut self, n: usize, value: u16) {
        let was = self.st.ports[n];
        let device = self.devices[n].clone();
        if let Some(device) = &device
            && value & port::RESET != 0
            && was & port::RESET == 0
        {
            device.reset();
        }
        let kept = was & !port::WRITABLE & !(value & port::CLEARED);
        let mut now = kept | value & port::WRITABLE;
        if device.is_none() {
            now &= !port::ENABLED;
        }
        self.st.ports[n] = now;
    }

    fn connect(&mut self, n: usize, device: &UsbDevice) {
        let slow = if device.speed == Speed::Low { port::LOW_SPEED } else { 0 };
        self.st.ports[n] |= port::CONNECTED | port::CONNECT_CHANGE | slow;
        self.resume();
    }

    /// Something happened at a port: a controller that sleeps notices.
    fn resume(&mut self) {
        if self.st.command & command::SUSPEND != 0 {
            self.st.status |= status::RESUME;
        }
        self.update();
    }

    /// The device of this address, behind ports that are enabled.
    fn find(&self, address: u8) -> Option<Arc<UsbDevice>> {
        let enabled = self.st.ports.iter().zip(&self.devices);
        let mut enabled = enabled.filter(|(state, _)| **state & port::ENABLED != 0);
        enabled.find_map(|(_, device)| device.as_ref()?.find(address))
    }

    /// A register of 16 bits.
    fn read_word(&self, offset: u64) -> u16 {
        match offset {
            reg::COMMAND => self.st.command,
            reg::STATUS => self.st.status,
            reg::INTERRUPTS => self.st.interrupts,
            reg::FRAME_NUMBER => self.st.frame_number,
            reg::FRAME_LIST_LOW => self.st.frame_list as u16,
            reg::FRAME_LIST_HIGH => (self.st.frame_list >> 16) as u16,
            reg::START_OF_FRAME => self.st.start_of_frame.into(),
            reg::PORT_1 => self.st.ports[0],
            reg::PORT_2 => self.st.ports[1],
            // Drivers count ports until they read nothing but zero and ones where there is none.
            _ => 0xff7f,
        }
    }

    fn write_word(&mut self, offset: u64, value: u16) {
        match offset {
            reg::COMMAND => self.write_command(value),
            reg::STATUS => {
                self.st.status &= !(value & status::CLEARED);
                if value & status::INTERRUPT != 0 {
                    self.st.reasons = 0;
                }
            }
            reg::INTERRUPTS => self.st.interrupts = value & 0xf,
            reg::FRAME_NUMBER if self.st.status & status::HALTED != 0 => {
                self.st.frame_number = value & 0x7ff;
            }
            reg::FRAME_LIST_LOW => {
                self.st.frame_list = self.st.frame_list & !0xffff | u32::from(value & 0xf000);
            }
            reg::FRAME_LIST_HIGH => {
                self.st.frame_list = self.st.frame_list & 0xffff | u32::from(value) << 16;
            }
            reg::START_OF_FRAME => self.st.start_of_frame = value as u8 & 0x7f,
            reg::PORT_1 => self.write_port(0, value),
            reg::PORT_2 => self.write_port(1, value),
            _ => {}
        }
    }
}

impl Device for Uhci {
    fn read(&mut self, _: u32, offset: u64, size: u8) -> u64 {
        self.catch_up();
        self.update();
        let low = self.read_word(offset & !1);
        match size {
            1 => u64::from(low >> (8 * (offset & 1)) & 0xff),
            2 => low.into(),
            _ => u64::from(self.read_word(offset + 2)) << 16 | u64::from(low),
        }
    }

    fn write(&mut self, _: u32, offset: u64, size: u8, value: u64) {
        self.catch_up();
        match size {
            1 if offset & !1 == reg::START_OF_FRAME => self.write_word(offset, value as u16),
            // Registers of 16 bits are not written by halves.
            1 => {}
            2 => self.write_word(offset, value as u16),
            _ => {
                self.write_word(offset, value as u16);
                self.write_word(offset + 2, (value >> 16) as u16);
            }
        }
        self.update();
    }

    fn reset(&mut self) {
        self.reset_registers();
    }
}

impl PciDevice for Uhci {
    fn unplugged(&mut self) {
        self.buses.remove(&self.bus);
        self.attention.cancel();
        self.devices = Default::default();
    }
}

impl PortOwner for Mutex<Uhci> {
    fn attached(&self, port: usize, device: &Arc<UsbDevice>) {
        let mut uhci = self.lock();
        uhci.devices[port] = Some(device.clone());
        uhci.connect(port, device);
    }

    fn detached(&self, port: usize) {
        let mut uhci = self.lock();
        uhci.devices[port] = None;
        let state = &mut uhci.st.ports[port];
        if *state & port::ENABLED != 0 {
            *state |= port::ENABLE_CHANGE;
        }
        *state &= !(port::CONNECTED | port::ENABLED | port::LOW_SPEED);
        *state |= port::CONNECT_CHANGE;
        uhci.resume();
    }
}
