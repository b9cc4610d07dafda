//! A processor with nothing but RAM in flat 64-bit mode: where tests and measurements run code.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use base::irq::IrqLine;
use base::memory::{AddressSpace, RamBlock, RamError, Region};

use crate::Cpu;
use crate::bus::{Bus, TimeStamp};
use crate::cpuid::{FeatureSet, Support, Topology, feature, select};
use crate::interp::RunExit;
use crate::signals::Signals;
use crate::state::{Seg, Segment, attr, cr0, cr4, efer};

/// Bytes of RAM, from address 0.
pub const RAM: u64 = 16 << 20;
/// Where page tables that map the first gigabyte onto itself begin.
const TABLES: u64 = RAM - 0x1_0000;
/// Where the interrupt descriptor table lies; all of its entries are absent.
const IDT: u64 = RAM - 0x2_0000;

/// Time stands still.
struct NoTime;

impl TimeStamp for NoTime {
    fn ticks(&self) -> u64 {
        0
    }
    fn frequency(&self) -> u64 {
        1_000_000_000
    }
}

/// A processor and its RAM.
pub struct Testbed {
    /// The processor, at CPL 0 in 64-bit mode with paging on.
    pub cpu: Cpu,
    /// Its RAM.
    pub ram: Arc<RamBlock>,
}

impl Testbed {
    /// A testbed whose processor offers every feature.
    pub fn new() -> Result<Self, RamError> {
        Self::on(&Region::container("memory", 1 << 64))
    }

    /// The same with something else in memory, at `place`.
    #[cfg(test)]
    pub(crate) fn with_region(region: Region, place: u64) -> Result<Self, RamError> {
        let root = Region::container("memory", 1 << 64);
        root.add(&region, place, 0);
        Self::on(&root)
    }

    fn on(root: &Region) -> Result<Self, RamError> {
        let ram = Arc::new(RamBlock::anonymous("ram", RAM)?);
        root.add(&Region::ram(ram.clone()), 0, 0);
        let memory = AddressSpace::new("memory", root.clone());
        Ok(Self::with_memory(ram, memory))
    }

    /// Another processor with the same memory.
    #[cfg(test)]
    pub(crate) fn beside(&self) -> Self {
        Self::with_memory(self.ram.clone(), self.cpu.bus.memory.clone())
    }

    fn with_memory(ram: Arc<RamBlock>, memory: AddressSpace) -> Self {
        let bus = Bus {
            smm: memory.clone(),
            memory,
            ports: AddressSpace::new("io", Region::container("io", 0x1_0000)),
            a20: Arc::new(AtomicBool::new(true)),
            backdoor: None,
            fpu_error: IrqLine::unconnected(),
            apic: None,
            tsc: Arc::new(NoTime),
        };
        let mut model = select("max", &Support::software(), Topology::default())
            .expect("the model `max` exists")
            .model;
        model.features = FeatureSet([!0; feature::WORDS]);
        let cpu = Cpu::new(0, Arc::new(model), bus, Arc::new(Signals::default()));
        let mut bed = Testbed { cpu, ram };
        bed.enter_long_mode();
        bed
    }

    /// Has the code translated, not interpreted.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    pub fn translate(&mut self) -> Result<(), crate::jit::TranslatorError> {
        self.cpu.translate_by(&crate::jit::Translator::new(16 << 20)?);
        Ok(())
    }

    /// Has the code translated and interpreted, and both compared.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    pub fn check(&mut self) -> Result<(), crate::jit::TranslatorError> {
        self.cpu.translate_by(&crate::jit::Translator::in_lock_step(16 << 20)?);
        Ok(())
    }

    fn enter_long_mode(&mut self) {
        const PRESENT_WRITABLE_USER: u64 = 7;
        const LARGE: u64 = 1 << 7;
        let (pdpt, pd) = (TABLES + 0x1000, TABLES + 0x2000);
        self.ram.write_uint(TABLES, 8, pdpt | PRESENT_WRITABLE_USER);
        self.ram.write_uint(pdpt, 8, pd | PRESENT_WRITABLE_USER);
        for i in 0..512 {
            self.ram.write_uint(pd + i * 8, 8, i << 21 | LARGE | PRESENT_WRITABLE_USER);
        }
        let state = &mut self.cpu.state;
        state.regs.fill(0);
        state.cr0 |= cr0::PE | cr0::PG | cr0::WP | cr0::MP | cr0::NE;
        state.cr4 |= cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
        state.xcr0 = 7;
        state.cr3 = TABLES;
        state.msr.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        state.idtr.base = IDT;
        let common = attr::PRESENT | attr::S | attr::GRANULAR;
        for seg in &mut state.seg {
            *seg =
                Segment { selector: 0x10, base: 0, limit: u32::MAX, attr: common | attr::BIG | 3 };
        }
        state.seg[Seg::Cs as usize] =
            Segment { selector: 8, base: 0, limit: u32::MAX, attr: common | attr::LONG | 0xb };
        self.cpu.update_mode();
    }

    /// Runs the code at `rip` until it halts, or fails in a triple fault.
    pub fn run(&mut self, rip: u64) -> RunExit {
        self.cpu.state.rip = rip;
        self.cpu.state.halted = false;
        self.cpu.run()
    }
}
