//! x87 instructions.

use iced_x86::{MemorySize, Mnemonic as M, Register};

use super::{Insn, Kind};
use crate::interp::exec::cond::{A, Ae, B, Be, E, Ne, Np, P};
use crate::interp::exec::x87::{self, *};
use crate::interp::op::{Handler, Op};

/// Operation number and pop flag of the arithmetic mnemonics; see `exec::x87`.
fn arith(mnemonic: M) -> Option<(u64, bool)> {
    Some(match mnemonic {
        M::Fadd | M::Fiadd => (0, false),
        M::Fmul | M::Fimul => (1, false),
        M::Fsub | M::Fisub => (2, false),
        M::Fsubr | M::Fisubr => (3, false),
        M::Fdiv | M::Fidiv => (4, false),
        M::Fdivr | M::Fidivr => (5, false),
        M::Faddp => (0, true),
        M::Fmulp => (1, true),
        M::Fsubp => (2, true),
        M::Fsubrp => (3, true),
        M::Fdivp => (4, true),
        M::Fdivrp => (5, true),
        _ => return None,
    })
}

fn arith_handler(insn: &Insn<'_>) -> Option<Handler> {
    if insn.kind(0) == Kind::Reg {
        return Some(internal::<ArithRegisters>);
    }
    Some(match insn.raw.memory_size() {
        MemorySize::Float32 => arith_memory::<Real<u32>>,
        MemorySize::Float64 => arith_memory::<Real<u64>>,
        MemorySize::Int16 => arith_memory::<Integer<u16>>,
        MemorySize::Int32 => arith_memory::<Integer<u32>>,
        _ => return None,
    })
}

fn compare(insn: &Insn<'_>, registers: Handler) -> Option<Handler> {
    if insn.kind(0) == Kind::Reg {
        return Some(registers);
    }
    Some(match insn.raw.memory_size() {
        MemorySize::Float32 => compare_memory::<Real<u32>>,
        MemorySize::Float64 => compare_memory::<Real<u64>>,
        MemorySize::Int16 => compare_memory::<Integer<u16>>,
        MemorySize::Int32 => compare_memory::<Integer<u32>>,
        _ => return None,
    })
}

/// The instance for environments of 16-bit or 32-bit layout.
fn environment(insn: &Insn<'_>, narrow: Handler, wide: Handler) -> Handler {
    match insn.raw.memory_size() {
        MemorySize::FpuEnv14 | MemorySize::FpuState94 => narrow,
        _ => wide,
    }
}

fn transfer(insn: &Insn<'_>, mnemonic: M) -> Option<Handler> {
    Some(match (mnemonic, insn.raw.memory_size()) {
        (M::Fld, MemorySize::Float32) => fld_32,
        (M::Fld, MemorySize::Float64) => fld_64,
        (M::Fld, MemorySize::Float80) => fld_80,
        (M::Fld, _) => internal::<Fld>,
        (M::Fst | M::Fstp, MemorySize::Float32) => fst_32,
        (M::Fst | M::Fstp, MemorySize::Float64) => fst_64,
        (M::Fstp, MemorySize::Float80) => fstp_80,
        (M::Fst | M::Fstp, _) => internal::<Fst>,
        (M::Fstpnce, _) => internal::<Fstpnce>,
        (M::Fild, MemorySize::Int16) => fild::<u16>,
        (M::Fild, MemorySize::Int32) => fild::<u32>,
        (M::Fild, _) => fild::<u64>,
        (M::Fist | M::Fistp, MemorySize::Int16) => fist_16,
        (M::Fist | M::Fistp, MemorySize::Int32) => fist_32,
        (M::Fist | M::Fistp, _) => fist_64,
        (M::Fisttp, MemorySize::Int16) => fisttp_16,
        (M::Fisttp, MemorySize::Int32) => fisttp_32,
        (M::Fisttp, _) => fisttp_64,
        (M::Fbld, _) => fbld,
        (M::Fbstp, _) => fbstp,
        _ => return None,
    })
}

