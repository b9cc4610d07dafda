//! Model-specific registers: those of the offered models that operating systems and firmware use.
//! Any other raises #GP, as a processor does.

use crate::core::{Cpu, Trap};
use crate::cpuid::{Vendor, feature};
use crate::state::{MC_BANKS, Seg, cr0, efer};
use crate::svm::vm_cr;

/// Register numbers (SDM vol. 4; APM vol. 2, appendix A).
pub(super) mod index {
    pub const TSC: u32 = 0x10;
    pub const PLATFORM_ID: u32 = 0x17;
    pub const APIC_BASE: u32 = 0x1b;
    pub const EBL_CR_POWERON: u32 = 0x2a;
    pub const FEATURE_CONTROL: u32 = 0x3a;
    pub const TSC_ADJUST: u32 = 0x3b;
    pub const SPEC_CTRL: u32 = 0x48;
    pub const PRED_CMD: u32 = 0x49;
    pub const BIOS_UPDT_TRIG: u32 = 0x79;
    pub const BIOS_SIGN_ID: u32 = 0x8b;
    pub const SMBASE: u32 = 0x9e;
    pub const UMWAIT_CONTROL: u32 = 0xe1;
    pub const MTRR_CAP: u32 = 0xfe;
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const MCG_CTL: u32 = 0x17b;
    pub const PERF_STATUS: u32 = 0x198;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const DEBUGCTL: u32 = 0x1d9;
    pub const LAST_BRANCH_FROM: u32 = 0x1db;
    pub const LAST_BRANCH_TO: u32 = 0x1dc;
    pub const LAST_EVENT_FROM: u32 = 0x1dd;
    pub const LAST_EVENT_TO: u32 = 0x1de;
    pub const MTRR_VAR: u32 = 0x200;
    pub const MTRR_VAR_LAST: u32 = 0x20f;
    pub const MTRR_FIX_64K: u32 = 0x250;
    pub const MTRR_FIX_16K: u32 = 0x258;
    pub const MTRR_FIX_4K: u32 = 0x268;
    pub const PAT: u32 = 0x277;
    pub const MTRR_DEF_TYPE: u32 = 0x2ff;
    pub const MC0_CTL: u32 = 0x400;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const PKRS: u32 = 0x6e1;
    pub const X2APIC: u32 = 0x800;
    pub const X2APIC_LAST: u32 = 0x8ff;
    pub const XSS: u32 = 0xda0;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const FMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const TSC_RATIO: u32 = 0xc000_0104;
    pub const VM_CR: u32 = 0xc001_0114;
    pub const VM_HSAVE_PA: u32 = 0xc001_0117;
}

/// Ten banks, MCG_CTL present, software error recovery.
const MCG_CAP: u64 = 0x0100_0100 | MC_BANKS as u64;
/// Eight variable ranges, fixed ranges, write-combining.
const MTRR_CAP: u64 = 0x508;
/// Registers of AMD processors that system software reads and tunes, and that mean nothing here:
/// they read as zero and ignore writes. SYSCFG, HWCR, the top-of-memory pair, NB_CFG, P-state
/// control and status, interrupt pending message, VM_CR, OSVW, LS_CFG, DC_CFG, BU_CFG, DE_CFG,
/// and the IBS and performance counters of K7.
const AMD_INERT: &[std::ops::RangeInclusive<u32>] = &[
    0xc001_0000..=0xc001_0007,
    0xc001_0010..=0xc001_0010,
    0xc001_0015..=0xc001_001a,
    0xc001_001d..=0xc001_001d,
    0xc001_001f..=0xc001_001f,
    0xc001_0055..=0xc001_0055,
    0xc001_0061..=0xc001_0063,
    0xc001_0112..=0xc001_0114,
    0xc001_0140..=0xc001_0141,
    0xc001_1004..=0xc001_1005,
    0xc001_100d..=0xc001_100d,
    0xc001_1020..=0xc001_1023,
    0xc001_1029..=0xc001_102a,
    0xc001_1030..=0xc001_103d,
];
/// The same for Intel: performance counters and event selects, power and thermal control,
/// MISC_FEATURES, turbo ratio limits, RAPL units.
const INTEL_INERT: &[std::ops::RangeInclusive<u32>] = &[
    0x33..=0x34,
    0xc1..=0xc4,
    0xcd..=0xce,
    0xe2..=0xe2,
    0x140..=0x140,
    0x186..=0x189,
    0x199..=0x19d,
    0x1a2..=0x1a2,
    0x1ad..=0x1ad,
    0x1b0..=0x1b0,
    0x1c9..=0x1c9,
    0x1fc..=0x1fc,
    0x345..=0x345,
    0x38d..=0x390,
    0x606..=0x606,
    0x611..=0x611,
    0x639..=0x641,
];

