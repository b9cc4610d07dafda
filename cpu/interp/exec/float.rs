//! SSE floating-point arithmetic: operands for the functions of `crate::simd`, and what becomes of the
//! exceptions they raise. `imm` is as in [`super::vector`].

use std::cmp::Ordering;

use super::form::{Form, Operand, Sse};
use super::sse::{check, check_mmx};
use super::vector::{Mm, MmxOperand, set_mmx, table};
use crate::flags::{Arith, bit};
use crate::interp::op::{Op, Source, Word};
use crate::simd::{self, Float, FloatTernary, FromInt, Order, ToInt, Unit, Vector};
use crate::state::cr4;
use crate::{Cpu, Int, Trap, vector};

table!(FLOAT, Float, simd::float);
table!(TERNARY, FloatTernary, simd::float_ternary);
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

/// `dst = f(src, S, imm8)`.
pub fn float<F: Form, S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let b = S::read::<F>(cpu, op)?;
    let result = compute::<F>(cpu, op, b)?;
    F::set(cpu, op.dst, result);
    Ok(())
}

/// `f(src, b, imm8)`.
#[inline(always)]
fn compute<F: Form>(cpu: &mut Cpu, op: &Op, b: Vector) -> Result<Vector, Trap> {
    let f = FLOAT.of(cpu, op)?;
    let a = F::get(cpu, op.src);
    let mut unit = cpu.float_unit();
    let result = F::build(|i| {
        let result = f(a[i], b[i], op.imm as u8, &mut unit);
        unit.end_lane();
        result
    });
    cpu.settle(unit)?;
    Ok(result)
}

/// The results of a conversion to a format of half the width: the low half of each lane.
fn narrowed([low, high]: Vector) -> u128 {
    u128::from(low as u64) | high << 64
}

/// Conversions to half the width: 256 bits become 128.
pub fn narrow<F: Form, S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let b = S::read::<F>(cpu, op)?;
    let result = narrowed(compute::<F>(cpu, op, b)?);
    F::set(cpu, op.dst, [result, 0]);
    Ok(())
}

/// VCVTPS2PH to memory; `T` is what becomes of the vector. That it cannot be written is found first.
pub fn narrow_to_memory<F: Form, T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let linear = op.linear(cpu, T::SIZE as u32, true)?;
    cpu.probe_write(linear, T::SIZE as u64)?;
    let b = F::get(cpu, op.src2);
    let result = narrowed(compute::<F>(cpu, op, b)?);
    cpu.store(linear, T::truncate(result))?;
    cpu.stored()
}

/// The fused operations: `f(src, S, dst)`.
pub fn ternary<F: Form, S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let b = S::read::<F>(cpu, op)?;
    let f = TERNARY.of(cpu, op)?;
    let (a, c) = (F::get(cpu, op.src), F::get(cpu, op.dst));
    let mut unit = cpu.float_unit();
    let result = F::build(|i| f(a[i], b[i], c[i], &mut unit));
    cpu.settle(unit)?;
    F::set(cpu, op.dst, result);
    Ok(())
}

/// COMISS and its like: ZF, PF and CF.
pub fn order<F: Form, S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let [b, _] = S::read::<F>(cpu, op)?;
    let f = ORDER.of(cpu, op)?;
    let mut unit = cpu.float_unit();
    let order = f(cpu.xmm(op.src), b, &mut unit);
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
pub fn from_general<F: Form, T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let value: T = S::read(cpu, op)?;
    let f = FROM_INT.of(cpu, op)?;
    let mut unit = cpu.float_unit();
    let result = f(cpu.xmm(op.src), value.sx() as i64, &mut unit);
    cpu.settle(unit)?;
    F::set(cpu, op.dst, [result, 0]);
    Ok(())
}

/// CVTSS2SI and its like to a `T`.
pub fn to_general<F: Form, T: Word, S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let [b, _] = S::read::<F>(cpu, op)?;
    let f = TO_INT.of(cpu, op)?;
    let mut unit = cpu.float_unit();
    let result = f(b, T::BITS, &mut unit);
    cpu.settle(unit)?;
    T::of(result as u64).set(cpu, op.dst);
    Ok(())
}

/// CVTPI2PS and CVTPI2PD of an MMX register, which marks the x87 registers as in use: even if there is
/// an exception.
pub fn from_mmx(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check(cpu)?;
    check_mmx(cpu)?;
    let b = Mm::read(cpu, op)?;
    let f = FLOAT.of(cpu, op)?;
    let mut unit = cpu.float_unit();
    let result = f(cpu.xmm(op.dst), b.into(), 0, &mut unit);
    cpu.state.x87.enter_mmx();
    cpu.settle(unit)?;
    cpu.set_xmm(op.dst, result);
    Ok(())
}

/// CVTPS2PI and its like, to an MMX register.
pub fn to_mmx<S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check(cpu)?;
    check_mmx(cpu)?;
    let [b, _] = S::read::<Sse>(cpu, op)?;
    let f = FLOAT.of(cpu, op)?;
    let mut unit = cpu.float_unit();
    let result = f(0, b, 0, &mut unit);
    cpu.state.x87.enter_mmx();
    cpu.settle(unit)?;
    set_mmx(cpu, op.dst, result as u64);
    Ok(())
}
