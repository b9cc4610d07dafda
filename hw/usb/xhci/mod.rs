//! The eXtensible Host Controller Interface (Intel, revision 1.2; what is shown is 1.0): drivers fill
//! rings of commands and transfers and ring doorbells, the controller fills rings of events.
//!
//! Everything in memory is the driver's. Rings are followed for a bounded number of steps at a time;
//! one that leads nowhere stops the controller, as does memory that is not there.

mod commands;
mod events;
mod ports;
mod ring;
mod slots;
#[cfg(test)]
mod tests;
mod transfer;

use std::sync::Arc;

use base::clock::{ClockKind, Clocks};
use base::device::{self, Device};
use base::interrupt::MsiSink;
use base::memory::{AccessSizes, Region};
use base::props::{OnOffAuto, Props};
use base::state::State;

use super::attention::Attention;
use super::bus::{UsbBus, UsbBuses};
use super::device::UsbDevice;
use super::packet::Speed;
use crate::pci::{
    Bar, BarKind, ConfigSpace, Identity, Msix, PciBus, PciDevice, PciError, PciProps, PciWires, ids,
};
use events::Interrupter;
use ring::Ring;
use slots::Slot;

/// Type names.
pub const TYPE: &str = "qemu-xhci";
/// As NEC built it.
pub const NEC_TYPE: &str = "nec-usb-xhci";

const SPEEDS: &[Speed] = &[Speed::Low, Speed::Full, Speed::High];
/// Of ports that are those of USB 3, too.
const ALL_SPEEDS: &[Speed] = &[Speed::Low, Speed::Full, Speed::High, Speed::Super];
const SUPER_SPEED: &[Speed] = &[Speed::Super];
const MAX_PORTS: u32 = 15;
const MAX_SLOTS: u32 = 64;
const MAX_INTERRUPTERS: u32 = 16;

const BAR_SIZE: u64 = 0x4000;
/// The release of USB, in configuration space.
const RELEASE: usize = 0x60;
const RELEASE_3_0: u8 = 0x30;
const MSIX_CAPABILITY: usize = 0x90;

/// Where the parts of the registers are.
mod part {
    pub const OPERATIONAL: u64 = 0x40;
    pub const PORTS: u64 = 0x440;
    pub const RUNTIME: u64 = 0x1000;
    pub const INTERRUPTERS: u64 = 0x1020;
    pub const DOORBELLS: u64 = 0x2000;
    pub const MSIX: u64 = 0x3000;
}

mod command {
    pub const RUN: u32 = 1;
    pub const RESET: u32 = 1 << 1;
    pub const INTERRUPTS: u32 = 1 << 2;
    pub const SAVE: u32 = 1 << 8;
    pub const RESTORE: u32 = 1 << 9;
    /// What is kept of what is written.
    pub const KEPT: u32 = 0xc0f;
}

mod status {
    pub const HALTED: u32 = 1;
    pub const HOST_SYSTEM_ERROR: u32 = 1 << 2;
    pub const EVENT: u32 = 1 << 3;
    pub const PORT_CHANGE: u32 = 1 << 4;
    pub const RESTORE_ERROR: u32 = 1 << 10;
    pub const HOST_ERROR: u32 = 1 << 12;
    pub const CLEARED: u32 = HOST_SYSTEM_ERROR | EVENT | PORT_CHANGE | RESTORE_ERROR;
}

/// Operational registers.
mod operational {
    pub const COMMAND: u64 = 0x00;
    pub const STATUS: u64 = 0x04;
    pub const PAGE_SIZE: u64 = 0x08;
    pub const NOTIFICATIONS: u64 = 0x14;
    pub const COMMAND_RING_LOW: u64 = 0x18;
    pub const COMMAND_RING_HIGH: u64 = 0x1c;
    pub const CONTEXTS_LOW: u64 = 0x30;
    pub const CONTEXTS_HIGH: u64 = 0x34;
    pub const CONFIGURE: u64 = 0x38;
}

/// Nanoseconds of a microframe.
const MICROFRAME: i64 = 125_000;

/// Properties of `qemu-xhci`.
#[derive(Debug, Props)]
#[allow(missing_docs)]
pub struct XhciProps {
    #[prop(flatten)]
    pub pci: PciProps,
    /// With the interrupt pin, all events go to the first interrupter.
    #[prop(
        name = "conditional-intr-mapping",
        help = "When true, disables interrupter mapping for pin-based IRQ mode. Intended to be used with guest drivers with questionable behaviour, such as macOS's."
    )]
    pub conditional_intr_mapping: bool,
    /// Messages without a table, which this controller does not send.
    pub msi: OnOffAuto,
    /// Messages by a table.
    pub msix: OnOffAuto,
    /// Ports of USB 2.
    #[prop(default = 4)]
    pub p2: u32,
    /// Ports of USB 3.
    #[prop(default = 4)]
    pub p3: u32,
    /// Bulk endpoints may have several rings; no device has any.
    #[prop(default = true)]
    pub streams: bool,
}

