//! SSE and MMX data movement, and the state areas.

use iced_x86::{EncodingKind, Mnemonic as M, Register};

use super::{Insn, Kind};
use crate::interp::exec::area;
use crate::interp::exec::sse::{self, mmx};
use crate::interp::op::{Handler, Op};

/// Kind of an operand of a vector instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Xmm,
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
            if register.is_xmm() {
                Place::Xmm
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

/// MOVD and MOVQ.
fn move_scalar(insn: &Insn<'_>, wide: bool) -> Option<Handler> {
    use Place::{General, Memory, Mmx, Xmm};
    Some(match (place(insn, 0), place(insn, 1), wide) {
        (Xmm, Xmm, true) => sse::movq_registers,
        (Xmm, Memory, true) => sse::load::<u64>,
        (Xmm, Memory, false) => sse::load::<u32>,
        (Memory, Xmm, true) => sse::store::<u64>,
        (Memory, Xmm, false) => sse::store::<u32>,
        (Xmm, General, true) => sse::from_general::<u64>,
        (Xmm, General, false) => sse::from_general::<u32>,
        (General, Xmm, true) => sse::to_general::<u64>,
        (General, Xmm, false) => sse::to_general::<u32>,
        (Mmx, Mmx, true) => mmx::mov_registers,
        (Mmx, Memory, true) => mmx::load::<u64>,
        (Mmx, Memory, false) => mmx::load::<u32>,
        (Memory, Mmx, true) => mmx::store::<u64>,
        (Memory, Mmx, false) => mmx::store::<u32>,
        (Mmx, General, true) => mmx::from_general::<u64>,
        (Mmx, General, false) => mmx::from_general::<u32>,
        (General, Mmx, true) => mmx::to_general::<u64>,
        (General, Mmx, false) => mmx::to_general::<u32>,
        _ => return None,
    })
}

/// A whole register.
fn move_whole(insn: &Insn<'_>, aligned: bool) -> Handler {
    match (insn.kind(0), insn.kind(1), aligned) {
        (Kind::Mem, _, true) => sse::store_aligned,
        (Kind::Mem, _, false) => sse::store::<u128>,
        (_, Kind::Mem, true) => sse::load_aligned,
        (_, Kind::Mem, false) => sse::load::<u128>,
        _ => sse::mov_registers,
    }
}

fn handler(insn: &Insn<'_>, mnemonic: M) -> Option<Handler> {
    let (to_memory, from_memory) = (insn.kind(0) == Kind::Mem, insn.kind(1) == Kind::Mem);
    Some(match mnemonic {
        M::Movaps | M::Movapd | M::Movdqa | M::Movntps | M::Movntpd | M::Movntdq | M::Movntdqa => {
            move_whole(insn, true)
        }
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => move_whole(insn, false),
        M::Movd => move_scalar(insn, false)?,
        M::Movq => move_scalar(insn, true)?,
        M::Movss if to_memory => sse::store::<u32>,
        M::Movss if from_memory => sse::load::<u32>,
        M::Movss => sse::merge::<u32>,
        M::Movsd if to_memory => sse::store::<u64>,
        M::Movsd if from_memory => sse::load::<u64>,
        M::Movsd => sse::merge::<u64>,
        M::Movlps | M::Movlpd if to_memory => sse::store::<u64>,
        M::Movlps | M::Movlpd => sse::load_low,
        M::Movhps | M::Movhpd if to_memory => sse::store_high,
        M::Movhps | M::Movhpd => sse::load_high,
        M::Movhlps => sse::high_to_low,
        M::Movlhps => sse::low_to_high,
        M::Movntss => sse::store::<u32>,
        M::Movntsd => sse::store::<u64>,
        M::Movntq => mmx::store::<u64>,
        M::Movdq2q => mmx::from_xmm,
        M::Movq2dq => mmx::to_xmm,
        M::Emms => mmx::emms,
        M::Ldmxcsr => area::ldmxcsr,
        M::Stmxcsr => area::stmxcsr,
        M::Fxsave => area::fxsave::<false>,
        M::Fxsave64 => area::fxsave::<true>,
        M::Fxrstor => area::fxrstor::<false>,
        M::Fxrstor64 => area::fxrstor::<true>,
        M::Xsave => area::xsave::<false, false>,
        M::Xsave64 => area::xsave::<true, false>,
        M::Xsaveopt => area::xsave::<false, true>,
        M::Xsaveopt64 => area::xsave::<true, true>,
        M::Xrstor => area::xrstor::<false>,
        M::Xrstor64 => area::xrstor::<true>,
        _ => return None,
    })
}

pub(super) fn lower(insn: &Insn<'_>, mnemonic: M) -> Option<Op> {
    if insn.raw.encoding() != EncodingKind::Legacy {
        return None;
    }
    match mnemonic {
        M::Maskmovdqu => return Some(to_rdi(insn, sse::maskmovdqu)),
        M::Maskmovq => return Some(to_rdi(insn, mmx::maskmovq)),
        _ => {}
    }
    Some(insn.op(handler(insn, mnemonic)?))
}

/// MASKMOVDQU and MASKMOVQ: the first operand is the memory at (E)DI or RDI.
fn to_rdi(insn: &Insn<'_>, run: Handler) -> Op {
    let mut op = insn.op(run);
    let (dst, src) = (insn.raw.op1_register(), insn.raw.op2_register());
    (op.dst, op.src) = (dst.number() as u8, src.number() as u8);
    let prefix = insn.raw.segment_prefix();
    insn.segment(&mut op, if prefix == Register::None { Register::DS } else { prefix });
    op.base = crate::interp::op::Reg::Rdi;
    op.wrap = 64 - super::string::address_bits(insn);
    op
}
