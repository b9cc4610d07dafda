//! What the virtual clock shows, for many readers and few changes.

use crate::sync::{AtomicBool, AtomicI64, AtomicU32, Mutex, Ordering, fence, spin};

/// Whether the clock runs, and the number that goes with that: one pair, though readers find it in
/// two words.
///
/// A sequence number is odd while they change; a reader that has met a change reads again.
#[derive(Default)]
pub(super) struct VirtualTime {
    sequence: AtomicU32,
    running: AtomicBool,
    /// Added to the realtime clock while running; the frozen value otherwise.
    offset: AtomicI64,
    /// What was last written to the three.
    written: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    sequence: u32,
    running: bool,
    offset: i64,
}

impl VirtualTime {
    /// What `show` makes of whether the clock runs and of its offset. It is asked again if the clock
    /// was changed meanwhile, so that what it reads of the realtime clock belongs to the same state.
    #[inline]
    pub fn read<R>(&self, show: impl Fn(bool, i64) -> R) -> R {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            let running = self.running.load(Ordering::Relaxed);
            let shown = show(running, self.offset.load(Ordering::Relaxed));
            // Whoever has seen a word of a change sees here that there is one.
            fence(Ordering::Acquire);
            if before & 1 == 0 && self.sequence.load(Ordering::Relaxed) == before {
                return shown;
            }
            spin();
        }
    }

    /// Replaces the pair by what `change` makes of it. One change at a time.
    pub fn update(&self, change: impl FnOnce(bool, i64) -> (bool, i64)) {
        let mut written = self.written.lock();
        self.sequence.store(written.sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        (written.running, written.offset) = change(written.running, written.offset);
        self.running.store(written.running, Ordering::Relaxed);
        self.offset.store(written.offset, Ordering::Relaxed);
        written.sequence = written.sequence.wrapping_add(2);
        self.sequence.store(written.sequence, Ordering::Release);
    }
}
