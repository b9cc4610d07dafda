//! The portable interpreter.
//!
//! Code is decoded once into blocks of [`op::Op`]s (`decode`), which are kept by where their bytes
//! lie (`block`) and executed one indirect call after another (`exec`). While a block runs,
//! `state.rip` stands still: an operation knows its place relative to the block, and the last one of
//! a block sets `state.rip`.

mod block;
pub(crate) mod decode;
mod exec;
pub(crate) mod op;
mod random;
#[cfg(test)]
mod tests;

pub(crate) use block::Cache;
use block::{Block, NONE};
use decode::{End, Key};
use op::{Op, segment};
use random::Random;

use crate::flags::bit;
use crate::signals::request;
use crate::state::{CODE, Seg};
use crate::{Cpu, Trap};

/// What the interpreter keeps between runs.
#[derive(Default)]
pub(crate) struct Interp {
    pub(crate) cache: Cache,
    random: Random,
}

/// Why [`Cpu::run_interp`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunExit {
    /// A request in `Cpu::signals` that is not masked wants attention.
    Signal,
    /// HLT, and nothing to wake the processor yet.
    Halted,
    /// A triple fault.
    Shutdown,
    /// The engine cannot go on: `Cpu::failure` tells why.
    Failed,
}

/// How a block was left.
pub(crate) enum Left {
    /// At its end.
    End,
    /// By an exception, now delivered.
    Fault,
    /// By a triple fault.
    Shutdown,
    /// By a failure of the engine.
    Failed,
}

impl Cpu {
    /// Has RDRAND and RDSEED give numbers that follow from `seed`, as those of processor number
    /// `processor`.
    pub fn seed_random(&mut self, seed: u64, processor: u32) {
        self.interp.random = Random::seeded(seed, processor);
    }

    /// Executes guest code until something outside of it is to be done.
    pub fn run_interp(&mut self) -> RunExit {
        // Beside `self` while it runs, so that operations are free to change everything else.
        let mut cache = std::mem::take(&mut self.interp.cache);
        let exit = self.run_blocks(&mut cache);
        self.interp.cache = cache;
        exit
    }

    /// Whether somebody wants attention.
    pub(crate) fn attention(&self) -> bool {
        self.signals.pending() & self.signal_mask != 0
    }

    fn run_blocks(&mut self, cache: &mut Cache) -> RunExit {
        loop {
            if let Some(exit) = self.reason_to_stop() {
                return exit;
            }
            let left = if self.steps_singly() {
                self.run_single(cache)
            } else {
                self.state.flags.set_system(bit::RF, false);
                self.run_chain(cache, false)
            };
            if let Left::Shutdown = left {
                return RunExit::Shutdown;
            }
        }
    }

    /// Executes the next `count` instructions, or fewer if something else is to be done.
    pub fn run_first(&mut self, count: u32) {
        let mut cache = std::mem::take(&mut self.interp.cache);
        for _ in 0..count {
            // What ended the run is found again by the next one.
            if self.reason_to_stop().is_some() {
                break;
            }
            self.run_single(&mut cache);
        }
        self.interp.cache = cache;
    }

    /// Why no guest code may run now.
    pub(crate) fn reason_to_stop(&self) -> Option<RunExit> {
        if self.shutdown {
            Some(RunExit::Shutdown)
        } else if self.attention() {
            Some(RunExit::Signal)
        } else {
            self.state.halted.then_some(RunExit::Halted)
        }
    }

    /// Whether the log is told of every block.
    pub(crate) fn is_traced(&self) -> bool {
        // Traces of blocks are complete, whether NOCHAIN is asked for or not.
        [base::log::EXEC, base::log::CPU].into_iter().any(base::log::enabled)
    }

    /// Logs the block about to be executed: where it is, also in the host if it was translated, and the
    /// registers.
    pub(crate) fn trace_block(&self, host: usize) {
        let base = self.mode.base[Seg::Cs as usize];
        let linear = self.state.rip.wrapping_add(base) & self.mode.linear_mask;
        if !base::log::in_filter(linear) {
            return;
        }
        base::log_item!(
            base::log::EXEC,
            "Trace {}: {:#x} [{:08x}/{:016x}/{:08x}/00000000] ",
            self.index,
            host,
            base,
            linear,
            self.state.flags.get()
        );
        if base::log::enabled(base::log::CPU) {
            let floating_point = base::log::enabled(base::log::FPU);
            base::log::write(format_args!("{}", self.dump().floating_point(floating_point)));
        }
    }

    /// Whether something is to be done after the next instruction.
    pub(crate) fn steps_singly(&self) -> bool {
        self.state.interrupt_shadow
            || self.one_insn_per_block
            || self.records_branches()
            || self.mode.breakpoints
            || self.state.flags.system() & bit::TF != 0
    }

