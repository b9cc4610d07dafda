//! Timers and the queue they wait in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{ClockKind, Clocks};

type Callback = Arc<dyn Fn() + Send + Sync>;

/// Deadlines of all armed timers, per clock, earliest first; ties in order of arming.
#[derive(Default)]
pub(super) struct Queue {
    clocks: [Mutex<BTreeMap<(i64, u64), Callback>>; 3],
    next_key: AtomicU64,
}

impl Queue {
    pub(super) fn next(&self, kind: ClockKind) -> Option<i64> {
        self.clocks[kind as usize].lock().first_key_value().map(|(&(at, _), _)| at)
    }

    pub(super) fn pop_expired(&self, kind: ClockKind, now: i64) -> Option<Callback> {
        let mut timers = self.clocks[kind as usize].lock();
        let entry = timers.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }
}

/// A one-shot timer. Arming it again moves it; dropping it disarms it. A callback that has already
/// been taken from the queue may still run once after [`Timer::cancel`]: callbacks
/// take their device's lock and look at its state, not at the fact that they were called.
pub struct Timer {
    clocks: Clocks,
    kind: ClockKind,
    callback: Callback,
    /// Where the timer waits in the queue.
    armed: Mutex<Option<(i64, u64)>>,
}

impl Timer {
    pub(super) fn new(clocks: Clocks, kind: ClockKind, callback: Callback) -> Self {
        Timer { clocks, kind, callback, armed: Mutex::new(None) }
    }

    /// Arms the timer for `deadline` on its clock.
    pub fn set(&self, deadline: i64) {
        let queue = &self.clocks.0.queue;
        let key = (deadline, queue.next_key.fetch_add(1, Ordering::Relaxed));
        let earliest = {
            let mut armed = self.armed.lock();
            let mut timers = queue.clocks[self.kind as usize].lock();
            if let Some(old) = armed.replace(key) {
                timers.remove(&old);
            }
            timers.insert(key, self.callback.clone());
            timers.first_key_value().is_some_and(|(first, _)| *first == key)
        };
        if earliest {
            self.clocks.deadline_moved(self.kind);
        }
    }

    /// Disarms the timer.
    pub fn cancel(&self) {
        if let Some(old) = self.armed.lock().take() {
            self.clocks.0.queue.clocks[self.kind as usize].lock().remove(&old);
        }
    }

    /// When the timer expires, if it is armed and has not expired yet.
    pub fn deadline(&self) -> Option<i64> {
        let key = (*self.armed.lock())?;
        let waiting = self.clocks.0.queue.clocks[self.kind as usize].lock().contains_key(&key);
        waiting.then_some(key.0)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.cancel();
    }
}
