//! The machine without anything, which tools ask questions of.

use std::sync::Arc;

use base::memory::{AddressSpace, Region};
use base::props::Props;
use base::request::WakeReason;
use cpu::vcpu::Vcpus;
use hw::pci::PciFunction;
use hw::registry;

use crate::config::DeviceConfig;
use crate::vm::{Board, HotplugError, Released};

/// Properties of the empty machine.
#[derive(Clone, Debug, Props)]
pub struct NoneProps {
    /// Memory of devices can be shared with another process.
    #[prop(name = "aux-ram-share")]
    pub aux_ram_share: bool,
    /// Guest memory is part of a core dump of this process.
    #[prop(name = "dump-guest-core", default = true, help = "Include guest memory in a core dump")]
    pub dump_guest_core: bool,
    /// There may be a display.
    #[prop(default = true, help = "Set on/off to enable/disable graphics emulation")]
    pub graphics: bool,
    /// The host may share equal pages.
    #[prop(name = "mem-merge", default = true, help = "Enable/disable memory merge support")]
    pub mem_merge: bool,
    /// The stream of a migration does not describe itself.
    #[prop(name = "suppress-vmdesc", help = "Set on to disable self-describing migration")]
    pub suppress_vmdesc: bool,
    /// There is a USB controller. There is nothing to plug it into.
    #[prop(help = "Set on/off to enable/disable usb")]
    pub usb: bool,
}

/// A board with no chips and no memory.
pub struct NoBoard {
    memory: AddressSpace,
    ports: AddressSpace,
}

impl Default for NoBoard {
    fn default() -> Self {
        Self::new()
    }
}

impl NoBoard {
    /// An empty board.
    pub fn new() -> Self {
        NoBoard {
            memory: AddressSpace::new("memory", Region::container("system", 1 << 64)),
            ports: AddressSpace::with_unassigned("I/O", Region::container("io", 1 << 16), 0xff),
        }
    }
}

impl Board for NoBoard {
    fn add_device(&self, device: &DeviceConfig) -> Result<(), HotplugError> {
        let driver = &device.driver;
        let kind = registry::find(driver).ok_or_else(|| {
            HotplugError::Refused(format!("'{driver}' is not a valid device model name"))
        })?;
        let bus = kind.bus.name().unwrap_or("System");
        Err(HotplugError::Refused(format!("No '{bus}' bus found for device '{driver}'")))
    }
    fn request_removal(&self, device: &str) -> Result<Vec<Released>, HotplugError> {
        Err(HotplugError::NotFound(device.into()))
    }
    fn release(&self, _: Arc<PciFunction>) -> Vec<Released> {
        Vec::new()
    }
    fn reset(&self) {}
    fn power_button(&self) {}
    fn suspend(&self) {}
    fn may_wake(&self, _: WakeReason) -> bool {
        false
    }
    fn wake_up(&self, _: WakeReason, _: &Vcpus) {}
    fn memory(&self) -> &AddressSpace {
        &self.memory
    }
    fn ports(&self) -> &AddressSpace {
        &self.ports
    }
    fn enter(&self, _: &Vcpus) {}
}
