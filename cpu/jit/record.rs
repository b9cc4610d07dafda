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
    /// Whether the instruction reads or changes arithmetic flags.
    pub touches_flags: bool,
    /// Whether the instruction reads or changes the state of the x87.
    pub touches_x87: bool,
    /// The block in the cache.
    pub block: BlockId,
    /// Where in its page the block's bytes begin.
    pub origin: u16,
    /// The instruction, for the interpreter's handlers.
    pub op: Option<Box<Op>>,
}

/// What happens at a [`Record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The interpreter's handler executes the instruction, and the block goes on after it.
    Step,
    /// The same, and the block goes on only if what it relies on holds still. How the instruction ends
    /// blocks of the interpreter.
    Look(End),
    /// The interpreter's handler executes the instruction, which ends the block.
    Last(End),
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
