//! Two-operand arithmetic and logic, and its one-operand relatives.

use super::cond::Condition;
use crate::flags::{Arith, bit};
use crate::interp::op::{Mem, Op, Place, Source, Src, Word};
use crate::{Cpu, Trap};

/// A two-operand operation.
pub trait Binary {
    /// Whether it takes CF as a third operand.
    const TAKES_CARRY: bool = false;
    /// The result.
    fn value<T: Word>(a: T, b: T, carry: u64) -> T;
    /// The flags, from operands and result.
    fn flags<T: Word>(a: T, b: T, result: T) -> Arith;
}

#[inline(always)]
fn added<T: Word>(a: T, b: T, result: T) -> Arith {
    let (a, b, r) = (a.zx(), b.zx(), result.zx());
    Arith::carried(result.sx(), a & b | (a | b) & !r, T::BITS)
}

#[inline(always)]
fn subtracted<T: Word>(a: T, b: T, result: T) -> Arith {
    let (a, b, r) = (a.zx(), b.zx(), result.zx());
    Arith::carried(result.sx(), !a & b | (!a | b) & r, T::BITS)
}

/// ADD.
pub struct Add;
/// ADC.
pub struct Adc;
/// SUB and CMP.
pub struct Sub;
/// SBB.
pub struct Sbb;
/// AND and TEST.
pub struct And;
/// OR.
pub struct Or;
/// XOR.
pub struct Xor;

impl Binary for Add {
    #[inline(always)]
    fn value<T: Word>(a: T, b: T, _: u64) -> T {
        T::of(a.zx().wrapping_add(b.zx()))
    }
    #[inline(always)]
    fn flags<T: Word>(a: T, b: T, result: T) -> Arith {
        added(a, b, result)
    }
}

impl Binary for Adc {
    const TAKES_CARRY: bool = true;
    #[inline(always)]
    fn value<T: Word>(a: T, b: T, carry: u64) -> T {
        T::of(a.zx().wrapping_add(b.zx()).wrapping_add(carry))
    }
    #[inline(always)]
    fn flags<T: Word>(a: T, b: T, result: T) -> Arith {
        added(a, b, result)
    }
}

impl Binary for Sub {
    #[inline(always)]
    fn value<T: Word>(a: T, b: T, _: u64) -> T {
        T::of(a.zx().wrapping_sub(b.zx()))
    }
    #[inline(always)]
    fn flags<T: Word>(a: T, b: T, result: T) -> Arith {
        subtracted(a, b, result)
    }
}

impl Binary for Sbb {
    const TAKES_CARRY: bool = true;
    #[inline(always)]
    fn value<T: Word>(a: T, b: T, carry: u64) -> T {
        T::of(a.zx().wrapping_sub(b.zx()).wrapping_sub(carry))
    }
    #[inline(always)]
    fn flags<T: Word>(a: T, b: T, result: T) -> Arith {
        subtracted(a, b, result)
    }
}

macro_rules! logic {
    ($name:ident, $op:tt) => {
        impl Binary for $name {
            #[inline(always)]
            fn value<T: Word>(a: T, b: T, _: u64) -> T {
                T::of(a.zx() $op b.zx())
            }
            #[inline(always)]
            fn flags<T: Word>(_: T, _: T, result: T) -> Arith {
                Arith::logic(result.sx())
            }
        }
    };
}
logic!(And, &);
logic!(Or, |);
logic!(Xor, ^);

/// `D = O(D, S)`.
pub fn binary<T: Word, O: Binary, D: Place, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let b: T = S::read(cpu, op)?;
    let carry = if O::TAKES_CARRY { u64::from(cpu.arith().cf()) } else { 0 };
    let (a, result) = D::update(cpu, op, |a: T| O::value(a, b, carry))?;
    cpu.set_arith(O::flags(a, b, result));
    D::done(cpu)
}

/// The flags of `O(D, S)`: CMP and TEST.
pub fn compare<T: Word, O: Binary, D: Source, S: Source>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Trap> {
    let b: T = S::read(cpu, op)?;
    let a: T = D::read(cpu, op)?;
    cpu.set_arith(O::flags(a, b, O::value(a, b, 0)));
    Ok(())
}

/// INC and DEC: `O(D, 1)` that spares CF.
pub fn step<T: Word, O: Binary, D: Place>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let one = T::of(1);
    let (a, result) = D::update(cpu, op, |a: T| O::value(a, one, 0))?;
    let cf = cpu.arith().cf();
    cpu.set_arith(O::flags(a, one, result).with_cf(cf));
    D::done(cpu)
}

/// NEG.
pub fn neg<T: Word, D: Place>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let zero = T::of(0);
    let (a, result) = D::update(cpu, op, |a: T| Sub::value(zero, a, 0))?;
    cpu.set_arith(Sub::flags(zero, a, result));
    D::done(cpu)
}

/// NOT.
pub fn not<T: Word, D: Place>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    D::update(cpu, op, |a: T| T::of(!a.zx()))?;
    D::done(cpu)
}

/// XADD.
pub fn xadd<T: Word, D: Place>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let b = T::get(cpu, op.src);
    let (a, sum) = D::update(cpu, op, |a: T| Add::value(a, b, 0))?;
    // The sum wins where both operands are the same register.
    a.set(cpu, op.src);
    if D::IS_REGISTER {
        sum.set(cpu, op.dst);
    }
    cpu.set_arith(Add::flags(a, b, sum));
    D::done(cpu)
}

