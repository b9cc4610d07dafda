//! Arithmetic by the host where that is sure to be the guest's.
//!
//! The host rounds to nearest, and its exception flags are out of sight. So it may compute when the
//! guest rounds to nearest too, no operand is a NaN, infinity or denormal (no IE, DE or ZE, and DAZ
//! does not matter), the result is normal and not the smallest one (no OE or UE, and FTZ does not
//! matter), and it is either exact or of no interest whether it is (PE).

use std::cmp::Ordering;

use super::super::lanes::Lane;
use super::Unit;
use crate::fpu::{F32, F64, Float, Rounding};

/// A format in which the host computes.
pub(super) trait Native: Float + Lane {
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    fn sqrt(self) -> Self;
    fn compare(self, other: Self) -> Option<Ordering>;
    fn from_int(value: i64) -> Self;
    /// Rounds to zero; saturates.
    fn to_int(self) -> i64;
    /// Exactly, for a plain number.
    fn to_double(self) -> F64;
    fn from_double(value: F64) -> Self;
    /// Zero, of any sign.
    fn is_zero(self) -> bool;
    /// Zero or normal.
    fn is_plain(self) -> bool;
    /// Normal, and larger than the smallest normal number, to which a tiny result may be rounded.
    fn is_safe(self) -> bool;
    /// From the highest to the lowest bit set of the significand of a plain number.
    fn significant_bits(self) -> u32;
    fn negated(self) -> Self;
    /// All bits set: the mask that a comparison gives.
    fn ones() -> Self;
}

macro_rules! native {
    ($($format:ident: $host:ty, $bits:ty, fraction $fraction:literal;)*) => { $(
        impl Native for $format {
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                $format((<$host>::from_bits(self.0) + <$host>::from_bits(other.0)).to_bits())
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                $format((<$host>::from_bits(self.0) - <$host>::from_bits(other.0)).to_bits())
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                $format((<$host>::from_bits(self.0) * <$host>::from_bits(other.0)).to_bits())
            }
            #[inline(always)]
            fn div(self, other: Self) -> Self {
                $format((<$host>::from_bits(self.0) / <$host>::from_bits(other.0)).to_bits())
            }
            #[inline(always)]
            fn mul_add(self, factor: Self, addend: Self) -> Self {
                let [a, b, c] = [self, factor, addend].map(|x| <$host>::from_bits(x.0));
                $format(a.mul_add(b, c).to_bits())
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                $format(<$host>::from_bits(self.0).sqrt().to_bits())
            }
            #[inline(always)]
            fn compare(self, other: Self) -> Option<Ordering> {
                <$host>::from_bits(self.0).partial_cmp(&<$host>::from_bits(other.0))
            }
            #[inline(always)]
            fn from_int(value: i64) -> Self {
                $format((value as $host).to_bits())
            }
            #[inline(always)]
            fn to_int(self) -> i64 {
                <$host>::from_bits(self.0) as i64
            }
            #[inline(always)]
            fn to_double(self) -> F64 {
                F64(f64::from(<$host>::from_bits(self.0)).to_bits())
            }
            #[inline(always)]
            fn from_double(value: F64) -> Self {
                $format((f64::from_bits(value.0) as $host).to_bits())
            }
            #[inline(always)]
            fn is_zero(self) -> bool {
                self.0 << 1 == 0
            }
            #[inline(always)]
            fn is_plain(self) -> bool {
                let magnitude = self.0 & Self::MAGNITUDE;
                magnitude == 0
                    || magnitude.wrapping_sub(1 << $fraction)
                        < (2 * Self::EMAX as $bits) << $fraction
            }
            #[inline(always)]
            fn is_safe(self) -> bool {
                let magnitude = self.0 & Self::MAGNITUDE;
                magnitude.wrapping_sub((1 << $fraction) + 1)
                    < ((2 * Self::EMAX as $bits) << $fraction) - 1
            }
            #[inline(always)]
            fn significant_bits(self) -> u32 {
                if self.is_zero() {
                    return 0;
                }
                Self::PRECISION - (self.0 | 1 << $fraction).trailing_zeros()
            }
            #[inline(always)]
            fn negated(self) -> Self {
                $format(self.0 ^ !Self::MAGNITUDE)
            }
            #[inline(always)]
            fn ones() -> Self {
                $format(<$bits>::MAX)
            }
        }
    )* };
}
native! {
    F32: f32, u32, fraction 23;
    F64: f64, u64, fraction 52;
}