/// Properties of `nec-usb-xhci`.
#[derive(Debug, Props)]
#[allow(missing_docs)]
pub struct NecXhciProps {
    #[prop(flatten)]
    pub xhci: XhciProps,
    /// Interrupters.
    #[prop(default = MAX_INTERRUPTERS)]
    pub intrs: u32,
    /// Devices that there can be.
    #[prop(default = MAX_SLOTS)]
    pub slots: u32,
}

/// What a controller was made with.
#[derive(Clone, Copy, Debug)]
pub(in crate::usb) struct Config {
    ports_3: usize,
    ports_2: usize,
    slots: usize,
    interrupters: usize,
    nec: bool,
}

/// Registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct XhciState {
    command: u32,
    status: u32,
    notifications: u32,
    command_ring: Ring,
    /// Whether commands are done, until the driver stops that.
    commands_run: bool,
    /// There are more than were done at a time.
    commands_wait: bool,
    /// Where the table of contexts is.
    contexts: u64,
    configure: u32,
    ports: Vec<u32>,
    interrupters: Vec<Interrupter>,
    slots: Vec<Slot>,
    /// When microframes began to be counted.
    started: i64,
}

impl XhciState {
    fn at_reset(cfg: &Config) -> Self {
        XhciState {
            status: status::HALTED,
            ports: vec![0; cfg.ports_3 + cfg.ports_2],
            interrupters: vec![Interrupter::default(); cfg.interrupters],
            slots: vec![Slot::default(); cfg.slots],
            ..XhciState::default()
        }
    }
}

/// The controller.
pub struct Xhci {
    cfg: Config,
    wires: PciWires,
    msix: Option<Arc<Msix>>,
    clocks: Clocks,
    attention: Attention,
    buses: Arc<UsbBuses>,
    bus: Arc<UsbBus>,
    /// Devices at the root ports of the bus.
    devices: Vec<Option<Arc<UsbDevice>>>,
    /// Devices by slot.
    functions: Vec<Option<Arc<UsbDevice>>>,
    st: XhciState,
}

/// Where a controller goes.
pub struct Seat<'a> {
    /// The PCI bus.
    pub pci: &'a PciBus,
    /// The id that the operator gave it.
    pub id: Option<String>,
    /// Where messages go.
    pub msi: Arc<dyn MsiSink>,
    /// The USB buses.
    pub buses: &'a Arc<UsbBuses>,
    /// The clocks.
    pub clocks: &'a Clocks,
}

/// Plugs a `qemu-xhci`.
pub fn plug(seat: Seat<'_>, props: &XhciProps) -> Result<(), PciError> {
    let identity = (ids::REDHAT, ids::REDHAT_XHCI, 1);
    create(seat, TYPE, identity, props, (MAX_INTERRUPTERS, MAX_SLOTS))
}

/// Plugs a `nec-usb-xhci`.
pub fn plug_nec(seat: Seat<'_>, props: &NecXhciProps) -> Result<(), PciError> {
    let identity = (ids::NEC, ids::NEC_UPD720200, 3);
    create(seat, NEC_TYPE, identity, &props.xhci, (props.intrs, props.slots))
}

