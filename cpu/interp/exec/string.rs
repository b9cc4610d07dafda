//! String instructions.
//!
//! A repeated one is an instruction that ends its block: it does a bounded number of steps and, when
//! it is not finished, leaves `state.rip` at itself, so that interrupts and writes to code are
//! noticed at the next block boundary. After each step the registers are those of a restartable
//! instruction, so that a fault needs no undoing.

use super::alu::{Binary, Sub};
use crate::flags::bit;
use crate::interp::op::{Op, Word, prefix};
use crate::state::Seg;
use crate::state::gpr::{RCX, RDI, RDX, RSI};
use crate::svm::io_form;
use crate::{Cpu, Trap};

/// Steps between two looks at the world outside.
const STEPS: u64 = 256;
/// Bytes between two looks, where steps are done in bulk.
const BULK_BYTES: u64 = 64 * 1024;

/// One step of a string instruction.
pub trait Step {
    /// Whether ZF ends a repetition.
    const COMPARES: bool = false;
    /// Moves one element and advances the index registers.
    fn step<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap>;
    /// Does up to `count` steps at once, the number done; zero leaves it to [`Step::step`].
    fn bulk<T: Word>(_: &mut Cpu, _: &Op, _count: u64) -> Result<u64, Trap> {
        Ok(0)
    }
}

fn mask(op: &Op) -> u64 {
    u64::MAX >> (op.wrap & 63)
}

/// Sets a count or index register as its address size says.
fn set_index(cpu: &mut Cpu, op: &Op, number: usize, value: u64) {
    let mask = mask(op);
    let kept = if op.wrap == 48 { !mask } else { 0 };
    let reg = &mut cpu.state.regs[number];
    *reg = *reg & kept | value & mask;
}

fn advance<T: Word>(cpu: &mut Cpu, op: &Op, number: usize) {
    let down = cpu.state.flags.system() & bit::DF != 0;
    let by = if down { (T::SIZE as u64).wrapping_neg() } else { T::SIZE as u64 };
    let value = cpu.state.regs[number].wrapping_add(by);
    set_index(cpu, op, number, value);
}

fn linear<T: Word>(
    cpu: &mut Cpu,
    op: &Op,
    seg: Seg,
    number: usize,
    write: bool,
) -> Result<u64, Trap> {
    let offset = cpu.state.regs[number] & mask(op);
    let flat = if write { cpu.mode.flat_write } else { cpu.mode.flat_read };
    if flat >> seg as u8 & 1 != 0 {
        return Ok(offset.wrapping_add(cpu.mode.base[seg as usize]) & cpu.mode.linear_mask);
    }
    cpu.lin(seg, offset, T::SIZE as u32, write)
}

fn source<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    linear::<T>(cpu, op, op.seg(), RSI, false)
}

fn target<T: Word>(cpu: &mut Cpu, op: &Op, write: bool) -> Result<u64, Trap> {
    linear::<T>(cpu, op, Seg::Es, RDI, write)
}

/// How many of `count` elements from the index register on fit in a page and its segment's address
/// size, so that their addresses do not wrap; zero if the direction is down.
fn upward<T: Word>(cpu: &Cpu, op: &Op, numbers: &[usize], count: u64) -> u64 {
    if cpu.state.flags.system() & bit::DF != 0 {
        return 0;
    }
    numbers.iter().fold(count, |count, number| {
        let offset = cpu.state.regs[*number] & mask(op);
        // Segment limits are checked by page, through the linear address of its first element only
        // where the segment is flat; others go step by step.
        count.min(((mask(op) - offset) / T::SIZE as u64).saturating_add(1))
    })
}

fn flat(cpu: &Cpu, seg: Seg, write: bool) -> bool {
    let flat = if write { cpu.mode.flat_write } else { cpu.mode.flat_read };
    flat >> seg as u8 & 1 != 0
}

fn skip<T: Word>(cpu: &mut Cpu, op: &Op, number: usize, count: u64) {
    let value = cpu.state.regs[number].wrapping_add(count * T::SIZE as u64);
    set_index(cpu, op, number, value);
}

/// MOVS.
pub struct Movs;
/// STOS.
pub struct Stos;
/// LODS.
pub struct Lods;
/// CMPS.
pub struct Cmps;
/// SCAS.
pub struct Scas;
/// INS.
pub struct Ins;
/// OUTS.
pub struct Outs;

impl Step for Movs {
    fn step<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        let (from, to) = (source::<T>(cpu, op)?, target::<T>(cpu, op, true)?);
        let value: T = cpu.load(from)?;
        cpu.store(to, value)?;
        advance::<T>(cpu, op, RSI);
        advance::<T>(cpu, op, RDI);
        Ok(())
    }
    fn bulk<T: Word>(cpu: &mut Cpu, op: &Op, count: u64) -> Result<u64, Trap> {
        if !flat(cpu, op.seg(), false) || !flat(cpu, Seg::Es, true) {
            return Ok(0);
        }
        let count = upward::<T>(cpu, op, &[RSI, RDI], count);
        let (from, to) = (source::<T>(cpu, op)?, target::<T>(cpu, op, true)?);
        let done = cpu.bulk_copy::<T>(from, to, count);
        skip::<T>(cpu, op, RSI, done);
        skip::<T>(cpu, op, RDI, done);
        Ok(done)
    }
}

