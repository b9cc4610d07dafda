//! The x87 register stack and what each instruction does to it.
//!
//! A method stands for one instruction (or one family) and takes or returns memory operands as
//! values. An exception that its control word does not mask is left pending: [`X87::pending`] tells
//! the caller to raise #MF before the next waiting instruction. A method that returns `None` must not
//! write its memory operand. [`X87`] is `Copy`: an instruction whose store may fault is run on a copy.

mod arithmetic;
mod compare;
mod images;
mod load_store;
#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod silicon_tests;

pub use arithmetic::Arith;
pub use images::EnvLayout;
pub use load_store::Constant;

use super::env::{Env, NanRule, Rounding, flag};
use super::format::{F80, Float};

/// Bits of the status word.
pub mod status {
    /// Stack fault.
    pub const SF: u16 = 1 << 6;
    /// Exception summary: an unmasked exception is pending.
    pub const ES: u16 = 1 << 7;
    /// Condition code 0.
    pub const C0: u16 = 1 << 8;
    /// Condition code 1: rounded up, or the direction of a stack fault.
    pub const C1: u16 = 1 << 9;
    /// Condition code 2.
    pub const C2: u16 = 1 << 10;
    /// Position of the three TOP bits.
    pub const TOP_SHIFT: u32 = 11;
    /// Condition code 3.
    pub const C3: u16 = 1 << 14;
    /// Busy, a copy of ES since the 387.
    pub const B: u16 = 1 << 15;
    /// The condition codes that comparisons set.
    pub const CONDITION: u16 = C0 | C2 | C3;
    /// What is stored; the rest is derived or unused.
    pub(super) const STORED: u16 = 0x3f | SF | C0 | C1 | C2 | C3;
}

/// The state of the x87 FPU, shared with MMX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X87 {
    /// Physical registers R0 to R7; ST(i) is R((top + i) mod 8). MMi is the significand of Ri.
    regs: [F80; 8],
    /// Number of the physical register that is ST(0).
    top: u8,
    /// Exception flags, SF and condition codes, at their places in the status word.
    status: u16,
    control: u16,
    /// Abridged tags: bit i set if Ri is not empty.
    valid: u8,
    /// Opcode of the last non-control instruction (11 bits).
    pub fop: u16,
    /// Offset of that instruction.
    pub fip: u64,
    /// Its code segment.
    pub fcs: u16,
    /// Offset of its memory operand.
    pub fdp: u64,
    /// The segment of that.
    pub fds: u16,
}

impl Default for X87 {
    /// The state after FNINIT, with registers cleared.
    fn default() -> Self {
        Self {
            regs: [F80::default(); 8],
            top: 0,
            status: 0,
            control: 0x037f,
            valid: 0,
            fop: 0,
            fip: 0,
            fcs: 0,
            fdp: 0,
            fds: 0,
        }
    }
}

/// Control, state and the register stack.
impl X87 {
    /// The status word (FNSTSW).
    pub fn status(&self) -> u16 {
        let summary = if self.pending() { status::ES | status::B } else { 0 };
        self.status | summary | u16::from(self.top) << status::TOP_SHIFT
    }

    /// Replaces the status word; ES and B follow from flags and masks.
    pub fn set_status(&mut self, value: u16) {
        self.status = value & status::STORED;
        self.top = (value >> status::TOP_SHIFT) as u8 & 7;
    }

    /// The control word (FNSTCW).
    pub fn control(&self) -> u16 {
        self.control
    }

    /// Replaces the control word (FLDCW); bit 6 always reads 1.
    pub fn set_control(&mut self, value: u16) {
        self.control = value & 0x1f7f | 0x40;
    }

    /// Whether a waiting instruction must raise #MF (or FERR#) instead of executing.
    pub fn pending(&self) -> bool {
        self.status & !self.control & u16::from(flag::ALL) != 0
    }

    /// Abridged tag byte, as FXSAVE keeps it: bit i set if physical register i is not empty.
    pub fn abridged_tags(&self) -> u8 {
        self.valid
    }

    /// Replaces the abridged tags.
    pub fn set_abridged_tags(&mut self, valid: u8) {
        self.valid = valid;
    }

    /// The physical register `index` (mod 8).
    pub fn register(&self, index: u8) -> F80 {
        self.regs[usize::from(index & 7)]
    }

    /// Replaces the physical register `index` (mod 8); its tag stays.
    pub fn set_register(&mut self, index: u8, value: F80) {
        self.regs[usize::from(index & 7)] = value;
    }

