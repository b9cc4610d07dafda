//! The PCI test device: counts writes to registers that its header describes (QEMU's "pci-test"
//! specification).

use base::device::{self, Device};
use base::memory::AccessSizes;
use base::props::Props;
use base::state::State;

use crate::pci::{Bar, BarKind, ConfigSpace, Identity, PciBus, PciDevice, PciError, PciProps, ids};

const MEMORY: u32 = 0;
const PORTS: u32 = 1;
const MEMORY_SIZE: u64 = 4096;
const PORTS_SIZE: u64 = 256;

/// One test: the register to be written, and what counts as a match.
struct Test {
    name: &'static str,
    offset: u32,
    data: u8,
    /// Whether writes are taken by whoever waits for them outside the device, and so do not count.
    notifies: bool,
    /// Of such a test: any data will do.
    wildcard: bool,
}

const TESTS: [Test; 6] = [
    Test { name: "mmio-no-eventfd", offset: 0x800, data: 0xfa, notifies: false, wildcard: false },
    Test {
        name: "mmio-wildcard-eventfd",
        offset: 0x801,
        data: 0xce,
        notifies: true,
        wildcard: true,
    },
    Test {
        name: "mmio-datamatch-eventfd",
        offset: 0x802,
        data: 0xfa,
        notifies: true,
        wildcard: false,
    },
    Test { name: "portio-no-eventfd", offset: 0x83, data: 0xfa, notifies: false, wildcard: false },
    Test {
        name: "portio-wildcard-eventfd",
        offset: 0x84,
        data: 0xce,
        notifies: true,
        wildcard: true,
    },
    Test {
        name: "portio-datamatch-eventfd",
        offset: 0x85,
        data: 0xfa,
        notifies: true,
        wildcard: false,
    },
];

/// Tests per region.
const PER_REGION: usize = 3;
/// Width of the registers, in bytes.
const WIDTH: u8 = 1;

const IDENTITY: Identity = Identity {
    vendor: ids::REDHAT,
    device: ids::REDHAT_TEST,
    revision: 0,
    class: 0x00ff00,
    subsystem: Some((ids::QUMRANET, ids::QUMRANET_DEFAULT_SUBSYSTEM)),
    interrupt_pin: 0,
};

/// Properties of `pci-testdev`.
#[derive(Debug, Props)]
pub struct PciTestdevProps {
    /// Place on the bus.
    #[prop(flatten)]
    pub pci: PciProps,
}

/// What the guest has chosen and done.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct PciTestdevState {
    selected: Option<usize>,
    count: u32,
}

/// The device.
#[derive(Default)]
pub struct PciTestdev {
    st: PciTestdevState,
}

impl PciTestdev {
    /// Plugs the device.
    pub fn plug(bus: &PciBus, props: &PciTestdevProps) -> Result<(), PciError> {
        let mut config = ConfigSpace::new(&IDENTITY);
        config.allow_device_registers();
        let memory = BarKind::Memory32 { prefetchable: false };
        config.add_bar(0, Bar { kind: memory, size: MEMORY_SIZE });
        config.add_bar(1, Bar { kind: BarKind::Io, size: PORTS_SIZE });
        bus.plug("pci-testdev", &props.pci, config, |_| {
            let device = device::share(|_| PciTestdev::default());
            let region =
                |number, name, size| device::region(&device, number, name, size, AccessSizes::BYTE);
            let memory = region(MEMORY, "pci-testdev-mmio", MEMORY_SIZE);
            let ports = region(PORTS, "pci-testdev-portio", PORTS_SIZE);
            (device, vec![(0, memory), (1, ports)])
        })?;
        Ok(())
    }

    /// The selected test, as the guest finds it at the start of the region.
    fn header(&self) -> Vec<u8> {
        let Some((number, test)) = self.selected() else { return Vec::new() };
        let mut bytes = vec![number as u8, WIDTH, 0, 0];
        bytes.extend(test.offset.to_le_bytes());
        bytes.extend([test.data, 0, 0, 0]);
        bytes.extend(self.st.count.to_le_bytes());
        bytes.extend(test.name.bytes());
        bytes
    }

    fn selected(&self) -> Option<(usize, &'static Test)> {
        let number = self.st.selected?;
        Some((number, TESTS.get(number)?))
    }
}

impl Device for PciTestdev {
    fn read(&mut self, _: u32, offset: u64, _: u8) -> u64 {
        let header = self.header();
        usize::try_from(offset).ok().and_then(|at| header.get(at)).copied().unwrap_or(0).into()
    }

    fn write(&mut self, region: u32, offset: u64, _: u8, value: u64) {
        if offset == 0 {
            let number = value as usize;
            let first = region as usize * PER_REGION;
            self.st.selected = (number < PER_REGION).then_some(first + number);
            self.st.count = 0;
        } else if let Some((_, test)) = self.selected() {
            let matches = u64::from(test.offset) == offset
                && (test.wildcard || u64::from(test.data) == value & 0xff);
            if matches && !test.notifies {
                self.st.count = self.st.count.wrapping_add(1);
            }
        }
    }

    fn reset(&mut self) {
        self.st = PciTestdevState::default();
    }
}

impl PciDevice for PciTestdev {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Observed on QEMU 10.0.
    #[test]
    fn the_header_describes_the_test_and_counts() {
        let mut device = PciTestdev::default();
        assert_eq!(device.read(MEMORY, 0, 1), 0);
        device.write(PORTS, 0, 1, 0);
        let bytes = |device: &mut PciTestdev| -> Vec<u64> {
            (0..19).map(|at| device.read(PORTS, at, 1)).collect()
        };
        let head = [3, 1, 0, 0, 0x83, 0, 0, 0, 0xfa, 0, 0, 0];
        assert_eq!(bytes(&mut device)[..12], head);
        assert_eq!(bytes(&mut device)[16..], b"por".map(u64::from));
        device.write(PORTS, 0x83, 1, 0xfa);
        device.write(PORTS, 0x83, 1, 0x77);
        device.write(PORTS, 0x84, 1, 0xfa);
        assert_eq!(bytes(&mut device)[12], 1);
        device.write(MEMORY, 0, 1, 1);
        device.write(MEMORY, 0x801, 1, 0xce);
        assert_eq!(bytes(&mut device)[12], 0, "taken outside");
        device.write(MEMORY, 0, 1, 3);
        assert!(bytes(&mut device).iter().all(|&byte| byte == 0));
    }
}
