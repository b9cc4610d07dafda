//! SSE floating-point arithmetic.

use iced_x86::{EncodingKind, Mnemonic as M};

use super::sse::{Place, place};
use super::{Insn, Kind};
use crate::interp::exec::float;
use crate::interp::exec::vector::{Aligned, MNEMONIC_SHIFT, Part, Xmm};
use crate::interp::op::{Handler, Mem, Op, Src};
use crate::simd;

/// The instance of a handler for the second operand, after other parameters.
macro_rules! by_operand {
    ($insn:expr, $f:path $(, $t:ty)*) => {{
        use $f as handler;
        match (place($insn, 1), $insn.raw.memory_size().size()) {
            (Place::Xmm, _) => handler::<$($t,)* Xmm> as Handler,
            (Place::Memory, 16) => handler::<$($t,)* Aligned>,
            (Place::Memory, 8) => handler::<$($t,)* Part<u64>>,
            (Place::Memory, 4) => handler::<$($t,)* Part<u32>>,
            _ => return None,
        }
    }};
}

fn handler(insn: &Insn<'_>, mnemonic: M) -> Option<Handler> {
    if simd::float_order(mnemonic).is_some() {
        return Some(by_operand!(insn, float::order));
    }
    if simd::float_from_int(mnemonic).is_some() {
        return Some(match (insn.kind(1), insn.size(1)) {
            (Kind::Reg, 8) => float::from_general::<u64, Src>,
            (Kind::Reg, _) => float::from_general::<u32, Src>,
            (_, 8) => float::from_general::<u64, Mem>,
            _ => float::from_general::<u32, Mem>,
        });
    }
    if simd::float_to_int(mnemonic).is_some() {
        return Some(match insn.size(0) {
            8 => by_operand!(insn, float::to_general, u64),
            _ => by_operand!(insn, float::to_general, u32),
        });
    }
    simd::float(mnemonic)?;
    Some(match (place(insn, 0), place(insn, 1)) {
        (Place::Mmx, _) => by_operand!(insn, float::to_mmx),
        (_, Place::Mmx) => float::from_mmx,
        _ => by_operand!(insn, float::float),
    })
}

pub(super) fn lower(insn: &Insn<'_>, mnemonic: M) -> Option<Op> {
    if insn.raw.encoding() != EncodingKind::Legacy {
        return None;
    }
    let mut op = insn.op(handler(insn, mnemonic)?);
    op.imm = op.imm & 0xff | (mnemonic as u64) << MNEMONIC_SHIFT;
    Some(op)
}
