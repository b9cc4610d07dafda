//! Near branches. They end a block, and so set `state.rip`.
//!
//! `imm` is the distance from the start of the block to the target, `wrap` the width of the
//! instruction pointer they leave (SDM vol. 2, "Jcc": a 16-bit operand size clears the upper bits).

use super::cond::Condition;
use crate::interp::op::{Op, Source, Word};
use crate::state::gpr::RCX;
use crate::state::{CODE, Seg};
use crate::{Cpu, Trap};

impl Cpu {
    /// Address of the next instruction.
    #[inline(always)]
    pub(crate) fn next_rip(&self, op: &Op) -> u64 {
        self.state.regs[CODE].wrapping_add(u64::from(op.next)) & self.mode.linear_mask
    }
    /// Address of the current instruction.
    #[inline(always)]
    pub(crate) fn this_rip(&self, op: &Op) -> u64 {
        let distance = u64::from(op.next) - u64::from(op.len);
        self.state.regs[CODE].wrapping_add(distance) & self.mode.linear_mask
    }
    #[inline(always)]
    fn target(&self, op: &Op) -> u64 {
        self.state.regs[CODE].wrapping_add(op.imm) & u64::MAX >> (op.wrap & 63)
    }
    /// #GP(0) if the code segment does not reach to `rip`.
    #[inline(always)]
    fn check_limit(&mut self, rip: u64) -> Result<(), Trap> {
        if self.mode.code_bits != 64 && rip > u64::from(self.state.seg[Seg::Cs as usize].limit) {
            return Err(self.gp(0));
        }
        Ok(())
    }
    /// #GP(0) if the code segment does not reach to `rip`, or it is not canonical.
    #[inline(always)]
    fn check_target(&mut self, rip: u64) -> Result<(), Trap> {
        if self.mode.code_bits == 64 && !self.is_canonical(rip) {
            return Err(self.gp(0));
        }
        self.check_limit(rip)
    }
    #[inline(always)]
    fn branch_if(&mut self, op: &Op, taken: bool) -> Result<(), Trap> {
        let rip = if taken { self.target(op) } else { self.next_rip(op) };
        self.check_limit(rip)?;
        self.state.rip = rip;
        Ok(())
    }
}

/// The end of a block that just goes on.
pub fn fall_through(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.state.rip = cpu.next_rip(op);
    Ok(())
}

/// JMP to a fixed target.
pub fn jmp(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    cpu.branch_if(op, true)
}

/// Jcc.
pub fn jcc<C: Condition>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let taken = C::holds(cpu.arith());
    cpu.branch_if(op, taken)
}

/// JCXZ, JECXZ and JRCXZ.
pub fn jcxz<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let taken = T::get(cpu, RCX as u8).zx() == 0;
    cpu.branch_if(op, taken)
}

/// A condition on top of a loop's counter.
pub trait LoopCondition {
    /// Whether to go on looping.
    fn holds(cpu: &Cpu) -> bool;
}
/// LOOP.
pub struct Always;
/// LOOPE.
pub struct WhileZero;
/// LOOPNE.
pub struct WhileNotZero;
impl LoopCondition for Always {
    fn holds(_: &Cpu) -> bool {
        true
    }
}
impl LoopCondition for WhileZero {
    fn holds(cpu: &Cpu) -> bool {
        cpu.arith().zf()
    }
}
impl LoopCondition for WhileNotZero {
    fn holds(cpu: &Cpu) -> bool {
        !cpu.arith().zf()
    }
}

/// LOOP, LOOPE and LOOPNE with a counter of type `T`.
pub fn loop_<T: Word, C: LoopCondition>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let count = T::of(T::get(cpu, RCX as u8).zx().wrapping_sub(1));
    cpu.branch_if(op, count.zx() != 0 && C::holds(cpu))?;
    count.set(cpu, RCX as u8);
    Ok(())
}

/// JMP to an operand.
pub fn jmp_to<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let target = S::read::<T>(cpu, op)?.zx();
    cpu.check_target(target)?;
    cpu.state.rip = target;
    Ok(())
}

/// CALL to a fixed target.
pub fn call<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let target = cpu.target(op);
    cpu.check_limit(target)?;
    cpu.push(T::of(cpu.next_rip(op)))?;
    cpu.state.rip = target;
    Ok(())
}

/// CALL to an operand.
pub fn call_to<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let target = S::read::<T>(cpu, op)?.zx();
    cpu.check_target(target)?;
    cpu.push(T::of(cpu.next_rip(op)))?;
    cpu.state.rip = target;
    Ok(())
}

/// RET, releasing `imm` bytes more.
pub fn ret<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let target = cpu.stack_top::<T>(0)?.zx();
    cpu.check_target(target)?;
    cpu.drop_stack(T::SIZE as u64 + op.imm);
    cpu.state.rip = target;
    Ok(())
}
