//! Vector arithmetic without floating-point exceptions, in its SSE, VEX and MMX forms.

use iced_x86::Mnemonic as M;

use super::form::{Form, Place, Source, by_form, by_narrow_source, by_source};
use super::form::{form, name, place, source, vector_op};
use super::{Insn, Kind};
use crate::interp::exec::form::{
    Immediate, Narrow, Part, Register, Sse, Uniform, Vex128, Vex256, Whole,
};
use crate::interp::exec::vector::{self, Explicit, Implicit, MNEMONIC_SHIFT, Mm, STEP_SHIFT};
use crate::interp::op::{Handler, Mem, Op, Src2};
use crate::simd;

macro_rules! by_mmx_operand {
    ($insn:expr, $f:ident) => {
        match (place($insn, 1), $insn.raw.memory_size().size()) {
            (Place::Mmx, _) => vector::$f::<Mm> as Handler,
            (Place::Memory, 8) => vector::$f::<Part<u64>>,
            (Place::Memory, 4) => vector::$f::<Part<u32>>,
            _ if $insn.kind(1) == Kind::Imm => vector::$f::<Immediate>,
            _ => return None,
        }
    };
}

/// The instance of a string comparison, whose second operand may be anywhere in memory.
macro_rules! strings {
    ($insn:expr, $f:path, $lengths:ty) => {
        match $insn.kind(1) {
            Kind::Reg => by_form!($insn, $f, $lengths, Register),
            _ => by_form!($insn, $f, $lengths, Part<u128>),
        }
    };
}

/// The instance for a source that is a general register or memory.
macro_rules! from_general {
    ($insn:expr, $t:ty) => {
        match source($insn)? {
            Source::Register => by_form!($insn, vector::insert, $t, Src2),
            _ => by_form!($insn, vector::insert, $t, Mem),
        }
    };
}

macro_rules! to_general {
    ($insn:expr, $t:ty) => {
        match $insn.kind(0) {
            Kind::Reg => by_form!($insn, vector::extract, $t),
            _ => by_form!($insn, vector::extract_to_memory, $t),
        }
    };
}

fn mmx(insn: &Insn<'_>, mnemonic: M) -> Option<Handler> {
    Some(match mnemonic {
        M::Pinsrw if insn.kind(1) == Kind::Reg => vector::mmx_insert::<Src2>,
        M::Pinsrw => vector::mmx_insert::<Mem>,
        M::Pextrw => vector::mmx_extract,
        M::Pmovmskb => vector::mmx_sign_mask,
        _ if simd::mmx_immediate(mnemonic).is_some() => by_mmx_operand!(insn, mmx_imm),
        _ if simd::mmx_binary(mnemonic).is_some() => by_mmx_operand!(insn, mmx_binary),
        _ => return None,
    })
}

/// The operations on lanes that are not simply between two vectors of the same width.
fn uneven(insn: &Insn<'_>, mnemonic: M) -> Option<Handler> {
    Some(match mnemonic {
        M::Pmovsxbw | M::Pmovsxwd | M::Pmovsxdq | M::Pmovzxbw | M::Pmovzxwd | M::Pmovzxdq => {
            by_narrow_source!(insn, vector::binary, 64)
        }
        M::Pmovsxbd | M::Pmovsxwq | M::Pmovzxbd | M::Pmovzxwq => {
            by_narrow_source!(insn, vector::binary, 32)
        }
        M::Pmovsxbq | M::Pmovzxbq => by_narrow_source!(insn, vector::binary, 16),
        // The count is the same for both lanes.
        M::Psllw | M::Pslld | M::Psllq | M::Psrlw | M::Psrld | M::Psrlq | M::Psraw | M::Psrad
            if form(insn)? == Form::Vex256 =>
        {
            match source(insn)? {
                Source::Register => vector::binary::<Vex256, Uniform<Register>>,
                Source::Immediate => vector::binary::<Vex256, Immediate>,
                _ => vector::binary::<Vex256, Uniform<Part<u128>>>,
            }
        }
        M::Vextractf128 | M::Vextracti128 => match insn.kind(0) {
            Kind::Reg => vector::extract_half,
            _ => vector::extract_half_to_memory,
        },
        _ => return None,
    })
}

