//! What is known about the places at which translated code can be left.

use super::flags::FlagsAt;
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
    /// Number of the block in the cache.
    pub block: u32,
    /// Where in its page the block begins.
    pub start: u16,
    /// The instruction, for the interpreter's handlers.
    pub op: Option<Box<Op>>,
}

/// What happens at a [`Record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The interpreter's handler executes the instruction, and the block goes on after it.
    Step,
    /// The interpreter's handler executes the instruction, which ends the block.
    Last(End),
    /// A store has hit a page that somebody watches.
    Written {
        /// The next instruction, from the beginning of the page.
        next: i64,
        /// Bytes stored.
        len: u8,
    },
    /// The same after the return address of a call was pushed whose target is in the frame.
    WrittenCall,
    /// The interpreter is to execute the instruction at this distance from the beginning of the page.
    Interpret(i64),
    /// The block goes on elsewhere: at this distance from the beginning of its page.
    Goto(i64),
    /// The same within the page; the jump that led here can be led to the translation directly.
    Link {
        /// Where the block goes on, from the beginning of the page.
        target: u16,
        /// Address of the jump's distance.
        site: usize,
        /// Whether the flags stay in the host's flags.
        host_flags: bool,
    },
}
