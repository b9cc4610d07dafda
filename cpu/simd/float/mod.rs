//! The floating-point instructions of SSE: pure functions on vectors, by mnemonic.
//!
//! The arithmetic is that of [`crate::fpu`], which knows every exception. Where operands and result
//! are ordinary numbers the host's own arithmetic gives the same result (see [`native`]), and that is
//! nearly always.

mod approximate;
mod convert;
mod fused;
mod lanewise;
mod native;

pub use convert::{FromInt, ToInt, float_from_int, float_to_int};
pub use fused::{FloatTernary, float_ternary};
pub use lanewise::{Float, Order, float, float_order};

use super::lanes::Lane;
use crate::fpu::format::Unpacked;
use crate::fpu::{Env, F16, F32, F64, NanRule, Rounding, arith, flag};

/// Fields of MXCSR (SDM volume 1, 10.2.3). The flags are in the low six bits, as [`flag`] has them.
mod mxcsr {
    pub const DENORMALS_ARE_ZERO: u32 = 1 << 6;
    pub const MASKS_SHIFT: u32 = 7;
    pub const ROUNDING_SHIFT: u32 = 13;
    pub const FLUSH_TO_ZERO: u32 = 1 << 15;
}

/// What an instruction computes under, and the exceptions it raises.
pub struct Unit {
    env: Env,
    /// The exceptions by steps that each look for exceptions in all lanes.
    steps: [u8; STEPS],
    /// The step that is going on.
    step: usize,
    /// Inexact results need not be noticed: they would set a flag that is set, and not trap.
    inexact_is_moot: bool,
}

/// A dot product multiplies and adds twice.
const STEPS: usize = 3;

impl Unit {
    /// The unit as MXCSR sets it up.
    #[inline(always)]
    pub fn new(mxcsr: u32) -> Self {
        let masks = (mxcsr >> mxcsr::MASKS_SHIFT) as u8 & flag::ALL;
        Unit {
            env: Env {
                rounding: Rounding::from_bits(mxcsr >> mxcsr::ROUNDING_SHIFT),
                precision: 64,
                masks,
                flush_to_zero: mxcsr & mxcsr::FLUSH_TO_ZERO != 0,
                denormals_are_zero: mxcsr & mxcsr::DENORMALS_ARE_ZERO != 0,
                nan_rule: NanRule::FirstSource,
                flags: 0,
                rounded_up: false,
            },
            steps: [0; STEPS],
            step: 0,
            inexact_is_moot: mxcsr as u8 & masks & flag::PE != 0,
        }
    }

    /// Ends one of several steps of a lane; returns whether an unmasked exception ends the lane.
    #[inline(always)]
    fn end_step(&mut self) -> bool {
        let flags = std::mem::take(&mut self.env.flags);
        self.steps[self.step % STEPS] |= flags;
        self.step += 1;
        self.env.unmasked(flags)
    }

    /// Ends a lane of 128 bits.
    #[inline(always)]
    pub fn end_lane(&mut self) {
        if self.env.flags != 0 {
            self.end_step();
        }
        self.step = 0;
    }

    /// The flags to be set in MXCSR, and whether one of them is unmasked: then there is no result.
    #[inline(always)]
    pub fn outcome(mut self) -> (u32, bool) {
        self.end_lane();
        if self.steps == [0; STEPS] {
            return (0, false);
        }
        let mut raised = 0;
        for flags in self.steps {
            self.env.flags = flags;
            self.env.settle();
            raised |= self.env.flags;
            if self.env.unmasked(raised) {
                return (raised.into(), true);
            }
        }
        (raised.into(), false)
    }

    /// Takes an operand apart, noting nothing.
    #[inline]
    fn operand<F: crate::fpu::Float>(&self, value: F) -> Unpacked {
        arith::operand(value, &self.env)
    }
}

macro_rules! float_lanes {
    ($($float:ident($bits:ty) x $count:literal,)*) => { $(
        impl Lane for $float {
            type Lanes = [$float; $count];

            #[inline]
            fn split(vector: u128) -> Self::Lanes {
                <$bits>::split(vector).map($float)
            }
            #[inline]
            fn join(lanes: Self::Lanes) -> u128 {
                <$bits>::join(lanes.map(|lane| lane.0))
            }
        }
    )* };
}
float_lanes! { F16(u16) x 8, F32(u32) x 4, F64(u64) x 2, }

/// `value` in place of the lowest lane of `vector`.
#[inline]
fn with_low<L: Lane>(vector: u128, value: L) -> u128 {
    let mut lanes = L::split(vector);
    lanes.as_mut()[0] = value;
    L::join(lanes)
}

/// The lowest lane.
#[inline]
fn low<L: Lane>(vector: u128) -> L {
    L::split(vector).as_ref()[0]
}

#[cfg(all(test, target_arch = "x86_64"))]
mod silicon_tests;
