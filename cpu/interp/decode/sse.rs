//! Data movement of SSE, AVX and MMX, and the state areas.

use iced_x86::{Mnemonic as M, Register};

use super::form::{Form, Place, by_form, form, name, place, vector_op};
use super::{Insn, Kind};
use crate::interp::exec::form::{Sse, Vex128, Vex256};
use crate::interp::exec::sse::{self, mmx};
use crate::interp::exec::{area, masked, xsave};
use crate::interp::op::{Handler, Op};

/// MOVD and MOVQ.
fn move_scalar(insn: &Insn<'_>, wide: bool) -> Option<Handler> {
    use Place::{General, Memory, Mmx, Vector};
    Some(match (place(insn, 0), place(insn, 1), wide) {
        (Vector, Vector, true) => by_form!(insn, sse::movq_registers),
        (Vector, Memory, true) => by_form!(insn, sse::load, u64),
        (Vector, Memory, false) => by_form!(insn, sse::load, u32),
        (Memory, Vector, true) => by_form!(insn, sse::store, u64),
        (Memory, Vector, false) => by_form!(insn, sse::store, u32),
        (Vector, General, true) => by_form!(insn, sse::from_general, u64),
        (Vector, General, false) => by_form!(insn, sse::from_general, u32),
        (General, Vector, true) => by_form!(insn, sse::to_general, u64),
        (General, Vector, false) => by_form!(insn, sse::to_general, u32),
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

/// The instance of a handler for the form, and whether operands must be aligned.
macro_rules! by_alignment {
    ($insn:expr, $aligned:expr, $f:ident) => {
        match (form($insn)?, $aligned) {
            (Form::Sse, true) => sse::$f::<Sse, true>,
            (Form::Sse, false) => sse::$f::<Sse, false>,
            (Form::Vex128, true) => sse::$f::<Vex128, true>,
            (Form::Vex128, false) => sse::$f::<Vex128, false>,
            (Form::Vex256, true) => sse::$f::<Vex256, true>,
            (Form::Vex256, false) => sse::$f::<Vex256, false>,
        }
    };
}

/// A whole register.
fn move_whole(insn: &Insn<'_>, aligned: bool) -> Option<Handler> {
    Some(match (insn.kind(0), insn.kind(1)) {
        (Kind::Mem, _) => by_alignment!(insn, aligned, store_whole),
        (_, Kind::Mem) => by_alignment!(insn, aligned, load_whole),
        _ => by_form!(insn, sse::mov_registers),
    })
}

/// VMASKMOVPS and its like, of elements `T`.
macro_rules! masked {
    ($insn:expr, $t:ty) => {
        match $insn.kind(0) {
            Kind::Mem => by_form!($insn, masked::store, $t),
            _ => by_form!($insn, masked::load, $t),
        }
    };
}

fn handler(insn: &Insn<'_>, mnemonic: M) -> Option<Handler> {
    let (to_memory, from_memory) = (insn.kind(0) == Kind::Mem, insn.kind(1) == Kind::Mem);
    Some(match mnemonic {
        M::Movaps | M::Movapd | M::Movdqa | M::Movntps | M::Movntpd | M::Movntdq | M::Movntdqa => {
            move_whole(insn, true)?
        }
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => move_whole(insn, false)?,
        M::Movd => move_scalar(insn, false)?,
        M::Movq => move_scalar(insn, true)?,
        M::Movss | M::Movntss if to_memory => by_form!(insn, sse::store, u32),
        M::Movss if from_memory => by_form!(insn, sse::load, u32),
        M::Movss => by_form!(insn, sse::merge, u32),
        M::Movsd | M::Movntsd if to_memory => by_form!(insn, sse::store, u64),
        M::Movsd if from_memory => by_form!(insn, sse::load, u64),
        M::Movsd => by_form!(insn, sse::merge, u64),
        M::Movlps | M::Movlpd if to_memory => by_form!(insn, sse::store, u64),
        M::Movlps | M::Movlpd => by_form!(insn, sse::load_low),
        M::Movhps | M::Movhpd if to_memory => by_form!(insn, sse::store_high),
        M::Movhps | M::Movhpd => by_form!(insn, sse::load_high),
        M::Movntq => mmx::store::<u64>,
        M::Movdq2q => mmx::from_xmm,
        M::Movq2dq => mmx::to_xmm,
        M::Emms => mmx::emms,
        M::Ldmxcsr => by_form!(insn, area::ldmxcsr),
        M::Stmxcsr => by_form!(insn, area::stmxcsr),
        M::Fxsave => area::fxsave::<false>,
        M::Fxsave64 => area::fxsave::<true>,
        M::Fxrstor => area::fxrstor::<false>,
        M::Fxrstor64 => area::fxrstor::<true>,
        M::Xsave => xsave::xsave::<false, false>,
        M::Xsave64 => xsave::xsave::<true, false>,
        M::Xsaveopt => xsave::xsave::<false, true>,
        M::Xsaveopt64 => xsave::xsave::<true, true>,
        M::Xsavec => xsave::xsave_compacted::<false, false>,
        M::Xsavec64 => xsave::xsave_compacted::<true, false>,
        M::Xsaves => xsave::xsave_compacted::<false, true>,
        M::Xsaves64 => xsave::xsave_compacted::<true, true>,
        M::Xrstor => xsave::xrstor::<false, false>,
        M::Xrstor64 => xsave::xrstor::<true, false>,
        M::Xrstors => xsave::xrstor::<false, true>,
        M::Xrstors64 => xsave::xrstor::<true, true>,
        M::Vzeroupper => sse::vzero::<false>,
        M::Vzeroall => sse::vzero::<true>,
        M::Vmaskmovps | M::Vpmaskmovd => masked!(insn, u32),
        M::Vmaskmovpd | M::Vpmaskmovq => masked!(insn, u64),
        M::Vgatherdps | M::Vpgatherdd => by_form!(insn, masked::gather, u32, u32),
        M::Vgatherqps | M::Vpgatherqd => by_form!(insn, masked::gather, u32, u64),
        M::Vgatherdpd | M::Vpgatherdq => by_form!(insn, masked::gather, u64, u32),
        M::Vgatherqpd | M::Vpgatherqq => by_form!(insn, masked::gather, u64, u64),
        _ => return None,
    })
}

pub(super) fn lower(insn: &Insn<'_>) -> Option<Op> {
    let mnemonic = name(insn)?;
    match mnemonic {
        M::Maskmovdqu => return Some(to_rdi(insn, by_form!(insn, sse::maskmovdqu))),
        M::Maskmovq => return Some(to_rdi(insn, mmx::maskmovq)),
        _ => {}
    }
    let mut op = vector_op(insn, handler(insn, mnemonic)?);
    if insn.raw.memory_index() != Register::None && insn.raw.is_vsib() {
        op.src = insn.raw.memory_index().number() as u8;
        op.scale = insn.raw.memory_index_scale().trailing_zeros() as u8;
    }
    Some(op)
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