/// DEBUGCTL bits.
pub(crate) mod debugctl {
    /// Branches are recorded.
    pub const LBR: u64 = 1;
    /// Single step stops at branches only.
    pub const BTF: u64 = 1 << 1;
    /// LBR, BTF, TR, BTS, BTINT, BTS_OFF_OS, BTS_OFF_USR, the two freezes and ENABLE_UNCORE_PMI.
    pub const KEPT: u64 = 0x7fc3;
}
const X2APIC_ENABLE: u64 = 1 << 10;
const APIC_ENABLE: u64 = 1 << 11;
const APIC_BSP: u64 = 1 << 8;

impl Cpu {
    /// RDMSR: what ECX names.
    pub fn rdmsr(&mut self, number: u32) -> Result<u64, Trap> {
        self.require_cpl0_or_real()?;
        self.intercept_msr(number, false)?;
        match self.read_msr(number) {
            Some(value) => Ok(value),
            None => Err(self.gp(0)),
        }
    }

    /// WRMSR.
    pub fn wrmsr(&mut self, number: u32, value: u64) -> Result<(), Trap> {
        self.require_cpl0_or_real()?;
        self.intercept_msr(number, true)?;
        if !self.write_msr(number, value) {
            return Err(self.gp(0));
        }
        self.exit_block = true;
        Ok(())
    }

    fn require_cpl0_or_real(&mut self) -> Result<(), Trap> {
        if !self.model.has(feature::MSR) {
            return Err(self.undefined());
        }
        self.require_cpl0()
    }

    fn is_inert(&self, number: u32) -> bool {
        let ranges = match self.model.vendor() {
            Vendor::Amd => AMD_INERT,
            Vendor::Intel => INTEL_INERT,
            Vendor::Other => &[],
        };
        ranges.iter().any(|range| range.contains(&number))
    }

    /// The value of an MSR; `None` if there is no such register.
    pub fn read_msr(&self, number: u32) -> Option<u64> {
        let msr = &self.state.msr;
        let has = |feature| self.model.has(feature);
        let value = match number {
            index::TSC => self.tsc(),
            index::APIC_BASE if has(feature::APIC) => msr.apic_base,
            index::TSC_DEADLINE if has(feature::TSC_DEADLINE) => {
                return self.bus.apic.as_ref()?.read_msr(number);
            }
            index::X2APIC..=index::X2APIC_LAST if msr.apic_base & X2APIC_ENABLE != 0 => {
                return self.bus.apic.as_ref()?.read_msr(number);
            }
            index::FEATURE_CONTROL => msr.feature_control,
            index::TSC_ADJUST if has(feature::TSC_ADJUST) => msr.tsc_adjust,
            index::SPEC_CTRL if has(feature::SPEC_CTRL) => msr.spec_ctrl,
            index::BIOS_SIGN_ID => self.model.microcode(),
            index::SMBASE if self.state.smm => msr.smbase,
            index::ARCH_CAPABILITIES if has(feature::ARCH_CAPABILITIES) => {
                self.model.arch_capabilities()
            }
            index::SYSENTER_CS => msr.sysenter_cs,
            index::SYSENTER_ESP => msr.sysenter_esp,
            index::SYSENTER_EIP => msr.sysenter_eip,
            // Ratio 4 at a 1 GHz bus scale: what operating systems print as "no throttling".
            index::PERF_STATUS => 1000 | 4 << 40,
            index::MISC_ENABLE => msr.misc_enable,
            index::DEBUGCTL => msr.debugctl,
            index::LAST_BRANCH_FROM..=index::LAST_EVENT_TO
                if self.model.vendor() == Vendor::Amd =>
            {
                let last = msr.last_branches;
                match number {
                    index::LAST_BRANCH_FROM => last.branch[0],
                    index::LAST_BRANCH_TO => last.branch[1],
                    index::LAST_EVENT_FROM => last.before_event[0],
                    _ => last.before_event[1],
                }
            }
            index::PAT => msr.pat,
            index::EFER => msr.efer,
            index::STAR => msr.star,
            index::LSTAR if has(feature::LM) => msr.lstar,
            index::CSTAR if has(feature::LM) => msr.cstar,
            index::FMASK if has(feature::LM) => msr.fmask,
            index::FS_BASE if has(feature::LM) => self.state.seg[Seg::Fs as usize].base,
            index::GS_BASE if has(feature::LM) => self.state.seg[Seg::Gs as usize].base,
            index::KERNEL_GS_BASE if has(feature::LM) => msr.kernel_gs_base,
            index::TSC_AUX if has(feature::RDTSCP) || has(feature::RDPID) => msr.tsc_aux,
            index::XSS if has(feature::XSAVES) => msr.xss,
            index::PKRS if has(feature::PKS) => msr.pkrs,
            index::UMWAIT_CONTROL if has(feature::WAITPKG) => msr.umwait_control,
            index::PLATFORM_ID | index::EBL_CR_POWERON => 0,
            index::TSC_RATIO if has(feature::TSC_SCALE) => msr.tsc_ratio,
            index::VM_CR if has(feature::SVM) => self.state.svm.vm_cr,
            index::VM_HSAVE_PA if has(feature::SVM) => msr.vm_hsave_pa,
            _ if has(feature::MTRR) && self.mtrr_slot(number).is_some() => {
                return self.read_mtrr(number);
            }
            _ if has(feature::MCA) && is_mca(number) => self.read_mca(number),
            _ if self.is_inert(number) => 0,
            _ => return None,
        };
        Some(value)
    }

