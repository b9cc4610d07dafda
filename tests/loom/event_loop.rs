//! `base/event_loop`: bottom halves and the wake-up of the loop, with the poll replaced by a
//! condition.

use std::sync::Arc;

use crate::sync::{Condvar, Mutex};

#[path = "../../base/event_loop/bottom_half.rs"]
mod bottom_half;
#[path = "../../base/event_loop/wake.rs"]
mod wake;

pub use bottom_half::BottomHalf;

/// See the original.
#[derive(Clone, Default)]
pub struct LoopHandle(Arc<Shared>);

#[derive(Default)]
struct Shared {
    jobs: bottom_half::Jobs,
    wake_pending: wake::WakePending,
    /// The descriptor by which the poll is woken: it stays readable until the poll has returned.
    waker: Mutex<bool>,
    woken: Condvar,
}

impl LoopHandle {
    fn wake(&self) {
        if self.0.wake_pending.announce() {
            *self.0.waker.lock() = true;
            self.0.woken.notify_all();
        }
    }

    /// One round of the loop, which waits unless there is something to do.
    pub fn run_once(&self) {
        let may_block = self.0.jobs.is_empty();
        {
            let mut waker = self.0.waker.lock();
            while may_block && !*waker {
                self.0.woken.wait(&mut waker);
            }
            *waker = false;
        }
        self.0.wake_pending.seen();
        self.0.jobs.run();
    }
}
