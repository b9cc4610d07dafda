//! The processor as the software engines see it.

use std::sync::Arc;

use crate::signals::Signals;
use crate::state::CpuState;

/// Why execution left the straight line. One byte, so that `Result<u64, Trap>` travels in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Trap {
    /// An exception; the details are in [`Cpu::fault`].
    Exception,
    /// The instruction is complete, but what was decoded ahead may no longer hold (mode, mapping or
    /// code changed), or somebody wants attention: leave the block at the next instruction.
    Leave,
}

/// An exception on its way to be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Vector number.
    pub vector: u8,
    /// Error code, for the vectors that push one.
    pub error: Option<u32>,
}

/// One processor: its state and what the software engines keep beside it.
pub struct Cpu {
    /// The architectural state.
    pub state: CpuState,
    /// The exception behind the last [`Trap::Exception`].
    pub fault: Fault,
    /// Requests from other threads.
    pub signals: Arc<Signals>,
}

impl Cpu {
    /// Records an exception and returns the trap that unwinds to the run loop.
    #[cold]
    pub fn raise(&mut self, vector: u8, error: Option<u32>) -> Trap {
        self.fault = Fault { vector, error };
        Trap::Exception
    }
}
