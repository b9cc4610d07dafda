//! The elementary functions of the x87, by Taylor series on 128-bit significands: correctly rounded but
//! for one case in about 2^50. Silicon has its own last-bit errors, which this does not imitate.

use super::arith::{invalid, note_denormals, propagate, propagate_one};
use super::env::{Env, flag};
use super::format::{Class, F80, Float, Unpacked};
use super::round::round;
use super::wide::Wide;

/// Half of the 66-bit approximation of pi with which every x87 reduces its arguments, times 2^65.
const HALF_PI_66: u128 = 0x3_243f_6a88_85a3_08d3;

/// Terms of the series of sine and cosine, for arguments up to pi/4.
const TRIGONOMETRIC_TERMS: u64 = 15;
/// Terms of the series of 2^x - 1, for arguments up to 1.
const EXPONENTIAL_TERMS: u64 = 30;
/// Terms of the series of arctan and artanh, for arguments up to sqrt(2) - 1.
const ARC_TERMS: u64 = 40;

/// An argument reduced to +-pi/4 around a multiple of pi/2.
struct Reduced {
    rest: Wide,
    quadrant: u64,
}

/// Reduces the magnitude of a finite argument; `None` if it is 2^63 or more.
fn reduce(a: Unpacked) -> Option<Reduced> {
    if a.exp >= 63 {
        return None;
    }
    if a.exp < -1 {
        return Some(Reduced { rest: Wide::from_unpacked(a).abs(), quadrant: 0 });
    }
    let scaled = u128::from(a.sig) << (a.exp + 2);
    let (quotient, rest) = (scaled / HALF_PI_66, scaled % HALF_PI_66);
    let nearer_above = rest > HALF_PI_66 / 2;
    let rest = if nearer_above {
        Wide::new(true, 62, HALF_PI_66 - rest)
    } else {
        Wide::new(false, 62, rest)
    };
    Some(Reduced { rest, quadrant: quotient as u64 + u64::from(nearer_above) })
}

impl Reduced {
    /// 1 - r^2/(first * (first+1)) * (1 - r^2/((first+2) * (first+3)) * ...)
    fn series(&self, first: u64) -> Wide {
        let square = self.rest.mul(self.rest);
        let sum = (0..TRIGONOMETRIC_TERMS).rev().fold(Wide::ONE, |sum, k| {
            let n = first + 2 * k;
            Wide::ONE.sub(square.mul(sum).div_int(n * (n + 1)))
        });
        below_one(sum)
    }

    fn sine(&self) -> Wide {
        self.quarter(self.quadrant)
    }

    fn cosine(&self) -> Wide {
        self.quarter(self.quadrant + 1)
    }

    /// sin(rest + quadrant * pi/2)
    fn quarter(&self, quadrant: u64) -> Wide {
        let value = if quadrant & 1 == 0 { self.rest.mul(self.series(2)) } else { self.series(1) };
        if quadrant & 2 == 0 { value } else { value.neg() }
    }
}

/// What the trigonometric functions do before computing.
enum Argument {
    /// The result is this value.
    Decided(F80),
    OutOfRange,
    Zero,
    Reduced(Reduced),
}

fn argument(a: Unpacked, env: &mut Env) -> Argument {
    if let Some(nan) = propagate_one(a, env) {
        return Argument::Decided(nan);
    }
    if a.is_infinite() {
        return Argument::Decided(invalid(env));
    }
    if a.is_zero() {
        return Argument::Zero;
    }
    match reduce(a) {
        None => Argument::OutOfRange,
        Some(reduced) => {
            note_denormals(a, a, env);
            Argument::Reduced(reduced)
        }
    }
}

/// A series that stays below one however small its argument, for the sake of directed rounding.
fn below_one(sum: Wide) -> Wide {
    if sum.exp == 0 { Wide::BELOW_ONE } else { sum }
}

const ONE: F80 = F80::new(0x3fff, 1 << 63);

fn negated_if(condition: bool, value: Wide) -> Wide {
    if condition { value.neg() } else { value }
}

/// FSIN; `None` for an argument out of range.
pub fn sin(a: Unpacked, env: &mut Env) -> Option<F80> {
    match argument(a, env) {
        Argument::Decided(value) => Some(value),
        Argument::OutOfRange => None,
        Argument::Zero => Some(F80::zero(a.sign)),
        Argument::Reduced(reduced) => Some(negated_if(a.sign, reduced.sine()).round(env)),
    }
}