    /// Writes an MSR; `false` if there is no such register or it does not take the value.
    #[must_use]
    pub fn write_msr(&mut self, number: u32, value: u64) -> bool {
        let has = |cpu: &Self, feature| cpu.model.has(feature);
        let canonical = self.is_canonical_register(value);
        match number {
            index::TSC => {
                // Of a guest, too: its offset and ratio are for reading only.
                let delta = value.wrapping_sub(self.own_tsc());
                let msr = &mut self.state.msr;
                msr.tsc_offset = msr.tsc_offset.wrapping_add(delta);
                msr.tsc_adjust = msr.tsc_adjust.wrapping_add(delta);
                self.tell_tsc_offset();
            }
            index::TSC_ADJUST if has(self, feature::TSC_ADJUST) => {
                let msr = &mut self.state.msr;
                let delta = value.wrapping_sub(msr.tsc_adjust);
                msr.tsc_offset = msr.tsc_offset.wrapping_add(delta);
                msr.tsc_adjust = value;
                self.tell_tsc_offset();
            }
            index::APIC_BASE if has(self, feature::APIC) => return self.write_apic_base(value),
            index::TSC_DEADLINE if has(self, feature::TSC_DEADLINE) => {
                return self.bus.apic.as_ref().is_some_and(|apic| apic.write_msr(number, value));
            }
            index::X2APIC..=index::X2APIC_LAST if self.state.msr.apic_base & X2APIC_ENABLE != 0 => {
                return self.bus.apic.as_ref().is_some_and(|apic| apic.write_msr(number, value));
            }
            index::FEATURE_CONTROL => {
                if self.state.msr.feature_control & 1 != 0 {
                    return false;
                }
                self.state.msr.feature_control = value & 0xffff;
            }
            index::SPEC_CTRL if has(self, feature::SPEC_CTRL) => {
                if value & !7 != 0 {
                    return false;
                }
                self.state.msr.spec_ctrl = value;
            }
            index::PRED_CMD if has(self, feature::SPEC_CTRL) || has(self, feature::IBPB) => {
                return value & !1 == 0;
            }
            index::BIOS_UPDT_TRIG | index::BIOS_SIGN_ID | index::EBL_CR_POWERON => {}
            index::SYSENTER_CS => self.state.msr.sysenter_cs = value & 0xffff_ffff,
            index::SYSENTER_ESP if canonical => self.state.msr.sysenter_esp = value,
            index::SYSENTER_EIP if canonical => self.state.msr.sysenter_eip = value,
            index::MISC_ENABLE => self.state.msr.misc_enable = value,
            index::DEBUGCTL => self.state.msr.debugctl = value & debugctl::KEPT,
            index::PAT => {
                // Types 2, 3 and above 7 are reserved.
                if value.to_le_bytes().iter().any(|kind| !matches!(kind, 0 | 1 | 4..=7)) {
                    return false;
                }
                self.state.msr.pat = value;
            }
            index::EFER => return self.write_efer(value),
            index::STAR => self.state.msr.star = value,
            index::LSTAR if has(self, feature::LM) && canonical => self.state.msr.lstar = value,
            index::CSTAR if has(self, feature::LM) && canonical => self.state.msr.cstar = value,
            index::FMASK if has(self, feature::LM) => self.state.msr.fmask = value & 0xffff_ffff,
            index::FS_BASE if has(self, feature::LM) && canonical => {
                self.set_segment_base(Seg::Fs, value);
            }
            index::GS_BASE if has(self, feature::LM) && canonical => {
                self.set_segment_base(Seg::Gs, value);
            }
            index::KERNEL_GS_BASE if has(self, feature::LM) && canonical => {
                self.state.msr.kernel_gs_base = value;
            }
            index::TSC_AUX if has(self, feature::RDTSCP) || has(self, feature::RDPID) => {
                if value >> 32 != 0 {
                    return false;
                }
                self.state.msr.tsc_aux = value;
            }
            index::XSS if has(self, feature::XSAVES) && value == 0 => {}
            // Bit 1 and the upper half are reserved.
            index::UMWAIT_CONTROL if has(self, feature::WAITPKG) && value & !0xffff_fffd == 0 => {
                self.state.msr.umwait_control = value;
            }
            // Eight bits before the point, 32 behind it.
            index::TSC_RATIO if has(self, feature::TSC_SCALE) && value >> 40 == 0 => {
                self.state.msr.tsc_ratio = value;
            }
            index::VM_CR if has(self, feature::SVM) => {
                let old = self.state.svm.vm_cr;
                // Once locked, both bits stay.
                let fixed =
                    if old & vm_cr::LOCK != 0 { vm_cr::LOCK | vm_cr::SVM_DISABLE } else { 0 };
                self.state.svm.vm_cr = value & vm_cr::WRITABLE & !fixed | old & fixed;
            }
            index::VM_HSAVE_PA if has(self, feature::SVM) => {
                if value & 0xfff != 0 || value >> self.model.phys_bits() != 0 {
                    return false;
                }
                self.state.msr.vm_hsave_pa = value;
            }
            index::PKRS if has(self, feature::PKS) && value >> 32 == 0 => {
                self.state.msr.pkrs = value;
                self.mmu.tlb.flush_all();
            }
            _ if has(self, feature::MTRR) && self.mtrr_slot(number).is_some() => {
                return self.write_mtrr(number, value);
            }
            _ if has(self, feature::MCA) && is_mca(number) => return self.write_mca(number, value),
            _ => return self.is_inert(number),
        }
        true
    }

