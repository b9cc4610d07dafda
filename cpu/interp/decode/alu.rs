//! Arithmetic, logic, shifts, multiplication and division.

use iced_x86::Mnemonic as M;

use super::{Insn, Kind};
use crate::interp::exec::alu::{self, Adc, Add, And, Binary, Or, Sbb, Sub, Xor};
use crate::interp::exec::shift::{self, Rcl, Rcr, Rol, Ror, Sar, Shift, Shl, Shr};
use crate::interp::exec::{decimal, muldiv};
use crate::interp::op::{Cl, Dst, Handler, Imm, Mem, Op, Src, prefix};

fn binary<O: Binary>(insn: &Insn<'_>) -> Option<Handler> {
    let size = insn.size(0);
    Some(match (insn.kind(0), insn.kind(1)) {
        (Kind::Reg, Kind::Reg) => by_width!(size, alu::binary, O, Dst, Src),
        (Kind::Reg, Kind::Mem) => by_width!(size, alu::binary, O, Dst, Mem),
        (Kind::Reg, Kind::Imm) => by_width!(size, alu::binary, O, Dst, Imm),
        (Kind::Mem, Kind::Reg) => by_width!(size, alu::binary, O, Mem, Src),
        (Kind::Mem, Kind::Imm) => by_width!(size, alu::binary, O, Mem, Imm),
        _ => return None,
    })
}

fn compare<O: Binary>(insn: &Insn<'_>) -> Option<Handler> {
    let size = insn.size(0);
    Some(match (insn.kind(0), insn.kind(1)) {
        (Kind::Reg, Kind::Reg) => by_width!(size, alu::compare, O, Dst, Src),
        (Kind::Reg, Kind::Mem) => by_width!(size, alu::compare, O, Dst, Mem),
        (Kind::Reg, Kind::Imm) => by_width!(size, alu::compare, O, Dst, Imm),
        (Kind::Mem, Kind::Reg) => by_width!(size, alu::compare, O, Mem, Src),
        (Kind::Mem, Kind::Imm) => by_width!(size, alu::compare, O, Mem, Imm),
        _ => return None,
    })
}

fn step<O: Binary>(insn: &Insn<'_>) -> Option<Handler> {
    Some(match insn.kind(0) {
        Kind::Reg => by_width!(insn.size(0), alu::step, O, Dst),
        _ => by_width!(insn.size(0), alu::step, O, Mem),
    })
}

fn shifts<O: Shift>(insn: &Insn<'_>) -> Option<Handler> {
    let size = insn.size(0);
    Some(match (insn.kind(0), insn.kind(1)) {
        (Kind::Reg, Kind::Imm) => by_width!(size, shift::shift, O, Dst, Imm),
        (Kind::Reg, Kind::Reg) => by_width!(size, shift::shift, O, Dst, Cl),
        (Kind::Mem, Kind::Imm) => by_width!(size, shift::shift, O, Mem, Imm),
        (Kind::Mem, Kind::Reg) => by_width!(size, shift::shift, O, Mem, Cl),
        _ => return None,
    })
}

macro_rules! double_shift {
    ($insn:expr, $right:literal) => {{
        macro_rules! pick {
            ($d:ty, $s:ty) => {
                match $insn.size(0) {
                    2 => shift::double_shift::<u16, $d, $s, $right> as Handler,
                    4 => shift::double_shift::<u32, $d, $s, $right>,
                    _ => shift::double_shift::<u64, $d, $s, $right>,
                }
            };
        }
        match ($insn.kind(0), $insn.kind(2)) {
            (Kind::Reg, Kind::Imm) => pick!(Dst, Imm),
            (Kind::Reg, _) => pick!(Dst, Cl),
            (_, Kind::Imm) => pick!(Mem, Imm),
            _ => pick!(Mem, Cl),
        }
    }};
}

/// One operand, in a register or in memory.
macro_rules! unary {
    ($insn:expr, $f:path) => {
        match $insn.kind(0) {
            Kind::Reg => by_width!($insn.size(0), $f, Dst),
            _ => by_width!($insn.size(0), $f, Mem),
        }
    };
}

fn imul(insn: &Insn<'_>) -> Option<Handler> {
    let size = insn.size(0);
    Some(match (insn.raw.op_count(), insn.kind(1)) {
        (1, _) => unary!(insn, muldiv::imul),
        (2, Kind::Reg) => by_wide_width!(size, muldiv::imul_to, Dst, Src),
        (2, _) => by_wide_width!(size, muldiv::imul_to, Dst, Mem),
        (_, Kind::Reg) => by_wide_width!(size, muldiv::imul_to, Src, Imm),
        _ => by_wide_width!(size, muldiv::imul_to, Mem, Imm),
    })
}