/// FCOS; `None` for an argument out of range.
pub fn cos(a: Unpacked, env: &mut Env) -> Option<F80> {
    match argument(a, env) {
        Argument::Decided(value) => Some(value),
        Argument::OutOfRange => None,
        Argument::Zero => Some(ONE),
        Argument::Reduced(reduced) => Some(reduced.cosine().round(env)),
    }
}

/// FSINCOS: sine and cosine; `None` for an argument out of range.
pub fn sin_cos(a: Unpacked, env: &mut Env) -> Option<(F80, F80)> {
    match argument(a, env) {
        Argument::Decided(value) => Some((value, value)),
        Argument::OutOfRange => None,
        Argument::Zero => Some((F80::zero(a.sign), ONE)),
        Argument::Reduced(reduced) => {
            let cosine = reduced.cosine().round(env);
            Some((negated_if(a.sign, reduced.sine()).round(env), cosine))
        }
    }
}

/// FPTAN: tangent, and the 1.0 that the instruction pushes (a NaN in its place if there is no
/// tangent); `None` for an argument out of range.
pub fn tan_one(a: Unpacked, env: &mut Env) -> Option<(F80, F80)> {
    match argument(a, env) {
        Argument::Decided(value) => Some((value, value)),
        Argument::OutOfRange => None,
        Argument::Zero => Some((F80::zero(a.sign), ONE)),
        Argument::Reduced(reduced) => {
            // The tangent of a small argument is above it; the sine is below.
            let tangent = match reduced.rest.exp {
                ..-64 => reduced.rest,
                _ => reduced.sine().div(reduced.cosine()),
            };
            Some((negated_if(a.sign, tangent).round(env), ONE))
        }
    }
}

/// F2XM1: 2^x - 1, defined for -1 <= x <= 1; beyond, the operand is returned.
pub fn exp2_minus_1(a: Unpacked, env: &mut Env) -> F80 {
    if let Some(nan) = propagate_one(a, env) {
        return nan;
    }
    match a.class {
        Class::Infinite if a.sign => return F80::pack(true, F80::EMAX as u32, 1 << 63),
        Class::Infinite => return F80::infinity(false),
        Class::Zero => return F80::zero(a.sign),
        _ => note_denormals(a, a, env),
    }
    env.raise(flag::PE);
    let exactly_one = a.exp == 0 && a.sig == 1 << 63;
    if exactly_one {
        // Silicon calls even these inexact.
        return F80::pack(a.sign, (F80::EMAX - i32::from(a.sign)) as u32, 1 << 63);
    }
    if a.exp >= 0 {
        return round(a.sign, a.exp, u128::from(a.sig) << 64, env);
    }
    let x = Wide::from_unpacked(a).mul(Wide::LN_2);
    let series =
        (2..EXPONENTIAL_TERMS).rev().fold(Wide::ONE, |sum, k| Wide::ONE.add(x.mul(sum).div_int(k)));
    x.mul(series).round(env)
}

/// 1 + square/3 + square^2/5 + ...: artanh(x) / x for square = x^2, arctan(x) / x for its negative.
fn arc_series(square: Wide) -> Wide {
    (0..ARC_TERMS)
        .rev()
        .fold(Wide::from_i64(0), |sum, k| Wide::ONE.div_int(2 * k + 1).add(square.mul(sum)))
}

/// log2((1 + s) / (1 - s))
fn log2_of_ratio(s: Wide) -> Wide {
    s.mul(arc_series(s.mul(s))).mul(Wide::LOG2_E).scaled(1)
}

/// log2 of a positive value.
fn log2(x: Wide) -> Wide {
    let sqrt_2 = 0xb504_f333_f9de_6484 << 64;
    let (mantissa, exp) = if x.sig > sqrt_2 {
        (Wide::new(false, -1, x.sig), x.exp + 1)
    } else {
        (Wide::new(false, 0, x.sig), x.exp)
    };
    let s = mantissa.sub(Wide::ONE).div(mantissa.add(Wide::ONE));
    Wide::from_i64(exp.into()).add(log2_of_ratio(s))
}

