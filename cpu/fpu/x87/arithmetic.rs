//! Arithmetic, remainders, scaling and the elementary functions.

use super::{X87, status};
use crate::fpu::arith;
use crate::fpu::convert;
use crate::fpu::env::Env;
use crate::fpu::format::{F80, Float, Unpacked};
use crate::fpu::remainder::{self, Quotient};
use crate::fpu::transcendental;

/// The operations that come in all operand forms: `destination = destination op source`, or with the
/// operands exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arith {
    /// FADD, FADDP, FIADD.
    Add,
    /// FMUL, FMULP, FIMUL.
    Mul,
    /// FSUB, FSUBP, FISUB.
    Sub,
    /// FSUBR, FSUBRP, FISUBR: source - destination.
    SubReversed,
    /// FDIV, FDIVP, FIDIV.
    Div,
    /// FDIVR, FDIVRP, FIDIVR: source / destination.
    DivReversed,
}

impl Arith {
    fn apply(self, destination: Unpacked, source: Unpacked, env: &mut Env) -> F80 {
        match self {
            Self::Add => arith::add(destination, source, env),
            Self::Mul => arith::mul(destination, source, env),
            Self::Sub => arith::sub(destination, source, env),
            Self::SubReversed => arith::sub(source, destination, env),
            Self::Div => arith::div(destination, source, env),
            Self::DivReversed => arith::div(source, destination, env),
        }
    }
}

impl X87 {
    /// ST(`destination`) = ST(`destination`) op ST(`source`), then maybe pop.
    pub fn arith(&mut self, op: Arith, destination: u8, source: u8, pop: bool) {
        if self.is_empty(destination) || self.is_empty(source) {
            if !self.stack_fault(false) {
                return;
            }
            self.set_st(destination, F80::default_nan());
        } else {
            let mut env = self.precise_env();
            let result =
                op.apply(self.st(destination).unpack(), self.st(source).unpack(), &mut env);
            if !self.commit(&mut env) {
                return;
            }
            self.set_st(destination, result);
        }
        if pop {
            self.pop();
        }
    }

    /// ST(0) = ST(0) op a memory operand: an unpacked `F32` or `F64`, or [`Unpacked::from_i64`].
    pub fn arith_value(&mut self, op: Arith, source: Unpacked) {
        let env = self.precise_env();
        self.replace(env, |st0, env| op.apply(st0, source, env));
    }

    /// FSQRT.
    pub fn fsqrt(&mut self) {
        let env = self.precise_env();
        self.replace(env, arith::sqrt);
    }

    /// FRNDINT.
    pub fn frndint(&mut self) {
        let env = self.env();
        self.replace(env, |st0, env| {
            arith::note_denormals(st0, st0, env);
            convert::round_to_integral(st0, env.rounding, env)
        });
    }

    /// FABS.
    pub fn fabs(&mut self) {
        self.change_sign(|sign_exp| sign_exp & 0x7fff);
    }

    /// FCHS.
    pub fn fchs(&mut self) {
        self.change_sign(|sign_exp| sign_exp ^ 0x8000);
    }

    fn change_sign(&mut self, change: impl FnOnce(u16) -> u16) {
        if self.is_empty(0) {
            if self.stack_fault(false) {
                self.set_st(0, F80::default_nan());
            }
            return;
        }
        self.set_c1(false);
        let st0 = self.st(0);
        self.set_st(0, F80 { sign_exp: change(st0.sign_exp), ..st0 });
    }

    /// FSCALE.
    pub fn fscale(&mut self) {
        self.combine(false, remainder::scale);
    }

    /// FPREM (`nearest` false) and FPREM1 (true).
    pub fn fprem(&mut self, nearest: bool) {
        self.report_range(true);
        if self.is_empty(0) || self.is_empty(1) {
            if self.stack_fault(false) {
                self.set_st(0, F80::default_nan());
            }
            return;
        }
        let mut env = self.env();
        let result =
            remainder::remainder(self.st(0).unpack(), self.st(1).unpack(), nearest, &mut env);
        if !self.commit(&mut env) {
            return;
        }
        self.set_st(0, result.value);
        match result.quotient {
            Quotient::Complete(quotient) => {
                self.set_c1(quotient & 1 != 0);
                let code = |bit: u64, code: u16| if quotient & bit != 0 { code } else { 0 };
                self.set_condition(code(2, status::C3) | code(4, status::C0));
            }
            Quotient::Incomplete => self.set_condition(status::C2),
            Quotient::Undefined => {}
        }
    }