/// XCHG.
pub fn xchg<T: Word, D: Place>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let b = T::get(cpu, op.src);
    let (a, _) = D::update(cpu, op, |_: T| b)?;
    a.set(cpu, op.src);
    D::done(cpu)
}

/// CMPXCHG with a register: one that differs is not written, not even to be zero-extended.
pub fn cmpxchg_register<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let (expected, old) = (T::get(cpu, 0), T::get(cpu, op.dst));
    if old == expected {
        T::get(cpu, op.src).set(cpu, op.dst);
    } else {
        old.set(cpu, 0);
    }
    cpu.set_arith(Sub::flags(expected, old, Sub::value(expected, old, 0)));
    Ok(())
}

/// CMPXCHG with memory.
pub fn cmpxchg_memory<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let (expected, new) = (T::get(cpu, 0), T::get(cpu, op.src));
    // A failed comparison writes the old value back, so that it needs write access all the same.
    let exchange = |old: T| if old == expected { new } else { old };
    let (old, _) = Mem::update(cpu, op, exchange)?;
    if old != expected {
        old.set(cpu, 0);
    }
    cpu.set_arith(Sub::flags(expected, old, Sub::value(expected, old, 0)));
    cpu.stored()
}

/// CMPccXADD: memory compared with `src`, which becomes its old value; if the condition holds, `src2` is
/// added to it. Atomic without a prefix; stored to in any case.
pub fn compare_and_add<T: Word, C: Condition>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let (expected, addend) = (T::get(cpu, op.src), T::get(cpu, op.src2));
    let compared = |old: T| Sub::flags(old, expected, Sub::value(old, expected, 0));
    let linear = op.linear(cpu, T::BITS / 8, true)?;
    let add = |old: T| if C::holds(compared(old)) { Add::value(old, addend, 0) } else { old };
    let (old, _) = cpu.rmw(linear, true, add)?;
    old.set(cpu, op.src);
    cpu.set_arith(compared(old));
    cpu.stored()
}

/// CMPXCHG8B.
pub fn cmpxchg8b(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let pair = |cpu: &Cpu, low, high| u32::get(cpu, low).zx() | u32::get(cpu, high).zx() << 32;
    let (expected, new) = (pair(cpu, 0, 2), pair(cpu, 3, 1));
    let linear = op.linear(cpu, 8, true)?;
    let (old, _) = cpu.rmw(linear, op.locked(), |a| if a == expected { new } else { a })?;
    if old != expected {
        u32::of(old).set(cpu, 0);
        u32::of(old >> 32).set(cpu, 2);
    }
    cpu.set_zf(old == expected);
    cpu.stored()
}

/// CMPXCHG16B.
pub fn cmpxchg16b(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let pair = |cpu: &Cpu, low, high| {
        u128::from(u64::get(cpu, low)) | u128::from(u64::get(cpu, high)) << 64
    };
    let (expected, new) = (pair(cpu, 0, 2), pair(cpu, 3, 1));
    let linear = op.linear(cpu, 16, true)?;
    if linear & 15 != 0 {
        return Err(cpu.gp(0));
    }
    let old = cpu.cmpxchg16(linear, expected, new, op.locked())?;
    if old != expected {
        (old as u64).set(cpu, 0);
        ((old >> 64) as u64).set(cpu, 2);
    }
    cpu.set_zf(old == expected);
    cpu.stored()
}

impl Cpu {
    /// Changes ZF alone.
    pub(super) fn set_zf(&mut self, zf: bool) {
        let rest = self.arith().bits() & !bit::ZF;
        self.set_arith(Arith::from_bits(rest | if zf { bit::ZF } else { 0 }));
    }
}

/// ADCX and ADOX: addition through one flag only.
pub fn add_carry_chain<T: Word, S: Source, const OVERFLOW: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Trap> {
    let b: T = S::read(cpu, op)?;
    let a = T::get(cpu, op.dst);
    let arith = cpu.arith();
    let carry = if OVERFLOW { arith.of() } else { arith.cf() };
    let sum = u128::from(a.zx()) + u128::from(b.zx()) + u128::from(carry);
    T::of(sum as u64).set(cpu, op.dst);
    let out = sum >> T::BITS != 0;
    cpu.set_arith(if OVERFLOW { arith.with_of(out) } else { arith.with_cf(out) });
    Ok(())
}

/// BSWAP.
pub fn bswap<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let value = T::get(cpu, op.dst).zx();
    // A 16-bit BSWAP is undefined; processors of today leave zero.
    let swapped = if T::BITS == 16 { 0 } else { value.swap_bytes() >> (64 - T::BITS) };
    T::of(swapped).set(cpu, op.dst);
    Ok(())
}

/// MOVBE to a register.
pub fn movbe_load<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let value: T = op.load(cpu)?;
    T::of(value.zx().swap_bytes() >> (64 - T::BITS)).set(cpu, op.dst);
    Ok(())
}

/// MOVBE to memory.
pub fn movbe_store<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let value = Src::read::<T>(cpu, op)?;
    op.store(cpu, T::of(value.zx().swap_bytes() >> (64 - T::BITS)))?;
    cpu.stored()
}
