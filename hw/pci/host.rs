//! Configuration mechanism 1: an address register at port 0xCF8 and a data window at 0xCFC
//! (PCI 3.0, 3.2.2.3.2).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use base::memory::{IoHandler, Region};
use base::trace_event;

use super::bus::PciBus;
use super::function::PciFunction;

/// Port of the address register.
pub const ADDRESS_PORT: u64 = 0xcf8;
/// Port of the data window.
pub const DATA_PORT: u64 = 0xcfc;

const ENABLE: u32 = 1 << 31;

/// The pair of ports. No lock is held while a function answers, since what it does may move regions.
pub struct ConfigPorts {
    bus: Arc<PciBus>,
    address: AtomicU32,
}

struct AddressPort(Arc<ConfigPorts>);
struct DataPort(Arc<ConfigPorts>);

impl ConfigPorts {
    /// Creates the ports and the two regions for the board to place at [`ADDRESS_PORT`] and
    /// [`DATA_PORT`].
    pub fn create(bus: &Arc<PciBus>) -> (Arc<Self>, Region, Region) {
        let ports = Arc::new(ConfigPorts { bus: bus.clone(), address: AtomicU32::new(0) });
        let address = Region::io("pci-conf-idx", 4, Arc::new(AddressPort(ports.clone())));
        let data = Region::io("pci-conf-data", 4, Arc::new(DataPort(ports.clone())));
        (ports, address, data)
    }

    /// Back to the state after power-up.
    pub fn reset(&self) {
        self.address.store(0, Ordering::Relaxed);
    }

    fn target(&self, offset: u64) -> Option<(Arc<PciFunction>, usize)> {
        let address = self.address.load(Ordering::Relaxed);
        let on_bus_0 = address & ENABLE != 0 && (address >> 16) & 0xff == 0;
        let function = on_bus_0.then(|| self.bus.function((address >> 8) as u8)).flatten()?;
        Some((function, (address & 0xfc) as usize + (offset & 3) as usize))
    }
}

/// Narrower accesses do not change the address register, and read its low bits wherever they are.
impl IoHandler for AddressPort {
    fn read(&self, _: u64, _: u8) -> u64 {
        self.0.address.load(Ordering::Relaxed).into()
    }
    fn write(&self, offset: u64, size: u8, value: u64) {
        if (offset, size) == (0, 4) {
            self.0.address.store(value as u32, Ordering::Relaxed);
        }
    }
}

impl IoHandler for DataPort {
    fn read(&self, offset: u64, size: u8) -> u64 {
        self.0.target(offset).map_or(!0, |(function, at)| {
            let value = function.config_read(at, size);
            trace_event!(pci_cfg_read, "{} @{at:#x} -> {value:#x}", function.trace_name());
            value.into()
        })
    }
    fn write(&self, offset: u64, size: u8, value: u64) {
        if let Some((function, at)) = self.0.target(offset) {
            trace_event!(pci_cfg_write, "{} @{at:#x} <- {value:#x}", function.trace_name());
            function.config_write(at, size, value as u32);
        }
    }
}
