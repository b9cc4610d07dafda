//! Shifts and rotates.
//!
//! Where the manual leaves a flag undefined (OF of counts above one, AF), the value is what the
//! formula for a count of one gives, and AF is clear.

use crate::flags::Arith;
use crate::interp::op::{Op, Place, Source, Src2, Word};
use crate::{Cpu, Trap};

/// A shift or rotate by a count that is not zero and already masked.
pub trait Shift {
    /// The result and the flags.
    fn apply<T: Word>(value: T, count: u32, flags: Arith) -> (T, Arith);
}

/// The count as the processor masks it.
#[inline(always)]
fn masked<T: Word>(count: u8) -> u32 {
    u32::from(count) & if T::BITS == 64 { 63 } else { 31 }
}

/// SHL.
pub struct Shl;
/// SHR.
pub struct Shr;
/// SAR.
pub struct Sar;
/// ROL.
pub struct Rol;
/// ROR.
pub struct Ror;
/// RCL.
pub struct Rcl;
/// RCR.
pub struct Rcr;

impl Shift for Shl {
    #[inline(always)]
    fn apply<T: Word>(value: T, count: u32, _: Arith) -> (T, Arith) {
        // Counts above the width leave zero and no carry.
        let result = T::of(value.zx() << count);
        let cf = count <= T::BITS && value.zx() >> ((T::BITS - count) & 63) & 1 != 0;
        (result, Arith::result(result.sx(), cf, result.sign() != cf))
    }
}

impl Shift for Shr {
    #[inline(always)]
    fn apply<T: Word>(value: T, count: u32, _: Arith) -> (T, Arith) {
        let result = T::of(value.zx() >> count);
        let cf = value.zx() >> (count - 1) & 1 != 0;
        (result, Arith::result(result.sx(), cf, count == 1 && value.sign()))
    }
}

impl Shift for Sar {
    #[inline(always)]
    fn apply<T: Word>(value: T, count: u32, _: Arith) -> (T, Arith) {
        let signed = value.sx() as i64;
        let result = T::of((signed >> count) as u64);
        (result, Arith::result(result.sx(), signed >> (count - 1) & 1 != 0, false))
    }
}

impl Shift for Rol {
    #[inline(always)]
    fn apply<T: Word>(value: T, count: u32, flags: Arith) -> (T, Arith) {
        let by = count % T::BITS;
        let v = value.zx();
        let result = T::of(v << by | v >> ((T::BITS - by) % T::BITS));
        let cf = result.zx() & 1 != 0;
        (result, flags.with_cf(cf).with_of(result.sign() != cf))
    }
}

impl Shift for Ror {
    #[inline(always)]
    fn apply<T: Word>(value: T, count: u32, flags: Arith) -> (T, Arith) {
        let by = count % T::BITS;
        let v = value.zx();
        let result = T::of(v >> by | v << ((T::BITS - by) % T::BITS));
        let next = result.zx() >> (T::BITS - 2) & 1 != 0;
        (result, flags.with_cf(result.sign()).with_of(result.sign() != next))
    }
}

impl Shift for Rcl {
    #[inline(always)]
    fn apply<T: Word>(value: T, count: u32, flags: Arith) -> (T, Arith) {
        let by = count % (T::BITS + 1);
        let wide = u128::from(value.zx()) | u128::from(flags.cf()) << T::BITS;
        let turned = wide << by | wide >> (T::BITS + 1 - by);
        let result = T::of(turned as u64);
        let cf = turned >> T::BITS & 1 != 0;
        (result, flags.with_cf(cf).with_of(result.sign() != cf))
    }
}

impl Shift for Rcr {
    #[inline(always)]
    fn apply<T: Word>(value: T, count: u32, flags: Arith) -> (T, Arith) {
        let by = count % (T::BITS + 1);
        let wide = u128::from(value.zx()) | u128::from(flags.cf()) << T::BITS;
        let turned = wide >> by | wide << (T::BITS + 1 - by);
        let result = T::of(turned as u64);
        let cf = turned >> T::BITS & 1 != 0;
        let next = result.zx() >> (T::BITS - 2) & 1 != 0;
        (result, flags.with_cf(cf).with_of(result.sign() != next))
    }
}

/// `D = O(D, S)`; a masked count of zero changes neither operand nor flags.
pub fn shift<T: Word, O: Shift, D: Place, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let count = masked::<T>(S::read(cpu, op)?);
    let flags = cpu.arith();
    let mut after = flags;
    D::update(cpu, op, |value: T| {
        if count == 0 {
            return value;
        }
        let (result, flags) = O::apply(value, count, flags);
        after = flags;
        result
    })?;
    cpu.set_arith(after);
    D::done(cpu)
}

/// SHLD and SHRD (`RIGHT`): shifts in bits of the register operand.
pub fn double_shift<T: Word, D: Place, S: Source, const RIGHT: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Trap> {
    let count = masked::<T>(S::read(cpu, op)?);
    let filler = T::get(cpu, op.src);
    let mut after = cpu.arith();
    D::update(cpu, op, |value: T| {
        if count == 0 {
            return value;
        }
        let (low, high) = if RIGHT { (value, filler) } else { (filler, value) };
        let bits = T::BITS;
        let wide = u128::from(low.zx()) | u128::from(high.zx()) << bits;
        // A 16-bit count above 16 is undefined; here the bits shifted in repeat from the value.
        let (result, cf) = if RIGHT {
            let wide = if bits == 16 { wide | u128::from(value.zx()) << 32 } else { wide };
            ((wide >> count) as u64, wide >> (count - 1) & 1 != 0)
        } else if count <= bits {
            ((wide << count >> bits) as u64, value.zx() >> (bits - count) & 1 != 0)
        } else {
            let again = wide << bits | u128::from(value.zx());
            let rest = count - bits;
            ((again << rest >> bits) as u64, again >> (2 * bits - rest) & 1 != 0)
        };
        let result = T::of(result);
        after = Arith::result(result.sx(), cf, result.sign() != value.sign());
        result
    })?;
    cpu.set_arith(after);
    D::done(cpu)
}

/// SHLX, SHRX and SARX: no flags, the count in [`Op::src2`].
pub fn shift_quietly<T: Word, O: Shift, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let value: T = S::read(cpu, op)?;
    let count = masked::<T>(Src2::read(cpu, op)?);
    let result = if count == 0 { value } else { O::apply(value, count, cpu.arith()).0 };
    result.set(cpu, op.dst);
    Ok(())
}

/// RORX.
pub fn rorx<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let value: T = S::read(cpu, op)?;
    let by = op.imm as u32 % T::BITS;
    let v = value.zx();
    T::of(v >> by | v << ((T::BITS - by) % T::BITS)).set(cpu, op.dst);
    Ok(())
}