impl Step for Stos {
    fn step<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        let to = target::<T>(cpu, op, true)?;
        cpu.store(to, T::get(cpu, 0))?;
        advance::<T>(cpu, op, RDI);
        Ok(())
    }
    fn bulk<T: Word>(cpu: &mut Cpu, op: &Op, count: u64) -> Result<u64, Trap> {
        if !flat(cpu, Seg::Es, true) {
            return Ok(0);
        }
        let count = upward::<T>(cpu, op, &[RDI], count);
        let to = target::<T>(cpu, op, true)?;
        let done = cpu.bulk_fill(to, T::get(cpu, 0), count);
        skip::<T>(cpu, op, RDI, done);
        Ok(done)
    }
}

impl Step for Lods {
    fn step<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        let from = source::<T>(cpu, op)?;
        let value: T = cpu.load(from)?;
        value.set(cpu, 0);
        advance::<T>(cpu, op, RSI);
        Ok(())
    }
}

impl Step for Cmps {
    const COMPARES: bool = true;
    fn step<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        let (first, second) = (source::<T>(cpu, op)?, target::<T>(cpu, op, false)?);
        let a: T = cpu.load(first)?;
        let b: T = cpu.load(second)?;
        advance::<T>(cpu, op, RSI);
        advance::<T>(cpu, op, RDI);
        cpu.set_arith(Sub::flags(a, b, Sub::value(a, b, 0)));
        Ok(())
    }
}

impl Step for Scas {
    const COMPARES: bool = true;
    fn step<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        let at = target::<T>(cpu, op, false)?;
        let b: T = cpu.load(at)?;
        let a = T::get(cpu, 0);
        advance::<T>(cpu, op, RDI);
        cpu.set_arith(Sub::flags(a, b, Sub::value(a, b, 0)));
        Ok(())
    }
}

/// What an intercepted INS or OUTS tells of itself.
fn string_form(op: &Op, seg: Seg) -> u64 {
    let repeated =
        if op.prefix & (prefix::REP | prefix::REPNE) != 0 { io_form::REPEATED } else { 0 };
    let address = io_form::address(64 - op.wrap);
    io_form::STRING | repeated | address | (seg as u64) << io_form::SEGMENT_SHIFT
}

impl Step for Ins {
    fn step<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        let port = u16::get(cpu, RDX as u8);
        cpu.check_port(port, T::SIZE as u8)?;
        let form = io_form::IN | string_form(op, Seg::Es);
        cpu.intercept_port(port, T::SIZE as u8, form, cpu.next_rip(op))?;
        let to = target::<T>(cpu, op, true)?;
        // The port must not be read if the value has nowhere to go.
        cpu.probe_write(to, T::SIZE as u64)?;
        let value = cpu.io_in(port, T::SIZE as u8)?;
        cpu.store(to, T::of(u64::from(value)))?;
        advance::<T>(cpu, op, RDI);
        Ok(())
    }
}

impl Step for Outs {
    fn step<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        let port = u16::get(cpu, RDX as u8);
        cpu.check_port(port, T::SIZE as u8)?;
        let form = string_form(op, op.seg());
        cpu.intercept_port(port, T::SIZE as u8, form, cpu.next_rip(op))?;
        let from = source::<T>(cpu, op)?;
        let value: T = cpu.load(from)?;
        cpu.io_out(port, T::SIZE as u8, value.zx() as u32)?;
        advance::<T>(cpu, op, RSI);
        Ok(())
    }
}

/// A string instruction without repetition.
pub fn once<T: Word, S: Step>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    S::step::<T>(cpu, op)?;
    cpu.stored()
}

/// A repeated string instruction; ends its block. Each element counts as an instruction.
pub fn repeated<T: Word, S: Step>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let mut elements = 0;
    let result = repeat::<T, S>(cpu, op, &mut elements);
    // Of what is complete, the run loop counts one.
    cpu.count(if result.is_ok() { elements.max(1) - 1 } else { elements });
    result
}

fn repeat<T: Word, S: Step>(cpu: &mut Cpu, op: &Op, elements: &mut u64) -> Result<(), Trap> {
    let mut steps = 0;
    let mut bytes = 0;
    cpu.state.flags.set_system(bit::RF, false);
    let most = cpu.counter.as_ref().map_or(u64::MAX, |counter| counter.left());
    loop {
        let count = cpu.state.regs[RCX] & mask(op);
        if count == 0 {
            cpu.state.rip = cpu.next_rip(op);
            return Ok(());
        }
        let pause = steps >= STEPS
            || bytes >= BULK_BYTES
            || *elements >= most
            || cpu.exit_block
            || cpu.stepping;
        if steps > 0 && pause {
            // What comes between two iterations returns to the second without meeting the
            // instruction's breakpoint again (SDM vol. 3, 18.3.1.1).
            cpu.state.flags.set_system(bit::RF, true);
            cpu.state.rip = cpu.this_rip(op);
            return Ok(());
        }
        // A single step is one of the string's.
        let mut done =
            if cpu.stepping { 0 } else { S::bulk::<T>(cpu, op, count.min(most - *elements))? };
        if done == 0 {
            S::step::<T>(cpu, op)?;
            done = 1;
        }
        bytes += done * T::SIZE as u64;
        *elements += done;
        steps += 1;
        set_index(cpu, op, RCX, count - done);
        if S::COMPARES && cpu.arith().zf() == (op.prefix & prefix::REPNE != 0) {
            cpu.state.rip = cpu.next_rip(op);
            return Ok(());
        }
    }
}
