//! A processor with a little memory, for unit tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use base::irq::IrqLine;
use base::memory::{AddressSpace, IoHandler, RamBlock, Region};

use crate::bus::{ApicPage, Bus, TimeStamp};
use crate::core::{Cpu, Fault, Trap};
use crate::cpuid::{FeatureSet, Model, Support, Topology, select};
use crate::signals::Signals;
use crate::state::{Seg, Segment, attr, cr0, cr4, efer};

/// RAM from address 0.
pub(crate) const RAM: u64 = 16 << 20;
/// A device that logs what is written and answers with a pattern.
pub(crate) const DEVICE: u64 = 0x4000_0000;

#[derive(Default)]
pub(crate) struct Log {
    pub writes: parking_lot::Mutex<Vec<(u64, u8, u64)>>,
}

impl IoHandler for Log {
    fn read(&self, offset: u64, size: u8) -> u64 {
        0x1122_3344_5566_7788 ^ offset ^ u64::from(size) << 56
    }
    fn write(&self, offset: u64, size: u8, value: u64) {
        self.writes.lock().push((offset, size, value));
    }
}

#[derive(Default)]
struct Apic {
    last: AtomicU64,
}

impl ApicPage for Apic {
    fn read(&self, offset: u32, _: u8) -> u32 {
        0xa51c_0000 | offset
    }
    fn write(&self, offset: u32, _: u8, value: u32) {
        self.last.store(u64::from(offset) << 32 | u64::from(value), Ordering::Relaxed);
    }
    fn read_msr(&self, index: u32) -> Option<u64> {
        (index == 0x802).then_some(7)
    }
    fn write_msr(&self, index: u32, _: u64) -> bool {
        index == 0x80b
    }
    fn send_ipi(&self, id: u32, command: u32) -> bool {
        self.last.store(u64::from(id) << 32 | u64::from(command), Ordering::Relaxed);
        id < 2
    }
    fn set_base(&self, _: u64) {}
    fn set_tsc_offset(&self, _: u64) {}
    fn tpr(&self) -> u8 {
        3
    }
    fn set_tpr(&self, _: u8) {}
}

struct Ticks;

impl TimeStamp for Ticks {
    fn ticks(&self) -> u64 {
        1_000_000
    }
    fn frequency(&self) -> u64 {
        1_000_000_000
    }
}

/// A processor, its RAM and what is wired to it.
pub(crate) struct Machine {
    pub cpu: Cpu,
    pub ram: Arc<RamBlock>,
    pub device: Arc<Log>,
    pub ports: Arc<Log>,
    pub a20: Arc<AtomicBool>,
}

impl std::ops::Deref for Machine {
    type Target = Cpu;
    fn deref(&self) -> &Cpu {
        &self.cpu
    }
}

impl std::ops::DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut Cpu {
        &mut self.cpu
    }
}

/// A model with every feature there is.
pub(crate) fn everything() -> Model {
    let mut model = select("max", &Support::software(), Topology::default()).unwrap().model;
    model.features = FeatureSet([!0; crate::cpuid::feature::WORDS]);
    model.phys_bits = 40;
    model
}

impl Machine {
    /// A processor of `model` after RESET.
    pub fn of(model: Model) -> Self {
        let ram = Arc::new(RamBlock::anonymous("ram", RAM).unwrap());
        let device = Arc::new(Log::default());
        let ports = Arc::new(Log::default());
        let root = Region::container("memory", 1 << 64);
        root.add(&Region::ram(ram.clone()), 0, 0);
        root.add(&Region::io("device", 0x10_0000, device.clone()), DEVICE, 0);
        let io = Region::container("io", 0x1_0000);
        io.add(&Region::io("ports", 0x1_0000, ports.clone()), 0, 0);
        let memory = AddressSpace::new("memory", root);
        let a20 = Arc::new(AtomicBool::new(true));
        let bus = Bus {
            smm: memory.clone(),
            memory,
            ports: AddressSpace::new("io", io),
            a20: a20.clone(),
            backdoor: None,
            fpu_error: IrqLine::unconnected(),
            apic: Some(Arc::new(Apic::default())),
            tsc: Arc::new(Ticks),
        };
        let cpu = Cpu::new(0, Arc::new(model), bus, Arc::new(Signals::default()));
        Machine { cpu, ram, device, ports, a20 }
    }

