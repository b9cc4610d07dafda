//! The firmware configuration device: selector, data port and DMA, with commands and buffers in
//! guest memory that the guest changes as it likes.
#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use base::memory::{AddressSpace, Dma, RamBlock, Region};
use hw::firmware::fw_cfg::{FW_CFG_DMA_PORT, FW_CFG_PORT, FileHooks, FwCfg, item};
use libfuzzer_sys::fuzz_target;
use parking_lot::Mutex;
use rhea_fuzz::Size;

/// RAM at address 0.
const RAM: u64 = 0x1_0000;
/// ROM behind it, which DMA cannot change.
const ROM: u64 = 0x2_0000;
/// A read-only file: its number follows from the order of the names.
const FIXED: (&str, u16, &[u8]) = ("a-fixed", 0x20, b"what nobody may change");

#[derive(Arbitrary, Debug)]
enum Action {
    Select(u16),
    /// Selects an item that exists.
    SelectKnown(u8),
    ReadData {
        count: u8,
    },
    Load {
        port: u8,
        size: Size,
    },
    Store {
        port: u8,
        size: Size,
        value: u64,
    },
    Memory {
        address: u32,
        value: u64,
    },
    /// A command in guest memory, and the writes that start it.
    Dma {
        at: Address,
        control: Control,
        item: u16,
        length: u32,
        buffer: Address,
        halves: bool,
    },
    Reset,
}

/// Near what there is, or anywhere.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Address {
    Ram(u16),
    Rom(u8),
    Top(u8),
    Anywhere(u64),
}

impl Address {
    fn get(self) -> u64 {
        match self {
            Address::Ram(at) => at.into(),
            Address::Rom(at) => ROM + u64::from(at),
            Address::Top(back) => 0_u64.wrapping_sub(back.into()),
            Address::Anywhere(at) => at,
        }
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Control(u8);

const KNOWN: &[u16] = &[
    item::SIGNATURE,
    item::ID,
    item::FILE_DIRECTORY,
    item::FIRST_FILE,
    item::FIRST_FILE + 1,
    item::FIRST_FILE + 2,
    item::FIRST_FILE + 3,
    item::ARCH_LOCAL,
];

struct Bed {
    device: base::device::Shared<FwCfg>,
    memory: AddressSpace,
    ports: AddressSpace,
    written: Arc<Mutex<usize>>,
}

impl Bed {
    fn new() -> Self {
        let root = Region::container("memory", 1 << 64);
        let block = |name, len| Arc::new(RamBlock::anonymous(name, len).expect("memory"));
        root.add(&Region::ram(block("ram", RAM)), 0, 0);
        root.add(&Region::rom(block("rom", 0x1000)), ROM, 0);
        let memory = AddressSpace::new("memory", root);
        let (device, control, dma) = FwCfg::create(Dma::new(memory.clone()));
        let io = Region::container("io", 0x1_0000);
        io.add(&control, FW_CFG_PORT, 0);
        io.add(&dma, FW_CFG_DMA_PORT, 0);
        let written = Arc::new(Mutex::new(0));
        let told = written.clone();
        let hooks = FileHooks {
            written: Some(Box::new(move |data| *told.lock() += data.len())),
            refresh: None,
        };
        let fresh = FileHooks { written: None, refresh: Some(Box::new(|| vec![0x5a; 7000])) };
        {
            let mut device = device.lock();
            let mut add = |name, data, hooks| device.add_file(name, data, hooks).expect("a file");
            add(FIXED.0, FIXED.2.to_vec(), FileHooks::default());
            add("b-empty", Vec::new(), FileHooks::default());
            add("c-written", vec![0; 100], hooks);
            add("d-fresh", Vec::new(), fresh);
            device.set_item(item::ARCH_LOCAL, vec![1; 5000]);
        }
        let ports = AddressSpace::new("io", io);
        Bed { device, memory, ports, written }
    }

    fn perform(&self, action: &Action) {
        match *action {
            Action::Select(number) => self.ports.write_uint(FW_CFG_PORT, 2, number.into()),
            Action::SelectKnown(n) => {
                let number = KNOWN[usize::from(n) % KNOWN.len()];
                self.ports.write_uint(FW_CFG_PORT, 2, number.into());
            }
            Action::ReadData { count } => {
                for _ in 0..count {
                    self.ports.read_uint(FW_CFG_PORT + 1, 1);
                }
            }
            Action::Load { port, size } => {
                self.ports.read_uint(FW_CFG_PORT + u64::from(port % 12), size.bytes());
            }
            Action::Store { port, size, value } => {
                self.ports.write_uint(FW_CFG_PORT + u64::from(port % 12), size.bytes(), value);
            }
            Action::Memory { address, value } => self.memory.write_uint(address.into(), 8, value),
            Action::Dma { at, control, item, length, buffer, halves } => {
                let at = at.get();
                let control = u32::from(item) << 16 | u32::from(control.0);
                self.memory.write(at, &control.to_be_bytes());
                self.memory.write(at.wrapping_add(4), &length.to_be_bytes());
                self.memory.write(at.wrapping_add(8), &buffer.get().to_be_bytes());
                if halves {
                    let (high, low) = ((at >> 32) as u32, at as u32);
                    self.ports.write_uint(FW_CFG_DMA_PORT, 4, high.swap_bytes().into());
                    self.ports.write_uint(FW_CFG_DMA_PORT + 4, 4, low.swap_bytes().into());
                } else {
                    self.ports.write_uint(FW_CFG_DMA_PORT, 8, at.swap_bytes());
                }
            }
            Action::Reset => base::device::Device::reset(&mut *self.device.lock()),
        }
    }

    fn content(&self, number: u16, count: usize) -> Vec<u8> {
        self.ports.write_uint(FW_CFG_PORT, 2, number.into());
        (0..count).map(|_| self.ports.read_uint(FW_CFG_PORT + 1, 1) as u8).collect()
    }
}

fuzz_target!(|actions: Vec<Action>| {
    let bed = Bed::new();
    for action in &actions {
        bed.perform(action);
    }
    let (name, number, bytes) = FIXED;
    assert_eq!(bed.content(number, bytes.len()), bytes, "{name}");
    assert_eq!(bed.content(item::SIGNATURE, 4), b"QEMU");
    let mut rom = [0; 0x1000];
    bed.memory.read(ROM, &mut rom);
    assert_eq!(rom, [0; 0x1000], "the guest changed ROM");
    assert!(*bed.written.lock() % 100 == 0, "a file changed its size");
});
