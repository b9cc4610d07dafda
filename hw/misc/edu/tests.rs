use base::interrupt::MsiMessage;
use base::memory::{AddressSpace, RamBlock, Region};
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::pci::rom::tests::PlainFiles;
use crate::pci::{PciFunction, devfn, reg as pci_reg};

const BAR: u64 = 0xf000_0000;

#[derive(Default)]
struct Messages(Mutex<Vec<MsiMessage>>);

impl MsiSink for Messages {
    fn send(&self, message: MsiMessage) {
        self.0.lock().push(message);
    }
}

struct Bed {
    memory: AddressSpace,
    clocks: Clocks,
    messages: Arc<Messages>,
    function: Arc<PciFunction>,
    bus: Arc<PciBus>,
}

fn bed() -> Bed {
    let root = Region::container("system", 1 << 64);
    root.add(&Region::ram(Arc::new(RamBlock::anonymous("ram", 0x10000).unwrap())), 0, 0);
    let memory = AddressSpace::new("memory", root.clone());
    let io = Region::container("io", 1 << 16);
    let bus =
        PciBus::new(root, io, memory.clone(), |_, _| 0, Vec::new(), Box::<PlainFiles>::default());
    let clocks = Clocks::new();
    clocks.step_by_hand();
    let messages = Arc::<Messages>::default();
    Edu::plug(&bus, &EduProps::default(), messages.clone(), &clocks).unwrap();
    let function = bus.function(devfn(0, 0)).unwrap();
    function.config_write(pci_reg::BAR0, 4, BAR as u32);
    function.config_write(pci_reg::COMMAND, 2, 6);
    Bed { memory, clocks, messages, function, bus }
}

impl Bed {
    fn read(&self, register: u64) -> u64 {
        self.memory.read_uint(BAR + register, 4)
    }
    fn write(&self, register: u64, value: u64) {
        self.memory.write_uint(BAR + register, 4, value);
    }
    fn interrupt(&self) -> bool {
        self.function.config_read(pci_reg::STATUS, 2) as u16 & pci_reg::STATUS_INTERRUPT != 0
    }
    fn transfer(&self, source: u64, destination: u64, count: u64, command: u64) {
        self.write(reg::DMA_SOURCE, source);
        self.write(reg::DMA_DESTINATION, destination);
        self.write(reg::DMA_COUNT, count);
        self.write(reg::DMA_COMMAND, command);
        assert_eq!(self.read(reg::DMA_COMMAND) & DMA_RUN, DMA_RUN);
        self.clocks.step_to(self.clocks.now_virtual() + TRANSFER_TIME);
        assert_eq!(self.read(reg::DMA_COMMAND) & DMA_RUN, 0);
    }
}

/// Observed on QEMU 10.0.
#[test]
fn registers_answer() {
    let bed = bed();
    assert_eq!(bed.read(reg::IDENTIFICATION), 0x0100_00ed);
    bed.write(reg::LIVENESS, 0x1234_5678);
    assert_eq!(bed.read(reg::LIVENESS), 0xedcb_a987);
    bed.write(reg::STATUS, 0xff);
    assert_eq!(bed.read(reg::STATUS), 0x80);
    bed.write(reg::FACTORIAL, 5);
    assert_eq!((bed.read(reg::FACTORIAL), bed.read(reg::INTERRUPTS)), (120, 1));
    assert!(bed.interrupt());
    bed.write(reg::ACKNOWLEDGE, 1);
    assert!(!bed.interrupt());
    assert_eq!(bed.read(0xc), 0xffff_ffff);
    assert_eq!(bed.memory.read_uint(BAR, 1), 0xff, "registers are 32 bits wide");
}

#[test]
fn messages_replace_the_pin() {
    let bed = bed();
    bed.function.config_write(0x44, 4, 0xfee0_0000);
    bed.function.config_write(0x4c, 2, 0x41);
    bed.function.config_write(0x42, 2, 1);
    bed.write(reg::RAISE, 8);
    assert!(!bed.interrupt());
    assert_eq!(*bed.messages.0.lock(), [MsiMessage { address: 0xfee0_0000, data: 0x41 }]);
}

#[test]
fn bytes_go_to_the_buffer_and_back() {
    let bed = bed();
    bed.memory.write(0x1000, b"hello");
    bed.transfer(0x1000, BUFFER + 100, 5, DMA_RUN);
    assert!(!bed.interrupt());
    bed.transfer(BUFFER + 100, 0x2000, 5, DMA_RUN | DMA_TO_MEMORY | DMA_INTERRUPT);
    assert!(bed.interrupt());
    let mut bytes = [0; 5];
    bed.memory.read(0x2000, &mut bytes);
    assert_eq!(&bytes, b"hello");
    bed.transfer(BUFFER + 4090, 0x3000, 100, DMA_RUN | DMA_TO_MEMORY);
    assert_eq!(bed.memory.read_uint(0x3000, 4), 0, "beyond the buffer");
}

#[test]
fn factorials_wrap() {
    assert_eq!(
        [0, 1, 12, 13, 34, u32::MAX].map(factorial),
        [1, 1, 479_001_600, 1_932_053_504, 0, 0]
    );
}

proptest! {
    #[test]
    fn any_access_is_survived(
        accesses in prop::collection::vec((0..0xa0u64, 0..4u32, any::<u64>()), 0..100),
    ) {
        let bed = bed();
        for (at, size, value) in accesses {
            bed.memory.write_uint(BAR + at, 1 << size, value);
            bed.memory.read_uint(BAR + at, 1 << size);
        }
        bed.clocks.step_to(TRANSFER_TIME);
        bed.bus.reset();
        prop_assert!(!bed.interrupt());
    }
}
