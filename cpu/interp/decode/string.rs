//! String instructions.

use iced_x86::{Mnemonic as M, OpKind, Register};

use super::Insn;
use crate::interp::exec::string::{self, Cmps, Ins, Lods, Movs, Outs, Scas, Step, Stos};
use crate::interp::op::{Handler, Op};

fn pick<S: Step>(insn: &Insn<'_>, size: usize) -> Handler {
    let repeated = insn.raw.has_rep_prefix() || insn.raw.has_repne_prefix();
    match (size, repeated) {
        (1, false) => string::once::<u8, S>,
        (2, false) => string::once::<u16, S>,
        (4, false) => string::once::<u32, S>,
        (_, false) => string::once::<u64, S>,
        (1, true) => string::repeated::<u8, S>,
        (2, true) => string::repeated::<u16, S>,
        (4, true) => string::repeated::<u32, S>,
        (_, true) => string::repeated::<u64, S>,
    }
}

/// Width in bits of the index registers.
pub(super) fn address_bits(insn: &Insn<'_>) -> u8 {
    (0..insn.raw.op_count())
        .find_map(|n| match insn.raw.op_kind(n) {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Some(16),
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Some(32),
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(64),
            _ => None,
        })
        .unwrap_or(64)
}

pub(super) fn lower(insn: &Insn<'_>, mnemonic: M) -> Option<Op> {
    let string = (0..insn.raw.op_count()).any(|n| {
        matches!(
            insn.raw.op_kind(n),
            OpKind::MemorySegSI
                | OpKind::MemorySegESI
                | OpKind::MemorySegRSI
                | OpKind::MemoryESDI
                | OpKind::MemoryESEDI
                | OpKind::MemoryESRDI
        )
    });
    if !string {
        // MOVSD and CMPSD are also names of SSE instructions.
        return None;
    }
    let size = insn.raw.memory_size().size();
    let run = match mnemonic {
        M::Movsb | M::Movsw | M::Movsd | M::Movsq => pick::<Movs>(insn, size),
        M::Stosb | M::Stosw | M::Stosd | M::Stosq => pick::<Stos>(insn, size),
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => pick::<Lods>(insn, size),
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => pick::<Cmps>(insn, size),
        M::Scasb | M::Scasw | M::Scasd | M::Scasq => pick::<Scas>(insn, size),
        M::Insb | M::Insw | M::Insd => pick::<Ins>(insn, size),
        M::Outsb | M::Outsw | M::Outsd => pick::<Outs>(insn, size),
        _ => return None,
    };
    let mut op = insn.op(run);
    op.wrap = 64 - address_bits(insn);
    let segment = insn.raw.segment_prefix();
    insn.segment(&mut op, if segment == Register::None { Register::DS } else { segment });
    Some(op)
}
