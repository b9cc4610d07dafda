//! System management mode (SDM vol. 3, chapter 32; APM vol. 2, chapter 10).
//!
//! Models with long mode save their state in the AMD64 layout (revision 0x20064), others in the
//! 32-bit layout (revision 0x20000); firmware tells them apart by the revision.

use crate::core::{Cpu, Trap};
use crate::cpuid::feature;
use crate::flags::bit;
use crate::state::{Seg, Segment, TableReg, attr, cr0, cr4, efer};
use crate::svm::exit;

/// Where the save area begins, from SMBASE.
const SAVE_AREA: u64 = 0x8000 + 0x7e00;
const SAVE_SIZE: usize = 0x200;
/// Where execution begins, from SMBASE.
const ENTRY: u64 = 0x8000;
/// I/O restart and relocation are supported.
const REVISION_64: u32 = 0x2_0064;
const REVISION_32: u32 = RELOCATE;
/// Offsets common to both layouts.
const REVISION: usize = 0xfc;
const RELOCATE: u32 = 1 << 17;

/// Offsets of the 64-bit layout from [`SAVE_AREA`] (APM vol. 2, table 10-1).
mod at64 {
    pub const SEGMENTS: usize = 0x00;
    pub const GDTR: usize = 0x60;
    pub const LDTR: usize = 0x70;
    pub const IDTR: usize = 0x80;
    pub const TR: usize = 0x90;
    pub const HALTED: usize = 0xc9;
    pub const NMI_BLOCKED: usize = 0xca;
    pub const EFER: usize = 0xd0;
    pub const SMBASE: usize = 0x100;
    pub const CR4: usize = 0x148;
    pub const CR3: usize = 0x150;
    pub const CR0: usize = 0x158;
    pub const DR7: usize = 0x160;
    pub const DR6: usize = 0x168;
    pub const RFLAGS: usize = 0x170;
    pub const RIP: usize = 0x178;
    /// R15 down to RAX.
    pub const REGS: usize = 0x180;
}

/// Offsets of the 32-bit layout from [`SAVE_AREA`] (SDM vol. 3, table 32-1). What the
/// table does not have lies in the part it reserves.
mod at32 {
    pub const SMBASE: usize = 0xf8;
    pub const HALTED: usize = 0x102;
    pub const NMI_BLOCKED: usize = 0x104;
    pub const CR4: usize = 0x114;
    pub const CACHES: usize = 0x118;
    pub const TABLES: usize = 0x178;
    /// ES, CS, SS, DS, FS, GS, LDTR, TR.
    pub const SELECTORS: usize = 0x1a8;
    pub const DR7: usize = 0x1c8;
    pub const DR6: usize = 0x1cc;
    /// EAX up to EDI.
    pub const REGS: usize = 0x1d0;
    pub const EIP: usize = 0x1f0;
    pub const EFLAGS: usize = 0x1f4;
    pub const CR3: usize = 0x1f8;
    pub const CR0: usize = 0x1fc;
}

/// The save area as bytes.
struct Area([u8; SAVE_SIZE]);

impl Area {
    fn put(&mut self, at: usize, value: u64, size: usize) {
        self.0[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }
    fn get(&self, at: usize, size: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&self.0[at..at + size]);
        u64::from_le_bytes(bytes)
    }
    fn put_segment64(&mut self, at: usize, segment: &Segment) {
        self.put(at, segment.selector.into(), 2);
        // Attributes without the gap that descriptors have for the limit.
        let packed = segment.attr & 0xff | segment.attr >> 4 & 0xf00;
        self.put(at + 2, packed.into(), 2);
        self.put(at + 4, segment.limit.into(), 4);
        self.put(at + 8, segment.base, 8);
    }
    fn segment64(&self, at: usize) -> Segment {
        let packed = self.get(at + 2, 2) as u16;
        Segment {
            selector: self.get(at, 2) as u16,
            attr: packed & 0xff | (packed & 0xf00) << 4,
            limit: self.get(at + 4, 4) as u32,
            base: self.get(at + 8, 8),
        }
    }
    fn put_table(&mut self, at: usize, table: &TableReg, size: usize) {
        self.put(at + 4, table.limit.into(), 4);
        self.put(at + 8, table.base, size);
    }
    fn table(&self, at: usize, size: usize) -> TableReg {
        TableReg { limit: self.get(at + 4, 4) as u16, base: self.get(at + 8, size) }
    }
}

