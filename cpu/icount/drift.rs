//! The guest's clock beside real time: `shift=auto` and `align=on`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use base::clock::{ClockKind, Clocks, SECOND};
use parking_lot::Mutex;

use super::{Counter, MAX_SHIFT, Options, Shift};

/// What `shift=auto` begins with.
pub(super) const FIRST_SHIFT: u32 = 3;
/// How often it looks.
const LOOK: i64 = SECOND / 10;
/// How far a guest may be ahead before `align=on` has it wait.
const TOLERANCE: i64 = 3_000_000;
/// The longest wait in one go, as the guest is out of reach meanwhile.
const LONGEST_WAIT: i64 = SECOND / 20;
/// Least time between two complaints about a guest that is late, and how many are made.
const QUIET: i64 = 2 * SECOND;
const COMPLAINTS: u32 = 100;

/// Real time.
pub(super) fn real(clocks: &Clocks) -> i64 {
    clocks.now(ClockKind::Realtime)
}

#[derive(Default)]
struct State {
    /// Real time at which the guest's clock would have begun, had it never been paused.
    origin: i64,
    /// Since when nobody runs.
    paused: Option<i64>,
    /// How far the guest has been behind and ahead at most.
    delay: i64,
    advance: i64,
    /// When the shift was looked at last, and how far behind the guest was then.
    looked: i64,
    behind: i64,
    /// Whole seconds of delay that were told last, and when.
    told: i64,
    told_at: i64,
    complaints: u32,
}

pub(super) struct Drift {
    auto: bool,
    align: bool,
    state: Mutex<State>,
}

impl Drift {
    pub fn new(options: Options) -> Self {
        // Before the first instruction the guest is as good as paused.
        let state = State { paused: Some(0), ..State::default() };
        let auto = options.shift == Shift::Auto;
        Drift { auto, align: options.align, state: Mutex::new(state) }
    }

    /// Guest code is about to run.
    pub fn resume(&self, clocks: &Clocks) {
        let mut state = self.state.lock();
        if let Some(since) = state.paused.take() {
            state.origin += real(clocks) - since;
        }
    }

    /// The guest is paused.
    pub fn pause(&self, clocks: &Clocks) {
        let mut state = self.state.lock();
        state.paused.get_or_insert_with(|| real(clocks));
    }

    /// How long a sleeping guest has to wait until real time has caught up with it, where the two
    /// are to keep pace.
    pub fn to_catch_up(&self, clocks: &Clocks, now: i64) -> i64 {
        if self.auto { (-self.state.lock().behind(real(clocks), now)).max(0) } else { 0 }
    }

    /// Brings the two closer to each other after a slice of guest code.
    pub fn look(&self, clocks: &Clocks, counter: &Counter) {
        if !self.auto && !self.align {
            return;
        }
        let real = real(clocks);
        let mut state = self.state.lock();
        let behind = state.behind(real, counter.now());
        if self.auto && real - state.looked >= LOOK {
            state.looked = real;
            let shift = counter.shift.load(Ordering::Relaxed);
            let shift = shift + state.correction(behind);
            counter.shift.store(shift.clamp(0, MAX_SHIFT.into()), Ordering::Relaxed);
        }
        if self.align {
            state.delay = state.delay.max(behind);
            state.advance = state.advance.max(-behind);
            if let Some(seconds) = state.complaint(real, behind) {
                // To where QEMU says it.
                println!(
                    "Warning: The guest is now late by {seconds}.0 to {}.0 seconds",
                    seconds + 1
                );
            }
            drop(state);
            if -behind > TOLERANCE {
                let wait = (-behind).min(LONGEST_WAIT);
                std::thread::sleep(Duration::from_nanos(wait as u64));
            }
        }
    }

    /// What `info jit` tells.
    pub fn report(&self, clocks: &Clocks, now: i64) -> String {
        let state = self.state.lock();
        let real = state.paused.unwrap_or_else(|| real(clocks));
        let milliseconds = |time: i64| format!("{} ms", time / 1_000_000);
        let [delay, advance] = [state.delay, state.advance]
            .map(|most| if self.align { milliseconds(most) } else { "NA".to_owned() });
        let behind = milliseconds(state.behind(real, now));
        format!(
            "Host - Guest clock  {behind}\n\
             Max guest delay     {delay}\n\
             Max guest advance   {advance}\n"
        )
    }
}

impl State {
    /// How far the guest is behind; negative if it is ahead.
    fn behind(&self, real: i64, now: i64) -> i64 {
        real - self.origin - now
    }

    /// By how much the shift is to change: by one where the distance grows.
    fn correction(&mut self, behind: i64) -> i64 {
        let before = std::mem::replace(&mut self.behind, behind);
        if behind > before.max(0) {
            1
        } else if behind < before.min(0) {
            -1
        } else {
            0
        }
    }

    /// The whole seconds of delay that are to be told now.
    fn complaint(&mut self, real: i64, behind: i64) -> Option<i64> {
        let seconds = behind.max(0) / SECOND;
        let news = seconds > 0 && seconds != self.told;
        if !news || real - self.told_at < QUIET || self.complaints == COMPLAINTS {
            return None;
        }
        (self.told, self.told_at) = (seconds, real);
        self.complaints += 1;
        Some(seconds)
    }
}
