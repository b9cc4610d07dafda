//! Multiplication and division.

use crate::flags::Arith;
use crate::interp::op::{Op, Source, Word};
use crate::state::gpr::{RAX, RDX};
use crate::{Cpu, Trap, vector};

/// The flags of a product whose high half matters (or not). SF, ZF and PF are undefined; they follow
/// the low half.
#[inline(always)]
fn product_flags<T: Word>(low: T, overflow: bool) -> Arith {
    Arith::result(low.sx(), overflow, overflow)
}

/// Writes a double-width result to AX, or to the D and A registers.
#[inline(always)]
fn set_wide<T: Word>(cpu: &mut Cpu, low: T, high: T) {
    if T::BITS == 8 {
        ((high.zx() << 8 | low.zx()) as u16).set(cpu, RAX as u8);
    } else {
        low.set(cpu, RAX as u8);
        high.set(cpu, RDX as u8);
    }
}

/// MUL.
pub fn mul<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let b: T = S::read(cpu, op)?;
    let product = u128::from(T::get(cpu, RAX as u8).zx()) * u128::from(b.zx());
    let (low, high) = (T::of(product as u64), T::of((product >> T::BITS) as u64));
    set_wide(cpu, low, high);
    cpu.set_arith(product_flags(low, high.zx() != 0));
    Ok(())
}

/// The signed product of two words, and whether it needs more than one word.
#[inline(always)]
fn signed_product<T: Word>(a: T, b: T) -> (T, T, bool) {
    let product = i128::from(a.sx() as i64) * i128::from(b.sx() as i64);
    let (low, high) = (T::of(product as u64), T::of((product >> T::BITS) as u64));
    (low, high, i128::from(low.sx() as i64) != product)
}

/// IMUL with one operand.
pub fn imul<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let b: T = S::read(cpu, op)?;
    let (low, high, overflow) = signed_product(T::get(cpu, RAX as u8), b);
    set_wide(cpu, low, high);
    cpu.set_arith(product_flags(low, overflow));
    Ok(())
}

/// IMUL with two or three operands: `dst = A * B`.
pub fn imul_to<T: Word, A: Source, B: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let (b, a): (T, T) = (B::read(cpu, op)?, A::read(cpu, op)?);
    let (low, _, overflow) = signed_product(a, b);
    low.set(cpu, op.dst);
    cpu.set_arith(product_flags(low, overflow));
    Ok(())
}

/// MULX: no flags; the high half to the first operand, the low one to the second.
pub fn mulx<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let b: T = S::read(cpu, op)?;
    let product = u128::from(T::get(cpu, RDX as u8).zx()) * u128::from(b.zx());
    T::of(product as u64).set(cpu, op.src);
    T::of((product >> T::BITS) as u64).set(cpu, op.dst);
    Ok(())
}

#[cold]
fn divide_error(cpu: &mut Cpu) -> Trap {
    cpu.raise(vector::DE, None)
}

/// The double-width dividend.
#[inline(always)]
fn dividend<T: Word>(cpu: &Cpu) -> u128 {
    if T::BITS == 8 {
        u128::from(u16::get(cpu, RAX as u8))
    } else {
        let (low, high) = (T::get(cpu, RAX as u8).zx(), T::get(cpu, RDX as u8).zx());
        u128::from(high) << T::BITS | u128::from(low)
    }
}

/// DIV. The flags are undefined and stay.
pub fn div<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let by: T = S::read(cpu, op)?;
    if by.zx() == 0 {
        return Err(divide_error(cpu));
    }
    let value = dividend::<T>(cpu);
    let (quotient, remainder) = match u64::try_from(value) {
        Ok(value) => (u128::from(value / by.zx()), value % by.zx()),
        Err(_) => (value / u128::from(by.zx()), (value % u128::from(by.zx())) as u64),
    };
    if quotient >> T::BITS != 0 {
        return Err(divide_error(cpu));
    }
    set_wide(cpu, T::of(quotient as u64), T::of(remainder));
    Ok(())
}

/// IDIV. The flags are undefined and stay.
pub fn idiv<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let by: T = S::read(cpu, op)?;
    let by = i128::from(by.sx() as i64);
    let unused = 128 - 2 * T::BITS;
    let value = (dividend::<T>(cpu) << unused) as i128 >> unused;
    // The one quotient that overflows 128 bits overflows all widths.
    let (Some(quotient), Some(remainder)) = (value.checked_div(by), value.checked_rem(by)) else {
        return Err(divide_error(cpu));
    };
    let low = T::of(quotient as u64);
    if i128::from(low.sx() as i64) != quotient {
        return Err(divide_error(cpu));
    }
    set_wide(cpu, low, T::of(remainder as u64));
    Ok(())
}
