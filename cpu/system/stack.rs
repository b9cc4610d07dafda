//! Stacks during control transfers: pushes and pops that touch no register until all succeeded.

use super::segment::within_limit;
use crate::core::{Cpu, Trap, vector};
use crate::state::{Seg, Segment, attr, gpr};

/// A stack pointer on its way.
#[derive(Clone, Copy)]
pub(super) struct Stack {
    pub ss: Segment,
    pub sp: u64,
    pub mask: u64,
    /// Privilege the stack is accessed with.
    pub cpl: u8,
    /// A 64-bit stack: no segmentation.
    pub flat: bool,
    /// Error code of a #SS for running out of the segment.
    pub error: u32,
}

/// The mask of a stack pointer in `ss` outside 64-bit mode.
pub(super) fn pointer_mask(ss: &Segment) -> u64 {
    if ss.attr & attr::BIG != 0 { 0xffff_ffff } else { 0xffff }
}

impl Stack {
    /// The stack of a segment that is not in use yet.
    pub fn of(ss: Segment, sp: u64, cpl: u8, error: u32) -> Self {
        let mask = pointer_mask(&ss);
        Stack { ss, sp: sp & mask, mask, cpl, flat: false, error }
    }
    /// A 64-bit stack.
    pub fn flat(ss: Segment, sp: u64, cpl: u8) -> Self {
        Stack { ss, sp, mask: !0, cpl, flat: true, error: 0 }
    }

    fn linear(&self, cpu: &mut Cpu, offset: u64, size: u64) -> Result<u64, Trap> {
        if self.flat {
            let last = offset.wrapping_add(size - 1);
            if cpu.is_canonical(offset) && cpu.is_canonical(last) {
                return Ok(offset);
            }
        } else if within_limit(&self.ss, offset, size) {
            return Ok(self.ss.base.wrapping_add(offset) & 0xffff_ffff);
        }
        Err(cpu.raise(vector::SS, Some(self.error)))
    }

    /// Pushes the low `size` (2, 4 or 8) bytes of `value`.
    pub fn push(&mut self, cpu: &mut Cpu, value: u64, size: u64) -> Result<(), Trap> {
        let sp = self.sp.wrapping_sub(size) & self.mask;
        let linear = self.linear(cpu, sp, size)?;
        match size {
            2 => cpu.store_as(self.cpl, linear, value as u16)?,
            4 => cpu.store_as(self.cpl, linear, value as u32)?,
            _ => cpu.store_as(self.cpl, linear, value)?,
        }
        self.sp = sp;
        Ok(())
    }

    /// Pops `size` (2, 4 or 8) bytes.
    pub fn pop(&mut self, cpu: &mut Cpu, size: u64) -> Result<u64, Trap> {
        let linear = self.linear(cpu, self.sp, size)?;
        let value = match size {
            2 => cpu.load::<u16>(linear)?.into(),
            4 => cpu.load::<u32>(linear)?.into(),
            _ => cpu.load::<u64>(linear)?,
        };
        self.sp = self.sp.wrapping_add(size) & self.mask;
        Ok(value)
    }

    /// Makes this the processor's stack pointer, keeping the bits outside the pointer's width.
    /// Outside 64-bit mode the upper half is cleared.
    pub fn commit(self, cpu: &mut Cpu) {
        let rsp = &mut cpu.state.regs[gpr::RSP];
        *rsp = if self.flat { self.sp } else { (*rsp & !self.mask | self.sp) & 0xffff_ffff };
    }
}

impl Cpu {
    /// The current stack.
    pub(super) fn stack(&self) -> Stack {
        let ss = self.state.seg[Seg::Ss as usize];
        let sp = self.state.regs[gpr::RSP];
        if self.mode.code_bits == 64 {
            Stack::flat(ss, sp, self.mode.cpl)
        } else {
            let mask = self.mode.stack_mask;
            Stack { ss, sp: sp & mask, mask, cpl: self.mode.cpl, flat: false, error: 0 }
        }
    }
}
