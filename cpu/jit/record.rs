//! What is known about the places at which translated code can be left.

use super::cache::BlockId;
use super::flags::FlagsAt;
use super::translate::Arrival;
use crate::interp::decode::End;
use crate::interp::op::Op;

/// A place at which translated code is left, for good or for a helper's while. Translated code names
/// it by its address, which stands still as long as the code does.
pub struct Record {
    /// What happens there.
    pub kind: Kind,
    /// Where the flags are.
    pub flags: FlagsAt,
    /// The block in the cache.
    pub block: BlockId,
    /// Where in its page the block's bytes begin.
    pub origin: u16,
}

// There are several for each block, hundreds of thousands in all.
const _: () = assert!(size_of::<Record>() == 64);

/// What happens at a [`Record`].
#[derive(Clone, Copy)]
pub enum Kind {
    /// The interpreter's handler executes an instruction.
    Execute(Step),
    /// Stores have hit a page that somebody watches.
    Written {
        /// The next instruction, from the beginning of the page.
        next: i64,
        /// Bytes that were stored, or lie around what was.
        len: u16,
    },
    /// The same after the return address of a call was pushed whose target is in the frame.
    WrittenCall,
    /// The interpreter is to execute the instruction at this distance from the beginning of the page.
    Interpret(i64),
    /// The block goes on elsewhere: at this distance from the beginning of its page.
    Goto(i64),
    /// The same within the page; the jump that led here can be led to the translation directly.
    Link {
        /// What is to be executed next.
        target: Target,
        /// Address of the jump's distance.
        site: usize,
        /// It leads back, as at the end of a loop.
        back: bool,
    },
    /// The only instruction of the block goes on in the next page, which does not lie, or is not known
    /// to lie, where it lay when the block was made.
    Crossing {
        /// The instruction, from the beginning of the page.
        at: u16,
        /// Host address of the next page when the block was made.
        host: usize,
    },
}

/// An instruction for the interpreter's handler.
#[derive(Clone, Copy)]
pub struct Step {
    /// The instruction.
    pub op: Op,
    /// How the block goes on.
    pub then: Then,
    /// It reads or changes arithmetic flags.
    pub touches_flags: bool,
    /// It reads or changes the state of the x87.
    pub touches_x87: bool,
}

/// How a block goes on after an instruction that the interpreter's handler executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// With the next one.
    GoOn,
    /// With the next one, if what it relies on holds still. How the instruction ends blocks of the
    /// interpreter.
    Look(End),
    /// Not at all.
    Stop(End),
}

/// A place in the same page, and how it is arrived at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// From the beginning of the page.
    pub at: u16,
    /// Where the flags are.
    pub arrival: Arrival,
    /// See [`super::translate::Variant::alone`].
    pub alone: bool,
}