/// Whether the product is sure to be exact, over- and underflow aside.
fn exact_product<F: Native>(a: F, b: F) -> bool {
    a.significant_bits() + b.significant_bits() <= F::PRECISION
}

/// Whether `sum`, which is what `a + b` rounds to, is exact (Knuth's TwoSum).
fn exact_sum<F: Native>(a: F, b: F, sum: F) -> bool {
    let b_part = sum.sub(a);
    let a_part = sum.sub(b_part);
    a.sub(a_part).add(b.sub(b_part)).is_zero()
}

impl Unit {
    #[inline(always)]
    fn nearest(&self) -> bool {
        self.env.rounding == Rounding::Nearest
    }

    /// Whether the host's `result` may be taken, given that the operands are plain: `zero` says
    /// whether zero is the exact result.
    #[inline(always)]
    fn takes<F: Native>(&self, result: F, zero: bool, exact: impl FnOnce() -> bool) -> bool {
        zero || (result.is_safe() && (self.inexact_is_moot || exact()))
    }

    /// `a + b`, if the host may tell.
    #[inline(always)]
    pub(super) fn native_add<F: Native>(&self, a: F, b: F) -> Option<F> {
        let sum = a.add(b);
        let taken = self.nearest()
            && a.is_plain()
            && b.is_plain()
            && self.takes(sum, sum.is_zero(), || exact_sum(a, b, sum));
        taken.then_some(sum)
    }

    /// `a - b`, if the host may tell.
    #[inline(always)]
    pub(super) fn native_sub<F: Native>(&self, a: F, b: F) -> Option<F> {
        let difference = a.sub(b);
        let taken = self.nearest()
            && a.is_plain()
            && b.is_plain()
            && self
                .takes(difference, difference.is_zero(), || exact_sum(a, b.negated(), difference));
        taken.then_some(difference)
    }

    /// `a * b`, if the host may tell.
    #[inline(always)]
    pub(super) fn native_mul<F: Native>(&self, a: F, b: F) -> Option<F> {
        let product = a.mul(b);
        let taken = self.nearest()
            && a.is_plain()
            && b.is_plain()
            && self.takes(product, a.is_zero() || b.is_zero(), || exact_product(a, b));
        taken.then_some(product)
    }

    /// `a * b + c`, if the host may tell.
    #[inline(always)]
    pub(super) fn native_mul_add<F: Native>(&self, a: F, b: F, c: F) -> Option<F> {
        let plain = self.nearest() && a.is_plain() && b.is_plain() && c.is_plain();
        // Whether it is exact is too much to ask.
        if !plain || !self.inexact_is_moot {
            return None;
        }
        let result = a.mul_add(b, c);
        result.is_safe().then_some(result)
    }

    /// `a / b`, if the host may tell.
    #[inline(always)]
    pub(super) fn native_div<F: Native>(&self, a: F, b: F) -> Option<F> {
        let quotient = a.div(b);
        let taken = self.nearest()
            && a.is_plain()
            && b.is_plain()
            && !b.is_zero()
            && self.takes(quotient, a.is_zero(), || {
                exact_product(quotient, b) && quotient.mul(b) == a
            });
        taken.then_some(quotient)
    }

    /// The square root of `a`, if the host may tell.
    #[inline(always)]
    pub(super) fn native_sqrt<F: Native>(&self, a: F) -> Option<F> {
        let root = a.sqrt();
        let taken = self.nearest()
            && a.is_plain()
            && self.takes(root, a.is_zero(), || exact_product(root, root) && root.mul(root) == a);
        taken.then_some(root)
    }

    /// `a` in another format, if the host may tell.
    #[inline(always)]
    pub(super) fn native_convert<From: Native, To: Native>(&self, a: From) -> Option<To> {
        let result = To::from_double(a.to_double());
        let taken = self.nearest()
            && a.is_plain()
            && self.takes(result, a.is_zero(), || result.to_double() == a.to_double());
        taken.then_some(result)
    }

    /// `a` rounded to zero as an integer of `bits`, if the host may tell.
    #[inline(always)]
    pub(super) fn native_truncated<F: Native>(&self, a: F, bits: u32) -> Option<i64> {
        let result = a.to_int();
        let limit = i64::MAX >> (64 - bits);
        // The limits themselves may be what the host saturates to.
        let taken = a.is_plain()
            && (-limit..limit).contains(&result)
            && (self.inexact_is_moot || F::from_int(result).compare(a) == Some(Ordering::Equal));
        taken.then_some(result)
    }
}