    /// Runs blocks one after another until the mode may have changed, or somebody wants attention;
    /// or just one block.
    pub(crate) fn run_chain(&mut self, cache: &mut Cache, once: bool) -> Left {
        let key = Key::of(&self.mode);
        let mut last = NONE;
        let traced = self.is_traced();
        loop {
            self.exit_block = false;
            let index = match self.next_block(cache, key, last) {
                Ok(index) => index,
                Err(_) => return self.take_fault(),
            };
            let Some(block) = cache.block(index) else { return Left::End };
            if traced {
                self.trace_block(0);
            }
            match self.run_block(block) {
                Left::End => {}
                left => return left,
            }
            if block.end == End::System || self.exit_block {
                return self.deliver_traps();
            }
            if once || self.attention() {
                return Left::End;
            }
            last = index;
        }
    }

    /// Runs one instruction, and what follows from single-stepping, instruction breakpoints and the
    /// interrupt shadow.
    pub(crate) fn run_single(&mut self, cache: &mut Cache) -> Left {
        let flags = self.state.flags.system();
        // The instruction behind MOV SS is not stopped at (SDM vol. 3, 6.8.3).
        let stops = self.mode.breakpoints && !self.state.stack_switched && self.state.svm.gif;
        if stops && flags & bit::RF == 0 {
            let base = self.mode.base[Seg::Cs as usize];
            let linear = self.state.rip.wrapping_add(base) & self.mode.linear_mask;
            let causes = self.code_breakpoint(linear);
            if causes != 0 {
                return Self::after_delivery(self.debug_fault(causes));
            }
        }
        self.exit_block = false;
        let key = Key::of(&self.mode).single();
        let index = match self.next_block(cache, key, NONE) {
            Ok(index) => index,
            Err(_) => return self.take_fault(),
        };
        let Some(block) = cache.block(index) else { return Left::End };
        if self.is_traced() {
            self.trace_block(0);
        }
        // The shadow covers this instruction; what it casts itself covers the next.
        self.state.interrupt_shadow = false;
        self.state.stack_switched = false;
        self.state.flags.set_system(bit::RF, false);
        self.stepping = flags & bit::TF != 0;
        let (by_branches, recording) = (self.steps_by_branches(), self.records_branches());
        let (start, guest) = (self.state.rip, self.state.svm.guest);
        let left = self.run_block(block);
        self.update_signal_mask();
        match left {
            Left::End => {
                let in_line = block.ops.first().map(|op| self.next_rip(op));
                // A repeated instruction stays where it is, and VMRUN is no branch.
                let elsewhere = in_line != Some(self.state.rip) && self.state.rip != start;
                let branched = elsewhere && guest == self.state.svm.guest;
                if branched && recording {
                    self.record_branch(start);
                }
                self.stepping &= !by_branches || branched;
                self.deliver_traps()
            }
            left => {
                self.stepping = false;
                left
            }
        }
    }

    /// Runs the operations of a block.
    #[inline(always)]
    fn run_block(&mut self, block: &Block) -> Left {
        self.state.regs[CODE] = self.state.rip;
        if self.counter.is_some() {
            return self.run_counted(block);
        }
        for op in &block.ops {
            if let Err(trap) = (op.run)(self, op) {
                return self.trapped(block, op, trap);
            }
        }
        Left::End
    }

    /// The same, as far as the slice goes. What ends by an exception does not count.
    fn run_counted(&mut self, block: &Block) -> Left {
        let (instructions, rest) = block.instructions();
        for op in instructions {
            let result = (op.run)(self, op);
            let over = matches!(result, Ok(()) | Err(Trap::Leave)) && self.count(1);
            if let Err(trap) = result {
                return self.trapped(block, op, trap);
            }
            if over {
                return self.trapped(block, op, Trap::Leave);
            }
        }
        for op in rest {
            if let Err(trap) = (op.run)(self, op) {
                return self.trapped(block, op, trap);
            }
        }
        Left::End
    }

    /// So many instructions were executed. Returns whether that was the end of the slice.
    pub(crate) fn count(&mut self, instructions: u64) -> bool {
        let over = self.counter.as_ref().is_some_and(|counter| counter.count(instructions));
        if over {
            self.signals.post(request::YIELD);
        }
        over
    }

    #[cold]
    fn trapped(&mut self, block: &Block, op: &Op, trap: Trap) -> Left {
        match trap {
            Trap::Exception => {
                if op.segment & segment::NUMBER == Seg::Ss as u8 {
                    self.stack_reference_faulted();
                }
                self.state.rip = self.this_rip(op);
                self.take_fault()
            }
            Trap::Leave => {
                // The last operation has set the instruction pointer itself.
                if !block.ops.last().is_some_and(|last| std::ptr::eq(last, op)) {
                    self.state.rip = self.next_rip(op);
                }
                self.exit_block = true;
                Left::End
            }
            Trap::Shutdown => Left::Shutdown,
        }
    }

    /// Delivers the exception in `self.fault`.
    pub(crate) fn take_fault(&mut self) -> Left {
        Self::after_delivery(self.deliver_fault())
    }

    pub(crate) fn deliver_traps(&mut self) -> Left {
        if self.pending_debug == 0 && !self.stepping {
            return Left::End;
        }
        match Self::after_delivery(self.deliver_debug_traps()) {
            Left::Fault => Left::End,
            left => left,
        }
    }

    fn after_delivery(delivered: Result<(), Trap>) -> Left {
        match delivered {
            Err(Trap::Shutdown) => Left::Shutdown,
            _ => Left::Fault,
        }
    }
}
