//! The partial remainders of the x87, and scaling by powers of two.

use super::arith::{invalid, note_denormals, propagate, propagate_one};
use super::convert::convert;
use super::env::{Env, flag};
use super::format::{Class, F80, Float, Unpacked};
use super::round::round;

/// The quotient of a partial remainder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quotient {
    /// The reduction is complete; the low bits of the quotient.
    Complete(u64),
    /// The reduction must go on (C2).
    Incomplete,
    /// There is none: a NaN operand or an invalid operation.
    Undefined,
}

/// What a partial remainder leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remainder {
    /// The remainder, or the dividend as far as it was reduced.
    pub value: F80,
    /// The quotient.
    pub quotient: Quotient,
}

/// FPREM (`nearest` false: quotient truncated) and FPREM1 (quotient to nearest even, as IEEE 754).
pub fn remainder(a: Unpacked, b: Unpacked, nearest: bool, env: &mut Env) -> Remainder {
    let undefined = |value| Remainder { value, quotient: Quotient::Undefined };
    if let Some(nan) = propagate(a, b, env) {
        return undefined(nan);
    }
    if a.is_infinite() || b.is_zero() {
        return undefined(invalid(env));
    }
    let unchanged = |value| Remainder { value, quotient: Quotient::Complete(0) };
    note_denormals(a, b, env);
    if a.is_zero() {
        return unchanged(F80::zero(a.sign));
    }
    let whole = |env: &mut Env| unchanged(round(a.sign, a.exp, u128::from(a.sig) << 64, env));
    let distance = a.exp - b.exp;
    if b.is_infinite() || distance < -1 || (distance < 0 && !nearest) {
        return whole(env);
    }
    if distance >= 64 {
        // Reduce the exponent difference by 32 to 63, to a multiple of 32 short of the divisor.
        let step = 32 + (distance % 32);
        let rest = (u128::from(a.sig) << step) % u128::from(b.sig);
        return Remainder {
            value: scaled(a.sign, b.exp + distance - step, rest, env),
            quotient: Quotient::Incomplete,
        };
    }
    // For distance -1 everything is doubled, so that the divisor stays an integer.
    let (dividend, divisor, exp) = if distance < 0 {
        (u128::from(a.sig), u128::from(b.sig) << 1, a.exp)
    } else {
        (u128::from(a.sig) << distance, u128::from(b.sig), b.exp)
    };
    let (mut quotient, mut rest, mut sign) = (dividend / divisor, dividend % divisor, a.sign);
    if nearest && (rest > divisor - rest || (rest == divisor - rest && quotient & 1 != 0)) {
        quotient += 1;
        rest = divisor - rest;
        sign = !sign;
    }
    if rest == 0 {
        sign = a.sign;
    }
    Remainder { value: scaled(sign, exp, rest, env), quotient: Quotient::Complete(quotient as u64) }
}

/// `rest * 2^(exp - 63)`, exactly.
fn scaled(sign: bool, exp: i32, rest: u128, env: &mut Env) -> F80 {
    if rest == 0 {
        return F80::zero(sign);
    }
    let shift = rest.leading_zeros();
    round(sign, exp + 64 - shift as i32, rest << shift, env)
}

/// FSCALE: `a * 2^trunc(b)`.
pub fn scale(a: Unpacked, b: Unpacked, env: &mut Env) -> F80 {
    if let Some(nan) = propagate(a, b, env) {
        return nan;
    }
    match (a.class, b.class) {
        (Class::Zero, Class::Infinite) if !b.sign => return invalid(env),
        (Class::Infinite, Class::Infinite) if b.sign => return invalid(env),
        _ => note_denormals(a, b, env),
    }
    match (a.class, b.class) {
        (Class::Infinite, _) => F80::infinity(a.sign),
        (Class::Zero, _) => F80::zero(a.sign),
        (_, Class::Infinite) if b.sign => F80::zero(a.sign),
        (_, Class::Infinite) => F80::infinity(a.sign),
        _ => {
            // Beyond 2^17 in either direction every finite value over- or underflows alike.
            let steps = match b.class {
                Class::Finite if b.exp > 16 => 1 << 17,
                Class::Finite if b.exp >= 0 => (b.sig >> (63 - b.exp)) as i32,
                _ => 0,
            };
            let steps = if b.sign { -steps } else { steps };
            round(a.sign, a.exp + steps, u128::from(a.sig) << 64, env)
        }
    }
}

/// FXTRACT: the unbiased exponent as a number, and the significand with exponent zero.
pub fn extract(a: Unpacked, env: &mut Env) -> (F80, F80) {
    if let Some(nan) = propagate_one(a, env) {
        return (nan, nan);
    }
    match a.class {
        Class::Zero => {
            env.raise(flag::ZE);
            (F80::infinity(true), F80::zero(a.sign))
        }
        Class::Infinite => (F80::infinity(false), F80::infinity(a.sign)),
        _ => {
            note_denormals(a, a, env);
            let exponent = convert(Unpacked::from_i64(a.exp.into()), env);
            (exponent, F80::pack(a.sign, F80::EMAX as u32, a.sig))
        }
    }
}
