//! Addition, multiplication, division, square root and fused multiply-add.

use super::env::{Env, NanRule, flag};
use super::format::{Class, Float, Unpacked};
use super::round::{round, shift_right_jam};

/// Reads an operand, as zero if it is denormal and the environment says so.
#[inline]
pub fn operand<F: Float>(value: F, env: &Env) -> Unpacked {
    let unpacked = value.unpack();
    if unpacked.denormal && env.denormals_are_zero {
        Unpacked::zero(unpacked.sign)
    } else {
        unpacked
    }
}

/// The masked response to an invalid operation.
pub(super) fn invalid<F: Float>(env: &mut Env) -> F {
    env.raise(flag::IE);
    F::default_nan()
}

/// Quiets one NaN into `F`, or answers an unsupported encoding.
pub(super) fn propagate_one<F: Float>(a: Unpacked, env: &mut Env) -> Option<F> {
    match a.class {
        Class::Unsupported => Some(invalid(env)),
        Class::SignalingNan => {
            env.raise(flag::IE);
            Some(F::nan(a.sign, a.sig))
        }
        Class::QuietNan => Some(F::nan(a.sign, a.sig)),
        _ => None,
    }
}

/// The result of a two-operand operation when an operand is a NaN or unsupported.
pub(super) fn propagate<F: Float>(a: Unpacked, b: Unpacked, env: &mut Env) -> Option<F> {
    if a.class == Class::Unsupported || b.class == Class::Unsupported {
        return Some(invalid(env));
    }
    if !a.is_nan() && !b.is_nan() {
        return None;
    }
    if a.class == Class::SignalingNan || b.class == Class::SignalingNan {
        env.raise(flag::IE);
    }
    let chosen = match env.nan_rule {
        _ if !b.is_nan() => a,
        _ if !a.is_nan() => b,
        NanRule::FirstSource => a,
        // A quiet NaN beats a signalling one; then the larger significand; then the positive one.
        NanRule::LargerSignificand => match (a.class, b.class) {
            (Class::QuietNan, Class::SignalingNan) => a,
            (Class::SignalingNan, Class::QuietNan) => b,
            _ if a.sig > b.sig || (a.sig == b.sig && !a.sign) => a,
            _ => b,
        },
    };
    Some(F::nan(chosen.sign, chosen.sig))
}

#[inline]
pub(super) fn note_denormals(a: Unpacked, b: Unpacked, env: &mut Env) {
    if a.denormal || b.denormal {
        env.raise(flag::DE);
    }
}

/// The sign of an exact zero sum of operands with different signs.
fn zero_sum_sign(env: &Env) -> bool {
    env.rounding == super::env::Rounding::Down
}

/// `a + b`.
pub fn add<F: Float>(a: Unpacked, b: Unpacked, env: &mut Env) -> F {
    if let Some(nan) = propagate(a, b, env) {
        return nan;
    }
    add_numbers(a, b, env)
}

/// `a - b`.
pub fn sub<F: Float>(a: Unpacked, b: Unpacked, env: &mut Env) -> F {
    if let Some(nan) = propagate(a, b, env) {
        return nan;
    }
    add_numbers(a, b.negated(), env)
}

fn add_numbers<F: Float>(a: Unpacked, b: Unpacked, env: &mut Env) -> F {
    if a.is_infinite() && b.is_infinite() && a.sign != b.sign {
        return invalid(env);
    }
    note_denormals(a, b, env);
    if a.is_infinite() || b.is_infinite() {
        return F::infinity(if a.is_infinite() { a.sign } else { b.sign });
    }
    if a.is_zero() && b.is_zero() {
        return F::zero(if a.sign == b.sign { a.sign } else { zero_sum_sign(env) });
    }
    add_magnitudes(
        (a.sign, a.exp, u128::from(a.sig) << 64),
        (b.sign, b.exp, u128::from(b.sig) << 64),
        env,
    )
}

/// Adds two finite terms, not both zero, given as (sign, exponent, significand with bit 127 set, or
/// zero). At least one low bit of each significand is zero.
fn add_magnitudes<F: Float>(a: (bool, i32, u128), b: (bool, i32, u128), env: &mut Env) -> F {
    let (big, small) =
        if b.2 == 0 || (a.2 != 0 && (a.1, a.2) >= (b.1, b.2)) { (a, b) } else { (b, a) };
    let aligned =
        if small.2 == 0 { 0 } else { shift_right_jam(small.2 >> 1, big.1.abs_diff(small.1)) };
    let sum = if big.0 == small.0 { (big.2 >> 1) + aligned } else { (big.2 >> 1) - aligned };
    if sum == 0 {
        return F::zero(zero_sum_sign(env));
    }
    let shift = sum.leading_zeros();
    round(big.0, big.1 + 1 - shift as i32, sum << shift, env)
}

