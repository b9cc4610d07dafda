//! The piece of host code that gathers: element by element, each with its own look into the TLB.

use super::asm::{Asm, Mem, Width, cond, group, host::*, op};
use super::frame::at;
use super::thunks::read_entry;

/// How [`gather`] wants to be called: what R14 holds.
pub fn request(lanes: u8, scale: u8) -> u64 {
    u64::from(lanes) << LANES_SHIFT | u64::from(scale.trailing_zeros())
}
const LANES_SHIFT: u8 = 8;

/// Assembles the piece for elements and indices of 64 bits (`wide`, `far`) or 32. Called with the
/// address that indices are relative to in R13, a [`request`] in R14, and indices, mask and result in
/// the frame; the elements that the mask selects replace those of the result. If one is not where the
/// TLB knows it to be, comes back with ZF clear. R14 and the host's flags are lost.
pub fn gather(asm: &mut Asm, wide: bool, far: bool) -> usize {
    let width = if wide { Width::Q } else { Width::D };
    // R14 counts lanes down to one.
    let lane = |wide: bool, from: i32| {
        let shift = if wide { 3 } else { 2 };
        Mem { base: Some(R15), index: Some((R14, shift)), disp: from - (1 << shift) }
    };
    let address = asm.address + asm.offset();
    [RAX, RCX, RDX].iter().for_each(|reg| asm.push(*reg));
    asm.reg(Width::D, op::LOAD, RCX, R14);
    asm.shr(R14, LANES_SHIFT);
    let (again, next, out) = (asm.label(), asm.label(), asm.label());
    asm.bind(again);
    let mut sign = lane(wide, at::GATHER_MASK);
    sign.disp += if wide { 7 } else { 3 };
    asm.compare_byte(sign, 0);
    asm.jcc(cond::NS, next);
    let widen = if far { op::LOAD } else { op::MOVSXD };
    asm.mem(Width::Q, widen, RAX, lane(far, at::GATHER_INDICES));
    asm.shl_by_cl(RAX);
    asm.reg(Width::Q, op::ADD, RAX, R13);
    read_entry(asm, RDX, RAX);
    asm.mem(Width::Q, op::SUB, RAX, Mem::at(RDX, 0));
    asm.alu_imm(Width::Q, group::CMP, RAX, if wide { 4096 - 8 } else { 4096 - 4 });
    asm.jcc(cond::A, out);
    asm.mem(Width::Q, op::ADD, RAX, Mem::at(RDX, 8));
    asm.mem(width, op::LOAD, RAX, Mem::at(RAX, 0));
    asm.mem(width, op::STORE, RAX, lane(wide, at::GATHER_RESULT));
    asm.bind(next);
    asm.alu_imm(Width::D, group::SUB, R14, 1);
    asm.jcc(cond::NE, again);
    asm.bind(out);
    [RDX, RCX, RAX].iter().for_each(|reg| asm.pop(*reg));
    asm.ret();
    address
}
