//! Arithmetic on 128-bit significands, for the intermediate steps of the elementary functions. Results
//! are truncated: a few units in the last of 128 places, where 64 are wanted.

use super::env::Env;
use super::format::{Float, Unpacked};
use super::round::round;
use std::cmp::Ordering;

/// `sig / 2^127 * 2^exp`, with bit 127 of `sig` set unless the value is zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wide {
    pub(super) sign: bool,
    pub(super) exp: i32,
    pub(super) sig: u128,
}

impl Wide {
    pub(super) const ONE: Self = Self::new(false, 0, 1 << 127);
    pub(super) const BELOW_ONE: Self = Self::new(false, -1, u128::MAX);
    pub(super) const PI: Self = Self::new(false, 1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);
    pub(super) const PI_3_4: Self = Self::new(false, 1, 0x96cb_e3f9_990e_91a7_9394_c9e8_a0a5_159d);
    pub(super) const LN_2: Self = Self::new(false, -1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af);
    pub(super) const LOG2_E: Self = Self::new(false, 0, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89);

    /// Normalises `sig / 2^127 * 2^exp`.
    pub(super) const fn new(sign: bool, exp: i32, sig: u128) -> Self {
        if sig == 0 {
            return Self { sign, exp: 0, sig };
        }
        let shift = sig.leading_zeros();
        Self { sign, exp: exp - shift as i32, sig: sig << shift }
    }

    pub(super) const fn from_i64(value: i64) -> Self {
        Self::new(value < 0, 127, value.unsigned_abs() as u128)
    }

    /// From a finite operand.
    pub(super) const fn from_unpacked(value: Unpacked) -> Self {
        Self::new(value.sign, value.exp, (value.sig as u128) << 64)
    }

    pub(super) fn is_zero(self) -> bool {
        self.sig == 0
    }

    pub(super) fn neg(self) -> Self {
        Self { sign: !self.sign, ..self }
    }

    pub(super) fn abs(self) -> Self {
        Self { sign: false, ..self }
    }

    /// Times a power of two.
    pub(super) fn scaled(self, steps: i32) -> Self {
        Self { exp: self.exp + steps, ..self }
    }

    pub(super) fn cmp_magnitude(self, other: Self) -> Ordering {
        match (self.is_zero(), other.is_zero()) {
            (false, false) => (self.exp, self.sig).cmp(&(other.exp, other.sig)),
            (self_zero, other_zero) => other_zero.cmp(&self_zero),
        }
    }

    pub(super) fn add(self, other: Self) -> Self {
        let (big, small) =
            if self.cmp_magnitude(other).is_ge() { (self, other) } else { (other, self) };
        if small.is_zero() {
            return big;
        }
        let aligned = small.sig.checked_shr(big.exp.abs_diff(small.exp)).unwrap_or(0);
        if big.sign != small.sign {
            return Self::new(big.sign, big.exp, big.sig - aligned);
        }
        match big.sig.overflowing_add(aligned) {
            (sum, false) => Self { sig: sum, ..big },
            (sum, true) => Self { sign: big.sign, exp: big.exp + 1, sig: sum >> 1 | 1 << 127 },
        }
    }

    pub(super) fn sub(self, other: Self) -> Self {
        self.add(other.neg())
    }

    pub(super) fn mul(self, other: Self) -> Self {
        let split = |x: u128| (x >> 64, x & u128::from(u64::MAX));
        let ((a, b), (c, d)) = (split(self.sig), split(other.sig));
        let middle = (b * d >> 64) + split(a * d).1 + split(b * c).1;
        let high = a * c + (a * d >> 64) + (b * c >> 64) + (middle >> 64);
        Self::new(self.sign != other.sign, self.exp + other.exp + 1, high)
    }

    /// Divides by a small positive integer.
    pub(super) fn div_int(self, divisor: u64) -> Self {
        Self::new(self.sign, self.exp, self.sig / u128::from(divisor))
    }

    /// Divides by a non-zero value.
    pub(super) fn div(self, divisor: Self) -> Self {
        let sign = self.sign != divisor.sign;
        if self.is_zero() {
            return Self::new(sign, 0, 0);
        }
        // Restoring division; the running remainder stays below the divisor, shifted out bits included.
        let (mut rest, mut quotient, mut exp) = (self.sig, 0u128, self.exp - divisor.exp);
        let mut carry = false;
        if rest < divisor.sig {
            carry = rest >> 127 != 0;
            rest <<= 1;
            exp -= 1;
        }
        for _ in 0..128 {
            let fits = carry || rest >= divisor.sig;
            if fits {
                rest = rest.wrapping_sub(divisor.sig);
            }
            quotient = quotient << 1 | u128::from(fits);
            carry = rest >> 127 != 0;
            rest <<= 1;
        }
        Self::new(sign, exp, quotient)
    }

    /// Rounds, as a value known to be inexact.
    pub(super) fn round<F: Float>(self, env: &mut Env) -> F {
        if self.is_zero() {
            return F::zero(self.sign);
        }
        round(self.sign, self.exp, self.sig | 1, env)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: Wide, b: Wide) -> bool {
        let difference = a.sub(b);
        difference.is_zero() || difference.exp < b.exp - 122
    }

    #[test]
    fn division_undoes_multiplication() {
        for (a, b) in
            [(Wide::PI, Wide::LN_2), (Wide::LN_2, Wide::PI.neg()), (Wide::ONE, Wide::from_i64(-3))]
        {
            assert!(close(a.mul(b).div(b), a));
            assert!(close(a.div(b).mul(b), a));
        }
        assert!(close(Wide::LN_2.mul(Wide::LOG2_E), Wide::ONE));
        assert!(close(Wide::PI.div_int(4).mul(Wide::from_i64(3)), Wide::PI_3_4));
    }

    #[test]
    fn addition_cancels_and_carries() {
        assert!(Wide::PI.sub(Wide::PI).is_zero());
        assert!(close(Wide::PI.add(Wide::PI), Wide::PI.scaled(1)));
        assert!(close(Wide::ONE.sub(Wide::PI).add(Wide::PI), Wide::ONE));
    }
}
