//! The architectural state of one processor: what a snapshot saves and what every engine shares.

use crate::flags::LazyFlags;
use crate::fpu::x87::X87;
use crate::svm::Svm;

/// Index of the always-zero pseudo register that stands for "no base" or "no index".
pub const ZERO: usize = 16;

/// Index of the pseudo register in which the software engines keep the instruction pointer of the
/// first instruction of the running block. No part of the architectural state.
pub const CODE: usize = 17;

/// General register numbers as instruction encodings have them.
#[allow(missing_docs)]
pub mod gpr {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
}

/// Segment register numbers as instruction encodings have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Seg {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
}

/// A segment register with its hidden part (SDM vol. 3, 3.4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes, granularity already applied.
    pub limit: u32,
    /// Descriptor bits 8..23 of the second doubleword: type, S, DPL, P in bits 0-7; AVL, L, D/B, G
    /// in bits 12-15.
    pub attr: u16,
}

/// Bits of [`Segment::attr`].
#[allow(missing_docs)]
pub mod attr {
    pub const TYPE: u16 = 0xf;
    pub const ACCESSED: u16 = 1;
    pub const WRITABLE_OR_READABLE: u16 = 2;
    pub const EXPAND_DOWN_OR_CONFORMING: u16 = 4;
    pub const CODE: u16 = 8;
    pub const S: u16 = 1 << 4;
    pub const DPL_SHIFT: u16 = 5;
    pub const PRESENT: u16 = 1 << 7;
    pub const AVL: u16 = 1 << 12;
    pub const LONG: u16 = 1 << 13;
    pub const BIG: u16 = 1 << 14;
    pub const GRANULAR: u16 = 1 << 15;
}

impl Segment {
    /// A segment as real mode loads it.
    pub fn real(selector: u16) -> Self {
        Segment { selector, base: u64::from(selector) << 4, limit: 0xffff, attr: 0x93 }
    }
    /// Descriptor privilege level.
    pub fn dpl(&self) -> u8 {
        (self.attr >> attr::DPL_SHIFT) as u8 & 3
    }
    /// Whether the segment is usable.
    pub fn present(&self) -> bool {
        self.attr & attr::PRESENT != 0
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableReg {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// One vector register, wide enough for AVX-512; element 0 is the least significant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct VecReg(pub [u128; 4]);

/// Machine-check banks, as many as QEMU's processors have.
pub const MC_BANKS: usize = 10;

/// A machine-check bank but for its status, which is clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct McBank {
    pub ctl: u64,
    pub addr: u64,
    pub misc: u64,
}

/// What AMD's processors remember of control transfers while DEBUGCTL.LBR is set (APM vol. 2, 13.1.1):
/// instruction pointers from and to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastBranches {
    /// The last one.
    pub branch: [u64; 2],
    /// The last before an exception or interrupt.
    pub before_event: [u64; 2],
}

/// Model-specific registers that are plain state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Msrs {
    pub efer: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub tsc_aux: u64,
    /// What WRMSR(TSC) and TSC_ADJUST added to the time-base counter.
    pub tsc_offset: u64,
    pub tsc_adjust: u64,
    pub apic_base: u64,
    pub pat: u64,
    pub misc_enable: u64,
    pub feature_control: u64,
    pub spec_ctrl: u64,
    pub smbase: u64,
    pub mtrr_def_type: u64,
    pub mtrr_fixed: [u64; 11],
    pub mtrr_var: [(u64, u64); 8],
    pub mcg_status: u64,
    pub mcg_ctl: u64,
    /// What each machine-check bank holds; no errors are ever latched by themselves.
    pub mc_banks: [McBank; MC_BANKS],
    pub xss: u64,
    pub pkrs: u64,
    pub umwait_control: u64,
    pub debugctl: u64,
    pub last_branches: LastBranches,
    pub vm_hsave_pa: u64,
    /// By how much time goes faster for guests under VMRUN, with 32 bits behind the point.
    pub tsc_ratio: u64,
}

/// The whole architectural state.
#[derive(Clone, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct CpuState {
    /// The sixteen general registers, one that is always zero ([`ZERO`]) and one that belongs to the
    /// engine ([`CODE`]).
    pub regs: [u64; 18],
    pub rip: u64,
    /// RFLAGS; arithmetic flags are computed lazily.
    pub flags: LazyFlags,
    /// ES, CS, SS, DS, FS, GS, in [`Seg`]'s order.
    pub seg: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: TableReg,
    pub idtr: TableReg,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub xcr0: u64,
    pub pkru: u32,
    /// PAE page-directory pointers, loaded with CR3.
    pub pdpte: [u64; 4],
    pub dr: [u64; 8],
    pub msr: Msrs,
    pub x87: X87,
    pub mxcsr: u32,
    pub vec: [VecReg; 32],
    pub opmask: [u64; 8],
    /// Interrupts are blocked for one instruction (STI, MOV SS, POP SS).
    pub interrupt_shadow: bool,
    /// MOV SS or POP SS was the last instruction: debug traps wait for the next, too.
    pub stack_switched: bool,
    /// NMIs are blocked until IRET.
    pub nmi_blocked: bool,
    /// In system management mode.
    pub smm: bool,
    /// HLT was executed and nothing woke the processor yet.
    pub halted: bool,
    pub(crate) svm: Svm,
}

