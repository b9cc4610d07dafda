//! Arithmetic and comparison on lanes.

use std::cmp::Ordering;

use super::super::lanes::Lane;
use super::approximate::{reciprocal, reciprocal_root};
use super::convert;
use super::native::Native;
use super::{Unit, low, with_low};
use crate::fpu::{F32, F64, arith, compare};
use iced_x86::Mnemonic as M;

/// `f(destination, source, immediate, unit)`; an operation with one operand reads the source. Scalar
/// forms keep the upper lanes of the destination.
pub type Float = fn(u128, u128, u8, &mut Unit) -> u128;

/// `f(destination, source, unit)`: COMISS and its like; `None` is unordered.
pub type Order = fn(u128, u128, &mut Unit) -> Option<Ordering>;

impl Unit {
    #[inline(always)]
    fn add<F: Native>(&mut self, a: F, b: F) -> F {
        self.native_add(a, b)
            .unwrap_or_else(|| arith::add(self.operand(a), self.operand(b), &mut self.env))
    }
    #[inline(always)]
    fn sub<F: Native>(&mut self, a: F, b: F) -> F {
        self.native_sub(a, b)
            .unwrap_or_else(|| arith::sub(self.operand(a), self.operand(b), &mut self.env))
    }
    #[inline(always)]
    fn mul<F: Native>(&mut self, a: F, b: F) -> F {
        self.native_mul(a, b)
            .unwrap_or_else(|| arith::mul(self.operand(a), self.operand(b), &mut self.env))
    }
    #[inline(always)]
    fn div<F: Native>(&mut self, a: F, b: F) -> F {
        self.native_div(a, b)
            .unwrap_or_else(|| arith::div(self.operand(a), self.operand(b), &mut self.env))
    }
    #[inline(always)]
    fn sqrt<F: Native>(&mut self, a: F) -> F {
        self.native_sqrt(a).unwrap_or_else(|| arith::sqrt(self.operand(a), &mut self.env))
    }
    /// Compares; a quiet NaN is invalid if `signaling`.
    #[inline(always)]
    fn compare<F: Native>(&mut self, a: F, b: F, signaling: bool) -> Option<Ordering> {
        if a.is_plain() && b.is_plain() {
            return a.compare(b);
        }
        compare::compare(self.operand(a), self.operand(b), signaling, &mut self.env)
    }
    /// `a` if it compares to `b` as wanted, else `b`: so also if one is a NaN, or both are zero.
    #[inline(always)]
    fn select<F: Native>(&mut self, a: F, b: F, wanted: Ordering) -> F {
        let chosen = if self.compare(a, b, true) == Some(wanted) { a } else { b };
        let unpacked = self.operand(chosen);
        if unpacked.is_zero() { F::zero(unpacked.sign) } else { chosen }
    }
    /// CMPPS and its like: all ones where the predicate holds (SDM volume 2, table 3-1).
    #[inline(always)]
    fn predicate<F: Native>(&mut self, a: F, b: F, predicate: u8) -> F {
        const LESS: u8 = 1;
        const EQUAL: u8 = 2;
        const GREATER: u8 = 4;
        const UNORDERED: u8 = 8;
        /// The outcomes that satisfy a predicate, by its low four bits.
        const SATISFYING: [u8; 16] = {
            let simple = [EQUAL, LESS, LESS | EQUAL, UNORDERED];
            let other = [EQUAL | UNORDERED, LESS | UNORDERED, LESS | EQUAL | UNORDERED, 0];
            let (mut table, mut i) = ([0; 16], 0);
            while i < 4 {
                (table[i], table[4 + i]) = (simple[i], simple[i] ^ 15);
                (table[8 + i], table[12 + i]) = (other[i], other[i] ^ 15);
                i += 1;
            }
            table
        };
        let signaling = matches!(predicate & 3, 1 | 2) != (predicate & 16 != 0);
        let outcome = match self.compare(a, b, signaling) {
            Some(Ordering::Less) => LESS,
            Some(Ordering::Equal) => EQUAL,
            Some(Ordering::Greater) => GREATER,
            None => UNORDERED,
        };
        let holds = SATISFYING[usize::from(predicate & 15)] & outcome != 0;
        if holds { F::ones() } else { F::zero(false) }
    }
    /// DPPS and DPPD: the selected products, summed up pairwise, in the selected lanes. Which of several
    /// NaNs a sum is, no manual says; it is the one that the host's processor takes.
    fn dot_product<F: Native>(&mut self, a: u128, b: u128, imm: u8) -> u128 {
        let zero = F::zero(false);
        let mut lane = 0;
        let mut sums = F::zip(a, b, |a, b| {
            lane += 1;
            if imm >> (3 + lane) & 1 != 0 { self.mul(a, b) } else { zero }
        });
        let count = F::split(0).as_ref().len();
        for step in 0..count.ilog2() {
            if self.end_step() {
                return 0;
            }
            let lanes = F::split(sums);
            let distance = 1 << step;
            sums = F::build(|lane| {
                let first = match sums_lanes_apart() {
                    true if count == 4 && step == 0 => lane ^ distance,
                    true => lane,
                    false => lane & !distance,
                };
                self.add(lanes.as_ref()[first], lanes.as_ref()[first ^ distance])
            });
        }
        let lanes = F::split(sums);
        F::build(|i| if imm >> i & 1 != 0 { lanes.as_ref()[i] } else { zero })
    }
}

