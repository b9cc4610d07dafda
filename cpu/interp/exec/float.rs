//! SSE floating-point arithmetic: operands for the functions of `crate::simd`, and what becomes of the
//! exceptions they raise. `imm` is as in [`super::vector`].

use std::cmp::Ordering;

use super::sse::{check, check_mmx};
use super::vector::{Mm, MmxOperand, Operand, set_mmx, table};
use crate::flags::{Arith, bit};
use crate::interp::op::{Op, Source, Word};
use crate::simd::{self, Float, FromInt, Order, ToInt, Unit};
use crate::state::cr4;
use crate::{Cpu, Trap, vector};

table!(FLOAT, Float, simd::float);
table!(ORDER, Order, simd::float_order);
table!(FROM_INT, FromInt, simd::float_from_int);
table!(TO_INT, ToInt, simd::float_to_int);

impl Cpu {
    #[inline(always)]
    fn float_unit(&self) -> Unit {
        Unit::new(self.state.mxcsr)
    }
    /// Sets the flags of the exceptions raised; an unmasked one is an exception of the processor's
    /// (SDM volume 1, 11.5.3).
    #[inline(always)]
    fn settle(&mut self, unit: Unit) -> Result<(), Trap> {
        let (flags, unmasked) = unit.outcome();
        if flags == 0 {
            return Ok(());
        }
        self.state.mxcsr |= flags;
        if unmasked { Err(self.float_exception()) } else { Ok(()) }
    }
    #[cold]
    fn float_exception(&mut self) -> Trap {
        if self.cr4_has(cr4::OSXMMEXCPT) { self.raise(vector::XM, None) } else { self.undefined() }
    }
}

/// `dst = f(dst, S, imm8)`.
pub fn float<S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check(cpu)?;
    let b = S::read(cpu, op)?;
    let f = FLOAT.of(cpu, op)?;
    let mut unit = cpu.float_unit();
    let result = f(cpu.xmm(op.dst), b, op.imm as u8, &mut unit);
    cpu.settle(unit)?;
    cpu.set_xmm(op.dst, result);
    Ok(())
}

/// COMISS and its like: ZF, PF and CF.
pub fn order<S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check(cpu)?;
    let b = S::read(cpu, op)?;
    let f = ORDER.of(cpu, op)?;
    let mut unit = cpu.float_unit();
    let order = f(cpu.xmm(op.dst), b, &mut unit);
    cpu.settle(unit)?;
    cpu.set_arith(Arith::from_bits(match order {
        None => bit::ZF | bit::PF | bit::CF,
        Some(Ordering::Less) => bit::CF,
        Some(Ordering::Equal) => bit::ZF,
        Some(Ordering::Greater) => 0,
    }));
    Ok(())
}

/// CVTSI2SS and CVTSI2SD from a `T`.
pub fn from_general<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check(cpu)?;
    let value: T = S::read(cpu, op)?;
    let f = FROM_INT.of(cpu, op)?;
    let mut unit = cpu.float_unit();
    let result = f(cpu.xmm(op.dst), value.sx() as i64, &mut unit);
    cpu.settle(unit)?;
    cpu.set_xmm(op.dst, result);
    Ok(())
}

/// CVTSS2SI and its like to a `T`.
pub fn to_general<T: Word, S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check(cpu)?;
    let b = S::read(cpu, op)?;
    let f = TO_INT.of(cpu, op)?;
    let mut unit = cpu.float_unit();
    let result = f(b, T::BITS, &mut unit);
    cpu.settle(unit)?;
    T::of(result as u64).set(cpu, op.dst);
    Ok(())
}

/// CVTPI2PS and CVTPI2PD of an MMX register, which marks the x87 registers as in use.
pub fn from_mmx(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check(cpu)?;
    check_mmx(cpu)?;
    let b = Mm::read(cpu, op)?;
    let f = FLOAT.of(cpu, op)?;
    let mut unit = cpu.float_unit();
    let result = f(cpu.xmm(op.dst), b.into(), 0, &mut unit);
    cpu.settle(unit)?;
    cpu.state.x87.enter_mmx();
    cpu.set_xmm(op.dst, result);
    Ok(())
}

/// CVTPS2PI and its like, to an MMX register.
pub fn to_mmx<S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check(cpu)?;
    check_mmx(cpu)?;
    let b = S::read(cpu, op)?;
    let f = FLOAT.of(cpu, op)?;
    let mut unit = cpu.float_unit();
    let result = f(0, b, 0, &mut unit);
    cpu.settle(unit)?;
    set_mmx(cpu, op.dst, result as u64);
    Ok(())
}
