//! Time, as devices see it.
//!
//! Three clocks in nanoseconds: *virtual* stops with the VM and can be stepped by hand, *host*
//! follows the wall clock, *realtime* never stops. Devices ask these and nothing else, so tests and
//! qtest decide what time it is. Timers of all clocks live in one queue that the main loop serves.

mod pace;
mod timer;
mod virtual_time;
mod zone;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;

pub use pace::Pace;
use timer::Queue;
pub use timer::Timer;
use virtual_time::VirtualTime;
pub use zone::local_offset;

/// Nanoseconds in a second.
pub const SECOND: i64 = 1_000_000_000;

/// Which clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockKind {
    /// Runs while the VM runs.
    Virtual,
    /// The host's wall clock (since 1970).
    Host,
    /// Runs always.
    Realtime,
}

struct Inner {
    start: Instant,
    virt: VirtualTime,
    /// The virtual clock is stepped by hand: it ignores running and stopping.
    manual: AtomicBool,
    /// What the virtual clock goes by, if that is not real time.
    pace: OnceLock<Arc<dyn Pace>>,
    queue: Queue,
    wake: RwLock<Box<dyn Fn() + Send + Sync>>,
}

/// The clocks and timers of one machine. Cloning gives another handle.
#[derive(Clone)]
pub struct Clocks(Arc<Inner>);

impl Default for Clocks {
    fn default() -> Self {
        Self::new()
    }
}

impl Clocks {
    /// Clocks with the virtual one stopped at zero.
    #[allow(clippy::disallowed_methods)] // The one place where host time enters.
    pub fn new() -> Self {
        Clocks(Arc::new(Inner {
            start: Instant::now(),
            virt: VirtualTime::default(),
            manual: AtomicBool::new(false),
            pace: OnceLock::new(),
            queue: Queue::default(),
            wake: RwLock::new(Box::new(|| ())),
        }))
    }

    /// What to call when a timer becomes the earliest: the main loop's wake-up.
    pub fn set_wake(&self, wake: impl Fn() + Send + Sync + 'static) {
        *self.0.wake.write() = Box::new(wake);
    }