fn shift_quietly<O: Shift>(insn: &Insn<'_>) -> Option<Handler> {
    Some(match insn.kind(1) {
        Kind::Reg => by_wide_width!(insn.size(0), shift::shift_quietly, O, Src),
        _ => by_wide_width!(insn.size(0), shift::shift_quietly, O, Mem),
    })
}

fn carry_chain<const OVERFLOW: bool>(insn: &Insn<'_>) -> Handler {
    match (insn.size(0), insn.kind(1)) {
        (4, Kind::Reg) => alu::add_carry_chain::<u32, Src, OVERFLOW>,
        (4, _) => alu::add_carry_chain::<u32, Mem, OVERFLOW>,
        (_, Kind::Reg) => alu::add_carry_chain::<u64, Src, OVERFLOW>,
        _ => alu::add_carry_chain::<u64, Mem, OVERFLOW>,
    }
}

pub(super) fn lower(insn: &Insn<'_>, mnemonic: M) -> Option<Op> {
    let run = match mnemonic {
        M::Add => binary::<Add>(insn)?,
        M::Or => binary::<Or>(insn)?,
        M::Adc => binary::<Adc>(insn)?,
        M::Sbb => binary::<Sbb>(insn)?,
        M::And => binary::<And>(insn)?,
        M::Sub => binary::<Sub>(insn)?,
        M::Xor => binary::<Xor>(insn)?,
        M::Cmp => compare::<Sub>(insn)?,
        M::Test => compare::<And>(insn)?,
        M::Inc => step::<Add>(insn)?,
        M::Dec => step::<Sub>(insn)?,
        M::Neg => unary!(insn, alu::neg),
        M::Not => unary!(insn, alu::not),
        M::Xadd => unary!(insn, alu::xadd),
        M::Xchg if insn.kind(1) == Kind::Mem => return None,
        M::Xchg => {
            let mut op = insn.op(unary!(insn, alu::xchg));
            if insn.kind(0) == Kind::Mem {
                // Locked without a prefix.
                op.prefix |= prefix::LOCK;
            }
            return Some(op);
        }
        M::Cmpxchg => match insn.kind(0) {
            Kind::Reg => by_width!(insn.size(0), alu::cmpxchg_register),
            _ => by_width!(insn.size(0), alu::cmpxchg_memory),
        },
        M::Cmpxchg8b => alu::cmpxchg8b,
        M::Cmpxchg16b => alu::cmpxchg16b,
        M::Adcx => carry_chain::<false>(insn),
        M::Adox => carry_chain::<true>(insn),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr => match mnemonic {
            M::Shl | M::Sal => shifts::<Shl>(insn)?,
            M::Shr => shifts::<Shr>(insn)?,
            M::Sar => shifts::<Sar>(insn)?,
            M::Rol => shifts::<Rol>(insn)?,
            M::Ror => shifts::<Ror>(insn)?,
            M::Rcl => shifts::<Rcl>(insn)?,
            _ => shifts::<Rcr>(insn)?,
        },
        M::Shld => double_shift!(insn, false),
        M::Shrd => double_shift!(insn, true),
        M::Shlx => shift_quietly::<Shl>(insn)?,
        M::Shrx => shift_quietly::<Shr>(insn)?,
        M::Sarx => shift_quietly::<Sar>(insn)?,
        M::Rorx => match insn.kind(1) {
            Kind::Reg => by_wide_width!(insn.size(0), shift::rorx, Src),
            _ => by_wide_width!(insn.size(0), shift::rorx, Mem),
        },
        M::Mul => unary!(insn, muldiv::mul),
        M::Imul => {
            let mut op = insn.op(imul(insn)?);
            if insn.raw.op_count() == 1 {
                op.src = op.dst;
            }
            return Some(op);
        }
        M::Div => unary!(insn, muldiv::div),
        M::Idiv => unary!(insn, muldiv::idiv),
        M::Mulx => {
            let run = match insn.kind(2) {
                Kind::Reg => by_wide_width!(insn.size(0), muldiv::mulx, crate::interp::op::Src2),
                _ => by_wide_width!(insn.size(0), muldiv::mulx, Mem),
            };
            return Some(insn.op(run));
        }
        M::Aaa => decimal::ascii_adjust::<false>,
        M::Aas => decimal::ascii_adjust::<true>,
        M::Daa => decimal::decimal_adjust::<false>,
        M::Das => decimal::decimal_adjust::<true>,
        M::Aam => decimal::aam,
        M::Aad => decimal::aad,
        _ => return None,
    };
    Some(insn.op(run))
}
