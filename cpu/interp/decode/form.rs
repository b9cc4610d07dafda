//! Operands and encodings of vector instructions, for all groups of them.

use iced_x86::{EncodingKind, Mnemonic as M, Register};

use super::{Insn, Kind};
use crate::interp::op::{Handler, Op};
use crate::simd;

/// Kind of an operand of a vector instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// An XMM or YMM register.
    Vector,
    Mmx,
    General,
    Memory,
    Other,
}

pub(super) fn place(insn: &Insn<'_>, n: u32) -> Place {
    match insn.kind(n) {
        Kind::Mem => Place::Memory,
        Kind::Reg => {
            let register = insn.raw.op_register(n);
            if register.is_xmm() || register.is_ymm() {
                Place::Vector
            } else if register.is_mm() {
                Place::Mmx
            } else if register.is_gpr() {
                Place::General
            } else {
                Place::Other
            }
        }
        _ => Place::Other,
    }
}

/// How an instruction is encoded: see `exec::form`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Sse,
    Vex128,
    Vex256,
}

/// The form; `None` of encodings that are not known.
pub(super) fn form(insn: &Insn<'_>) -> Option<Form> {
    match insn.raw.encoding() {
        EncodingKind::Legacy => Some(Form::Sse),
        EncodingKind::VEX => {
            let is_wide = |register: Register| register != Register::None && register.is_ymm();
            let wide = (0..insn.raw.op_count()).any(|n| is_wide(insn.raw.op_register(n)))
                || is_wide(insn.raw.memory_index())
                || insn.raw.memory_size().size() == 32;
            Some(if wide { Form::Vex256 } else { Form::Vex128 })
        }
        _ => None,
    }
}

/// The second source of a vector instruction: see `exec::form::Operand`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Register,
    Whole,
    Part16,
    Part8,
    Part4,
    Part2,
    Part1,
    Immediate,
}

/// The second source, which is the last operand but for an immediate that is none, or a mask register.
pub(super) fn source(insn: &Insn<'_>) -> Option<Source> {
    let n = if has_three(insn) || shifts_elsewhere(insn) { 2 } else { 1 };
    let whole = if form(insn)? == Form::Vex256 { 32 } else { 16 };
    Some(match (insn.kind(n), insn.raw.memory_size().size()) {
        (Kind::Reg, _) => Source::Register,
        (Kind::Imm, _) => Source::Immediate,
        (Kind::Mem, size) if size == whole => Source::Whole,
        (Kind::Mem, 16) => Source::Part16,
        (Kind::Mem, 8) => Source::Part8,
        (Kind::Mem, 4) => Source::Part4,
        (Kind::Mem, 2) => Source::Part2,
        (Kind::Mem, 1) => Source::Part1,
        _ => return None,
    })
}

/// Whether a destination and two sources are named.
fn has_three(insn: &Insn<'_>) -> bool {
    insn.raw.encoding() == EncodingKind::VEX && matches!(insn.kind(2), Kind::Reg | Kind::Mem)
}

/// An operation with the sources where `exec::form` wants them.
pub(super) fn vector_op(insn: &Insn<'_>, run: Handler) -> Op {
    let mut op = insn.op(run);
    if !has_three(insn) {
        let first = if shifts_elsewhere(insn) { op.src } else { op.dst };
        (op.src, op.src2) = (first, op.src);
    }
    op
}

/// Whether it is a shift by an immediate whose first source is not its destination.
fn shifts_elsewhere(insn: &Insn<'_>) -> bool {
    let name = simd::sse_name(insn.mnemonic());
    let shifts = simd::int_binary(name).is_some() && simd::int_immediate(name).is_none()
        || matches!(name, M::Pslldq | M::Psrldq);
    insn.raw.encoding() == EncodingKind::VEX && insn.kind(2) == Kind::Imm && shifts
}

/// The name an instruction goes by in the tables of `crate::simd`; `None` of encodings that are not
/// known.
pub(super) fn name(insn: &Insn<'_>) -> Option<M> {
    match insn.raw.encoding() {
        EncodingKind::Legacy => Some(insn.mnemonic()),
        EncodingKind::VEX => Some(simd::sse_name(insn.mnemonic())),
        _ => None,
    }
}

/// The instance of a handler for the form, before other parameters.
macro_rules! by_form {
    ($insn:expr, $f:path $(, $t:ty)*) => {{
        use $f as handler;
        match super::form::form($insn)? {
            super::form::Form::Sse => handler::<Sse $(, $t)*> as Handler,
            super::form::Form::Vex128 => handler::<Vex128 $(, $t)*>,
            super::form::Form::Vex256 => handler::<Vex256 $(, $t)*>,
        }
    }};
}
pub(super) use by_form;

/// The instance of a handler for the form and the second source, with other parameters between.
macro_rules! by_source {
    ($insn:expr, $f:path $(, $t:ty)*) => {
        match super::form::source($insn)? {
            Source::Register => by_form!($insn, $f $(, $t)*, Register),
            Source::Whole => by_form!($insn, $f $(, $t)*, Whole),
            Source::Part16 => by_form!($insn, $f $(, $t)*, Part<u128>),
            Source::Part8 => by_form!($insn, $f $(, $t)*, Part<u64>),
            Source::Part4 => by_form!($insn, $f $(, $t)*, Part<u32>),
            Source::Part2 => by_form!($insn, $f $(, $t)*, Part<u16>),
            Source::Part1 => by_form!($insn, $f $(, $t)*, Part<u8>),
            Source::Immediate => by_form!($insn, $f $(, $t)*, Immediate),
        }
    };
}
pub(super) use by_source;

/// The same for a register or memory of any alignment as what is widened to the vector.
macro_rules! by_narrow_source {
    ($insn:expr, $f:path, $bits:literal) => {
        match super::form::source($insn)? {
            Source::Register => by_form!($insn, $f, Narrow<Register, $bits>),
            Source::Whole | Source::Part16 => by_form!($insn, $f, Narrow<Part<u128>, $bits>),
            Source::Part8 => by_form!($insn, $f, Narrow<Part<u64>, $bits>),
            Source::Part4 => by_form!($insn, $f, Narrow<Part<u32>, $bits>),
            _ => by_form!($insn, $f, Narrow<Part<u16>, $bits>),
        }
    };
}
pub(super) use by_narrow_source;