    pub fn new() -> Self {
        Self::of(everything())
    }

    pub fn poke(&self, at: u64, value: u64) {
        self.ram.write_uint(at, 8, value);
    }
    pub fn poke32(&self, at: u64, value: u32) {
        self.ram.write_uint(at, 4, value.into());
    }
    pub fn peek(&self, at: u64) -> u64 {
        self.ram.read_uint(at, 8)
    }
    pub fn peek32(&self, at: u64) -> u32 {
        self.ram.read_uint(at, 4) as u32
    }

    /// Flat 32-bit protected mode at `cpl`, paging off.
    pub fn protected(mut self, cpl: u8) -> Self {
        self.state.cr0 |= cr0::PE;
        self.flat(cpl, attr::BIG);
        self
    }

    /// 64-bit mode at `cpl` with page tables at `cr3`.
    pub fn long(mut self, cpl: u8, cr3: u64) -> Self {
        self.state.cr0 |= cr0::PE | cr0::PG | cr0::WP;
        self.state.cr4 |= cr4::PAE;
        self.state.cr3 = cr3;
        self.state.msr.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        self.flat(cpl, attr::LONG);
        self
    }

    fn flat(&mut self, cpl: u8, code: u16) {
        let dpl = u16::from(cpl) << attr::DPL_SHIFT;
        let common = attr::PRESENT | attr::S | attr::GRANULAR | dpl;
        for seg in &mut self.state.seg {
            let data = Segment { selector: 0x10, base: 0, limit: u32::MAX, attr: common | 3 };
            *seg = Segment { attr: data.attr | attr::BIG, ..data };
        }
        self.state.seg[Seg::Cs as usize] = Segment {
            selector: 8 | u16::from(cpl),
            base: 0,
            limit: u32::MAX,
            attr: common | 0xb | code,
        };
        self.update_mode();
    }

    /// MOV to CRn of its value, changed.
    pub fn change_cr(&mut self, number: u8, f: impl FnOnce(u64) -> u64) -> Result<(), Trap> {
        let value = if number == 0 { self.state.cr0 } else { self.state.cr4 };
        self.write_cr(number, f(value))
    }

    pub fn set_flag(&mut self, flag: u64, on: bool) {
        let flags = self.state.flags.get();
        self.state.flags.set(if on { flags | flag } else { flags & !flag });
        self.update_mode();
    }

    pub fn flag(&self, flag: u64) -> bool {
        self.state.flags.get() & flag != 0
    }

    /// The fault that an operation raised.
    pub fn fault_of<T>(
        &mut self,
        operation: impl FnOnce(&mut Cpu) -> Result<T, Trap>,
    ) -> (u8, Option<u32>) {
        self.cpu.fault = Fault::default();
        match operation(&mut self.cpu) {
            Err(Trap::Exception) => (self.cpu.fault.vector, self.cpu.fault.error),
            Err(trap) => panic!("{trap:?}"),
            Ok(_) => panic!("no exception"),
        }
    }
}

/// A segment or gate descriptor from base, limit and attributes as [`Segment::attr`] has them.
pub(crate) fn descriptor(base: u32, limit: u32, attr: u16) -> u64 {
    let low = u64::from(base << 16 | limit & 0xffff);
    let high = base & 0xff00_0000 | base >> 16 & 0xff | limit & 0xf_0000 | u32::from(attr) << 8;
    u64::from(high) << 32 | low
}

/// A 32-bit interrupt, trap, call or task gate.
pub(crate) fn gate(selector: u16, offset: u32, kind: u16, dpl: u16, params: u32) -> u64 {
    let low = u64::from(u32::from(selector) << 16 | offset & 0xffff);
    let attr = u32::from(attr::PRESENT | kind | dpl << attr::DPL_SHIFT) << 8;
    u64::from(offset & 0xffff_0000 | attr | params) << 32 | low
}
