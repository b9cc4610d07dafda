//! Vector arithmetic without floating-point exceptions, in its SSE and MMX forms.

use iced_x86::{EncodingKind, Mnemonic as M};

use super::sse::{Place, place};
use super::{Insn, Kind};
use crate::interp::exec::vector::{
    self, Aligned, Explicit, Immediate, Implicit, MNEMONIC_SHIFT, Mm, Part, Xmm,
};
use crate::interp::op::{Handler, Mem, Op, Src};
use crate::simd;

fn memory_size(insn: &Insn<'_>) -> usize {
    insn.raw.memory_size().size()
}

/// The instance of a handler for the kind of the second operand.
macro_rules! by_operand {
    ($insn:expr, $f:ident) => {
        match (place($insn, 1), memory_size($insn)) {
            (Place::Xmm, _) => vector::$f::<Xmm> as Handler,
            (Place::Memory, 16) => vector::$f::<Aligned>,
            (Place::Memory, 8) => vector::$f::<Part<u64>>,
            (Place::Memory, 4) => vector::$f::<Part<u32>>,
            (Place::Memory, 2) => vector::$f::<Part<u16>>,
            _ if $insn.kind(1) == Kind::Imm => vector::$f::<Immediate>,
            _ => return None,
        }
    };
}

macro_rules! by_mmx_operand {
    ($insn:expr, $f:ident) => {
        match (place($insn, 1), memory_size($insn)) {
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
    ($insn:expr, $f:ident, $lengths:ty) => {
        match $insn.kind(1) {
            Kind::Reg => vector::$f::<$lengths, Xmm> as Handler,
            _ => vector::$f::<$lengths, Part<u128>>,
        }
    };
}

/// The instance for a source that is a general register or memory.
macro_rules! from_general {
    ($insn:expr, $t:ty) => {
        match $insn.kind(1) {
            Kind::Reg => vector::insert::<$t, Src> as Handler,
            _ => vector::insert::<$t, Mem>,
        }
    };
}

macro_rules! to_general {
    ($insn:expr, $t:ty) => {
        match $insn.kind(0) {
            Kind::Reg => vector::extract::<$t> as Handler,
            _ => vector::extract_to_memory::<$t>,
        }
    };
}

fn mmx(insn: &Insn<'_>, mnemonic: M) -> Option<Handler> {
    Some(match mnemonic {
        M::Pinsrw if insn.kind(1) == Kind::Reg => vector::mmx_insert::<Src>,
        M::Pinsrw => vector::mmx_insert::<Mem>,
        M::Pextrw => vector::mmx_extract,
        M::Pmovmskb => vector::mmx_sign_mask,
        _ if simd::mmx_immediate(mnemonic).is_some() => by_mmx_operand!(insn, mmx_imm),
        _ if simd::mmx_binary(mnemonic).is_some() => by_mmx_operand!(insn, mmx_binary),
        _ => return None,
    })
}

fn sse(insn: &Insn<'_>, mnemonic: M) -> Option<Handler> {
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
        M::Pcmpistri => strings!(insn, string_index, Implicit),
        M::Pcmpistrm => strings!(insn, string_mask, Implicit),
        M::Pcmpestri => strings!(insn, string_index, Explicit<u32>),
        M::Pcmpestrm => strings!(insn, string_mask, Explicit<u32>),
        M::Pcmpestri64 => strings!(insn, string_index, Explicit<u64>),
        M::Pcmpestrm64 => strings!(insn, string_mask, Explicit<u64>),
        _ if simd::sign_mask(mnemonic).is_some() => vector::sign_mask,
        _ if simd::int_test(mnemonic).is_some() => by_operand!(insn, test),
        _ if simd::int_ternary(mnemonic).is_some() => by_operand!(insn, ternary),
        _ if simd::int_immediate(mnemonic).is_some() => by_operand!(insn, binary_imm),
        _ if simd::int_binary(mnemonic).is_some() => by_operand!(insn, binary),
        _ => return None,
    })
}

pub(super) fn lower(insn: &Insn<'_>, mnemonic: M) -> Option<Op> {
    if insn.raw.encoding() != EncodingKind::Legacy {
        return None;
    }
    let is_mmx = (0..insn.raw.op_count().min(2)).any(|n| place(insn, n) == Place::Mmx);
    let mut op = insn.op(if is_mmx { mmx(insn, mnemonic)? } else { sse(insn, mnemonic)? });
    op.imm &= 0xff;
    if mnemonic == M::Insertps && insn.kind(1) == Kind::Mem {
        // There is only one lane to select from in memory.
        op.imm &= 0x3f;
    }
    if matches!(mnemonic, M::Extrq | M::Insertq) && insn.kind(insn.raw.op_count() - 1) == Kind::Imm
    {
        let last = insn.raw.op_count() - 1;
        op.imm = insn.raw.immediate(last - 1) & 0xff | (insn.raw.immediate(last) & 0xff) << 8;
        return Some(op);
    }
    op.imm |= (mnemonic as u64) << MNEMONIC_SHIFT;
    Some(op)
}