impl Cpu {
    /// Enters system management mode at the next instruction boundary.
    pub fn enter_smm(&mut self) {
        self.log_smm("enter");
        let mut area = Area([0; SAVE_SIZE]);
        if self.model.has(feature::LM) {
            self.save64(&mut area);
        } else {
            self.save32(&mut area);
        }
        self.state.smm = true;
        let smbase = self.state.msr.smbase;
        self.bus.smm.write(smbase.wrapping_add(SAVE_AREA), &area.0);

        let state = &mut self.state;
        state.halted = false;
        state.interrupt_shadow = false;
        state.nmi_blocked = true;
        state.flags.set(0);
        state.rip = ENTRY;
        state.cr0 &= !(cr0::PE | cr0::EM | cr0::TS | cr0::PG);
        state.cr4 = 0;
        state.msr.efer = 0;
        state.dr[7] = 0x400;
        let data = Segment { attr: 0x93 | attr::GRANULAR, limit: u32::MAX, ..Segment::default() };
        state.seg = [data; 6];
        state.seg[Seg::Cs as usize] =
            Segment { selector: (smbase >> 4) as u16, base: smbase, ..data };
        self.mmu.flush_all(&self.bus);
        self.update_mode();
        self.exit_block = true;
    }

    /// RSM.
    pub fn rsm(&mut self) -> Result<(), Trap> {
        self.intercept(exit::RSM)?;
        if !self.state.smm {
            return Err(self.undefined());
        }
        let mut area = Area([0; SAVE_SIZE]);
        self.bus.smm.read(self.state.msr.smbase.wrapping_add(SAVE_AREA), &mut area.0);
        let ok =
            if self.model.has(feature::LM) { self.restore64(&area) } else { self.restore32(&area) };
        if !ok {
            // Invalid state in the save area shuts the processor down (SDM vol. 3, 32.5).
            self.shutdown = true;
            self.state.halted = true;
            return Err(Trap::Shutdown);
        }
        self.state.smm = false;
        self.mmu.flush_all(&self.bus);
        let pcid = if self.cr4_has(cr4::PCIDE) { self.state.cr3 as u16 } else { 0 };
        self.mmu.tlb.switch_to(pcid);
        if self.cr4_has(cr4::PAE)
            && self.state.cr0 & cr0::PG != 0
            && self.state.msr.efer & efer::LMA == 0
            && !self.load_pdptes(self.state.cr3)
        {
            self.shutdown = true;
            self.state.halted = true;
            return Err(Trap::Shutdown);
        }
        self.update_mode();
        self.exit_block = true;
        self.log_smm("after RSM");
        Ok(())
    }

    fn log_smm(&self, what: &str) {
        if base::log::enabled(base::log::INT) {
            base::log::write(format_args!("SMM: {what}\n{}", self.dump()));
        }
    }

    fn save64(&self, area: &mut Area) {
        let state = &self.state;
        for (i, segment) in state.seg.iter().enumerate() {
            area.put_segment64(at64::SEGMENTS + 16 * i, segment);
        }
        area.put_table(at64::GDTR, &state.gdtr, 8);
        area.put_segment64(at64::LDTR, &state.ldtr);
        area.put_table(at64::IDTR, &state.idtr, 8);
        area.put_segment64(at64::TR, &state.tr);
        area.put(at64::HALTED, state.halted.into(), 1);
        area.put(at64::NMI_BLOCKED, state.nmi_blocked.into(), 1);
        area.put(at64::EFER, state.msr.efer, 8);
        area.put(REVISION, REVISION_64.into(), 4);
        area.put(at64::SMBASE, state.msr.smbase, 4);
        area.put(at64::CR4, state.cr4, 8);
        area.put(at64::CR3, state.cr3, 8);
        area.put(at64::CR0, state.cr0, 8);
        area.put(at64::DR7, state.dr[7], 8);
        area.put(at64::DR6, state.dr[6], 8);
        area.put(at64::RFLAGS, state.flags.get(), 8);
        area.put(at64::RIP, state.rip, 8);
        for (i, value) in state.regs[..16].iter().rev().enumerate() {
            area.put(at64::REGS + 8 * i, *value, 8);
        }
    }

    fn restore64(&mut self, area: &Area) -> bool {
        let efer = area.get(at64::EFER, 8);
        let cr0 = area.get(at64::CR0, 8);
        let cr4 = area.get(at64::CR4, 8);
        if !self.restore_control(cr0, cr4, efer, area.get(at64::CR3, 8)) {
            return false;
        }
        let state = &mut self.state;
        for (i, segment) in state.seg.iter_mut().enumerate() {
            *segment = area.segment64(at64::SEGMENTS + 16 * i);
        }
        state.gdtr = area.table(at64::GDTR, 8);
        state.ldtr = area.segment64(at64::LDTR);
        state.idtr = area.table(at64::IDTR, 8);
        state.tr = area.segment64(at64::TR);
        state.halted = area.get(at64::HALTED, 1) & 1 != 0;
        state.nmi_blocked = area.get(at64::NMI_BLOCKED, 1) & 1 != 0;
        if area.get(REVISION, 4) as u32 & RELOCATE != 0 {
            state.msr.smbase = area.get(at64::SMBASE, 4);
        }
        state.dr[7] = area.get(at64::DR7, 8) & 0xffff_2bff | 0x400;
        state.dr[6] = area.get(at64::DR6, 8) & 0xe00f | 0xffff_0ff0;
        state.flags.set(restored_flags(area.get(at64::RFLAGS, 8)));
        state.rip = area.get(at64::RIP, 8);
        for (i, value) in state.regs[..16].iter_mut().rev().enumerate() {
            *value = area.get(at64::REGS + 8 * i, 8);
        }
        true
    }

