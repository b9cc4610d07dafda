//! Comparison, classification, and conditional moves.

use super::{X87, status};
use crate::fpu::compare::compare;
use crate::fpu::format::{Class, F80, Float, Unpacked};
use std::cmp::Ordering;

impl X87 {
    /// FCOM, FCOMP, FCOMPP (`quiet` false), FUCOM, FUCOMP, FUCOMPP (true): ST(0) with ST(i).
    pub fn fcom(&mut self, i: u8, quiet: bool, pops: u8) {
        let operand = (!self.is_empty(i)).then(|| self.st(i).unpack());
        self.compare_and_pop(operand, quiet, pops);
    }

    /// FCOM, FCOMP, FICOM, FICOMP with a memory operand.
    pub fn fcom_value(&mut self, operand: Unpacked, pop: bool) {
        self.compare_and_pop(Some(operand), false, u8::from(pop));
    }

    fn compare_and_pop(&mut self, operand: Option<Unpacked>, quiet: bool, pops: u8) {
        self.set_c1(false);
        let (order, delivers) = self.compare_st0(operand, quiet);
        self.set_condition(condition(order));
        if delivers {
            self.pop_times(pops);
        }
    }

    /// FTST.
    pub fn ftst(&mut self) {
        self.fcom_value(Unpacked::zero(false), false);
    }

    /// FCOMI, FCOMIP (`quiet` false), FUCOMI, FUCOMIP (true); C1 stays. The order is
    /// what ZF, PF and CF tell (`None`: unordered), even if an exception is pending now.
    pub fn fcomi(&mut self, i: u8, quiet: bool, pop: bool) -> Option<Ordering> {
        let operand = (!self.is_empty(i)).then(|| self.st(i).unpack());
        let (order, delivers) = self.compare_st0(operand, quiet);
        if delivers && pop {
            self.pop();
        }
        order
    }

    /// Compares ST(0) with an operand (`None`: an empty register). Returns the order, and whether no
    /// unmasked exception was raised; condition codes and EFLAGS are set even then.
    fn compare_st0(&mut self, operand: Option<Unpacked>, quiet: bool) -> (Option<Ordering>, bool) {
        match operand {
            Some(operand) if !self.is_empty(0) => {
                let mut env = self.env();
                let order = compare(self.st(0).unpack(), operand, !quiet, &mut env);
                let delivers = env.settle();
                self.note(env.flags);
                (order, delivers)
            }
            _ => (None, self.stack_fault(false)),
        }
    }

    /// FXAM.
    pub fn fxam(&mut self) {
        let st0 = self.st(0);
        let unpacked = st0.unpack();
        let codes = match unpacked.class {
            _ if self.is_empty(0) => status::C3 | status::C0,
            Class::Unsupported => 0,
            Class::QuietNan | Class::SignalingNan => status::C0,
            Class::Finite if unpacked.denormal => status::C3 | status::C2,
            Class::Finite => status::C2,
            Class::Infinite => status::C2 | status::C0,
            Class::Zero => status::C3,
        };
        self.set_condition(codes);
        self.set_c1(st0.sign_exp & 0x8000 != 0);
    }

    /// FCMOVcc ST(0), ST(i), with the condition already evaluated.
    pub fn fcmov(&mut self, i: u8, condition: bool) {
        if self.is_empty(0) || self.is_empty(i) {
            if self.stack_fault(false) {
                self.set_st(0, F80::default_nan());
            }
            return;
        }
        if condition {
            self.set_st(0, self.st(i));
        }
    }
}

/// Condition codes of a comparison.
fn condition(order: Option<Ordering>) -> u16 {
    match order {
        Some(Ordering::Greater) => 0,
        Some(Ordering::Less) => status::C0,
        Some(Ordering::Equal) => status::C3,
        None => status::C0 | status::C2 | status::C3,
    }
}
