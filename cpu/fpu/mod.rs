//! Floating-point arithmetic as the x86 defines it, in integer code: the same result bits and the
//! same exception flags on every host.
//!
//! A value is [unpacked](format::Unpacked) from its format, computed on exactly, and rounded once into
//! the format of the result under an [`Env`], which collects the exceptions. [`x87`] builds the x87
//! register stack on this, `simd` the SSE instructions. Nothing here knows of memory or of a CPU.

pub mod arith;
pub mod compare;
pub mod convert;
pub mod env;
pub mod format;
pub mod remainder;
pub mod transcendental;
pub mod x87;

mod round;
mod wide;

pub use env::{Env, NanRule, Rounding, flag};
pub use format::{F16, F32, F64, F80, Float};
#[cfg(all(test, target_arch = "x86_64"))]
mod silicon_tests;
#[cfg(test)]
pub(crate) mod testing;
