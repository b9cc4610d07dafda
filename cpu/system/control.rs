//! Control and debug registers, and the invalidation of translations.

use super::event::dr6;
use crate::core::{Cpu, Trap, vector};
use crate::cpuid::feature;
use crate::flags::bit;
use crate::state::{Seg, attr, cr0, cr3, cr4, efer};
use crate::svm::{exit, virq};

/// DR7 bits.
pub(super) mod dr7 {
    /// Local enables.
    pub const LOCAL: u64 = 0x155;
    pub const GD: u64 = 1 << 13;
    pub const FIXED: u64 = 1 << 10;
    pub const WRITABLE: u64 = 0xffff_2bff;
}

const CR0_DEFINED: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;

/// A change of any of these invalidates all translations (SDM vol. 3, 4.10.4.1).
const CR4_FLUSHES: u64 = cr4::PSE
    | cr4::PAE
    | cr4::PGE
    | cr4::LA57
    | cr4::PCIDE
    | cr4::SMEP
    | cr4::SMAP
    | cr4::PKE
    | cr4::PKS;

impl Cpu {
    /// MOV from CRn to a general register.
    pub fn mov_from_cr(&mut self, number: u8, register: u8) -> Result<u64, Trap> {
        self.require_cpl0()?;
        self.intercept_cr(exit::READ_CR0, number, register)?;
        self.read_cr(number)
    }

    /// MOV to CRn from a general register.
    pub fn mov_to_cr(&mut self, number: u8, register: u8) -> Result<(), Trap> {
        self.require_cpl0()?;
        let value = self.control_operand(register);
        match number {
            0 => self.intercept_cr0_write(value, Some(register))?,
            _ => self.intercept_cr(exit::WRITE_CR0, number, register)?,
        }
        self.write_cr(number, value)
    }

    /// What a MOV to a control or debug register takes from a general one.
    fn control_operand(&self, register: u8) -> u64 {
        let value = self.state.regs[usize::from(register & 15)];
        if self.mode.code_bits == 64 { value } else { value & 0xffff_ffff }
    }

    /// What CRn reads as.
    pub fn read_cr(&mut self, number: u8) -> Result<u64, Trap> {
        self.require_cpl0()?;
        match number {
            0 => Ok(self.state.cr0),
            2 => Ok(self.state.cr2),
            3 => Ok(self.state.cr3),
            4 => Ok(self.state.cr4),
            8 if self.state.svm.masks_virtually() => Ok(self.state.svm.virq & 15),
            8 => Ok(self.bus.apic.as_ref().map_or(0, |apic| u64::from(apic.tpr()))),
            _ => Err(self.undefined()),
        }
    }

    /// Writes CRn.
    pub fn write_cr(&mut self, number: u8, value: u64) -> Result<(), Trap> {
        self.require_cpl0()?;
        if matches!(number, 0 | 3 | 4) {
            base::log_item!(base::log::MMU, "CR{} update: CR{}={:#010x}", number, number, value);
        }
        match number {
            0 => self.write_cr0(value),
            2 => {
                self.state.cr2 = value;
                Ok(())
            }
            3 => self.write_cr3(value),
            4 => self.write_cr4(value),
            8 if value <= 15 => {
                let svm = &mut self.state.svm;
                svm.virq = svm.virq & !virq::TPR | value;
                if !svm.masks_virtually()
                    && let Some(apic) = &self.bus.apic
                {
                    apic.set_tpr(value as u8);
                }
                self.update_signal_mask();
                self.exit_block = true;
                Ok(())
            }
            8 => Err(self.gp(0)),
            _ => Err(self.undefined()),
        }
    }

