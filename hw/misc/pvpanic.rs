//! The paravirtual panic device: the guest's kernel says that it has crashed (QEMU's "PVPANIC DEVICE"
//! specification).

use base::device::{self, Device, Shared};
use base::memory::{AccessSizes, Region};
use base::props::Props;
use base::request::{Request, RequestSink};

use crate::pci::{Bar, BarKind, ConfigSpace, Identity, PciBus, PciDevice, PciError, PciProps, ids};

/// The guest has crashed.
const PANICKED: u8 = 1;
/// The guest has crashed and runs its crash kernel.
const CRASH_LOADED: u8 = 1 << 1;
/// The guest shuts down.
const SHUT_DOWN: u8 = 1 << 2;

/// Name of the fw_cfg file that tells the ISA device's port.
pub const PORT_FILE: &str = "etc/pvpanic-port";

const ALL_EVENTS: u8 = PANICKED | CRASH_LOADED | SHUT_DOWN;

/// Properties of `pvpanic`.
#[derive(Debug, Props)]
pub struct PvpanicProps {
    /// The port.
    #[prop(default = 0x505)]
    pub ioport: u16,
    /// Events that are offered to the guest.
    #[prop(default = ALL_EVENTS)]
    pub events: u8,
}

/// Properties of `pvpanic-pci`.
#[derive(Debug, Props)]
pub struct PvpanicPciProps {
    /// Place on the bus.
    #[prop(flatten)]
    pub pci: PciProps,
    /// Events that are offered to the guest.
    #[prop(default = ALL_EVENTS)]
    pub events: u8,
}

/// The device.
pub struct Pvpanic {
    events: u8,
    requests: RequestSink,
}

const PORT_SIZE: u64 = 1;
const BAR_SIZE: u64 = 2;

const IDENTITY: Identity = Identity {
    vendor: ids::REDHAT,
    device: ids::REDHAT_PVPANIC,
    revision: 1,
    class: 0x088000,
    subsystem: Some((ids::QUMRANET, ids::QUMRANET_DEFAULT_SUBSYSTEM)),
    interrupt_pin: 0,
};

impl Pvpanic {
    /// The device on a port.
    pub fn create(events: u8, requests: RequestSink) -> (Shared<Self>, Region) {
        let device = device::share(|_| Pvpanic { events, requests });
        let port = device::region(&device, 0, "pvpanic", PORT_SIZE, AccessSizes::BYTE);
        (device, port)
    }

    /// The device as a PCI function.
    pub fn plug(
        bus: &PciBus,
        props: &PvpanicPciProps,
        requests: RequestSink,
    ) -> Result<(), PciError> {
        let mut config = ConfigSpace::new(&IDENTITY);
        config.allow_device_registers();
        config.add_bar(0, Bar { kind: BarKind::Memory32 { prefetchable: false }, size: BAR_SIZE });
        bus.plug("pvpanic-pci", &props.pci, config, |_| {
            let device = device::share(|_| Pvpanic { events: props.events, requests });
            let region = device::region(&device, 0, "pvpanic", BAR_SIZE, AccessSizes::BYTE);
            (device, vec![(0, region)])
        })?;
        Ok(())
    }
}

impl Device for Pvpanic {
    fn read(&mut self, _: u32, _: u64, _: u8) -> u64 {
        self.events.into()
    }

    fn write(&mut self, _: u32, _: u64, _: u8, value: u64) {
        let value = value as u8 & self.events;
        let request = if value & PANICKED != 0 {
            Request::Panicked
        } else if value & CRASH_LOADED != 0 {
            Request::CrashLoaded
        } else if value & SHUT_DOWN != 0 {
            Request::PowerOff
        } else {
            return;
        };
        self.requests.send(request);
    }

    fn reset(&mut self) {}
}

impl PciDevice for Pvpanic {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn offered_events_become_requests() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        let sink = RequestSink::new(move |request| log.lock().push(request));
        let (device, _) = Pvpanic::create(PANICKED | SHUT_DOWN, sink);
        let mut device = device.lock();
        assert_eq!(device.read(0, 0, 1), 5);
        [1, 2, 4, 8, 0].into_iter().for_each(|value| device.write(0, 0, 1, value));
        assert_eq!(*asked.lock(), [Request::Panicked, Request::PowerOff]);
    }
}
