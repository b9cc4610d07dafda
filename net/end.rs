//! What a back end and a card are to each other.

use std::any::Any;

use crate::{Frame, Offloads};

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Delivery {
    /// The receiver has it (or nobody wants it).
    Taken,
    /// There is no room. The sender keeps it until its [`End::wake`] is called.
    Full,
}

/// One end of a lane of a cable. See the crate's documentation for how ends behave.
pub trait End: Send + Sync {
    /// Takes a frame, whole or not at all. It is valid during the call only. Does not wait, and does
    /// not call the sender back.
    fn deliver(&self, frame: &Frame<'_>) -> Delivery;

    /// Takes frames in turn, as long as there is room; returns how many.
    fn deliver_all(&self, frames: &[Frame<'_>]) -> usize {
        let full = frames.iter().position(|frame| self.deliver(frame) == Delivery::Full);
        full.unwrap_or(frames.len())
    }

    /// The burst is over: whoever postponed something (an interrupt, an answer) does or schedules it
    /// now.
    fn flush(&self) {}

    /// The other end can take frames again: schedules sending.
    fn wake(&self);

    /// What this end can do with frames itself. May change with each reset of a card.
    fn accepts(&self) -> Offloads;

    /// The link went up or down.
    fn link_changed(&self, _up: bool) {}
}

/// What `-netdev` makes: the owner of the ends on the host's side of a cable. Dropping it closes
/// everything.
pub trait Backend: Any + Send + Sync {
    /// What `info network` shows of a lane after `index=0,type=user,`.
    fn info(&self, lane: usize) -> String;
}
