//! RCPPS, RSQRTPS and their scalar forms. The manual bounds their error, 1.5 * 2^-12, and leaves the
//! rest open; these are exact to the last bit or so.

use crate::fpu::{F32, Float};

/// Normalises an operand: a NaN quieted (as `Err`), a denormal read as zero.
fn operand(x: F32) -> Result<f32, F32> {
    let value = f32::from_bits(x.0);
    if value.is_nan() {
        return Err(F32(x.0 | 1 << 22));
    }
    Ok(flushed(value))
}

fn flushed(value: f32) -> f32 {
    if value.is_subnormal() { 0_f32.copysign(value) } else { value }
}

/// 1 / x.
pub(super) fn reciprocal(x: F32) -> F32 {
    operand(x).map_or_else(|nan| nan, |x| F32(flushed(1.0 / x).to_bits()))
}

/// 1 / sqrt(x).
pub(super) fn reciprocal_root(x: F32) -> F32 {
    match operand(x) {
        Err(nan) => nan,
        Ok(x) if x < 0.0 => F32::default_nan(),
        Ok(x) => F32((1.0 / x.sqrt()).to_bits()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fpu::testing::Random;

    fn bits(f: impl Fn(F32) -> F32, x: f32) -> u32 {
        f(F32(x.to_bits())).0
    }

    #[test]
    fn approximations_are_as_good_as_promised() {
        const BOUND: f64 = 1.5 / 4096.0;
        let mut random = Random::new("approximations");
        for _ in 0..10_000 {
            let x = f32::from_bits(random.f32() & F32::MAGNITUDE);
            let (exact, root) = (1.0 / f64::from(x), 1.0 / f64::from(x).sqrt());
            if !x.is_normal() || exact < f64::from(f32::MIN_POSITIVE) {
                continue;
            }
            let near = |got: u32, exact: f64| {
                (f64::from(f32::from_bits(got)) - exact).abs() <= BOUND * exact
            };
            assert!(near(bits(reciprocal, x), exact), "{x:e}");
            assert!(near(bits(reciprocal_root, x), root), "{x:e}");
        }
    }

    #[test]
    fn special_values() {
        let denormal = f32::from_bits(1);
        let (infinity, nan) = (f32::INFINITY.to_bits(), 0xffc0_0000);
        assert_eq!(bits(reciprocal, -denormal), f32::NEG_INFINITY.to_bits());
        assert_eq!(bits(reciprocal, f32::INFINITY), 0);
        assert_eq!(bits(reciprocal, -f32::MAX), 0x8000_0000);
        assert_eq!(bits(reciprocal, f32::from_bits(0x7f80_0001)), 0x7fc0_0001);
        assert_eq!(bits(reciprocal_root, denormal), infinity);
        assert_eq!(bits(reciprocal_root, -0.0), f32::NEG_INFINITY.to_bits());
        assert_eq!(bits(reciprocal_root, -1.0), nan);
        assert_eq!(bits(reciprocal_root, f32::NEG_INFINITY), nan);
    }
}
