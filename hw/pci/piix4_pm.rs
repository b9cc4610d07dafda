//! The PIIX4's power management function: ACPI registers, SMI command port, SMBus host
//! (82371AB datasheet, chapter 7).

use base::clock::{ClockKind, Clocks};
use base::device::{self, Device, Shared};
use base::irq::IrqLine;
use base::memory::{AccessSizes, Region};
use base::request::{RequestSink, WakeReason};

use super::bus::{PciBus, PciError};
use super::config::{ConfigSpace, Identity};
use super::function::PciDevice;
use super::ids;
use crate::acpi::apm::{ACPI_DISABLE, ACPI_ENABLE, Apm};
use crate::acpi::gpe::{GPE_LEN, Gpe};
use crate::acpi::pm1::{Pm1, SleepTypes};
use crate::acpi::smbus::{SMBUS_LEN, Smbus};

/// Port of the general-purpose event block.
pub const GPE_PORT: u64 = 0xafe0;

const PM_BASE: usize = 0x40;
const PM_ENABLED: usize = 0x80;
const DEVICE_ACTIVITY_B: usize = 0x58;
/// Where SeaBIOS notes that it has set up system management mode.
const SMM_SET_UP: usize = 0x5b;
const SMM_SET_UP_DONE: u8 = 2;
const APMC_ENABLE: u32 = 1 << 25;
const SMBUS_BASE: usize = 0x90;
const SMBUS_CONFIG: usize = 0xd2;
const PM_LEN: u64 = 64;

const EVENT_REGION: u32 = 0;
const CONTROL_REGION: u32 = 1;
const TIMER_REGION: u32 = 2;
const GPE_REGION: u32 = 3;
const APM_REGION: u32 = 4;
const SMBUS_REGION: u32 = 5;

/// The registers among the power management ports: region, name, offset, length. Nothing answers
/// between them.
const PM_BLOCKS: [(u32, &str, u64, u64); 3] = [
    (EVENT_REGION, "acpi-evt", 0, 4),
    (CONTROL_REGION, "acpi-cnt", 4, 2),
    (TIMER_REGION, "acpi-tmr", 8, 4),
];

const IDENTITY: Identity = Identity {
    vendor: ids::INTEL,
    device: ids::INTEL_PIIX4_PM,
    revision: 3,
    class: 0x068000,
    subsystem: Some((ids::QUMRANET, ids::QUMRANET_DEFAULT_SUBSYSTEM)),
    interrupt_pin: 1,
};

/// The board's choices.
#[derive(Clone, Copy, Debug)]
pub struct PmConfig {
    /// Where the SMBus host's registers are before the guest moves them.
    pub smbus_base: u16,
    /// Firmware is told not to set up system management mode: that it has been done.
    pub smm: bool,
    /// S3 is not offered.
    pub disable_s3: bool,
    /// S4 is not offered.
    pub disable_s4: bool,
    /// Sleep type of S4.
    pub s4_value: u16,
}

impl Default for PmConfig {
    fn default() -> Self {
        PmConfig {
            smbus_base: 0xb100,
            smm: true,
            disable_s3: false,
            disable_s4: false,
            s4_value: 2,
        }
    }
}

/// What the function is connected to besides PCI.
pub struct PmWires {
    /// The SCI.
    pub sci: IrqLine,
    /// Raises an SMI on the processor that wrote the command.
    pub smi: IrqLine,
    /// The machine.
    pub requests: RequestSink,
}

/// The power management function.
pub struct Piix4Pm {
    wires: PmWires,
    pm: Movable,
    smbus_ports: Movable,
    apm_smi: bool,
    pm1: Pm1,
    gpe: Gpe,
    apm: Apm,
    smbus: Smbus,
}