/// `a * b`.
pub fn mul<F: Float>(a: Unpacked, b: Unpacked, env: &mut Env) -> F {
    if let Some(nan) = propagate(a, b, env) {
        return nan;
    }
    if (a.is_infinite() && b.is_zero()) || (a.is_zero() && b.is_infinite()) {
        return invalid(env);
    }
    note_denormals(a, b, env);
    let sign = a.sign != b.sign;
    if a.is_infinite() || b.is_infinite() {
        return F::infinity(sign);
    }
    if a.is_zero() || b.is_zero() {
        return F::zero(sign);
    }
    let (exp, sig) = product(a, b);
    round(sign, exp, sig, env)
}

/// The exact product of two non-zero finite values, normalised.
fn product(a: Unpacked, b: Unpacked) -> (i32, u128) {
    let sig = u128::from(a.sig) * u128::from(b.sig);
    let shift = sig.leading_zeros();
    (a.exp + b.exp + 1 - shift as i32, sig << shift)
}

/// `a / b`.
pub fn div<F: Float>(a: Unpacked, b: Unpacked, env: &mut Env) -> F {
    if let Some(nan) = propagate(a, b, env) {
        return nan;
    }
    if (a.is_infinite() && b.is_infinite()) || (a.is_zero() && b.is_zero()) {
        return invalid(env);
    }
    let sign = a.sign != b.sign;
    if b.is_zero() && !a.is_infinite() {
        env.raise(flag::ZE);
        return F::infinity(sign);
    }
    note_denormals(a, b, env);
    if a.is_infinite() {
        return F::infinity(sign);
    }
    if a.is_zero() || b.is_infinite() {
        return F::zero(sign);
    }
    // Two steps of long division; the first quotient fits 64 bits because a.sig / b.sig < 2.
    let divisor = u128::from(b.sig);
    let dividend = u128::from(a.sig) << 63;
    let (high, rest) = (dividend / divisor, (dividend % divisor) << 64);
    let quotient = high << 64 | rest / divisor;
    let sticky = u128::from(rest % divisor != 0);
    let shift = quotient.leading_zeros();
    round(sign, a.exp - b.exp - shift as i32, quotient << shift | sticky, env)
}

/// The square root of `a`.
pub fn sqrt<F: Float>(a: Unpacked, env: &mut Env) -> F {
    if let Some(nan) = propagate_one(a, env) {
        return nan;
    }
    if a.is_zero() {
        return F::zero(a.sign);
    }
    if a.sign {
        return invalid(env);
    }
    note_denormals(a, a, env);
    if a.is_infinite() {
        return F::infinity(false);
    }
    let radicand = u128::from(a.sig) << (63 + (a.exp & 1));
    let root = radicand.isqrt();
    let rest = radicand - root * root;
    // The next bit of the root is set iff (root + 1/2)^2 < radicand, that is rest > root.
    let guard = u128::from(rest > root) << 63;
    round(false, a.exp >> 1, root << 64 | guard | u128::from(rest != 0), env)
}

/// `a * b + c` with one rounding; for formats of at most 53 bits.
pub fn mul_add<F: Float>(a: Unpacked, b: Unpacked, c: Unpacked, env: &mut Env) -> F {
    let invalid_product = (a.is_infinite() && b.is_zero()) || (a.is_zero() && b.is_infinite());
    if a.is_nan() || b.is_nan() || c.is_nan() {
        if [a, b, c].iter().any(|x| x.class == Class::SignalingNan) {
            env.raise(flag::IE);
        }
        let chosen = [a, b, c].into_iter().find(Unpacked::is_nan).unwrap_or(a);
        return F::nan(chosen.sign, chosen.sig);
    }
    let sign = a.sign != b.sign;
    let infinite_product = a.is_infinite() || b.is_infinite();
    if invalid_product || (infinite_product && c.is_infinite() && c.sign != sign) {
        return invalid(env);
    }
    note_denormals(a, b, env);
    note_denormals(c, c, env);
    if infinite_product || c.is_infinite() {
        return F::infinity(if infinite_product { sign } else { c.sign });
    }
    let addend = (c.sign, c.exp, u128::from(c.sig) << 64);
    if a.is_zero() || b.is_zero() {
        if c.is_zero() {
            return F::zero(if sign == c.sign { sign } else { zero_sum_sign(env) });
        }
        return add_magnitudes((sign, 0, 0), addend, env);
    }
    let (exp, sig) = product(a, b);
    add_magnitudes((sign, exp, sig), addend, env)
}
