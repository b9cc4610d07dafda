//! The stack and segment registers.

use iced_x86::{Code, Mnemonic as M, Register};

use super::{Insn, Kind};
use crate::interp::exec::{stack, system};
use crate::interp::op::{Dst, Handler, Imm, Mem, Op, Src};
use crate::state::Seg;

/// Bytes a push or pop moves.
fn stack_size(insn: &Insn<'_>) -> usize {
    insn.raw.stack_pointer_increment().unsigned_abs() as usize
}

fn push(insn: &Insn<'_>) -> Option<Handler> {
    let size = stack_size(insn);
    Some(match insn.kind(0) {
        Kind::Reg if insn.is_general() => by_wide_width!(size, stack::push, Dst),
        Kind::Reg => by_wide_width!(size, stack::push_segment),
        Kind::Mem => by_wide_width!(size, stack::push, Mem),
        _ => by_wide_width!(size, stack::push, Imm),
    })
}

fn pop(insn: &Insn<'_>) -> Option<Handler> {
    let size = stack_size(insn);
    Some(match insn.kind(0) {
        Kind::Reg if insn.is_general() => by_wide_width!(size, stack::pop),
        Kind::Reg => by_wide_width!(size, system::pop_segment),
        _ => by_wide_width!(size, stack::pop_memory),
    })
}

fn far_pointer(insn: &Insn<'_>, seg: Seg) -> Option<Op> {
    let mut op = insn.op(by_wide_width!(insn.size(0), system::load_far_pointer));
    op.imm = seg as u64;
    Some(op)
}

pub(super) fn lower(insn: &Insn<'_>, mnemonic: M) -> Option<Op> {
    let run = match mnemonic {
        M::Push => push(insn)?,
        M::Pop => pop(insn)?,
        M::Pushf => system::pushf::<u16>,
        M::Pushfd => system::pushf::<u32>,
        M::Pushfq => system::pushf::<u64>,
        M::Popf => system::popf::<u16>,
        M::Popfd => system::popf::<u32>,
        M::Popfq => system::popf::<u64>,
        M::Pusha => stack::pusha::<u16>,
        M::Pushad => stack::pusha::<u32>,
        M::Popa => stack::popa::<u16>,
        M::Popad => stack::popa::<u32>,
        M::Enter => {
            let run = match insn.raw.code() {
                Code::Enterw_imm16_imm8 => stack::enter::<u16> as Handler,
                Code::Enterd_imm16_imm8 => stack::enter::<u32>,
                _ => stack::enter::<u64>,
            };
            let mut op = insn.op(run);
            op.imm = u64::from(insn.raw.immediate16()) | u64::from(insn.raw.immediate8_2nd()) << 16;
            return Some(on_stack(op));
        }
        M::Leave => match insn.raw.code() {
            Code::Leavew => stack::leave::<u16>,
            Code::Leaved => stack::leave::<u32>,
            _ => stack::leave::<u64>,
        },
        M::Bound => match insn.size(0) {
            2 => stack::bound::<u16>,
            _ => stack::bound::<u32>,
        },
        M::Mov if insn.kind(0) == Kind::Reg && insn.raw.op0_register().is_segment_register() => {
            if insn.raw.op0_register() == Register::CS {
                return None;
            }
            match insn.kind(1) {
                Kind::Reg => system::load_segment::<Src>,
                _ => system::load_segment::<Mem>,
            }
        }
        M::Mov if insn.kind(1) == Kind::Reg && insn.raw.op1_register().is_segment_register() => {
            match insn.kind(0) {
                Kind::Reg => by_wide_width!(insn.size(0), system::read_segment),
                _ => system::store_segment,
            }
        }
        M::Lds => return far_pointer(insn, Seg::Ds),
        M::Les => return far_pointer(insn, Seg::Es),
        M::Lss => return far_pointer(insn, Seg::Ss),
        M::Lfs => return far_pointer(insn, Seg::Fs),
        M::Lgs => return far_pointer(insn, Seg::Gs),
        _ => return None,
    };
    let op = insn.op(run);
    Some(if insn.kind(0) == Kind::Mem || insn.kind(1) == Kind::Mem { op } else { on_stack(op) })
}

/// Marks an operation whose only memory access is to the stack, which decides between #GP and #SS.
pub(super) fn on_stack(mut op: Op) -> Op {
    op.segment = Seg::Ss as u8;
    op
}