    /// The deadline timer compares with the counter that the guest sees.
    fn tell_tsc_offset(&self) {
        if let Some(apic) = &self.bus.apic {
            apic.set_tsc_offset(self.state.msr.tsc_offset);
        }
    }

    /// The EFER bits that may be set.
    pub(crate) fn efer_settable(&self) -> u64 {
        let table = [
            (self.model.has(feature::SYSCALL), efer::SCE),
            (self.model.has(feature::LM), efer::LME),
            (self.model.has(feature::NX), efer::NXE),
            (self.svm_allowed(), efer::SVME),
            (self.model.has(feature::FXSR_OPT), efer::FFXSR),
        ];
        let offered = table.iter().filter(|(offered, _)| *offered);
        offered.fold(0, |bits, (_, bit)| bits | bit)
    }

    fn write_efer(&mut self, value: u64) -> bool {
        let settable = self.efer_settable();
        let old = self.state.msr.efer;
        // LMA follows LME and paging; writing it is ignored.
        if value & !(settable | efer::LMA) != 0 {
            return false;
        }
        if self.state.cr0 & cr0::PG != 0 && (old ^ value) & efer::LME != 0 {
            return false;
        }
        self.state.msr.efer = value & settable | old & efer::LMA;
        if (old ^ value) & efer::NXE != 0 {
            self.mmu.tlb.flush_all();
        }
        self.update_mode();
        true
    }

    fn write_apic_base(&mut self, value: u64) -> bool {
        let old = self.state.msr.apic_base;
        let x2_known = self.model.has(feature::X2APIC);
        let reserved = 0x2ff | !0 << self.model.phys_bits();
        let enable = APIC_ENABLE | X2APIC_ENABLE;
        let (from, to) = (old & enable, value & enable);
        // Not to x2APIC from disabled, not from x2APIC to xAPIC (SDM vol. 3, figure 11-27).
        let bad_step =
            to == X2APIC_ENABLE || from == 0 && to == enable || from == enable && to == APIC_ENABLE;
        if value & reserved != 0 || value & X2APIC_ENABLE != 0 && !x2_known || bad_step {
            return false;
        }
        // The boot-processor flag is the board's to set.
        self.state.msr.apic_base = value & !APIC_BSP | old & APIC_BSP;
        if let Some(apic) = &self.bus.apic {
            apic.set_base(self.state.msr.apic_base);
        }
        self.mmu.tlb.flush_all();
        true
    }

