//! Bit tests, scans, BMI and CRC32.

use iced_x86::Mnemonic as M;

use super::{Insn, Kind};
use crate::interp::exec::bit::{
    self, BitAction, Complement, Isolate, LowestBit, MaskUpTo, Reset, ResetLowest, Set,
};
use crate::interp::op::{Dst, Handler, Imm, Mem, Op, Src, Src2};

fn action<A: BitAction>(insn: &Insn<'_>) -> Option<Handler> {
    let size = insn.size(0);
    Some(match (insn.kind(0), insn.kind(1)) {
        (Kind::Reg, Kind::Reg) => by_wide_width!(size, bit::bit_action, A, Dst, Src),
        (Kind::Reg, _) => by_wide_width!(size, bit::bit_action, A, Dst, Imm),
        (_, Kind::Imm) => by_wide_width!(size, bit::bit_action, A, Mem, Imm),
        _ => by_wide_width!(size, bit::bit_string_action, A),
    })
}

fn test(insn: &Insn<'_>) -> Option<Handler> {
    let size = insn.size(0);
    Some(match (insn.kind(0), insn.kind(1)) {
        (Kind::Reg, Kind::Reg) => by_wide_width!(size, bit::bt, Dst, Src),
        (Kind::Reg, _) => by_wide_width!(size, bit::bt, Dst, Imm),
        (_, Kind::Imm) => by_wide_width!(size, bit::bt, Mem, Imm),
        _ => by_wide_width!(size, bit::bt_string),
    })
}

/// A handler with a constant parameter, by width and kind of the second operand.
macro_rules! from_second {
    ($insn:expr, $f:path, $($flag:literal)?) => {{
        use $f as handler;
        match ($insn.size(0), $insn.kind(1)) {
            (2, Kind::Reg) => handler::<u16, Src, $($flag)?> as Handler,
            (2, _) => handler::<u16, Mem, $($flag)?>,
            (4, Kind::Reg) => handler::<u32, Src, $($flag)?>,
            (4, _) => handler::<u32, Mem, $($flag)?>,
            (_, Kind::Reg) => handler::<u64, Src, $($flag)?>,
            _ => handler::<u64, Mem, $($flag)?>,
        }
    }};
}

/// BLSI and its like: the destination is the first operand, the source the second.
fn lowest<O: LowestBit>(insn: &Insn<'_>) -> Option<Handler> {
    Some(match insn.kind(1) {
        Kind::Reg => by_wide_width!(insn.size(0), bit::lowest_bit, O, Src),
        _ => by_wide_width!(insn.size(0), bit::lowest_bit, O, Mem),
    })
}

/// The last of three operands is the source.
macro_rules! from_third {
    ($insn:expr, $f:path) => {
        match $insn.kind(2) {
            Kind::Reg => by_wide_width!($insn.size(0), $f, Src2),
            _ => by_wide_width!($insn.size(0), $f, Mem),
        }
    };
}

pub(super) fn lower(insn: &Insn<'_>, mnemonic: M) -> Option<Op> {
    let run = match mnemonic {
        M::Bt => test(insn)?,
        M::Bts => action::<Set>(insn)?,
        M::Btr => action::<Reset>(insn)?,
        M::Btc => action::<Complement>(insn)?,
        M::Bsf => from_second!(insn, bit::scan, false),
        M::Bsr => from_second!(insn, bit::scan, true),
        M::Lzcnt => from_second!(insn, bit::count_zeros, false),
        M::Tzcnt => from_second!(insn, bit::count_zeros, true),
        M::Popcnt => from_second!(insn, bit::popcnt,),
        M::Andn => from_third!(insn, bit::andn),
        M::Pdep => from_third!(insn, bit::pdep),
        M::Pext => from_third!(insn, bit::pext),
        M::Bextr => from_second!(insn, bit::bextr,),
        M::Bzhi => from_second!(insn, bit::bzhi,),
        M::Blsi => lowest::<Isolate>(insn)?,
        M::Blsmsk => lowest::<MaskUpTo>(insn)?,
        M::Blsr => lowest::<ResetLowest>(insn)?,
        M::Crc32 => match insn.kind(1) {
            Kind::Reg => by_width!(insn.size(1), bit::crc32, Src),
            _ => by_width!(insn.size(1), bit::crc32, Mem),
        },
        _ => return None,
    };
    Some(insn.op(run))
}
