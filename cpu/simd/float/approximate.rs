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
