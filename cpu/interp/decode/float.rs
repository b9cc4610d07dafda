//! SSE, AVX and FMA floating-point arithmetic.

use iced_x86::Mnemonic as M;

use super::form::{Form, Place, Source, by_form, by_narrow_source, by_source};
use super::form::{form, name, place, source, vector_op};
use super::{Insn, Kind};
use crate::interp::exec::float;
use crate::interp::exec::form::{Immediate, Narrow, Part, Register, Sse, Vex128, Vex256, Whole};
use crate::interp::exec::vector::MNEMONIC_SHIFT;
use crate::interp::op::{Handler, Mem, Op, Src2};
use crate::simd;

/// The instance for a source that is a general register or memory.
fn from_general(insn: &Insn<'_>) -> Option<Handler> {
    let n = insn.raw.op_count() - 1;
    Some(match (insn.kind(n), insn.size(n)) {
        (Kind::Reg, 8) => by_form!(insn, float::from_general, u64, Src2),
        (Kind::Reg, _) => by_form!(insn, float::from_general, u32, Src2),
        (_, 8) => by_form!(insn, float::from_general, u64, Mem),
        _ => by_form!(insn, float::from_general, u32, Mem),
    })
}

/// Between an MMX and an XMM register.
fn mmx(insn: &Insn<'_>) -> Option<Handler> {
    Some(match (place(insn, 0), source(insn)?) {
        (Place::Vector, Source::Register) => float::from_mmx,
        (_, Source::Register) => float::to_mmx::<Register>,
        (_, Source::Whole) => float::to_mmx::<Whole>,
        _ => float::to_mmx::<Part<u64>>,
    })
}

fn handler(insn: &Insn<'_>, mnemonic: M) -> Option<Handler> {
    if simd::float_ternary(mnemonic).is_some() {
        return Some(by_source!(insn, float::ternary));
    }
    if simd::float_order(mnemonic).is_some() {
        return Some(by_source!(insn, float::order));
    }
    if simd::float_from_int(mnemonic).is_some() {
        return from_general(insn);
    }
    if simd::float_to_int(mnemonic).is_some() {
        return Some(match insn.size(0) {
            8 => by_source!(insn, float::to_general, u64),
            _ => by_source!(insn, float::to_general, u32),
        });
    }
    simd::float(mnemonic)?;
    let between_files = |n| place(insn, n) == Place::Mmx;
    Some(match mnemonic {
        _ if between_files(0) || between_files(1) => mmx(insn)?,
        M::Cvtdq2pd | M::Cvtps2pd | M::Vcvtph2ps => by_narrow_source!(insn, float::float, 64),
        M::Cvtpd2ps | M::Cvtpd2dq | M::Cvttpd2dq => by_source!(insn, float::narrow),
        M::Vcvtps2ph => match (insn.kind(0), form(insn)?) {
            (Kind::Reg, _) => by_form!(insn, float::narrow, Register),
            (_, Form::Vex256) => float::narrow_to_memory::<Vex256, u128>,
            _ => float::narrow_to_memory::<Vex128, u64>,
        },
        _ => by_source!(insn, float::float),
    })
}

pub(super) fn lower(insn: &Insn<'_>) -> Option<Op> {
    let mnemonic = name(insn)?;
    let mut op = vector_op(insn, handler(insn, mnemonic)?);
    op.imm &= 0xff;
    if matches!(mnemonic, M::Cmpps | M::Cmppd | M::Cmpss | M::Cmpsd) && form(insn)? == Form::Sse {
        // The other predicates came with VEX.
        op.imm &= 7;
    }
    op.imm |= (mnemonic as u64) << MNEMONIC_SHIFT;
    Some(op)
}
