//! The timer (SDM vol. 3, 12.5.4): one-shot, periodic and TSC-deadline, as arithmetic on moments.
//! Before the divider it counts nanoseconds: a 1 GHz bus clock.

use base::clock::SECOND;
use base::state::State;

/// Periods shorter than this (in nanoseconds) are stretched: a guest that asks for an interrupt every
/// few nanoseconds must not occupy the host.
const SHORTEST_PERIOD: i64 = 20_000;

/// A moment in time, on all the scales that the timer goes by.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// The virtual clock.
    pub ns: i64,
    /// The time-stamp counter before the guest's offset.
    pub ticks: u64,
    /// Ticks per second.
    pub frequency: u64,
}

/// Who knows what time it is. Asked only when a register needs it.
pub trait Now {
    /// The present moment.
    fn now(&self) -> Moment;
}

impl Now for Moment {
    fn now(&self) -> Moment {
        *self
    }
}

/// What the timer does when it reaches zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
}

impl Mode {
    /// From the timer's LVT entry; the reserved encoding acts as one-shot.
    pub fn of(entry: u32) -> Self {
        match entry >> 17 & 3 {
            1 => Mode::Periodic,
            2 => Mode::TscDeadline,
            _ => Mode::OneShot,
        }
    }
}

/// The timer's registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(version = 1)]
pub struct TimerState {
    pub(super) initial: u32,
    pub(super) divide: u32,
    /// When the countdown under way began.
    start: i64,
    /// A countdown is under way.
    running: bool,
    /// IA32_TSC_DEADLINE; zero means disarmed.
    pub(super) deadline: u64,
    /// What the guest's time-stamp counter is ahead of the tick counter.
    pub(super) tsc_offset: u64,
}

impl TimerState {
    /// The divider as a shift (SDM vol. 3, figure 12-10).
    fn shift(&self) -> u32 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        (code + 1) & 7
    }

    /// Length of a countdown in nanoseconds.
    fn period(&self) -> i64 {
        i64::from(self.initial) << self.shift()
    }

    /// The state at RESET; only the relation to the tick counter stays.
    pub(super) fn cleared(&self) -> Self {
        TimerState { tsc_offset: self.tsc_offset, ..TimerState::default() }
    }

    pub(super) fn set_initial(&mut self, value: u32, now: &Moment) {
        self.initial = value;
        self.start = now.ns;
        self.running = value != 0;
    }

    pub(super) fn current(&self, mode: Mode, now: &Moment) -> u32 {
        if !self.running || self.initial == 0 || mode == Mode::TscDeadline {
            return 0;
        }
        let elapsed = now.ns.saturating_sub(self.start).max(0) >> self.shift();
        let initial = i64::from(self.initial);
        match mode {
            Mode::Periodic => (initial - elapsed % initial) as u32,
            _ => (initial - elapsed).max(0) as u32,
        }
    }

    /// Changes the divider; the count goes on from where it is.
    pub(super) fn set_divide(&mut self, value: u32, mode: Mode, now: &Moment) {
        let done = i64::from(self.initial) - i64::from(self.current(mode, now));
        self.divide = value & 0xb;
        self.start = now.ns - (done << self.shift());
    }

    pub(super) fn set_deadline(&mut self, value: u64) {
        self.deadline = value;
    }

    /// The guest changed to another mode: to and from TSC-deadline, the timer is disarmed.
    pub(super) fn mode_changed(&mut self, old: Mode, new: Mode) {
        if old != new && (old == Mode::TscDeadline || new == Mode::TscDeadline) {
            self.running = false;
            self.initial = 0;
            self.deadline = 0;
        }
    }

    /// When the timer next expires, on the virtual clock.
    pub(super) fn expiry(&self, mode: Mode, now: &Moment) -> Option<i64> {
        if mode == Mode::TscDeadline {
            if self.deadline == 0 {
                return None;
            }
            let tsc = now.ticks.wrapping_add(self.tsc_offset);
            let ticks = u128::from(self.deadline.saturating_sub(tsc));
            let wait = (ticks * SECOND as u128).div_ceil(u128::from(now.frequency.max(1)));
            return Some(now.ns.saturating_add(wait.min(i64::MAX as u128) as i64));
        }
        let period = self.period();
        let stretched = if mode == Mode::Periodic { period.max(SHORTEST_PERIOD) } else { period };
        self.running.then(|| self.start.saturating_add(stretched))
    }

    /// Whether the timer has expired by now; if so it is rearmed or disarmed, as its mode says.
    /// Periods that were missed are not made up for.
    pub(super) fn expire(&mut self, mode: Mode, now: &Moment) -> bool {
        if self.expiry(mode, now).is_none_or(|at| at > now.ns) {
            return false;
        }
        match mode {
            Mode::OneShot => self.running = false,
            Mode::Periodic => {
                let period = self.period().max(1);
                self.start += now.ns.saturating_sub(self.start) / period * period;
            }
            Mode::TscDeadline => self.deadline = 0,
        }
        true
    }
}