    fn write_cr0(&mut self, value: u64) -> Result<(), Trap> {
        let paging = value & cr0::PG != 0;
        let bad = value >> 32 != 0
            || paging && value & cr0::PE == 0
            || value & cr0::NW != 0 && value & cr0::CD == 0;
        if bad {
            return Err(self.gp(0));
        }
        let new = value & CR0_DEFINED | cr0::ET;
        let old = self.state.cr0;
        let turned_on = paging && old & cr0::PG == 0;
        let turned_off = !paging && old & cr0::PG != 0;
        let is_long_code = self.state.seg[Seg::Cs as usize].attr & attr::LONG != 0;
        if turned_on {
            if self.state.msr.efer & efer::LME != 0 {
                if !self.cr4_has(cr4::PAE) || is_long_code {
                    return Err(self.gp(0));
                }
            } else if self.cr4_has(cr4::PAE) && !self.load_pdptes(self.state.cr3) {
                return Err(self.gp(0));
            }
        }
        if turned_off && (self.mode.code_bits == 64 || self.cr4_has(cr4::PCIDE)) {
            return Err(self.gp(0));
        }
        if !turned_on
            && paging
            && !self.mode.long
            && self.cr4_has(cr4::PAE)
            && (old ^ new) & (cr0::CD | cr0::NW) != 0
            && !self.load_pdptes(self.state.cr3)
        {
            return Err(self.gp(0));
        }
        if turned_on && self.state.msr.efer & efer::LME != 0 {
            self.state.msr.efer |= efer::LMA;
        }
        if turned_off {
            self.state.msr.efer &= !efer::LMA;
        }
        self.state.cr0 = new;
        if (old ^ new) & (cr0::PG | cr0::PE | cr0::WP) != 0 {
            self.mmu.tlb.flush_all();
        }
        self.update_mode();
        self.exit_block = true;
        Ok(())
    }

    fn write_cr3(&mut self, value: u64) -> Result<(), Trap> {
        let keep = self.cr4_has(cr4::PCIDE) && value & cr3::NO_FLUSH != 0;
        let value = if keep { value & !cr3::NO_FLUSH } else { value };
        let lam =
            if self.cr4_defined() & cr4::LAM_SUP != 0 { cr3::LAM_U48 | cr3::LAM_U57 } else { 0 };
        if self.mode.long && (value & !lam) >> self.model.phys_bits() != 0 {
            return Err(self.gp(0));
        }
        if keep {
            self.state.cr3 = value;
            self.mmu.tlb.switch_to(value as u16);
        } else if !self.load_cr3(value) {
            return Err(self.gp(0));
        }
        self.update_mode();
        self.exit_block = true;
        Ok(())
    }

    /// Sets CR3 and forgets the translations that are not global; `false` if the PAE pointers it
    /// leads to are bad.
    #[must_use]
    pub(super) fn load_cr3(&mut self, value: u64) -> bool {
        let pae = self.state.cr0 & cr0::PG != 0 && self.cr4_has(cr4::PAE) && !self.mode.long;
        if pae && !self.load_pdptes(value) {
            return false;
        }
        self.state.cr3 = value;
        let pcid = if self.cr4_has(cr4::PCIDE) { value as u16 } else { 0 };
        self.mmu.tlb.switch_to(pcid);
        self.mmu.tlb.flush_pcid(pcid);
        true
    }

    /// The CR4 bits that the model has, for who runs now.
    pub(crate) fn cr4_defined(&self) -> u64 {
        if self.state.svm.guest { self.cr4_of_guests() } else { self.cr4_of_model() }
    }

    /// The CR4 bits under VMRUN. AMD's manual knows neither LAM nor PKS, and reserves their bits in the
    /// control block (APM vol. 2, 15.5.1).
    pub(crate) fn cr4_of_guests(&self) -> u64 {
        self.cr4_of_model() & !(cr4::LAM_SUP | cr4::PKS)
    }

    fn cr4_of_model(&self) -> u64 {
        let table = [
            (feature::VME, cr4::VME | cr4::PVI),
            (feature::TSC, cr4::TSD),
            (feature::DE, cr4::DE),
            (feature::PSE, cr4::PSE),
            (feature::PAE, cr4::PAE),
            (feature::MCE, cr4::MCE),
            (feature::PGE, cr4::PGE),
            (feature::FPU, cr4::PCE),
            (feature::FXSR, cr4::OSFXSR),
            (feature::SSE, cr4::OSXMMEXCPT),
            (feature::UMIP, cr4::UMIP),
            (feature::LA57, cr4::LA57),
            (feature::FSGSBASE, cr4::FSGSBASE),
            (feature::PCID, cr4::PCIDE),
            (feature::XSAVE, cr4::OSXSAVE),
            (feature::SMEP, cr4::SMEP),
            (feature::SMAP, cr4::SMAP),
            (feature::PKU, cr4::PKE),
            (feature::PKS, cr4::PKS),
            (feature::LAM, cr4::LAM_SUP),
        ];
        let offered = table.iter().filter(|(feature, _)| self.model.has(*feature));
        offered.fold(0, |bits, (_, more)| bits | more)
    }