fn create(
    seat: Seat<'_>,
    type_name: &'static str,
    (vendor, device, revision): (u16, u16, u8),
    props: &XhciProps,
    (interrupters, slots): (u32, u32),
) -> Result<(), PciError> {
    let Seat { pci, id, msi, buses, clocks } = seat;
    let cfg = Config {
        ports_3: props.p3.min(MAX_PORTS) as usize,
        ports_2: props.p2.min(MAX_PORTS) as usize,
        slots: slots.clamp(1, MAX_SLOTS) as usize,
        // The table of messages has as many entries as a power of two.
        interrupters: interrupters.clamp(1, MAX_INTERRUPTERS).next_power_of_two() as usize,
        nec: type_name == NEC_TYPE,
    };
    let mut config = ConfigSpace::new(&Identity {
        vendor,
        device,
        revision,
        class: 0x0c0330,
        subsystem: Some((ids::QUMRANET, ids::QUMRANET_DEFAULT_SUBSYSTEM)),
        interrupt_pin: 1,
    });
    config.set_u8(RELEASE, RELEASE_3_0);
    config.allow_device_registers();
    config.add_bar(0, Bar { kind: BarKind::Memory64 { prefetchable: false }, size: BAR_SIZE });
    let msix = props.msix.resolve(true).then(|| {
        let vectors = cfg.interrupters as u16;
        let place = (0, part::MSIX as u32);
        Msix::add_inside(&mut config, type_name, vectors, place, MSIX_CAPABILITY, msi)
    });
    let attention = Attention::new(clocks, 0);
    let bus = buses.add(id.as_deref(), &attention);
    let build = |wires| {
        let (msix, table) = msix.unzip();
        let xhci = device::share(|me| {
            attention.connect(device::timer(me, clocks, ClockKind::Virtual, Xhci::called));
            // A port of the bus is one of either kind.
            let (both, all) = (cfg.ports_3.min(cfg.ports_2), cfg.ports_3.max(cfg.ports_2));
            bus.add_ports(0..both, ALL_SPEEDS, me);
            let rest = if cfg.ports_3 > both { SUPER_SPEED } else { SPEEDS };
            bus.add_ports(both..all, rest, me);
            let mut xhci = Xhci {
                cfg,
                wires,
                msix,
                clocks: clocks.clone(),
                attention: attention.clone(),
                buses: buses.clone(),
                bus: bus.clone(),
                devices: vec![None; all],
                functions: vec![None; cfg.slots],
                st: XhciState::at_reset(&cfg),
            };
            xhci.reset_registers();
            xhci
        });
        let bar = Region::container("xhci-bar", BAR_SIZE.into());
        bar.add(&device::region(&xhci, 0, "xhci", part::MSIX, AccessSizes::DWORD), 0, 0);
        if let Some(table) = table {
            bar.add(&table, part::MSIX, 0);
        }
        (xhci, vec![(0, bar)])
    };
    let function =
        pci.plug(type_name, &props.pci, config, build).inspect_err(|_| buses.remove(&bus))?;
    bus.set_controller(function.devfn());
    Ok(())
}

impl Xhci {
    fn runs(&self) -> bool {
        self.st.status & status::HALTED == 0
    }

    /// Something in memory makes no sense: only a reset helps.
    fn fail(&mut self) {
        self.st.status |= status::HOST_ERROR | status::HALTED;
        self.st.command &= !command::RUN;
    }

    /// A device has something to say.
    fn called(&mut self) {
        if std::mem::take(&mut self.st.commands_wait) {
            self.run_commands();
        }
        self.attend();
    }

    fn reset_registers(&mut self) {
        self.attention.cancel();
        self.st = XhciState::at_reset(&self.cfg);
        self.st.started = self.clocks.now_virtual();
        self.functions.fill(None);
        (0..self.st.ports.len()).for_each(|register| self.update_port(register));
        self.update_pin();
    }

    fn write_command(&mut self, value: u32) {
        if value & command::RESET != 0 {
            return self.reset_registers();
        }
        if value & command::SAVE != 0 {
            self.st.status &= !status::RESTORE_ERROR;
        }
        if value & command::RESTORE != 0 {
            // Nothing was saved: the driver begins anew.
            self.st.status |= status::RESTORE_ERROR;
        }
        let started = value & !self.st.command & command::RUN != 0;
        let stopped = self.st.command & !value & command::RUN != 0;
        self.st.command = value & command::KEPT;
        if started && self.st.status & status::HOST_ERROR == 0 {
            self.st.status &= !status::HALTED;
            self.st.started = self.clocks.now_virtual();
        }
        if stopped {
            self.st.status |= status::HALTED;
            self.st.commands_run = false;
        }
        self.update_pin();
    }

    fn capability(&self, offset: u64) -> u32 {
        let Config { ports_3, ports_2, slots, interrupters, .. } = self.cfg;
        let (ports_3, ports_2) = (ports_3 as u32, ports_2 as u32);
        // "USB "
        const NAME: u32 = 0x2042_5355;
        match offset {
            // Length of this part, release 1.0.
            0x00 => 0x0100_0040,
            0x04 => (ports_3 + ports_2) << 24 | (interrupters as u32) << 8 | slots as u32,
            0x08 => 0xf,
            // Addresses of 64 bits; extended capabilities at 20h.
            0x10 => 0x8_0001,
            0x14 => part::DOORBELLS as u32,
            0x18 => part::RUNTIME as u32,
            0x20 => 0x0200_0402,
            0x28 => ports_2 << 8 | (ports_3 + 1),
            0x30 => 0x0300_0002,
            0x38 => ports_3 << 8 | 1,
            0x24 | 0x34 => NAME,
            _ => 0,
        }
    }

