//! The environment a floating-point operation runs in: rounding, masks, and the exceptions it raises.

/// Exception flags, at the bit positions that the x87 status word, its control word (as masks) and
/// the low bits of MXCSR share.
pub mod flag {
    /// Invalid operation.
    pub const IE: u8 = 1 << 0;
    /// Denormal operand.
    pub const DE: u8 = 1 << 1;
    /// Division by zero.
    pub const ZE: u8 = 1 << 2;
    /// Overflow.
    pub const OE: u8 = 1 << 3;
    /// Underflow.
    pub const UE: u8 = 1 << 4;
    /// Precision (inexact result).
    pub const PE: u8 = 1 << 5;
    /// Every exception.
    pub const ALL: u8 = 0x3f;
    /// The exceptions that are found before computing: unmasked, they suppress the result.
    pub const BEFORE_RESULT: u8 = IE | DE | ZE;
}

/// The four rounding modes, in the encoding of both control registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even.
    Nearest,
    /// Toward minus infinity.
    Down,
    /// Toward plus infinity.
    Up,
    /// Toward zero.
    Zero,
}

impl Rounding {
    /// Decodes a two-bit RC field (the low two bits of `rc`).
    pub fn from_bits(rc: u32) -> Self {
        match rc & 3 {
            0 => Self::Nearest,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::Zero,
        }
    }
}

/// How the result is chosen when operands are NaNs (SDM volume 1, table 4-7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NanRule {
    /// x87: the NaN with the larger significand.
    LargerSignificand,
    /// SSE: the first source operand if it is a NaN, else the second.
    FirstSource,
}

/// Controls for an operation, and what it reports back.
#[derive(Clone, Copy, Debug)]
pub struct Env {
    /// Rounding mode.
    pub rounding: Rounding,
    /// Significand bits kept in 80-bit results (24, 53 or 64); narrower formats are not affected.
    pub precision: u32,
    /// Masked exceptions (`flag` bits).
    pub masks: u8,
    /// Flush tiny results to zero while underflow is masked (MXCSR.FTZ).
    pub flush_to_zero: bool,
    /// Read denormal operands as zeros (MXCSR.DAZ).
    pub denormals_are_zero: bool,
    /// NaN selection.
    pub nan_rule: NanRule,
    /// Exceptions raised so far.
    pub flags: u8,
    /// The last rounding increased the magnitude (x87 C1).
    pub rounded_up: bool,
}

impl Env {
    /// Adds to the exceptions raised.
    #[inline]
    pub fn raise(&mut self, flags: u8) {
        self.flags |= flags;
    }

    /// Whether any of `flags` would trap.
    #[inline]
    pub fn unmasked(&self, flags: u8) -> bool {
        flags & !self.masks != 0
    }

    /// Drops the flags of the result phase if the operand phase already trapped; returns whether the
    /// operation produced a result at all.
    #[inline]
    pub fn settle(&mut self) -> bool {
        let stopped = self.unmasked(self.flags & flag::BEFORE_RESULT);
        if stopped {
            self.flags &= flag::BEFORE_RESULT;
            self.rounded_up = false;
        }
        !stopped
    }
}
