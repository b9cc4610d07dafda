//! Comparison, and the minimum and maximum of SSE.

use super::arith::note_denormals;
use super::env::{Env, flag};
use super::format::{Class, Unpacked};
use std::cmp::Ordering;

/// Compares; `None` is unordered. A signalling NaN (or unsupported encoding) is always invalid, a
/// quiet one only for a `signaling` comparison.
pub fn compare(a: Unpacked, b: Unpacked, signaling: bool, env: &mut Env) -> Option<Ordering> {
    let nan_like = |x: Unpacked| x.is_nan() || x.class == Class::Unsupported;
    if nan_like(a) || nan_like(b) {
        let quiet = |x: Unpacked| !nan_like(x) || x.class == Class::QuietNan;
        if signaling || !quiet(a) || !quiet(b) {
            env.raise(flag::IE);
        }
        return None;
    }
    note_denormals(a, b, env);
    Some(order(a, b))
}

fn order(a: Unpacked, b: Unpacked) -> Ordering {
    if a.is_zero() && b.is_zero() {
        return Ordering::Equal;
    }
    match (a.sign, b.sign) {
        (false, true) => Ordering::Greater,
        (true, false) => Ordering::Less,
        (false, false) => magnitude_order(a, b),
        (true, true) => magnitude_order(b, a),
    }
}

/// Compares absolute values of non-NaNs.
pub(super) fn magnitude_order(a: Unpacked, b: Unpacked) -> Ordering {
    let key = |x: Unpacked| match x.class {
        Class::Zero => (0, 0, 0),
        Class::Finite => (1, x.exp, x.sig),
        _ => (2, 0, 0),
    };
    key(a).cmp(&key(b))
}