    fn read_operational(&self, offset: u64) -> u32 {
        match offset {
            operational::COMMAND => self.st.command,
            operational::STATUS => self.st.status,
            // 4 KiB.
            operational::PAGE_SIZE => 1,
            operational::NOTIFICATIONS => self.st.notifications,
            operational::COMMAND_RING_LOW => self.read_command_ring(),
            operational::COMMAND_RING_HIGH => (self.st.command_ring.at >> 32) as u32,
            operational::CONTEXTS_LOW => self.st.contexts as u32,
            operational::CONTEXTS_HIGH => (self.st.contexts >> 32) as u32,
            operational::CONFIGURE => self.st.configure,
            _ => 0,
        }
    }

    fn write_operational(&mut self, offset: u64, value: u32) {
        match offset {
            operational::COMMAND => self.write_command(value),
            operational::STATUS => {
                self.st.status &= !(value & status::CLEARED);
                self.update_pin();
            }
            operational::NOTIFICATIONS => self.st.notifications = value & 0xffff,
            operational::COMMAND_RING_LOW => self.write_command_ring(value, false),
            operational::COMMAND_RING_HIGH => self.write_command_ring(value, true),
            operational::CONTEXTS_LOW => {
                self.st.contexts = self.st.contexts & !0xffff_ffff | u64::from(value & !0x3f);
            }
            operational::CONTEXTS_HIGH => {
                self.st.contexts = self.st.contexts & 0xffff_ffff | u64::from(value) << 32;
            }
            operational::CONFIGURE => self.st.configure = value & 0xff,
            _ => {}
        }
    }

    fn microframe(&self) -> u32 {
        ((self.clocks.now_virtual() - self.st.started) / MICROFRAME) as u32 & 0x3fff
    }
}

/// The number of the block of `size` bytes that an offset is in, and the offset in it.
fn place(offset: u64, size: u64) -> (usize, u64) {
    ((offset / size) as usize, offset % size)
}

impl Device for Xhci {
    fn read(&mut self, _: u32, offset: u64, _: u8) -> u64 {
        let value = match offset {
            ..part::OPERATIONAL => self.capability(offset),
            part::OPERATIONAL..part::PORTS => self.read_operational(offset - part::OPERATIONAL),
            part::PORTS..part::RUNTIME => match place(offset - part::PORTS, 16) {
                (register, 0) => self.st.ports.get(register).copied().unwrap_or(0),
                _ => 0,
            },
            part::RUNTIME if self.runs() => self.microframe(),
            part::INTERRUPTERS..part::DOORBELLS => {
                let (n, register) = place(offset - part::INTERRUPTERS, 32);
                self.st.interrupters.get(n).map_or(0, |interrupter| interrupter.read(register))
            }
            _ => 0,
        };
        value.into()
    }

    fn write(&mut self, _: u32, offset: u64, _: u8, value: u64) {
        let value = value as u32;
        match offset {
            ..part::OPERATIONAL => {}
            part::OPERATIONAL..part::PORTS => {
                self.write_operational(offset - part::OPERATIONAL, value);
            }
            part::PORTS..part::RUNTIME => {
                if let (register, 0) = place(offset - part::PORTS, 16) {
                    self.write_port(register, value);
                }
            }
            part::INTERRUPTERS..part::DOORBELLS => {
                let (n, register) = place(offset - part::INTERRUPTERS, 32);
                self.write_interrupter(n, register, value);
            }
            part::DOORBELLS.. => match place(offset - part::DOORBELLS, 4) {
                (0, _) if value == 0 => self.run_commands(),
                (slot, _) => self.ring_doorbell(slot, value as usize & 0xff),
            },
            _ => {}
        }
    }

    fn reset(&mut self) {
        for device in self.devices.iter().flatten() {
            device.reset();
        }
        if let Some(msix) = &self.msix {
            msix.reset();
        }
        self.reset_registers();
    }
}

impl PciDevice for Xhci {
    fn config_written(&mut self, config: &mut ConfigSpace, _: usize, _: u8) {
        if let Some(msix) = &self.msix {
            msix.follow(config);
        }
        self.update_pin();
    }

    fn unplugged(&mut self) {
        self.buses.remove(&self.bus);
        self.attention.cancel();
        self.devices.fill(None);
        self.functions.fill(None);
    }
}
