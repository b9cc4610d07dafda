//! The binary formats, and the unpacked form in which all arithmetic is done.

use std::fmt;

/// What kind of datum an [`Unpacked`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Signed zero.
    Zero,
    /// Non-zero and finite.
    Finite,
    /// Signed infinity.
    Infinite,
    /// Quiet NaN.
    QuietNan,
    /// Signalling NaN.
    SignalingNan,
    /// An 80-bit encoding that is no number since the 387: unnormal, pseudo-infinity, pseudo-NaN.
    Unsupported,
}

/// A datum taken apart, the same for every format.
///
/// A finite value is `sig / 2^63 * 2^exp` with bit 63 of `sig` set, denormals included. A NaN keeps
/// its payload left-aligned below bit 63, with the quiet bit at 62, so that changing its format is a
/// truncation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Negative.
    pub sign: bool,
    /// Kind of datum.
    pub class: Class,
    /// The encoding was denormal (or pseudo-denormal) in its own format.
    pub denormal: bool,
    /// Exponent of the leading bit.
    pub exp: i32,
    /// Significand.
    pub sig: u64,
}

/// The integer bit of an unpacked significand.
pub(super) const INTEGER_BIT: u64 = 1 << 63;
/// The bit that tells quiet from signalling NaNs.
pub(super) const QUIET_BIT: u64 = 1 << 62;

impl Unpacked {
    /// A signed zero.
    pub const fn zero(sign: bool) -> Self {
        Self { sign, class: Class::Zero, denormal: false, exp: 0, sig: 0 }
    }

    /// A finite value `sig * 2^(exp - 63)`; `sig` need not be normalised.
    pub const fn finite(sign: bool, exp: i32, sig: u64) -> Self {
        if sig == 0 {
            return Self::zero(sign);
        }
        let shift = sig.leading_zeros();
        Self {
            sign,
            class: Class::Finite,
            denormal: false,
            exp: exp - shift as i32,
            sig: sig << shift,
        }
    }

    /// An integer, exactly.
    pub const fn from_i64(value: i64) -> Self {
        Self::finite(value < 0, 63, value.unsigned_abs())
    }

    /// An unsigned integer, exactly.
    pub const fn from_u64(value: u64) -> Self {
        Self::finite(false, 63, value)
    }

    /// Any NaN.
    pub fn is_nan(&self) -> bool {
        matches!(self.class, Class::QuietNan | Class::SignalingNan)
    }

    /// A signed zero.
    pub fn is_zero(&self) -> bool {
        self.class == Class::Zero
    }

    /// A signed infinity.
    pub fn is_infinite(&self) -> bool {
        self.class == Class::Infinite
    }

    /// The same with the sign inverted; NaNs stay as they are, as operands of a subtraction do.
    pub fn negated(mut self) -> Self {
        if !self.is_nan() {
            self.sign = !self.sign;
        }
        self
    }

    /// From the fields of an encoding; `sig` is left-aligned, with the integer bit at 63 (implicit
    /// or not).
    fn from_fields(sign: bool, biased: u32, sig: u64, emax: i32) -> Self {
        if biased == 2 * emax as u32 + 1 {
            let class = if sig << 1 == 0 {
                Class::Infinite
            } else if sig & QUIET_BIT != 0 {
                Class::QuietNan
            } else {
                Class::SignalingNan
            };
            Self { sign, class, denormal: false, exp: 0, sig }
        } else if biased != 0 {
            Self { sign, class: Class::Finite, denormal: false, exp: biased as i32 - emax, sig }
        } else {
            Self { denormal: sig != 0, ..Self::finite(sign, 1 - emax, sig) }
        }
    }
}

/// A binary interchange format.
pub trait Float: Copy + Eq + fmt::Debug {
    /// Significand bits, the integer bit included.
    const PRECISION: u32;
    /// Largest exponent of a finite value; also the bias.
    const EMAX: i32;
    /// Smallest exponent of a normal value.
    const EMIN: i32 = 1 - Self::EMAX;

    /// Takes an encoding apart.
    fn unpack(self) -> Unpacked;

