//! Conversions between formats, integers and packed decimal; rounding to an integral value.

use super::arith::propagate_one;
use super::env::{Env, Rounding, flag};
use super::format::{Class, Float, Unpacked};
use super::round::{round, rounds_up, shift_right_jam};

/// Converts to `F`. Denormal operands are not reported; instructions that do, do it themselves.
pub fn convert<F: Float>(a: Unpacked, env: &mut Env) -> F {
    match propagate_one(a, env) {
        Some(nan) => nan,
        None if a.is_infinite() => F::infinity(a.sign),
        None if a.is_zero() => F::zero(a.sign),
        None => round(a.sign, a.exp, u128::from(a.sig) << 64, env),
    }
}

/// The magnitude of a finite value with exponent below 64, rounded to an integer (at most 2^64).
fn integral(a: Unpacked, rounding: Rounding, env: &mut Env) -> u128 {
    // 64.64 fixed point.
    let fixed = if a.exp >= 0 {
        u128::from(a.sig) << (a.exp + 1)
    } else {
        shift_right_jam(u128::from(a.sig), a.exp.unsigned_abs() - 1)
    };
    let (whole, rest) = (fixed >> 64, fixed & u128::from(u64::MAX));
    let up = rounds_up(rounding, a.sign, whole & 1 != 0, rest, 1 << 63);
    env.rounded_up = up;
    if rest != 0 {
        env.raise(flag::PE);
    }
    whole + u128::from(up)
}

/// Converts to a signed integer of `bits` (16, 32 or 64). Out of range and NaN are invalid: `None`,
/// for which hardware delivers the "integer indefinite" 1 << (bits - 1).
pub fn to_int(a: Unpacked, bits: u32, rounding: Rounding, env: &mut Env) -> Option<i64> {
    let limit = (1u128 << (bits - 1)) - u128::from(!a.sign);
    let magnitude = to_magnitude(a, limit, rounding, env)?;
    let value = magnitude as i64;
    Some(if a.sign { value.wrapping_neg() } else { value })
}

/// Converts to an absolute value of at most `limit`.
fn to_magnitude(a: Unpacked, limit: u128, rounding: Rounding, env: &mut Env) -> Option<u128> {
    let fits = match a.class {
        Class::Zero => return Some(0),
        Class::Finite => a.exp < 64,
        _ => false,
    };
    let before = *env;
    let magnitude = if fits { integral(a, rounding, env) } else { u128::MAX };
    if magnitude <= limit {
        return Some(magnitude);
    }
    *env = before;
    env.raise(flag::IE);
    None
}

/// Rounds to an integral value in the same format. Denormal operands are not reported.
pub fn round_to_integral<F: Float>(a: Unpacked, rounding: Rounding, env: &mut Env) -> F {
    match a.class {
        Class::Finite if a.exp < 63 => match integral(a, rounding, env) {
            0 => F::zero(a.sign),
            whole => {
                let shift = whole.leading_zeros();
                let rounded_up = env.rounded_up;
                let value = round(a.sign, 127 - shift as i32, whole << shift, env);
                env.rounded_up = rounded_up;
                value
            }
        },
        _ => convert(a, env),
    }
}

/// The packed decimal that stands for an invalid result.
pub const DECIMAL_INDEFINITE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];

/// Converts to 18 packed decimal digits and a sign byte; `None` where that is invalid.
pub fn to_packed_decimal(a: Unpacked, env: &mut Env) -> Option<[u8; 10]> {
    let mut rest = to_magnitude(a, 999_999_999_999_999_999, env.rounding, env)? as u64;
    let mut digits = [0; 10];
    for byte in &mut digits[..9] {
        let pair = (rest % 100) as u8;
        *byte = pair / 10 << 4 | pair % 10;
        rest /= 100;
    }
    digits[9] = u8::from(a.sign) << 7;
    Some(digits)
}

/// Reads 18 packed decimal digits and a sign byte, exactly. Nibbles above 9 count as what they are.
pub fn from_packed_decimal(digits: [u8; 10]) -> Unpacked {
    let magnitude = digits[..9].iter().rev().fold(0u64, |value, byte| {
        value.wrapping_mul(100).wrapping_add(u64::from(byte >> 4) * 10 + u64::from(byte & 15))
    });
    Unpacked::finite(digits[9] & 0x80 != 0, 63, magnitude)
}