    /// FXTRACT: exponent to ST(0), then the significand is pushed.
    pub fn fxtract(&mut self) {
        self.spread(|st0, env| Some(remainder::extract(st0, env)));
    }

    /// F2XM1.
    pub fn f2xm1(&mut self) {
        let env = self.env();
        self.replace(env, transcendental::exp2_minus_1);
    }

    /// FYL2X: ST(1) = ST(1) * log2(ST(0)), pop.
    pub fn fyl2x(&mut self) {
        self.combine(true, transcendental::y_log2_x);
    }

    /// FYL2XP1: ST(1) = ST(1) * log2(ST(0) + 1), pop.
    pub fn fyl2xp1(&mut self) {
        self.combine(true, transcendental::y_log2_x_plus_1);
    }

    /// FPATAN: ST(1) = arctan(ST(1) / ST(0)), pop.
    pub fn fpatan(&mut self) {
        self.combine(true, |x, y, env| transcendental::arctan(y, x, env));
    }

    /// FSIN.
    pub fn fsin(&mut self) {
        self.trigonometric(transcendental::sin);
    }

    /// FCOS.
    pub fn fcos(&mut self) {
        self.trigonometric(transcendental::cos);
    }

    /// FSINCOS: sine to ST(0), then the cosine is pushed.
    pub fn fsincos(&mut self) {
        self.report_range(true);
        self.spread(transcendental::sin_cos);
    }

    /// FPTAN: tangent to ST(0), then 1.0 is pushed.
    pub fn fptan(&mut self) {
        self.report_range(true);
        self.spread(transcendental::tan_one);
    }

    /// ST(0) = f(ST(0)).
    fn replace(&mut self, mut env: Env, f: impl FnOnce(Unpacked, &mut Env) -> F80) {
        if self.is_empty(0) {
            if self.stack_fault(false) {
                self.set_st(0, F80::default_nan());
            }
            return;
        }
        let result = f(self.st(0).unpack(), &mut env);
        if self.commit(&mut env) {
            self.set_st(0, result);
        }
    }

    /// f(ST(0), ST(1)) to ST(0), or to ST(1) followed by a pop.
    fn combine(&mut self, pop: bool, f: impl FnOnce(Unpacked, Unpacked, &mut Env) -> F80) {
        let destination = u8::from(pop);
        if self.is_empty(0) || self.is_empty(1) {
            if !self.stack_fault(false) {
                return;
            }
            self.set_st(destination, F80::default_nan());
        } else {
            let mut env = self.env();
            let result = f(self.st(0).unpack(), self.st(1).unpack(), &mut env);
            if !self.commit(&mut env) {
                return;
            }
            self.set_st(destination, result);
        }
        if pop {
            self.pop();
        }
    }

    /// ST(0) = f(ST(0)); `None` is an operand out of range, reported in C2.
    fn trigonometric(&mut self, f: impl FnOnce(Unpacked, &mut Env) -> Option<F80>) {
        self.report_range(true);
        if self.is_empty(0) {
            if self.stack_fault(false) {
                self.set_st(0, F80::default_nan());
            }
            return;
        }
        let mut env = self.env();
        let result = f(self.st(0).unpack(), &mut env);
        let delivers = self.commit(&mut env);
        match result {
            Some(value) if delivers => self.set_st(0, value),
            Some(_) => {}
            None => self.report_range(false),
        }
    }

    /// One operand becomes two results: the first replaces ST(0), the second is pushed. `None` as in
    /// [`Self::trigonometric`].
    fn spread(&mut self, f: impl FnOnce(Unpacked, &mut Env) -> Option<(F80, F80)>) {
        if self.is_empty(0) || !self.is_empty(7) {
            if self.stack_fault(!self.is_empty(0)) {
                self.set_st(0, F80::default_nan());
                self.push(F80::default_nan());
            }
            return;
        }
        let mut env = self.env();
        let results = f(self.st(0).unpack(), &mut env);
        let delivers = self.commit(&mut env);
        match results {
            Some((first, second)) if delivers => {
                self.set_st(0, first);
                self.push(second);
            }
            Some(_) => {}
            None => self.report_range(false),
        }
    }

    fn report_range(&mut self, in_range: bool) {
        self.status = self.status & !status::C2 | if in_range { 0 } else { status::C2 };
    }
}