fn handler(insn: &Insn<'_>, mnemonic: M) -> Option<Handler> {
    if arith(mnemonic).is_some() {
        return arith_handler(insn);
    }
    if let Some(run) = transfer(insn, mnemonic) {
        return Some(run);
    }
    Some(match mnemonic {
        M::Fxch => internal::<Fxch>,
        M::Fcom | M::Fcomp | M::Ficom | M::Ficomp => compare(insn, internal::<Fcom>)?,
        M::Fucom | M::Fucomp => internal::<Fucom>,
        M::Fcompp => internal::<Fcompp>,
        M::Fucompp => internal::<Fucompp>,
        M::Fcomi | M::Fcomip => fcomi::<false>,
        M::Fucomi | M::Fucomip => fcomi::<true>,
        M::Fcmovb => fcmov::<B>,
        M::Fcmove => fcmov::<E>,
        M::Fcmovbe => fcmov::<Be>,
        M::Fcmovu => fcmov::<P>,
        M::Fcmovnb => fcmov::<Ae>,
        M::Fcmovne => fcmov::<Ne>,
        M::Fcmovnbe => fcmov::<A>,
        M::Fcmovnu => fcmov::<Np>,
        M::Ftst => internal::<Ftst>,
        M::Fxam => internal::<Fxam>,
        M::Fld1 => internal::<Fld1>,
        M::Fldl2t => internal::<Fldl2t>,
        M::Fldl2e => internal::<Fldl2e>,
        M::Fldpi => internal::<Fldpi>,
        M::Fldlg2 => internal::<Fldlg2>,
        M::Fldln2 => internal::<Fldln2>,
        M::Fldz => internal::<Fldz>,
        M::Fchs => internal::<Fchs>,
        M::Fabs => internal::<Fabs>,
        M::Fsqrt => internal::<Fsqrt>,
        M::Frndint => internal::<Frndint>,
        M::Fscale => internal::<Fscale>,
        M::Fprem => internal::<Fprem>,
        M::Fprem1 => internal::<Fprem1>,
        M::Fxtract => internal::<Fxtract>,
        M::F2xm1 => internal::<F2xm1>,
        M::Fyl2x => internal::<Fyl2x>,
        M::Fyl2xp1 => internal::<Fyl2xp1>,
        M::Fpatan => internal::<Fpatan>,
        M::Fsin => internal::<Fsin>,
        M::Fcos => internal::<Fcos>,
        M::Fsincos => internal::<Fsincos>,
        M::Fptan => internal::<Fptan>,
        M::Ffree => internal::<Ffree>,
        M::Ffreep => internal::<Ffreep>,
        M::Fincstp => internal::<Fincstp>,
        M::Fdecstp => internal::<Fdecstp>,
        M::Fnop => internal::<Fnop>,
        M::Wait => fwait,
        M::Fninit => fninit,
        M::Fnclex => fnclex,
        M::Fnstcw => fnstcw,
        M::Fldcw => fldcw,
        M::Fnstsw if insn.kind(0) == Kind::Reg => fnstsw_ax,
        M::Fnstsw => fnstsw,
        M::Fnstenv => environment(insn, fnstenv::<u16>, fnstenv::<u32>),
        M::Fldenv => environment(insn, fldenv::<u16>, fldenv::<u32>),
        M::Fnsave => environment(insn, fnsave::<u16>, fnsave::<u32>),
        M::Frstor => environment(insn, frstor::<u16>, frstor::<u32>),
        M::Fneni | M::Fndisi | M::Fnsetpm => fneni,
        _ => return None,
    })
}

fn pops(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Fstp | M::Fistp | M::Fcomp | M::Ficomp | M::Fucomp | M::Fcomip | M::Fucomip
    )
}

pub(super) fn lower(insn: &Insn<'_>, mnemonic: M, opcode: u16) -> Option<Op> {
    let mut op = insn.op(handler(insn, mnemonic)?);
    let (number, arith_pops) = arith(mnemonic).unwrap_or((0, false));
    op.imm = u64::from(opcode & 0x7ff) | number << ARITH_SHIFT;
    if arith_pops || pops(mnemonic) {
        op.imm |= x87::POP;
    }
    if insn.raw.op_count() == 1 && insn.kind(0) == Kind::Reg {
        // The one register written is a source to some.
        op.src = op.dst;
    } else if insn.raw.op0_register() == Register::ST0
        && insn.raw.op_count() == 2
        && matches!(mnemonic, M::Fxch | M::Fcom | M::Fcomp | M::Fucom | M::Fucomp)
    {
        op.dst = 0;
    }
    Some(op)
}