/// A 16-bit register after a write of a byte or more at `offset` into it.
fn merge(old: u16, offset: u64, size: u8, value: u32) -> u16 {
    match (size, offset & 1) {
        (1, 0) => old & 0xff00 | value as u16 & 0xff,
        (1, _) => old & 0x00ff | (value as u16) << 8,
        _ => value as u16,
    }
}

/// A block of ports that the guest places by registers of its own.
struct Movable {
    ports: Region,
    window: Region,
    placed: Option<u64>,
}

impl Movable {
    fn new(bus: &PciBus, window: &Region) -> Self {
        Movable { ports: bus.io().clone(), window: window.clone(), placed: None }
    }

    fn place(&mut self, place: Option<u64>) {
        if place == self.placed {
            return;
        }
        if self.placed.is_some() {
            self.ports.remove(&self.window);
        }
        if let Some(at) = place {
            self.ports.add(&self.window, at, 0);
        }
        self.placed = place;
    }
}

/// The function and the regions the board places.
pub struct Piix4PmParts {
    /// The function.
    pub device: Shared<Piix4Pm>,
    /// General-purpose events, for [`GPE_PORT`].
    pub gpe: Region,
    /// APM ports, for [`crate::acpi::apm::APM_PORT`].
    pub apm: Region,
}

impl Piix4Pm {
    /// Plugs the function.
    pub fn create(
        bus: &PciBus,
        devfn: u8,
        cfg: PmConfig,
        wires: PmWires,
        clocks: &Clocks,
    ) -> Result<Piix4PmParts, PciError> {
        let mut config = ConfigSpace::new(&IDENTITY);
        config.allow_device_registers();
        for (offset, value) in
            [(0x06, 0x80), (0x07, 0x02), (PM_BASE, 1), (0x5f, 0x10), (0x63, 0x60)]
        {
            config.set_u8(offset, value);
        }
        config.set_u8(SMM_SET_UP, if cfg.smm { 0 } else { SMM_SET_UP_DONE });
        config.set_u32(SMBUS_BASE, u32::from(cfg.smbus_base) | 1);
        config.set_u8(SMBUS_CONFIG, 0x09);
        let sleep = SleepTypes {
            off: 0,
            suspend: (!cfg.disable_s3).then_some(1),
            suspend_to_disk: (!cfg.disable_s4).then_some(cfg.s4_value),
        };
        let pm_window = Region::container("piix4-pm", PM_LEN.into());
        let smbus_window = Region::container("pm-smbus", SMBUS_LEN.into());
        let device = device::share(|me| {
            let alarm = device::timer(me, clocks, ClockKind::Virtual, Piix4Pm::update);
            Piix4Pm {
                pm1: Pm1::new(sleep, clocks, alarm, wires.requests.clone()),
                wires,
                pm: Movable::new(bus, &pm_window),
                smbus_ports: Movable::new(bus, &smbus_window),
                apm_smi: false,
                gpe: Gpe::default(),
                apm: Apm::default(),
                smbus: Smbus::default(),
            }
        });
        for (number, name, offset, len) in PM_BLOCKS {
            let block = device::region(&device, number, name, len, AccessSizes::UP_TO_DWORD);
            pm_window.add(&block, offset, 0);
        }
        let smbus = device::region(&device, SMBUS_REGION, "pm-smbus", SMBUS_LEN, AccessSizes::BYTE);
        smbus_window.add(&smbus, 0, 0);
        bus.plug_chip("PIIX4_PM", devfn, config, |_| (device.clone(), Vec::new()))?;
        let gpe = device::region(&device, GPE_REGION, "acpi-gpe0", GPE_LEN, AccessSizes::BYTE);
        let apm = device::region(&device, APM_REGION, "apm-io", 2, AccessSizes::BYTE);
        Ok(Piix4PmParts { device, gpe, apm })
    }

    /// The operator presses the power button.
    pub fn power_button(&mut self) {
        self.pm1.power_button();
        self.update();
    }