/// FYL2X: y * log2(x).
pub fn y_log2_x(x: Unpacked, y: Unpacked, env: &mut Env) -> F80 {
    if let Some(nan) = propagate(x, y, env) {
        return nan;
    }
    let one = x.class == Class::Finite && x.exp == 0 && x.sig == 1 << 63;
    match (x.class, y.class) {
        _ if x.sign && !x.is_zero() => return invalid(env),
        (Class::Zero, Class::Zero) | (Class::Infinite, Class::Zero) => return invalid(env),
        (Class::Finite, Class::Infinite) if one => return invalid(env),
        (Class::Zero, Class::Finite) => {
            env.raise(flag::ZE);
            return F80::infinity(!y.sign);
        }
        _ => note_denormals(x, y, env),
    }
    let negative_log = x.is_zero() || (x.class == Class::Finite && x.exp < 0);
    if x.is_infinite() || y.is_infinite() {
        return F80::infinity(y.sign != negative_log);
    }
    if y.is_zero() || one {
        return F80::zero(y.sign != negative_log);
    }
    env.raise(flag::PE);
    if x.sig == 1 << 63 {
        let product: F80 = super::arith::mul(y, Unpacked::from_i64(x.exp.into()), env);
        // Silicon calls even this inexact, hence a denormal one an underflow.
        if product.unpack().denormal {
            env.raise(flag::UE);
        }
        return product;
    }
    log2(Wide::from_unpacked(x)).mul(Wide::from_unpacked(y)).round(env)
}

/// FYL2XP1: y * log2(x + 1), defined for |x| below 1 - sqrt(1/2); larger x are served alike, down to
/// the pole at -1, from where on x is returned.
pub fn y_log2_x_plus_1(x: Unpacked, y: Unpacked, env: &mut Env) -> F80 {
    if let Some(nan) = propagate(x, y, env) {
        return nan;
    }
    match (x.class, y.class) {
        (Class::Zero, Class::Infinite) | (Class::Infinite, Class::Zero) => return invalid(env),
        (Class::Infinite, _) if x.sign => return invalid(env),
        _ => note_denormals(x, y, env),
    }
    let sign = x.sign != y.sign;
    if x.is_infinite() || y.is_infinite() {
        return F80::infinity(sign);
    }
    if x.is_zero() || y.is_zero() {
        return F80::zero(sign);
    }
    env.raise(flag::PE);
    if x.sign && x.exp >= 0 {
        return F80::pack(x.sign, (x.exp + F80::EMAX) as u32, x.sig);
    }
    let value = Wide::from_unpacked(x);
    let logarithm = if x.exp < -2 {
        log2_of_ratio(value.div(Wide::from_i64(2).add(value)))
    } else {
        log2(Wide::ONE.add(value))
    };
    logarithm.mul(Wide::from_unpacked(y)).round(env)
}

/// arctan of a value of at most 1.
fn arctan_of(t: Wide) -> Wide {
    let near = |t: Wide| t.mul(below_one(arc_series(t.mul(t).neg())));
    if t.exp < -2 {
        near(t)
    } else {
        Wide::PI.scaled(-2).sub(near(Wide::ONE.sub(t).div(Wide::ONE.add(t))))
    }
}

/// FPATAN: the angle of the point (x, y), between -pi and pi.
pub fn arctan(y: Unpacked, x: Unpacked, env: &mut Env) -> F80 {
    if let Some(nan) = propagate(y, x, env) {
        return nan;
    }
    note_denormals(x, y, env);
    let magnitude = match (y.class, x.class) {
        (Class::Infinite, Class::Infinite) if x.sign => Wide::PI_3_4,
        (Class::Infinite, Class::Infinite) => Wide::PI.scaled(-2),
        (Class::Zero, _) | (_, Class::Infinite) if x.sign => Wide::PI,
        (Class::Zero, _) | (_, Class::Infinite) => return F80::zero(y.sign),
        (Class::Infinite, _) | (_, Class::Zero) => Wide::PI.scaled(-1),
        _ => {
            let (y, x) = (Wide::from_unpacked(y).abs(), Wide::from_unpacked(x));
            let acute = if y.cmp_magnitude(x).is_gt() {
                Wide::PI.scaled(-1).sub(arctan_of(x.abs().div(y)))
            } else {
                arctan_of(y.div(x.abs()))
            };
            if x.sign { Wide::PI.sub(acute) } else { acute }
        }
    };
    negated_if(y.sign, magnitude).round(env)
}
