//! Loads, stores, exchanges and constants.

use super::X87;
use crate::fpu::arith::note_denormals;
use crate::fpu::convert::{self, DECIMAL_INDEFINITE};
use crate::fpu::env::{Rounding, flag};
use crate::fpu::format::{F80, Float, Unpacked};

/// The constants that have a load instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constant {
    /// FLD1
    One,
    /// FLDL2T: log2(10).
    Log2Of10,
    /// FLDL2E: log2(e).
    Log2OfE,
    /// FLDPI
    Pi,
    /// FLDLG2: log10(2).
    Log10Of2,
    /// FLDLN2: ln(2).
    LnOf2,
    /// FLDZ
    Zero,
}

impl Constant {
    /// The value truncated to 64 bits, and whether rounding to nearest goes up from there; `None` for
    /// the exact ones.
    fn truncated(self) -> (F80, Option<bool>) {
        match self {
            Self::One => (F80::new(0x3fff, 1 << 63), None),
            Self::Log2Of10 => (F80::new(0x4000, 0xd49a_784b_cd1b_8afe), Some(false)),
            Self::Log2OfE => (F80::new(0x3fff, 0xb8aa_3b29_5c17_f0bb), Some(true)),
            Self::Pi => (F80::new(0x4000, 0xc90f_daa2_2168_c234), Some(true)),
            Self::Log10Of2 => (F80::new(0x3ffd, 0x9a20_9a84_fbcf_f798), Some(true)),
            Self::LnOf2 => (F80::new(0x3ffe, 0xb172_17f7_d1cf_79ab), Some(true)),
            Self::Zero => (F80::new(0, 0), None),
        }
    }
}

impl X87 {
    /// FLD m32, m64.
    pub fn fld<F: Float>(&mut self, value: F) {
        if self.overflows() {
            return;
        }
        let mut env = self.env();
        let operand = value.unpack();
        if !operand.is_nan() {
            note_denormals(operand, operand, &mut env);
        }
        let result = convert::convert(operand, &mut env);
        // An unmasked denormal operand is loaded all the same, unlike an unmasked signalling NaN.
        self.commit(&mut env);
        if !env.unmasked(env.flags & flag::IE) {
            self.push(result);
        }
    }

    /// FLD m80: no exception but stack overflow.
    pub fn fld_f80(&mut self, value: F80) {
        if !self.overflows() {
            self.set_c1(false);
            self.push(value);
        }
    }

    /// FILD m16, m32, m64.
    pub fn fild(&mut self, value: i64) {
        self.fld_exact(Unpacked::from_i64(value));
    }

    /// FBLD.
    pub fn fbld(&mut self, digits: [u8; 10]) {
        self.fld_exact(convert::from_packed_decimal(digits));
    }

    fn fld_exact(&mut self, value: Unpacked) {
        let exact = convert::convert(value, &mut self.env());
        self.fld_f80(exact);
    }

    /// FLD ST(i).
    pub fn fld_st(&mut self, i: u8) {
        if self.is_empty(i) {
            if self.stack_fault(false) {
                self.push(F80::default_nan());
            }
            return;
        }
        self.fld_f80(self.st(i));
    }

    /// FLD1, FLDL2T, FLDL2E, FLDPI, FLDLG2, FLDLN2, FLDZ.
    pub fn fld_constant(&mut self, constant: Constant) {
        let (mut value, nearest_is_up) = constant.truncated();
        if let Some(nearest_is_up) = nearest_is_up {
            let up = match self.env().rounding {
                Rounding::Nearest => nearest_is_up,
                Rounding::Up => true,
                Rounding::Down | Rounding::Zero => false,
            };
            value.sig += u64::from(up);
        }
        self.fld_f80(value);
    }

    /// FST, FSTP m32, m64. `None`: an exception is pending and memory stays as it is.
    pub fn fst<F: Float>(&mut self, pop: bool) -> Option<F> {
        let result = if self.is_empty(0) {
            self.stack_fault(false).then(F::default_nan)
        } else {
            let mut env = self.env();
            let result = convert::convert(self.st(0).unpack(), &mut env);
            let lost = env.flags & (flag::OE | flag::UE);
            if env.unmasked(lost) {
                // The result phase did not happen.
                env.flags &= !flag::PE;
                env.rounded_up = false;
                self.commit(&mut env);
                None
            } else {
                self.commit(&mut env).then_some(result)
            }
        };
        self.pop_after(result, pop)
    }

    /// FSTP m80: no exception but stack underflow.
    pub fn fstp_f80(&mut self) -> Option<F80> {
        let result = self.plain_st0();
        self.pop_after(result, true)
    }

    /// FST, FSTP ST(i).
    pub fn fst_st(&mut self, i: u8, pop: bool) {
        if let Some(value) = self.plain_st0() {
            self.set_st(i, value);
            self.pop_after(Some(()), pop);
        }
    }

    /// FSTPNCE ST(i): no exception at all, so that an empty register is copied like any other.
    pub fn fstpnce(&mut self, i: u8) {
        let empty = self.is_empty(0);
        self.set_st(i, self.st(0));
        if empty {
            self.empty(i);
        }
        self.pop_after(Some(()), true);
        self.set_c1(false);
    }

    /// ST(0) as it is; the indefinite for a masked, `None` for an unmasked stack underflow.
    fn plain_st0(&mut self) -> Option<F80> {
        if self.is_empty(0) {
            return self.stack_fault(false).then(F80::default_nan);
        }
        self.set_c1(false);
        Some(self.st(0))
    }

    /// FIST, FISTP m16, m32, m64 (`bits`).
    pub fn fist(&mut self, bits: u32, pop: bool) -> Option<i64> {
        self.store_int(bits, self.env().rounding, pop)
    }

    /// FISTTP m16, m32, m64 (`bits`).
    pub fn fisttp(&mut self, bits: u32) -> Option<i64> {
        self.store_int(bits, Rounding::Zero, true)
    }

    fn store_int(&mut self, bits: u32, rounding: Rounding, pop: bool) -> Option<i64> {
        let indefinite = i64::MIN >> (64 - bits);
        let result = if self.is_empty(0) {
            self.stack_fault(false).then_some(indefinite)
        } else {
            let mut env = self.env();
            let value = convert::to_int(self.st(0).unpack(), bits, rounding, &mut env);
            self.commit(&mut env).then_some(value.unwrap_or(indefinite))
        };
        self.pop_after(result, pop)
    }

    /// FBSTP.
    pub fn fbstp(&mut self) -> Option<[u8; 10]> {
        let result = if self.is_empty(0) {
            self.stack_fault(false).then_some(DECIMAL_INDEFINITE)
        } else {
            let mut env = self.env();
            let digits = convert::to_packed_decimal(self.st(0).unpack(), &mut env);
            self.commit(&mut env).then_some(digits.unwrap_or(DECIMAL_INDEFINITE))
        };
        self.pop_after(result, true)
    }

    fn pop_after<T>(&mut self, result: Option<T>, pop: bool) -> Option<T> {
        if pop && result.is_some() {
            self.pop();
        }
        result
    }

    /// FXCH ST(i).
    pub fn fxch(&mut self, i: u8) {
        if self.is_empty(0) || self.is_empty(i) {
            if !self.stack_fault(false) {
                return;
            }
            for j in [0, i] {
                if self.is_empty(j) {
                    self.set_st(j, F80::default_nan());
                }
            }
        } else {
            self.set_c1(false);
        }
        let (st0, other) = (self.st(0), self.st(i));
        self.set_st(0, other);
        self.set_st(i, st0);
    }
}
