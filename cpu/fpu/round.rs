//! Rounding an exact intermediate result into a format.

use super::env::{Env, Rounding, flag};
use super::format::Float;

/// Shifts right, keeping any lost bit as a sticky bit 0.
#[inline]
pub(super) fn shift_right_jam(value: u128, count: u32) -> u128 {
    match count {
        0 => value,
        1..=127 => value >> count | u128::from(value << (128 - count) != 0),
        _ => u128::from(value != 0),
    }
}

/// Whether a discarded part `rest` (with `half` its half-way value) increases the magnitude.
#[inline]
pub(super) fn rounds_up(rounding: Rounding, sign: bool, odd: bool, rest: u128, half: u128) -> bool {
    match rounding {
        Rounding::Nearest => rest > half || (rest == half && odd),
        Rounding::Down => sign && rest != 0,
        Rounding::Up => !sign && rest != 0,
        Rounding::Zero => false,
    }
}

struct Rounded {
    sig: u64,
    carry: bool,
    inexact: bool,
    up: bool,
}

impl Rounded {
    /// Keeps the upper `bits` (at most 64) of `sig`.
    #[inline]
    fn new(sig: u128, bits: u32, sign: bool, rounding: Rounding) -> Self {
        let unit = 1u128 << (128 - bits);
        let rest = sig & (unit - 1);
        let up = rounds_up(rounding, sign, sig & unit != 0, rest, unit >> 1);
        let (kept, carry) = (sig - rest).overflowing_add(if up { unit } else { 0 });
        let kept = (kept >> 64) as u64;
        Self { sig: if carry { 1 << 63 } else { kept }, carry, inexact: rest != 0, up }
    }

    fn report(&self, env: &mut Env) {
        env.rounded_up = self.up;
        if self.inexact {
            env.raise(flag::PE);
        }
    }
}

/// Rounds `sig / 2^127 * 2^exp` (bit 127 set, bit 0 sticky) to `F`, raising OE, UE and PE as due.
///
/// Tininess is detected after rounding. For unmasked overflow or underflow the result is the one that
/// the x87 leaves in a register: the exponent wrapped by 3/4 of its range (SDM volume 1, 8.5.4-5).
#[inline]
pub(super) fn round<F: Float>(sign: bool, exp: i32, sig: u128, env: &mut Env) -> F {
    let precision = F::PRECISION.min(env.precision);
    let rounded = Rounded::new(sig, precision, sign, env.rounding);
    let rounded_exp = exp + i32::from(rounded.carry);
    if rounded_exp > F::EMAX {
        overflow(sign, rounded_exp, &rounded, env)
    } else if rounded_exp < F::EMIN {
        underflow(sign, exp, sig, precision, &rounded, env)
    } else {
        rounded.report(env);
        F::pack(sign, (rounded_exp + F::EMAX) as u32, rounded.sig)
    }
}

/// By how much the exponent of a result is wrapped when overflow or underflow is unmasked.
fn wrap<F: Float>() -> i32 {
    3 * (F::EMAX + 1) / 2
}

#[cold]
fn overflow<F: Float>(sign: bool, exp: i32, rounded: &Rounded, env: &mut Env) -> F {
    env.raise(flag::OE);
    if env.unmasked(flag::OE) {
        let wrapped = exp - wrap::<F>();
        if wrapped <= F::EMAX {
            rounded.report(env);
            return F::pack(sign, (wrapped + F::EMAX) as u32, rounded.sig);
        }
    }
    env.raise(flag::PE);
    // Unmasked, only FSCALE gets here, with a result too large even for the wrapped exponent.
    let to_infinity = match env.rounding {
        _ if env.unmasked(flag::OE) => true,
        Rounding::Nearest => true,
        Rounding::Down => sign,
        Rounding::Up => !sign,
        Rounding::Zero => false,
    };
    env.rounded_up = to_infinity;
    if to_infinity {
        F::infinity(sign)
    } else {
        let precision = F::PRECISION.min(env.precision);
        F::pack(sign, 2 * F::EMAX as u32, u64::MAX << (64 - precision))
    }
}

#[cold]
fn underflow<F: Float>(
    sign: bool,
    exp: i32,
    sig: u128,
    precision: u32,
    rounded: &Rounded,
    env: &mut Env,
) -> F {
    if env.unmasked(flag::UE) {
        env.raise(flag::UE);
        let wrapped = exp + i32::from(rounded.carry) + wrap::<F>();
        if wrapped >= F::EMIN {
            rounded.report(env);
            return F::pack(sign, (wrapped + F::EMAX) as u32, rounded.sig);
        }
        env.raise(flag::PE);
        return F::zero(sign);
    }
    if env.flush_to_zero {
        env.raise(flag::UE | flag::PE);
        return F::zero(sign);
    }
    let shifted = shift_right_jam(sig, exp.abs_diff(F::EMIN));
    let denormal = Rounded::new(shifted, precision, sign, env.rounding);
    denormal.report(env);
    if denormal.inexact {
        env.raise(flag::UE);
    }
    // A denormal that rounds up to the smallest normal has its integer bit set, and exponent field 1.
    F::pack(sign, (denormal.sig >> 63) as u32, denormal.sig)
}
