//! What the state implies and execution asks for all the time, recomputed when it changes.

use crate::flags;
use crate::mmu::{Context, tlb};
use crate::state::{CpuState, Seg, Segment, attr, cr0, cr3, cr4, efer};

/// The derived view of the control registers, segments and flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// Current privilege level.
    pub cpl: u8,
    /// Default operand and address size of code: 16, 32 or 64.
    pub code_bits: u8,
    /// Width of the stack pointer: 16, 32 or 64.
    pub stack_bits: u8,
    /// Protected mode, and not virtual-8086 mode.
    pub protected: bool,
    /// Virtual-8086 mode.
    pub v86: bool,
    /// Long mode is active (64-bit or compatibility code).
    pub long: bool,
    /// CPL is within IOPL (always true in real mode).
    pub iopl_ok: bool,
    /// An x87 or MMX instruction raises #NM (CR0.EM or CR0.TS).
    pub fpu_trap: bool,
    /// WAIT raises #NM (CR0.MP and CR0.TS).
    pub wait_trap: bool,
    /// CR0.EM: MMX and SSE instructions raise #UD.
    pub fpu_emulated: bool,
    /// CR0.TS: MMX, SSE and AVX instructions raise #NM.
    pub task_switched: bool,
    /// CR4.OSFXSR: without it SSE instructions raise #UD.
    pub sse_enabled: bool,
    /// CR4.OSXSAVE and XCR0 allow AVX.
    pub avx_enabled: bool,
    /// DR7 enables a breakpoint on instructions or loads: execute one instruction at a time, and ask
    /// [`crate::Cpu::code_breakpoint`] before each.
    pub breakpoints: bool,
    /// CS has a limit that execution could run into.
    pub code_limited: bool,
    /// Segments (bit = [`Seg`]) through which every read is allowed at `base + offset`, wrapped
    /// by `linear_mask`.
    pub flat_read: u8,
    /// The same for writes.
    pub flat_write: u8,
    /// The mask of the stack pointer's width.
    pub stack_mask: u64,
    /// The mask of linear addresses: 32 bits outside 64-bit code.
    pub linear_mask: u64,
    /// Effective segment bases by [`Seg`]; zero in 64-bit code but for FS and GS. Elements 6 and 7
    /// stay zero, for "no segment".
    pub base: [u64; 8],
    /// The upper bits of which linear addresses are no part of them.
    pub lam: Lam,
    /// Where the current privilege context begins in the TLB's tables.
    pub(crate) tlb_base: tlb::Base,
    /// The current privilege context for explicit accesses.
    pub(crate) context: Context,
}

impl Mode {
    /// The mode that `state` implies.
    pub fn of(state: &CpuState) -> Self {
        let system = state.flags.system();
        let pe = state.cr0 & cr0::PE != 0;
        let v86 = pe && system & flags::bit::VM != 0;
        let protected = pe && !v86;
        let long = state.msr.efer & efer::LMA != 0;
        let cs = &state.seg[Seg::Cs as usize];
        let ss = &state.seg[Seg::Ss as usize];
        let cpl = if v86 {
            3
        } else if pe {
            ss.dpl()
        } else {
            0
        };
        let code_bits = if long && protected && cs.attr & attr::LONG != 0 {
            64
        } else if cs.attr & attr::BIG != 0 {
            32
        } else {
            16
        };
        let stack_bits = if code_bits == 64 {
            64
        } else if ss.attr & attr::BIG != 0 {
            32
        } else {
            16
        };
        let mut base = [0; 8];
        let (mut flat_read, mut flat_write) = (0x3f, 0x3f);
        for (i, seg) in state.seg.iter().enumerate() {
            if code_bits != 64 {
                base[i] = seg.base & 0xffff_ffff;
                flat_read &= !(u8::from(!is_flat(seg, false)) << i);
                flat_write &= !(u8::from(!is_flat(seg, true)) << i);
            } else if i >= Seg::Fs as usize {
                base[i] = seg.base;
            }
        }
        let iopl = (system & flags::bit::IOPL) >> 12;
        let context = if cpl == 3 {
            let checked = cr0::AM;
            if state.cr0 & checked != 0 && system & flags::bit::AC != 0 {
                Context::UserAligned
            } else {
                Context::User
            }
        } else if state.cr4 & cr4::SMAP != 0 && system & flags::bit::AC != 0 {
            Context::SupervisorOverUser
        } else {
            Context::Supervisor
        };
        let ts = state.cr0 & cr0::TS != 0;
        let em = state.cr0 & cr0::EM != 0;
        Mode {
            cpl,
            code_bits,
            stack_bits,
            protected,
            v86,
            long,
            iopl_ok: u64::from(cpl) <= iopl || !pe,
            fpu_trap: ts || em,
            wait_trap: ts && state.cr0 & cr0::MP != 0,
            fpu_emulated: em,
            task_switched: ts,
            sse_enabled: state.cr4 & cr4::OSFXSR != 0,
            avx_enabled: pe && !v86 && state.cr4 & cr4::OSXSAVE != 0 && state.xcr0 & 6 == 6,
            breakpoints: (0..4).any(|i| {
                state.dr[7] >> (2 * i) & 3 != 0 && matches!(state.dr[7] >> (16 + 4 * i) & 3, 0 | 3)
            }),
            code_limited: code_bits != 64 && cs.limit != u32::MAX,
            flat_read,
            flat_write,
            stack_mask: match stack_bits {
                64 => !0,
                32 => 0xffff_ffff,
                _ => 0xffff,
            },
            linear_mask: if code_bits == 64 { !0 } else { 0xffff_ffff },
            base,
            lam: if code_bits == 64 { Lam::of(state) } else { Lam::default() },
            tlb_base: tlb::Base::of(context),
            context,
        }
    }
}

/// Linear-address masking (SDM vol. 1, 3.3.7.2): for addresses of user and supervisor space, how many
/// bits of data addresses are ignored below bit 63; none if zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lam {
    user: u8,
    supervisor: u8,
}

impl Lam {
    fn of(state: &CpuState) -> Self {
        let user = if state.cr3 & cr3::LAM_U57 != 0 {
            6
        } else if state.cr3 & cr3::LAM_U48 != 0 {
            15
        } else {
            0
        };
        let supervisor = if state.cr4 & cr4::LAM_SUP == 0 {
            0
        } else if state.cr4 & cr4::LA57 != 0 {
            6
        } else {
            15
        };
        Lam { user, supervisor }
    }

    /// The address without what is masked: the bits above the highest one in use repeat it, but
    /// for bit 63.
    #[inline]
    pub fn untag(self, linear: u64) -> u64 {
        let ignored = if linear >> 63 == 0 { self.user } else { self.supervisor };
        if ignored == 0 {
            return linear;
        }
        let extended = ((linear << (ignored + 1)) as i64 >> (ignored + 1)) as u64;
        extended & !(1 << 63) | linear & 1 << 63
    }
}

/// Whether no access of the kind through `seg` can fail a segment check.
fn is_flat(seg: &Segment, write: bool) -> bool {
    let code = seg.attr & attr::CODE != 0;
    let writable_or_readable = seg.attr & attr::WRITABLE_OR_READABLE != 0;
    let expand_down = !code && seg.attr & attr::EXPAND_DOWN_OR_CONFORMING != 0;
    let allowed = if write { !code && writable_or_readable } else { !code || writable_or_readable };
    seg.present() && seg.attr & attr::S != 0 && seg.limit == u32::MAX && !expand_down && allowed
}