    /// The time on a clock.
    pub fn now(&self, kind: ClockKind) -> i64 {
        match kind {
            ClockKind::Virtual => self.now_virtual(),
            ClockKind::Realtime => self.realtime(),
            ClockKind::Host => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_nanos() as i64),
        }
    }

    fn realtime(&self) -> i64 {
        self.0.start.elapsed().as_nanos() as i64
    }

    /// From now on the virtual clock goes by `pace` while it runs, and its timers are run by whoever
    /// sets the pace. To be called once, before the clock is started.
    pub fn set_pace(&self, pace: Arc<dyn Pace>) {
        let first = self.0.pace.set(pace).is_ok();
        debug_assert!(first, "paced twice");
    }

    /// What the virtual clock goes by.
    #[inline]
    fn elapsed(&self) -> i64 {
        self.0.pace.get().map_or_else(|| self.realtime(), |pace| pace.elapsed())
    }

    /// The time on the virtual clock.
    #[inline]
    pub fn now_virtual(&self) -> i64 {
        self.0.virt.read(|running, offset| if running { offset + self.elapsed() } else { offset })
    }

    /// Starts the virtual clock. Without effect while it is stepped by hand.
    pub fn start_virtual(&self) {
        self.0.virt.update(|running, offset| {
            match running || self.0.manual.load(Ordering::Relaxed) {
                true => (running, offset),
                false => (true, offset - self.elapsed()),
            }
        });
        self.wake();
    }

    /// Stops the virtual clock.
    pub fn stop_virtual(&self) {
        self.0.virt.update(|running, offset| match running {
            true => (false, offset + self.elapsed()),
            false => (false, offset),
        });
    }

    /// From now on the virtual clock moves only by [`Self::step_to`] (qtest).
    pub fn step_by_hand(&self) {
        self.0.manual.store(true, Ordering::Relaxed);
        // After that nobody starts it.
        self.stop_virtual();
    }

    /// Sets the virtual clock, as when a saved machine is loaded.
    pub fn set_virtual(&self, now: i64) {
        self.0
            .virt
            .update(|running, _| (running, if running { now - self.elapsed() } else { now }));
    }

    /// Moves a stepped virtual clock forward to `target`, running each timer at its own time.
    pub fn step_to(&self, target: i64) {
        while let Some(deadline) = self.next_virtual_deadline().filter(|&at| at <= target) {
            self.set_virtual(deadline.max(self.now_virtual()));
            self.run_expired();
        }
        self.set_virtual(target.max(self.now_virtual()));
    }

    /// When the next timer of the virtual clock expires, in that clock's time.
    pub fn next_virtual_deadline(&self) -> Option<i64> {
        self.0.queue.next(ClockKind::Virtual)
    }

    /// A timer on a clock. The callback runs on the main loop, or for the virtual clock on the thread
    /// that sets its pace, with no lock held.
    pub fn timer(&self, kind: ClockKind, callback: impl Fn() + Send + Sync + 'static) -> Timer {
        Timer::new(self.clone(), kind, Arc::new(callback))
    }

    /// How long the main loop may sleep before a timer expires.
    pub fn next_deadline(&self) -> Option<Duration> {
        let virtual_counts = self.0.pace.get().is_none() && self.0.virt.read(|running, _| running);
        [ClockKind::Virtual, ClockKind::Host, ClockKind::Realtime]
            .into_iter()
            .filter(|&kind| kind != ClockKind::Virtual || virtual_counts)
            .filter_map(|kind| Some(self.0.queue.next(kind)? - self.now(kind)))
            .min()
            .map(|left| Duration::from_nanos(left.max(0) as u64))
    }

    /// Runs every timer whose time has come, earliest first; those of the virtual clock only if it
    /// goes by real time or is stepped.
    pub fn run_expired(&self) {
        if self.0.pace.get().is_none() {
            self.run_virtual();
        }
        self.run_expired_of(ClockKind::Host);
        self.run_expired_of(ClockKind::Realtime);
    }

    /// Runs the timers of the virtual clock whose time has come: for whoever sets its pace.
    pub fn run_virtual(&self) {
        self.run_expired_of(ClockKind::Virtual);
    }

    fn run_expired_of(&self, kind: ClockKind) {
        let now = self.now(kind);
        while let Some(callback) = self.0.queue.pop_expired(kind, now) {
            callback();
        }
    }

    fn wake(&self) {
        (self.0.wake.read())();
    }

    /// A timer has become the earliest of its clock.
    fn deadline_moved(&self, kind: ClockKind) {
        match self.0.pace.get().filter(|_| kind == ClockKind::Virtual) {
            Some(pace) => pace.deadline_moved(),
            None => self.wake(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn stepping_runs_timers_at_their_own_time() {
        let clocks = Clocks::new();
        clocks.step_by_hand();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let timers: Vec<Timer> = [30, 10, 20]
            .into_iter()
            .map(|at| {
                let (seen, clock) = (seen.clone(), clocks.clone());
                let timer = clocks.timer(ClockKind::Virtual, move || {
                    seen.lock().push((at, clock.now_virtual()));
                });
                timer.set(at);
                timer
            })
            .collect();
        timers[2].cancel();
        clocks.step_to(25);
        assert_eq!(*seen.lock(), [(10, 10)]);
        clocks.step_to(100);
        assert_eq!(*seen.lock(), [(10, 10), (30, 30)]);
        assert_eq!(clocks.now_virtual(), 100);
        assert_eq!(clocks.next_virtual_deadline(), None);
    }

    #[test]
    fn a_periodic_timer_may_re_arm_itself() {
        let clocks = Clocks::new();
        clocks.step_by_hand();
        let count = Arc::new(AtomicI64::new(0));
        let slot: Arc<Mutex<Option<Timer>>> = Arc::default();
        let (counter, again, clock) = (count.clone(), slot.clone(), clocks.clone());
        let timer = clocks.timer(ClockKind::Virtual, move || {
            counter.fetch_add(1, Ordering::Relaxed);
            if let Some(timer) = &*again.lock() {
                timer.set(clock.now_virtual() + 7);
            }
        });
        timer.set(7);
        *slot.lock() = Some(timer);
        clocks.step_to(70);
        assert_eq!(count.load(Ordering::Relaxed), 10);
        slot.lock().take();
    }

    #[test]
    fn a_stopped_clock_stands_still() {
        let clocks = Clocks::new();
        clocks.set_virtual(5 * SECOND);
        assert_eq!(clocks.now_virtual(), 5 * SECOND);
        clocks.start_virtual();
        assert!(clocks.now_virtual() >= 5 * SECOND);
        clocks.stop_virtual();
        let stopped = clocks.now_virtual();
        assert_eq!(clocks.now_virtual(), stopped);
    }

    /// Time as somebody says.
    #[derive(Default)]
    struct Said {
        now: AtomicI64,
        moved: AtomicI64,
    }

    impl Pace for Said {
        fn elapsed(&self) -> i64 {
            self.now.load(Ordering::Relaxed)
        }
        fn deadline_moved(&self) {
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn somebody_else_sets_the_pace() {
        let clocks = Clocks::new();
        let said = Arc::<Said>::default();
        clocks.set_pace(said.clone());
        said.now.store(7, Ordering::Relaxed);
        assert_eq!(clocks.now_virtual(), 0, "not started");
        clocks.start_virtual();
        said.now.store(10, Ordering::Relaxed);
        assert_eq!(clocks.now_virtual(), 3);
        clocks.stop_virtual();
        said.now.store(20, Ordering::Relaxed);
        clocks.start_virtual();
        assert_eq!(clocks.now_virtual(), 3);

        let seen = Arc::new(AtomicI64::new(0));
        let (mark, clock) = (seen.clone(), clocks.clone());
        let timer = clocks.timer(ClockKind::Virtual, move || {
            mark.store(clock.now_virtual(), Ordering::Relaxed);
        });
        timer.set(5);
        assert_eq!(said.moved.load(Ordering::Relaxed), 1);
        assert_eq!(clocks.next_deadline(), None, "the main loop does not wait for it");
        said.now.store(22, Ordering::Relaxed);
        clocks.run_expired();
        assert_eq!(seen.load(Ordering::Relaxed), 0, "nor does it run it");
        clocks.run_virtual();
        assert_eq!(seen.load(Ordering::Relaxed), 5);
    }

    #[test]
    fn dropping_a_timer_disarms_it() {
        let clocks = Clocks::new();
        clocks.step_by_hand();
        clocks.timer(ClockKind::Virtual, || panic!("must not run")).set(1);
        clocks.step_to(10);
    }
}
