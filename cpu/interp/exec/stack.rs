//! The stack.

use crate::interp::op::{Op, Source, Word};
use crate::state::Seg;
use crate::state::gpr::{RBP, RSP};
use crate::{Cpu, Trap};

impl Cpu {
    /// Linear address of a stack access at `sp`, which is within the stack pointer's width.
    #[inline(always)]
    fn stack_linear(&mut self, sp: u64, size: u32, write: bool) -> Result<u64, Trap> {
        let flat = if write { self.mode.flat_write } else { self.mode.flat_read };
        if flat >> Seg::Ss as u8 & 1 != 0 {
            return Ok(sp.wrapping_add(self.mode.base[Seg::Ss as usize]) & self.mode.linear_mask);
        }
        self.lin(Seg::Ss, sp, size, write)
    }

    /// Sets as much of the stack pointer as the stack segment's width says.
    #[inline(always)]
    fn set_sp(&mut self, sp: u64) {
        self.set_sp_within(self.mode.stack_mask, sp);
    }

    #[inline(always)]
    fn set_sp_within(&mut self, mask: u64, sp: u64) {
        let rsp = &mut self.state.regs[RSP];
        *rsp = *rsp & !mask | sp & mask;
    }

    /// Pushes.
    #[inline(always)]
    pub(super) fn push<T: Word>(&mut self, value: T) -> Result<(), Trap> {
        let sp = self.state.regs[RSP].wrapping_sub(T::SIZE as u64) & self.mode.stack_mask;
        let linear = self.stack_linear(sp, T::SIZE as u32, true)?;
        self.store(linear, value)?;
        self.set_sp(sp);
        Ok(())
    }

    /// The value `depth` bytes above the stack pointer.
    #[inline(always)]
    pub(super) fn stack_top<T: Word>(&mut self, depth: u64) -> Result<T, Trap> {
        let sp = self.state.regs[RSP].wrapping_add(depth) & self.mode.stack_mask;
        let linear = self.stack_linear(sp, T::SIZE as u32, false)?;
        self.load(linear)
    }

    /// Moves the stack pointer up.
    #[inline(always)]
    pub(super) fn drop_stack(&mut self, bytes: u64) {
        self.set_sp(self.state.regs[RSP].wrapping_add(bytes));
    }

    /// Moves the stack pointer up, its width given by `mask`.
    pub(super) fn drop_stack_within(&mut self, mask: u64, bytes: u64) {
        self.set_sp_within(mask, self.state.regs[RSP].wrapping_add(bytes));
    }

    /// Pops.
    #[inline(always)]
    pub(super) fn pop<T: Word>(&mut self) -> Result<T, Trap> {
        let value = self.stack_top(0)?;
        self.drop_stack(T::SIZE as u64);
        Ok(value)
    }
}

/// PUSH.
pub fn push<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let value: T = S::read(cpu, op)?;
    cpu.push(value)?;
    cpu.stored()
}

/// PUSH of a segment register: only the selector is written, the stack moves by a `T`.
pub fn push_segment<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let selector = cpu.state.seg[usize::from(op.dst).min(5)].selector;
    cpu.push(T::of(u64::from(selector)))?;
    cpu.stored()
}

/// POP to a register.
pub fn pop<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let value: T = cpu.pop()?;
    // POP RSP leaves what it read.
    value.set(cpu, op.dst);
    Ok(())
}

/// POP to memory: an address based on the stack pointer uses its new value.
pub fn pop_memory<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let old = cpu.state.regs[RSP];
    let value: T = cpu.pop()?;
    if let Err(trap) = op.store(cpu, value) {
        cpu.state.regs[RSP] = old;
        return Err(trap);
    }
    cpu.stored()
}

/// PUSHA.
pub fn pusha<T: Word>(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let old = cpu.state.regs[RSP];
    for number in 0..8 {
        let value = if number == RSP { T::of(old) } else { T::get(cpu, number as u8) };
        if let Err(trap) = cpu.push(value) {
            cpu.state.regs[RSP] = old;
            return Err(trap);
        }
    }
    cpu.stored()
}

/// POPA: the stack pointer's image is skipped.
pub fn popa<T: Word>(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let mut values = [T::default(); 8];
    for (depth, value) in values.iter_mut().rev().enumerate() {
        *value = cpu.stack_top((depth * T::SIZE) as u64)?;
    }
    for (number, value) in values.into_iter().enumerate() {
        if number != RSP {
            value.set(cpu, number as u8);
        }
    }
    cpu.drop_stack(8 * T::SIZE as u64);
    Ok(())
}

/// ENTER: frame size in the low 16 bits of the immediate, nesting level above.
pub fn enter<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let (size, level) = (op.imm & 0xffff, op.imm >> 16 & 31);
    let old = cpu.state.regs[RSP];
    let restore = |cpu: &mut Cpu, trap| {
        cpu.state.regs[RSP] = old;
        trap
    };
    cpu.push(T::get(cpu, RBP as u8))?;
    let frame = cpu.state.regs[RSP];
    for i in 1..level {
        let at = cpu.state.regs[RBP].wrapping_sub(i * T::SIZE as u64) & cpu.mode.stack_mask;
        let outer: Result<T, Trap> =
            cpu.stack_linear(at, T::SIZE as u32, false).and_then(|linear| cpu.load(linear));
        outer.and_then(|pointer| cpu.push(pointer)).map_err(|trap| restore(cpu, trap))?;
    }
    if level > 0 {
        cpu.push(T::of(frame)).map_err(|trap| restore(cpu, trap))?;
    }
    let sp = cpu.state.regs[RSP].wrapping_sub(size);
    // The new top must be writable, although nothing is written there yet.
    cpu.stack_linear(sp & cpu.mode.stack_mask, T::SIZE as u32, true)
        .and_then(|linear| cpu.probe_top(linear, T::SIZE))
        .map_err(|trap| restore(cpu, trap))?;
    cpu.set_sp(sp);
    T::of(frame).set(cpu, RBP as u8);
    cpu.stored()
}

/// LEAVE.
pub fn leave<T: Word>(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let frame = cpu.state.regs[RBP] & cpu.mode.stack_mask;
    let linear = cpu.stack_linear(frame, T::SIZE as u32, false)?;
    let value: T = cpu.load(linear)?;
    cpu.set_sp(frame.wrapping_add(T::SIZE as u64));
    value.set(cpu, RBP as u8);
    Ok(())
}

/// BOUND: #BR if the index is outside the pair of signed limits in memory.
pub fn bound<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let linear = op.linear(cpu, 2 * T::SIZE as u32, false)?;
    let low: T = cpu.load(linear)?;
    let high: T = cpu.load(linear.wrapping_add(T::SIZE as u64) & cpu.mode.linear_mask)?;
    let index = T::get(cpu, op.dst).sx() as i64;
    if index < low.sx() as i64 || index > high.sx() as i64 {
        return Err(cpu.raise(crate::vector::BR, None));
    }
    Ok(())
}