    /// A general-purpose event happened.
    pub fn raise_gpe(&mut self, event: u8) {
        self.gpe.raise(event);
        self.update();
    }

    /// Whether the guest wants to be woken up from S3 for this reason.
    pub fn may_wake(&self, reason: WakeReason) -> bool {
        self.pm1.may_wake(reason)
    }

    /// The machine wakes up from S3.
    pub fn wake(&mut self, reason: WakeReason) {
        self.pm1.wake(reason);
        self.update();
    }

    fn update(&mut self) {
        let level = self.pm1.update() | self.gpe.pending();
        self.wires.sci.set(level);
    }

    /// Bytes, words and the doubleword of two registers are read alike.
    fn event_read(&mut self, offset: u64) -> u64 {
        let both = u32::from(self.pm1.status()) | u32::from(self.pm1.enable()) << 16;
        u64::from(both) >> (8 * offset)
    }

    fn event_write(&mut self, offset: u64, size: u8, value: u32) {
        if size == 4 {
            self.event_write(0, 2, value & 0xffff);
            self.event_write(2, 2, value >> 16);
        } else if offset < 2 {
            self.pm1.write_status(merge(0, offset, size, value));
        } else {
            self.pm1.write_enable(merge(self.pm1.enable(), offset, size, value));
        }
    }

    fn apm_write(&mut self, offset: u64, value: u8) {
        match self.apm.write(offset, value) {
            Some(ACPI_ENABLE) => self.pm1.set_sci_enabled(true),
            Some(ACPI_DISABLE) => self.pm1.set_sci_enabled(false),
            _ => {}
        }
        if offset == 0 && self.apm_smi {
            self.wires.smi.pulse();
        }
    }
}

impl PciDevice for Piix4Pm {
    fn config_written(&mut self, config: &mut ConfigSpace, _: usize, _: u8) {
        // Hard-wired: the I/O space indicator, and that the SMBus host is an I/O resource.
        config.set_u8(PM_BASE, config.u8(PM_BASE) & 0xc0 | 1);
        config.set_u8(SMBUS_BASE, config.u8(SMBUS_BASE) & 0xc0 | 1);
        self.apm_smi = config.u32(DEVICE_ACTIVITY_B) & APMC_ENABLE != 0;
        let window = |base: usize, enable: usize| {
            (config.u8(enable) & 1 != 0).then(|| u64::from(config.u32(base) & 0xffc0))
        };
        self.pm.place(window(PM_BASE, PM_ENABLED));
        self.smbus_ports.place(window(SMBUS_BASE, SMBUS_CONFIG));
    }
}

impl Device for Piix4Pm {
    fn read(&mut self, region: u32, offset: u64, _: u8) -> u64 {
        match region {
            EVENT_REGION => self.event_read(offset),
            CONTROL_REGION => u64::from(self.pm1.control()) >> (8 * offset),
            TIMER_REGION => u64::from(self.pm1.timer()) >> (8 * offset),
            GPE_REGION => self.gpe.read(offset).into(),
            SMBUS_REGION => self.smbus.read(offset).into(),
            _ => self.apm.read(offset).into(),
        }
    }

    fn write(&mut self, region: u32, offset: u64, size: u8, value: u64) {
        match region {
            EVENT_REGION => self.event_write(offset, size, value as u32),
            CONTROL_REGION => {
                let control = self.pm1.control();
                self.pm1.write_control(merge(control, offset, size, value as u32));
            }
            TIMER_REGION => {}
            GPE_REGION => self.gpe.write(offset, value as u8),
            SMBUS_REGION => return self.smbus.write(offset, value as u8),
            _ => self.apm_write(offset, value as u8),
        }
        if region != APM_REGION || offset == 0 {
            self.update();
        }
    }

    fn reset(&mut self) {
        self.pm1.reset();
        self.gpe = Gpe::default();
        self.apm = Apm::default();
        self.smbus = Smbus::default();
        self.update();
    }
}