    /// FNINIT. The registers keep their contents, as empty ones.
    pub fn fninit(&mut self) {
        *self = Self { regs: self.regs, ..Self::default() };
    }

    /// FNCLEX.
    pub fn fnclex(&mut self) {
        self.status &= !(u16::from(flag::ALL) | status::SF);
    }

    /// FFREE ST(i).
    pub fn ffree(&mut self, i: u8) {
        self.empty(i);
        self.set_c1(false);
    }

    /// FINCSTP.
    pub fn fincstp(&mut self) {
        self.top = (self.top + 1) & 7;
        self.set_c1(false);
    }

    /// FDECSTP.
    pub fn fdecstp(&mut self) {
        self.top = self.top.wrapping_sub(1) & 7;
        self.set_c1(false);
    }

    /// What every MMX instruction but EMMS does first: TOP = 0, all registers valid.
    pub fn enter_mmx(&mut self) {
        self.top = 0;
        self.valid = 0xff;
    }

    /// EMMS.
    pub fn emms(&mut self) {
        self.top = 0;
        self.valid = 0;
    }

    /// MMX register `index` (mod 8).
    pub fn mmx(&self, index: u8) -> u64 {
        self.register(index).sig
    }

    /// Writes an MMX register; exponent and sign become all ones.
    pub fn set_mmx(&mut self, index: u8, value: u64) {
        self.set_register(index, F80::new(0xffff, value));
    }

    fn physical(&self, i: u8) -> u8 {
        (self.top + i) & 7
    }

    fn is_empty(&self, i: u8) -> bool {
        self.valid & 1 << self.physical(i) == 0
    }

    fn st(&self, i: u8) -> F80 {
        self.register(self.physical(i))
    }

    /// Writes ST(i) and marks it valid.
    fn set_st(&mut self, i: u8, value: F80) {
        let index = self.physical(i);
        self.regs[usize::from(index)] = value;
        self.valid |= 1 << index;
    }

    fn empty(&mut self, i: u8) {
        self.valid &= !(1 << self.physical(i));
    }

    fn push(&mut self, value: F80) {
        self.top = self.top.wrapping_sub(1) & 7;
        self.set_st(0, value);
    }

    fn pop(&mut self) {
        self.empty(0);
        self.top = (self.top + 1) & 7;
    }

    fn pop_times(&mut self, count: u8) {
        for _ in 0..count {
            self.pop();
        }
    }

    fn set_c1(&mut self, value: bool) {
        self.status = self.status & !status::C1 | if value { status::C1 } else { 0 };
    }

    fn set_condition(&mut self, codes: u16) {
        self.status = self.status & !status::CONDITION | codes;
    }

    /// The environment of an operation that ignores precision control.
    fn env(&self) -> Env {
        Env {
            rounding: Rounding::from_bits(u32::from(self.control >> 10)),
            precision: F80::PRECISION,
            masks: self.control as u8 & flag::ALL,
            flush_to_zero: false,
            denormals_are_zero: false,
            nan_rule: NanRule::LargerSignificand,
            flags: 0,
            rounded_up: false,
        }
    }

    /// The environment of FADD, FSUB, FMUL, FDIV and FSQRT, which obey precision control.
    fn precise_env(&self) -> Env {
        let precision = match self.control >> 8 & 3 {
            0 => 24,
            2 => 53,
            _ => 64,
        };
        Env { precision, ..self.env() }
    }

    /// Takes over what an operation raised; returns whether it delivers its result.
    fn commit(&mut self, env: &mut Env) -> bool {
        let delivers = env.settle();
        self.note(env.flags);
        self.set_c1(env.rounded_up);
        delivers
    }

    fn note(&mut self, flags: u8) {
        self.status |= u16::from(flags);
    }

    /// Notes a stack fault; returns whether it is masked, so that the indefinite is delivered.
    fn stack_fault(&mut self, overflow: bool) -> bool {
        self.note(flag::IE);
        self.status |= status::SF;
        self.set_c1(overflow);
        self.control & u16::from(flag::IE) != 0
    }

    /// Pushes the indefinite for a masked stack overflow; returns false if there was none.
    fn overflows(&mut self) -> bool {
        let overflow = !self.is_empty(7);
        if overflow && self.stack_fault(true) {
            self.push(F80::default_nan());
        }
        overflow
    }
}
