//! Whether a wake-up of the loop is under way.

use crate::sync::{AtomicBool, Ordering};

/// Set while a wake-up is on its way that the loop has not seen yet. Whoever finds it set may rely
/// on the loop looking at all queues again, because it clears the flag before it looks.
#[derive(Default)]
pub(super) struct WakePending(AtomicBool);

impl WakePending {
    /// Announces a wake-up. Returns whether the caller has to send it.
    pub fn announce(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// The loop is awake and about to look at its queues.
    pub fn seen(&self) {
        self.0.swap(false, Ordering::AcqRel);
    }
}