    /// Puts fields together; the integer bit is bit 63 of `sig`, bits beyond the precision are dropped.
    fn pack(sign: bool, biased_exp: u32, sig: u64) -> Self;

    /// Signed zero.
    fn zero(sign: bool) -> Self {
        Self::pack(sign, 0, 0)
    }

    /// Signed infinity.
    fn infinity(sign: bool) -> Self {
        Self::pack(sign, 2 * Self::EMAX as u32 + 1, INTEGER_BIT)
    }

    /// The default NaN ("real indefinite"): negative, quiet, empty payload.
    fn default_nan() -> Self {
        Self::nan(true, 0)
    }

    /// A quiet NaN with the given left-aligned significand.
    fn nan(sign: bool, sig: u64) -> Self {
        Self::pack(sign, 2 * Self::EMAX as u32 + 1, sig | INTEGER_BIT | QUIET_BIT)
    }
}

macro_rules! interchange_format {
    ($(#[$doc:meta])* $name:ident($bits:ty), fraction $fraction:literal, emax $emax:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name(pub $bits);

        impl $name {
            /// The bits that hold the magnitude.
            pub const MAGNITUDE: $bits = <$bits>::MAX >> 1;
        }

        impl Float for $name {
            const PRECISION: u32 = $fraction + 1;
            const EMAX: i32 = $emax;

            #[inline]
            fn unpack(self) -> Unpacked {
                let magnitude = u64::from(self.0 & Self::MAGNITUDE);
                let biased = (magnitude >> $fraction) as u32;
                let fraction = (magnitude & ((1 << $fraction) - 1)) << (63 - $fraction);
                let integer = if biased == 0 { 0 } else { INTEGER_BIT };
                Unpacked::from_fields(self.0 > Self::MAGNITUDE, biased, fraction | integer, $emax)
            }

            #[inline]
            fn pack(sign: bool, biased_exp: u32, sig: u64) -> Self {
                let fraction = (sig & !INTEGER_BIT) >> (63 - $fraction);
                let sign = <$bits>::from(sign) << (<$bits>::BITS - 1);
                Self(sign | (biased_exp as $bits) << $fraction | fraction as $bits)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

interchange_format! {
    /// Half precision, as bits.
    F16(u16), fraction 10, emax 15
}
interchange_format! {
    /// Single precision, as bits.
    F32(u32), fraction 23, emax 127
}
interchange_format! {
    /// Double precision, as bits.
    F64(u64), fraction 52, emax 1023
}

/// Double extended precision: an explicit 64-bit significand under sign and exponent.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct F80 {
    /// Significand with its integer bit; this is also the MMX register.
    pub sig: u64,
    /// Sign (bit 15) and biased exponent.
    pub sign_exp: u16,
}

impl F80 {
    /// From sign-and-exponent and significand.
    pub const fn new(sign_exp: u16, sig: u64) -> Self {
        Self { sig, sign_exp }
    }

    /// From the memory image.
    pub fn from_bytes(bytes: [u8; 10]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j] = bytes;
        Self {
            sig: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            sign_exp: u16::from_le_bytes([i, j]),
        }
    }

    /// The memory image.
    pub fn to_bytes(self) -> [u8; 10] {
        let [a, b, c, d, e, f, g, h] = self.sig.to_le_bytes();
        let [i, j] = self.sign_exp.to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j]
    }
}

impl Float for F80 {
    const PRECISION: u32 = 64;
    const EMAX: i32 = 16383;

    #[inline]
    fn unpack(self) -> Unpacked {
        let sign = self.sign_exp & 0x8000 != 0;
        let biased = u32::from(self.sign_exp & 0x7fff);
        if biased != 0 && self.sig & INTEGER_BIT == 0 {
            return Unpacked {
                sign,
                class: Class::Unsupported,
                denormal: false,
                exp: 0,
                sig: self.sig,
            };
        }
        Unpacked::from_fields(sign, biased, self.sig, Self::EMAX)
    }

    #[inline]
    fn pack(sign: bool, biased_exp: u32, sig: u64) -> Self {
        Self { sig, sign_exp: u16::from(sign) << 15 | biased_exp as u16 }
    }
}

impl fmt::Debug for F80 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:016x}", self.sign_exp, self.sig)
    }
}