    fn write_cr4(&mut self, value: u64) -> Result<(), Trap> {
        let old = self.state.cr4;
        let changed = old ^ value;
        let long = self.mode.long;
        let bad = value & !self.cr4_defined() != 0
            || long && value & cr4::PAE == 0
            || long && changed & cr4::LA57 != 0
            || value & !old & cr4::PCIDE != 0 && (!long || self.state.cr3 & 0xfff != 0);
        if bad {
            return Err(self.gp(0));
        }
        let pae_paging = self.state.cr0 & cr0::PG != 0 && !long && value & cr4::PAE != 0;
        if pae_paging
            && changed & (cr4::PAE | cr4::PGE | cr4::PSE | cr4::SMEP) != 0
            && !self.load_pdptes(self.state.cr3)
        {
            return Err(self.gp(0));
        }
        self.state.cr4 = value;
        if changed & CR4_FLUSHES != 0 {
            self.mmu.tlb.flush_all();
        }
        self.update_mode();
        self.exit_block = true;
        Ok(())
    }

    /// LMSW: the low four bits of CR0; PE cannot be cleared.
    pub fn lmsw(&mut self, value: u16) -> Result<(), Trap> {
        self.require_cpl0()?;
        let settable = 0xf;
        let sticky = self.state.cr0 & cr0::PE;
        let value = self.state.cr0 & !settable | u64::from(value) & settable | sticky;
        self.intercept_cr0_write(value, None)?;
        self.write_cr0(value)
    }

    /// The value SMSW stores.
    pub fn smsw(&mut self) -> Result<u64, Trap> {
        self.check_umip()?;
        self.intercept(exit::READ_CR0)?;
        Ok(self.state.cr0)
    }

    /// CLTS.
    pub fn clts(&mut self) -> Result<(), Trap> {
        self.require_cpl0()?;
        self.intercept(exit::WRITE_CR0)?;
        self.state.cr0 &= !cr0::TS;
        self.update_mode();
        Ok(())
    }

    /// Whether branches are recorded (DEBUGCTL.LBR).
    pub(crate) fn records_branches(&self) -> bool {
        self.state.msr.debugctl & super::msr::debugctl::LBR != 0
    }

    /// Records that control went from `from` to where it is now.
    pub(crate) fn record_branch(&mut self, from: u64) {
        self.state.msr.last_branches.branch = [from, self.state.rip];
    }

    /// Whether single step stops at branches only (DEBUGCTL.BTF).
    pub(crate) fn steps_by_branches(&self) -> bool {
        self.state.msr.debugctl & super::msr::debugctl::BTF != 0
    }

    /// MOV from DRn to a general register.
    pub fn mov_from_dr(&mut self, number: u8, register: u8) -> Result<u64, Trap> {
        self.intercept_dr(number, exit::READ_DR0, register)?;
        self.read_dr(number)
    }

    /// MOV to DRn from a general register.
    pub fn mov_to_dr(&mut self, number: u8, register: u8) -> Result<(), Trap> {
        self.intercept_dr(number, exit::WRITE_DR0, register)?;
        self.write_dr(number, self.control_operand(register))
    }

    fn intercept_dr(&mut self, number: u8, base: u64, register: u8) -> Result<(), Trap> {
        let number = self.dr_number(number)? as u64;
        self.intercept_decoded(base + number, u64::from(register & 15))
    }

    /// What DRn reads as.
    pub fn read_dr(&mut self, number: u8) -> Result<u64, Trap> {
        let number = self.check_dr(number)?;
        Ok(self.state.dr[number])
    }

    /// Writes DRn.
    pub fn write_dr(&mut self, number: u8, value: u64) -> Result<(), Trap> {
        let number = self.check_dr(number)?;
        if number >= 6 && value >> 32 != 0 {
            return Err(self.gp(0));
        }
        self.state.dr[number] = match number {
            6 => value & 0xe00f | 0xffff_0ff0,
            7 => value & dr7::WRITABLE | dr7::FIXED,
            _ => value,
        };
        // Which pages need watching may have changed.
        self.mmu.tlb.flush_all();
        self.update_mode();
        self.exit_block = true;
        Ok(())
    }

