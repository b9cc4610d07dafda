//! Conversions between formats and integers, and rounding to an integral value.

use super::super::lanes::{Lane, pack, widen};
use super::lanewise::Float as Function;
use super::native::Native;
use super::{Unit, low, with_low};
use crate::fpu::format::Unpacked;
use crate::fpu::{F16, F32, F64, Float, Rounding, convert, flag};
use iced_x86::Mnemonic as M;

/// `f(destination, integer, unit)`: CVTSI2SS and CVTSI2SD.
pub type FromInt = fn(u128, i64, &mut Unit) -> u128;

/// `f(source, bits, unit)`: an integer of so many bits.
pub type ToInt = fn(u128, u32, &mut Unit) -> i64;

impl Unit {
    /// Changes the format.
    fn convert<From: Native, To: Native>(&mut self, a: From) -> To {
        self.native_convert(a).unwrap_or_else(|| self.convert_in_software(a))
    }
    fn convert_in_software<From: Float, To: Float>(&mut self, a: From) -> To {
        let a = self.operand(a);
        if a.denormal {
            self.env.raise(flag::DE);
        }
        let before = std::mem::take(&mut self.env.flags);
        let result = convert::convert(a, &mut self.env);
        if self.env.unmasked(self.env.flags & (flag::OE | flag::UE)) {
            // The significand alone is rounded then, whatever the exponent.
            self.env.flags &= !flag::PE;
            if a.sig << To::PRECISION != 0 {
                self.env.raise(flag::PE);
            }
        }
        self.env.raise(before);
        result
    }
    /// VCVTPH2PS: DAZ does not matter, and no denormal is reported.
    fn widen_half(&mut self, a: F16) -> F32 {
        convert::convert(a.unpack(), &mut self.env)
    }
    /// VCVTPS2PH: bit 2 of `imm` selects the rounding mode of MXCSR instead of that in the bits below;
    /// FTZ does not matter.
    fn narrow_to_half(&mut self, a: F32, imm: u8) -> F16 {
        let (rounding, flush_to_zero) = (self.env.rounding, self.env.flush_to_zero);
        self.env.flush_to_zero = false;
        if imm & 4 == 0 {
            self.env.rounding = Rounding::from_bits(imm.into());
        }
        let result = self.convert_in_software(a);
        (self.env.rounding, self.env.flush_to_zero) = (rounding, flush_to_zero);
        result
    }
    /// An integer as a number.
    fn number<F: Native>(&mut self, value: i64) -> F {
        if value.unsigned_abs() >> F::PRECISION == 0 {
            return F::from_int(value);
        }
        convert::convert(Unpacked::from_i64(value), &mut self.env)
    }
    /// A number as an integer of `bits`; the "integer indefinite" if it is none.
    fn integer<F: Native>(&mut self, a: F, bits: u32, rounding: Rounding) -> i64 {
        convert::to_int(self.operand(a), bits, rounding, &mut self.env)
            .unwrap_or(i64::MIN >> (64 - bits))
    }
    fn rounded<F: Native>(&mut self, a: F, bits: u32) -> i64 {
        self.integer(a, bits, self.env.rounding)
    }
    fn truncated<F: Native>(&mut self, a: F, bits: u32) -> i64 {
        self.native_truncated(a, bits).unwrap_or_else(|| self.integer(a, bits, Rounding::Zero))
    }
    /// ROUNDPS and its like: bit 2 of `imm` selects the rounding mode of MXCSR instead of that in
    /// the bits below, bit 3 suppresses PE.
    pub(super) fn round<F: Native>(&mut self, a: F, imm: u8) -> F {
        let rounding =
            if imm & 4 != 0 { self.env.rounding } else { Rounding::from_bits(imm.into()) };
        let result = convert::round_to_integral(self.operand(a), rounding, &mut self.env);
        if imm & 8 != 0 {
            self.env.flags &= !flag::PE;
        }
        result
    }
}

/// The conversions from one vector register to another, one of which may be an MMX register. Results
/// of 64 bits leave the upper half zero.
pub(super) fn between_vectors(mnemonic: M) -> Option<Function> {
    Some(match mnemonic {
        M::Cvtdq2ps => |_, b, _, unit| {
            let b = i32::split(b);
            F32::build(|i| unit.number(b[i].into()))
        },
        M::Cvtdq2pd | M::Cvtpi2pd => {
            |_, b, _, unit| widen(b, |x: i32| unit.number::<F64>(x.into()))
        }
        M::Cvtpi2ps => |a, b, _, unit| {
            let (a, b) = (F32::split(a), i32::split(b));
            F32::build(|i| if i < 2 { unit.number(b[i].into()) } else { a[i] })
        },
        M::Cvtps2dq => |_, b, _, unit| {
            let b = F32::split(b);
            i32::build(|i| unit.rounded(b[i], 32) as i32)
        },
        M::Cvttps2dq => |_, b, _, unit| {
            let b = F32::split(b);
            i32::build(|i| unit.truncated(b[i], 32) as i32)
        },
        M::Cvtps2pi => |_, b, _, unit| {
            let b = F32::split(b);
            i32::build(|i| if i < 2 { unit.rounded(b[i], 32) as i32 } else { 0 })
        },
        M::Cvttps2pi => |_, b, _, unit| {
            let b = F32::split(b);
            i32::build(|i| if i < 2 { unit.truncated(b[i], 32) as i32 } else { 0 })
        },
        M::Cvtpd2dq | M::Cvtpd2pi => {
            |_, b, _, unit| pack(b, 0, |x: F64| unit.rounded(x, 32) as i32)
        }
        M::Cvttpd2dq | M::Cvttpd2pi => {
            |_, b, _, unit| pack(b, 0, |x: F64| unit.truncated(x, 32) as i32)
        }
        M::Cvtps2pd => |_, b, _, unit| widen(b, |x: F32| unit.convert::<F32, F64>(x)),
        M::Cvtpd2ps => |_, b, _, unit| pack(b, 0, |x: F64| unit.convert::<F64, F32>(x)),
        M::Vcvtph2ps => |_, b, _, unit| widen(b, |x: F16| unit.widen_half(x)),
        M::Vcvtps2ph => |_, b, imm, unit| {
            let b = F32::split(b);
            F16::build(|i| b.get(i).map_or(F16(0), |x| unit.narrow_to_half(*x, imm)))
        },
        M::Cvtss2sd => |a, b, _, unit| with_low(a, unit.convert::<F32, F64>(low(b))),
        M::Cvtsd2ss => |a, b, _, unit| with_low(a, unit.convert::<F64, F32>(low(b))),
        _ => return None,
    })
}

/// CVTSI2SS and CVTSI2SD.
pub fn float_from_int(mnemonic: M) -> Option<FromInt> {
    Some(match mnemonic {
        M::Cvtsi2ss => |a, value, unit| with_low(a, unit.number::<F32>(value)),
        M::Cvtsi2sd => |a, value, unit| with_low(a, unit.number::<F64>(value)),
        _ => return None,
    })
}

/// CVTSS2SI, CVTSD2SI and their truncating forms.
pub fn float_to_int(mnemonic: M) -> Option<ToInt> {
    Some(match mnemonic {
        M::Cvtss2si => |a, bits, unit| unit.rounded(low::<F32>(a), bits),
        M::Cvtsd2si => |a, bits, unit| unit.rounded(low::<F64>(a), bits),
        M::Cvttss2si => |a, bits, unit| unit.truncated(low::<F32>(a), bits),
        M::Cvttsd2si => |a, bits, unit| unit.truncated(low::<F64>(a), bits),
        _ => return None,
    })
}
