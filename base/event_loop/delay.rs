//! One-shot delays in host time, for host housekeeping (reconnecting, polling a pty). What a guest
//! can see runs on the machine's clocks instead.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::LoopHandle;

type Key = (Instant, u64);

#[derive(Default)]
pub(super) struct Delays {
    pending: Mutex<BTreeMap<Key, Box<dyn FnOnce() + Send>>>,
    next_id: AtomicU64,
}

impl Delays {
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let pending = self.pending.lock();
        let ((when, _), _) = pending.first_key_value()?;
        Some(when.saturating_duration_since(Instant::now()))
    }

    pub(super) fn run_expired(&self) {
        while let Some(run) = self.take_expired() {
            run();
        }
    }

    fn take_expired(&self) -> Option<Box<dyn FnOnce() + Send>> {
        let mut pending = self.pending.lock();
        let first = pending.first_entry()?;
        (first.key().0 <= Instant::now()).then(|| first.remove())
    }
}

/// A callback that waits for its time. Dropping it forgets the callback.
#[must_use = "dropping a delay cancels it"]
pub struct Delay {
    handle: LoopHandle,
    key: Key,
}

impl LoopHandle {
    /// Runs `run` on the loop's thread after `delay`.
    pub fn after(&self, delay: Duration, run: impl FnOnce() + Send + 'static) -> Delay {
        let delays = &self.0.delays;
        let key = (Instant::now() + delay, delays.next_id.fetch_add(1, Ordering::Relaxed));
        delays.pending.lock().insert(key, Box::new(run));
        self.wake();
        Delay { handle: self.clone(), key }
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        // Out of the lock before the closure, and whatever it owns, is dropped.
        let cancelled = self.handle.0.delays.pending.lock().remove(&self.key);
        drop(cancelled);
    }
}