    fn save32(&self, area: &mut Area) {
        let state = &self.state;
        area.put(at32::SMBASE, state.msr.smbase, 4);
        area.put(REVISION, REVISION_32.into(), 4);
        area.put(at32::HALTED, state.halted.into(), 2);
        area.put(at32::NMI_BLOCKED, state.nmi_blocked.into(), 2);
        area.put(at32::CR4, state.cr4, 4);
        let all = state.seg.iter().chain([&state.ldtr, &state.tr]);
        for (i, segment) in all.enumerate() {
            area.put(at32::SELECTORS + 4 * i, segment.selector.into(), 4);
            area.put(at32::CACHES + 12 * i, segment.attr.into(), 4);
            area.put(at32::CACHES + 12 * i + 4, segment.limit.into(), 4);
            area.put(at32::CACHES + 12 * i + 8, segment.base, 4);
        }
        for (i, table) in [&state.gdtr, &state.idtr].into_iter().enumerate() {
            area.put_table(at32::TABLES + 16 * i, table, 4);
        }
        area.put(at32::DR7, state.dr[7], 4);
        area.put(at32::DR6, state.dr[6], 4);
        for (i, value) in state.regs[..8].iter().enumerate() {
            area.put(at32::REGS + 4 * i, *value, 4);
        }
        area.put(at32::EIP, state.rip, 4);
        area.put(at32::EFLAGS, state.flags.get(), 4);
        area.put(at32::CR3, state.cr3, 4);
        area.put(at32::CR0, state.cr0, 4);
    }

    fn restore32(&mut self, area: &Area) -> bool {
        let cr0 = area.get(at32::CR0, 4);
        let cr4 = area.get(at32::CR4, 4);
        if !self.restore_control(cr0, cr4, 0, area.get(at32::CR3, 4)) {
            return false;
        }
        let state = &mut self.state;
        let all = state.seg.iter_mut().chain([&mut state.ldtr, &mut state.tr]);
        for (i, segment) in all.enumerate() {
            *segment = Segment {
                selector: area.get(at32::SELECTORS + 4 * i, 2) as u16,
                attr: area.get(at32::CACHES + 12 * i, 2) as u16 & 0xf0ff,
                limit: area.get(at32::CACHES + 12 * i + 4, 4) as u32,
                base: area.get(at32::CACHES + 12 * i + 8, 4),
            };
        }
        state.gdtr = area.table(at32::TABLES, 4);
        state.idtr = area.table(at32::TABLES + 16, 4);
        state.halted = area.get(at32::HALTED, 2) & 1 != 0;
        state.nmi_blocked = area.get(at32::NMI_BLOCKED, 2) & 1 != 0;
        state.msr.smbase = area.get(at32::SMBASE, 4);
        state.dr[7] = area.get(at32::DR7, 4) & 0xffff_2bff | 0x400;
        state.dr[6] = area.get(at32::DR6, 4) & 0xe00f | 0xffff_0ff0;
        state.flags.set(restored_flags(area.get(at32::EFLAGS, 4)));
        state.rip = area.get(at32::EIP, 4);
        for (i, value) in state.regs[..8].iter_mut().enumerate() {
            *value = area.get(at32::REGS + 4 * i, 4);
        }
        true
    }

    /// Takes the control registers if they make sense together.
    fn restore_control(&mut self, new_cr0: u64, new_cr4: u64, new_efer: u64, new_cr3: u64) -> bool {
        let paging = new_cr0 & cr0::PG != 0;
        let lma = new_efer & efer::LMA != 0;
        let sane = new_cr0 >> 32 == 0
            && (!paging || new_cr0 & cr0::PE != 0)
            && new_cr4 & !self.cr4_defined() == 0
            && lma == (paging && new_efer & efer::LME != 0)
            && (!lma || new_cr4 & cr4::PAE != 0 && self.model.has(feature::LM));
        if sane {
            self.state.cr0 = new_cr0 | cr0::ET;
            self.state.cr3 = new_cr3;
            self.state.cr4 = new_cr4;
            self.state.msr.efer = new_efer;
        }
        sane
    }
}

fn restored_flags(image: u64) -> u64 {
    image & (super::returns::USER_FLAGS | bit::IF | bit::IOPL | bit::VM | bit::VIF | bit::VIP)
}