/// CR0 bits.
#[allow(missing_docs)]
pub mod cr0 {
    pub const PE: u64 = 1;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
}

/// CR3 bits.
#[allow(missing_docs)]
pub mod cr3 {
    pub const LAM_U57: u64 = 1 << 61;
    pub const LAM_U48: u64 = 1 << 62;
    /// In a MOV: keep the translations of the PCID.
    pub const NO_FLUSH: u64 = 1 << 63;
}

/// CR4 bits.
#[allow(missing_docs)]
pub mod cr4 {
    pub const VME: u64 = 1;
    pub const PVI: u64 = 1 << 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const LA57: u64 = 1 << 12;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
    pub const PKE: u64 = 1 << 22;
    pub const PKS: u64 = 1 << 24;
    pub const LAM_SUP: u64 = 1 << 28;
}

/// XCR0 bits.
#[allow(missing_docs)]
pub mod xcr0 {
    pub const X87: u64 = 1;
    pub const SSE: u64 = 1 << 1;
    pub const AVX: u64 = 1 << 2;
    pub const OPMASK: u64 = 1 << 5;
    pub const ZMM_HIGH: u64 = 1 << 6;
    pub const ZMM_16_31: u64 = 1 << 7;
    pub const PKRU: u64 = 1 << 9;
}

/// EFER bits.
#[allow(missing_docs)]
pub mod efer {
    pub const SCE: u64 = 1;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
    pub const SVME: u64 = 1 << 12;
    pub const FFXSR: u64 = 1 << 14;
}

impl Msrs {
    /// Values after power-up or RESET (SDM vol. 3, table 10-1).
    pub fn at_reset() -> Self {
        Msrs {
            efer: 0,
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            tsc_aux: 0,
            tsc_offset: 0,
            tsc_adjust: 0,
            apic_base: 0xfee0_0800,
            pat: 0x0007_0406_0007_0406,
            misc_enable: 1,
            feature_control: 0,
            spec_ctrl: 0,
            smbase: 0x3_0000,
            mtrr_def_type: 0,
            mtrr_fixed: [0; 11],
            mtrr_var: [(0, 0); 8],
            mcg_status: 0,
            mcg_ctl: !0,
            mc_banks: [McBank { ctl: !0, addr: 0, misc: 0 }; MC_BANKS],
            xss: 0,
            pkrs: 0,
            umwait_control: 0,
            debugctl: 0,
            last_branches: LastBranches::default(),
            vm_hsave_pa: 0,
            tsc_ratio: 1 << 32,
        }
    }
}

impl CpuState {
    /// INIT: as RESET, but caches, FPU, vector registers and most MSRs survive (SDM vol. 3, table
    /// 10-1).
    pub fn init(&mut self, signature: u32) {
        let mut old = std::mem::replace(self, CpuState::at_reset(signature));
        self.cr0 |= old.cr0 & (cr0::CD | cr0::NW);
        self.xcr0 = old.xcr0;
        self.x87 = old.x87;
        self.mxcsr = old.mxcsr;
        std::mem::swap(&mut self.vec, &mut old.vec);
        self.opmask = old.opmask;
        old.msr.efer = 0;
        self.msr = old.msr;
        self.pkru = old.pkru;
    }

    /// Start-up IPI: begin at `vector * 4096` in real mode.
    pub fn start_up(&mut self, vector: u8) {
        let cs = &mut self.seg[Seg::Cs as usize];
        cs.selector = u16::from(vector) << 8;
        cs.base = u64::from(vector) << 12;
        self.rip = 0;
        self.halted = false;
    }

    /// The state after power-up or RESET (SDM vol. 3, table 10-1). `signature` is CPUID.1:EAX,
    /// which RESET leaves in EDX.
    pub fn at_reset(signature: u32) -> Self {
        let data = Segment { selector: 0, base: 0, limit: 0xffff, attr: 0x93 };
        let mut seg = [data; 6];
        seg[Seg::Cs as usize] =
            Segment { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, attr: 0x9b };
        let mut regs = [0; 18];
        regs[gpr::RDX] = u64::from(signature);
        CpuState {
            regs,
            rip: 0xfff0,
            flags: LazyFlags::new(2),
            seg,
            ldtr: Segment { limit: 0xffff, attr: 0x82, ..Segment::default() },
            tr: Segment { limit: 0xffff, attr: 0x8b, ..Segment::default() },
            gdtr: TableReg { base: 0, limit: 0xffff },
            idtr: TableReg { base: 0, limit: 0xffff },
            cr0: cr0::CD | cr0::NW | cr0::ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            xcr0: 1,
            pkru: 0,
            pdpte: [0; 4],
            dr: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
            msr: Msrs::at_reset(),
            // As QEMU and KVM have it, as if FNINIT had been executed. The manual has all exceptions
            // unmasked and zeros in all registers, which programs that were only ever run there do not
            // expect.
            x87: X87::default(),
            mxcsr: 0x1f80,
            vec: [VecReg::default(); 32],
            opmask: [0; 8],
            interrupt_shadow: false,
            stack_switched: false,
            nmi_blocked: false,
            smm: false,
            halted: false,
            svm: Svm::default(),
        }
    }
}