fn handler(insn: &Insn<'_>, mnemonic: M) -> Option<Handler> {
    Some(match mnemonic {
        M::Pinsrb => from_general!(insn, u8),
        M::Pinsrw => from_general!(insn, u16),
        M::Pinsrd => from_general!(insn, u32),
        M::Pinsrq => from_general!(insn, u64),
        M::Pextrb => to_general!(insn, u8),
        M::Pextrw => to_general!(insn, u16),
        M::Pextrd | M::Extractps => to_general!(insn, u32),
        M::Pextrq => to_general!(insn, u64),
        M::Extrq if insn.kind(1) == Kind::Imm => vector::extract_bits,
        M::Insertq if insn.kind(2) == Kind::Imm => vector::insert_bits,
        M::Pcmpistri => strings!(insn, vector::string_index, Implicit),
        M::Pcmpistrm => strings!(insn, vector::string_mask, Implicit),
        M::Pcmpestri => strings!(insn, vector::string_index, Explicit<u32>),
        M::Pcmpestrm => strings!(insn, vector::string_mask, Explicit<u32>),
        M::Pcmpestri64 => strings!(insn, vector::string_index, Explicit<u64>),
        M::Pcmpestrm64 => strings!(insn, vector::string_mask, Explicit<u64>),
        _ if simd::sign_mask(mnemonic).is_some() => by_form!(insn, vector::sign_mask),
        _ if simd::int_test(mnemonic).is_some() => by_source!(insn, vector::test),
        _ if simd::across_lanes(mnemonic).is_some() => by_source!(insn, vector::across_lanes),
        _ if simd::int_ternary(mnemonic).is_some() => by_source!(insn, vector::ternary),
        _ if has_immediate(insn, mnemonic) => by_source!(insn, vector::binary_imm),
        _ if simd::int_binary(mnemonic).is_some() => by_source!(insn, vector::binary),
        _ => return None,
    })
}

/// Whether the operation takes an immediate beside its operands. (VPERMILPS has forms with and
/// without; immediate shift counts are operands.)
fn has_immediate(insn: &Insn<'_>, mnemonic: M) -> bool {
    simd::int_immediate(mnemonic).is_some() && insn.kind(insn.raw.op_count() - 1) == Kind::Imm
}

pub(super) fn lower(insn: &Insn<'_>) -> Option<Op> {
    let mnemonic = name(insn)?;
    let is_mmx = (0..insn.raw.op_count().min(2)).any(|n| place(insn, n) == Place::Mmx);
    let run = if is_mmx {
        mmx(insn, mnemonic)?
    } else {
        uneven(insn, mnemonic).or_else(|| handler(insn, mnemonic))?
    };
    let mut op = vector_op(insn, run);
    op.imm &= 0xff;
    let last = insn.raw.op_count().saturating_sub(1);
    if mnemonic == M::Insertps && source(insn)? != Source::Register {
        // There is only one lane to select from in memory.
        op.imm &= 0x3f;
    }
    if matches!(mnemonic, M::Extrq | M::Insertq) && insn.kind(last) == Kind::Imm {
        op.imm = insn.raw.immediate(last - 1) & 0xff | (insn.raw.immediate(last) & 0xff) << 8;
        return Some(op);
    }
    if simd::int_ternary(mnemonic).is_some() {
        op.imm = match (form(insn)?, insn.kind(3)) {
            // XMM0, or the accumulator.
            (Form::Sse, _) => 0,
            (_, Kind::None) => op.dst.into(),
            _ => insn.raw.op3_register().number() as u64,
        };
    }
    op.imm |= (mnemonic as u64) << MNEMONIC_SHIFT;
    op.imm |= u64::from(simd::immediate_step(mnemonic)) << STEP_SHIFT;
    Some(op)
}