    /// Checks that a number names an MTRR register; fixed ranges give their index.
    fn mtrr_slot(&self, number: u32) -> Option<usize> {
        match number {
            index::MTRR_FIX_64K => Some(0),
            0x258 | 0x259 => Some((number - index::MTRR_FIX_16K) as usize + 1),
            0x268..=0x26f => Some((number - index::MTRR_FIX_4K) as usize + 3),
            index::MTRR_CAP | index::MTRR_DEF_TYPE => Some(0),
            index::MTRR_VAR..=index::MTRR_VAR_LAST => Some((number - index::MTRR_VAR) as usize / 2),
            _ => None,
        }
    }

    fn read_mtrr(&self, number: u32) -> Option<u64> {
        let slot = self.mtrr_slot(number)?;
        let msr = &self.state.msr;
        Some(match number {
            index::MTRR_CAP => MTRR_CAP,
            index::MTRR_DEF_TYPE => msr.mtrr_def_type,
            index::MTRR_VAR..=index::MTRR_VAR_LAST => {
                let (base, mask) = *msr.mtrr_var.get(slot)?;
                if number & 1 == 0 { base } else { mask }
            }
            _ => *msr.mtrr_fixed.get(slot)?,
        })
    }

    fn write_mtrr(&mut self, number: u32, value: u64) -> bool {
        let Some(slot) = self.mtrr_slot(number) else { return false };
        let type_ok = |kind: u64| matches!(kind & 0xff, 0 | 1 | 4..=6);
        let beyond = value >> self.model.phys_bits() != 0;
        let msr = &mut self.state.msr;
        match number {
            index::MTRR_CAP => return false,
            index::MTRR_DEF_TYPE => {
                if value & !0xcff != 0 || !type_ok(value) {
                    return false;
                }
                msr.mtrr_def_type = value;
            }
            index::MTRR_VAR..=index::MTRR_VAR_LAST => {
                let Some(range) = msr.mtrr_var.get_mut(slot) else { return false };
                if beyond {
                    return false;
                }
                if number & 1 != 0 {
                    range.1 = value & !0x7ff;
                } else if type_ok(value) && value & 0xf00 == 0 {
                    range.0 = value;
                } else {
                    return false;
                }
            }
            _ => {
                if !value.to_le_bytes().iter().all(|kind| type_ok((*kind).into())) {
                    return false;
                }
                let Some(range) = msr.mtrr_fixed.get_mut(slot) else { return false };
                *range = value;
            }
        }
        true
    }

    /// A machine-check register.
    fn read_mca(&self, number: u32) -> u64 {
        let msr = &self.state.msr;
        match number {
            index::MCG_CAP => MCG_CAP,
            index::MCG_STATUS => msr.mcg_status,
            index::MCG_CTL => msr.mcg_ctl,
            _ => match mca_bank(number) {
                Some((bank, 0)) => msr.mc_banks[bank].ctl,
                Some((bank, 2)) => msr.mc_banks[bank].addr,
                Some((bank, 3)) => msr.mc_banks[bank].misc,
                // A bank's status, or the Pentium's machine-check address and type.
                _ => 0,
            },
        }
    }

    fn write_mca(&mut self, number: u32, value: u64) -> bool {
        let msr = &mut self.state.msr;
        // Controls are for writing all ones or all zeros (SDM vol. 3, 17.3.1.3). On AMD's processors
        // Linux leaves out bit 10 (errors of the graphics aperture's table) and bit 0.
        let is_control = value == 0 || value | 1 << 10 | 1 == u64::MAX;
        match number {
            index::MCG_CAP => return false,
            index::MCG_STATUS => msr.mcg_status = value,
            index::MCG_CTL => msr.mcg_ctl = value,
            _ => match mca_bank(number) {
                Some((bank, 0)) if is_control => msr.mc_banks[bank].ctl = value,
                Some((bank, 2)) => msr.mc_banks[bank].addr = value,
                Some((bank, 3)) => msr.mc_banks[bank].misc = value,
                // A status can be cleared.
                Some((_, 1)) | None => return value == 0,
                _ => return false,
            },
        }
        true
    }
}

/// The machine-check bank that a register belongs to, and which of its four registers it is.
fn mca_bank(number: u32) -> Option<(usize, u32)> {
    let place = number.checked_sub(index::MC0_CTL)?;
    let bank = place as usize / 4;
    (bank < MC_BANKS).then_some((bank, place & 3))
}

/// Whether a number is that of a machine-check register.
fn is_mca(number: u32) -> bool {
    matches!(number, 0 | 1 | index::MCG_CAP | index::MCG_STATUS | index::MCG_CTL)
        || mca_bank(number).is_some()
}