    /// Which debug register is meant by `number`, if it may be reached.
    fn dr_number(&mut self, number: u8) -> Result<usize, Trap> {
        let number = match number {
            4 | 5 if self.cr4_has(cr4::DE) => return Err(self.undefined()),
            4 | 5 => number + 2,
            0..=7 => number,
            _ => return Err(self.undefined()),
        };
        self.require_cpl0()?;
        Ok(number.into())
    }

    fn check_dr(&mut self, number: u8) -> Result<usize, Trap> {
        let number = self.dr_number(number)?;
        if self.state.dr[7] & dr7::GD != 0 {
            self.note_debug(dr6::BD);
            return Err(self.raise(vector::DB, None));
        }
        Ok(number)
    }

    /// INVLPG.
    pub fn invlpg(&mut self, linear: u64) -> Result<(), Trap> {
        self.require_cpl0()?;
        self.intercept_decoded(exit::INVLPG, linear)?;
        self.mmu.tlb.flush_page(linear & self.mode.linear_mask);
        self.exit_block = true;
        Ok(())
    }

    /// INVPCID with the descriptor at linear address `at`.
    pub fn invpcid(&mut self, kind: u64, at: u64) -> Result<(), Trap> {
        if !self.model.has(feature::INVPCID) {
            return Err(self.undefined());
        }
        self.require_cpl0()?;
        self.intercept(exit::INVPCID)?;
        let descriptor: u128 = self.load(at)?;
        let pcid = descriptor as u64;
        let linear = (descriptor >> 64) as u64;
        let bad = kind > 3 || pcid >> 12 != 0 || kind == 0 && !self.is_canonical_register(linear);
        if bad || kind < 2 && !self.cr4_has(cr4::PCIDE) && pcid != 0 {
            return Err(self.gp(0));
        }
        match kind {
            0 if u64::from(self.mmu.tlb.current_pcid()) == pcid => self.mmu.tlb.flush_page(linear),
            0 | 1 => self.mmu.tlb.flush_pcid(pcid as u16),
            _ => self.mmu.tlb.flush_all(),
        }
        self.exit_block = true;
        Ok(())
    }

    /// XGETBV.
    pub fn xgetbv(&mut self, index: u32) -> Result<u64, Trap> {
        if !self.cr4_has(cr4::OSXSAVE) {
            return Err(self.undefined());
        }
        match index {
            0 => Ok(self.state.xcr0),
            1 if self.model.has(feature::XGETBV1) => Ok(self.state.xcr0 & self.xinuse()),
            _ => Err(self.gp(0)),
        }
    }

    /// XSETBV.
    pub fn xsetbv(&mut self, index: u32, value: u64) -> Result<(), Trap> {
        if !self.cr4_has(cr4::OSXSAVE) {
            return Err(self.undefined());
        }
        self.require_cpl0()?;
        let avx_without_sse = value & 6 == 4;
        let undefined = value & !self.model.xcr0_supported() != 0;
        self.intercept(exit::XSETBV)?;
        if index != 0 || value & 1 == 0 || avx_without_sse || undefined {
            return Err(self.gp(0));
        }
        self.state.xcr0 = value;
        self.update_mode();
        self.exit_block = true;
        Ok(())
    }

    /// RDPKRU.
    pub fn rdpkru(&mut self, index: u32) -> Result<u32, Trap> {
        if !self.cr4_has(cr4::PKE) {
            return Err(self.undefined());
        }
        if index != 0 {
            return Err(self.gp(0));
        }
        Ok(self.state.pkru)
    }

    /// WRPKRU.
    pub fn wrpkru(&mut self, index: u32, rdx: u32, value: u32) -> Result<(), Trap> {
        self.rdpkru(index)?;
        if rdx != 0 {
            return Err(self.gp(0));
        }
        self.set_pkru(value);
        Ok(())
    }

    /// Takes new rights for the protection keys of user pages.
    pub(crate) fn set_pkru(&mut self, value: u32) {
        self.mmu.tlb.rights_changed(value ^ self.state.pkru);
        self.state.pkru = value;
    }

    /// Whether IF is set.
    pub fn interrupts_enabled(&self) -> bool {
        self.state.flags.system() & bit::IF != 0
    }
}