/// Whether the host adds its own product first, or second, in each lane of a dot product: as observed on
/// Intel's processors. AMD's have the same sum in all lanes.
#[cfg(target_arch = "x86_64")]
fn sums_lanes_apart() -> bool {
    use std::sync::LazyLock;
    static APART: LazyLock<bool> =
        LazyLock::new(|| std::arch::x86_64::__cpuid(0).ebx == u32::from_le_bytes(*b"Genu"));
    *APART
}

#[cfg(not(target_arch = "x86_64"))]
fn sums_lanes_apart() -> bool {
    false
}

/// An operation on all lanes, in both packed formats, and on the lowest lane, in both scalar ones.
macro_rules! forms {
    ($mnemonic:expr; $($ps:ident $pd:ident $ss:ident $sd:ident: |$a:ident, $b:ident, $imm:ident, $unit:ident| $result:expr;)*) => {
        match $mnemonic {
            $(
                M::$ps => |a, b, $imm, $unit| F32::zip(a, b, |$a, $b| $result),
                M::$pd => |a, b, $imm, $unit| F64::zip(a, b, |$a, $b| $result),
                M::$ss => |a, b, $imm, $unit| {
                    let ($a, $b) = (low::<F32>(a), low::<F32>(b));
                    with_low(a, $result)
                },
                M::$sd => |a, b, $imm, $unit| {
                    let ($a, $b) = (low::<F64>(a), low::<F64>(b));
                    with_low(a, $result)
                },
            )*
            _ => return None,
        }
    };
}

fn uniform(mnemonic: M) -> Option<Float> {
    Some(forms! { mnemonic;
        Addps Addpd Addss Addsd: |a, b, _imm, unit| unit.add(a, b);
        Subps Subpd Subss Subsd: |a, b, _imm, unit| unit.sub(a, b);
        Mulps Mulpd Mulss Mulsd: |a, b, _imm, unit| unit.mul(a, b);
        Divps Divpd Divss Divsd: |a, b, _imm, unit| unit.div(a, b);
        Minps Minpd Minss Minsd: |a, b, _imm, unit| unit.select(a, b, Ordering::Less);
        Maxps Maxpd Maxss Maxsd: |a, b, _imm, unit| unit.select(a, b, Ordering::Greater);
        Sqrtps Sqrtpd Sqrtss Sqrtsd: |_a, b, _imm, unit| unit.sqrt(b);
        Cmpps Cmppd Cmpss Cmpsd: |a, b, imm, unit| unit.predicate(a, b, imm);
        Roundps Roundpd Roundss Roundsd: |_a, b, imm, unit| unit.round(b, imm);
    })
}

/// Subtracts in even lanes, adds in odd ones.
fn add_sub<F: Native>(a: u128, b: u128, unit: &mut Unit) -> u128 {
    let mut odd = true;
    F::zip(a, b, |a, b| {
        odd = !odd;
        if odd { unit.add(a, b) } else { unit.sub(a, b) }
    })
}

/// The operations whose result is a vector of floating-point numbers, or made of such.
pub fn float(mnemonic: M) -> Option<Float> {
    Some(match mnemonic {
        M::Haddps => |a, b, _, unit| F32::pairs(a, b, |x, y| unit.add(x, y)),
        M::Haddpd => |a, b, _, unit| F64::pairs(a, b, |x, y| unit.add(x, y)),
        M::Hsubps => |a, b, _, unit| F32::pairs(a, b, |x, y| unit.sub(x, y)),
        M::Hsubpd => |a, b, _, unit| F64::pairs(a, b, |x, y| unit.sub(x, y)),
        M::Addsubps => |a, b, _, unit| add_sub::<F32>(a, b, unit),
        M::Addsubpd => |a, b, _, unit| add_sub::<F64>(a, b, unit),
        M::Dpps => |a, b, imm, unit| unit.dot_product::<F32>(a, b, imm),
        M::Dppd => |a, b, imm, unit| unit.dot_product::<F64>(a, b, imm),
        M::Rcpps => |_, b, _, _| F32::map(b, reciprocal),
        M::Rcpss => |a, b, _, _| with_low(a, reciprocal(low(b))),
        M::Rsqrtps => |_, b, _, _| F32::map(b, reciprocal_root),
        M::Rsqrtss => |a, b, _, _| with_low(a, reciprocal_root(low(b))),
        _ => return uniform(mnemonic).or_else(|| convert::between_vectors(mnemonic)),
    })
}

/// COMISS, COMISD, UCOMISS and UCOMISD.
pub fn float_order(mnemonic: M) -> Option<Order> {
    Some(match mnemonic {
        M::Comiss => |a, b, unit| unit.compare::<F32>(low(a), low(b), true),
        M::Comisd => |a, b, unit| unit.compare::<F64>(low(a), low(b), true),
        M::Ucomiss => |a, b, unit| unit.compare::<F32>(low(a), low(b), false),
        M::Ucomisd => |a, b, unit| unit.compare::<F64>(low(a), low(b), false),
        _ => return None,
    })
}
