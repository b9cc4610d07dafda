//! `-icount`: the virtual clock counts instructions.
//!
//! Each instruction that the guest executes moves the virtual clock by 2^shift nanoseconds, and
//! nothing else moves it while any processor has something to do. Processors are interpreted one at
//! a time, in turns that are counted in instructions too; a slice of guest code ends at the
//! instruction at which the next timer of the virtual clock expires, and that timer is run there, on
//! the thread of the processor whose turn it is. So what the guest does and when depends on the
//! guest alone, as long as nobody outside of the machine has a say.
//!
//! When all processors sleep, the clock moves on to the next timer: in real time, or at once with
//! `sleep=off`.

mod drift;
mod rotation;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};

use base::clock::{Clocks, Pace};

use crate::signals::{Signals, request};
use crate::state::CpuState;
use crate::vcpu::{Engine, Exit};
use drift::Drift;
use rotation::Rotation;

/// Nanoseconds for an instruction, as a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// Always the same.
    Fixed(u32),
    /// Such that the virtual clock keeps pace with real time.
    Auto,
}

/// The greatest power of two.
pub const MAX_SHIFT: u32 = 10;

/// What `-icount` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Nanoseconds for an instruction.
    pub shift: Shift,
    /// Whether the guest waits for real time where its clock is ahead, and complaints are made where
    /// it is behind.
    pub align: bool,
    /// Whether the clock goes in real time while all processors sleep.
    pub sleep: bool,
}

/// The clock that counts. Only who has the turn moves it.
#[derive(Debug)]
pub struct Counter {
    now: AtomicI64,
    /// Where the slice under way ends.
    limit: AtomicI64,
    shift: AtomicI64,
}

/// The limit of a slice that is not known yet, and of one that is to end at once.
const OPEN: i64 = i64::MAX;
const OVER: i64 = i64::MIN;

impl Counter {
    fn new(shift: u32) -> Self {
        let [now, limit, shift] = [0, OVER, shift.into()].map(AtomicI64::new);
        Counter { now, limit, shift }
    }

    fn now(&self) -> i64 {
        self.now.load(Ordering::Relaxed)
    }

    fn nanoseconds(&self, instructions: u64) -> i64 {
        (instructions << self.shift.load(Ordering::Relaxed)) as i64
    }

    /// The guest has executed this many instructions. Returns whether the slice is over.
    #[inline(always)]
    pub fn count(&self, instructions: u64) -> bool {
        let now = self.now() + self.nanoseconds(instructions);
        self.now.store(now, Ordering::Relaxed);
        now >= self.limit.load(Ordering::Relaxed)
    }

    /// How many instructions the slice still has, at least one.
    pub fn left(&self) -> u64 {
        let left = self.limit.load(Ordering::Relaxed).saturating_sub(self.now());
        (left >> self.shift.load(Ordering::Relaxed)).max(1) as u64
    }

    /// Time passes without instructions.
    fn skip(&self, nanoseconds: i64) {
        self.now.store(self.now() + nanoseconds, Ordering::Relaxed);
    }

    /// Ends the slice at `limit()`, or now if [`Self::interrupt`] is called while that is found out.
    fn limit_to(&self, limit: impl FnOnce() -> i64) {
        self.limit.store(OPEN, Ordering::SeqCst);
        let limit = limit();
        // Who was faster has said that there is another limit to be found.
        let _ = self.limit.compare_exchange(OPEN, limit, Ordering::SeqCst, Ordering::SeqCst);
    }

    fn interrupt(&self) {
        self.limit.store(OVER, Ordering::SeqCst);
    }
}

/// The instruction counter of a machine.
pub struct Icount {
    clocks: Clocks,
    counter: Arc<Counter>,
    sleep: bool,
    rotation: Rotation,
    drift: Drift,
}

impl Icount {
    /// Has the virtual clock of `clocks` count instructions.
    pub fn new(options: Options, clocks: &Clocks) -> Arc<Self> {
        let counter = Arc::new(Counter::new(match options.shift {
            Shift::Fixed(shift) => shift,
            Shift::Auto => drift::FIRST_SHIFT,
        }));
        let icount = Arc::new(Icount {
            clocks: clocks.clone(),
            counter: counter.clone(),
            sleep: options.sleep,
            rotation: Rotation::default(),
            drift: Drift::new(options),
        });
        clocks.set_pace(Arc::new(Paced { counter, icount: Arc::downgrade(&icount) }));
        icount
    }

    /// What instructions are counted by.
    pub fn counter(&self) -> Arc<Counter> {
        self.counter.clone()
    }

    /// How far the guest's clock is from real time, as `info jit` tells it.
    pub fn report(&self) -> String {
        self.drift.report(&self.clocks, self.counter.now())
    }

    /// Nanoseconds until the next timer of the virtual clock.
    fn gap(&self) -> Option<i64> {
        Some(self.clocks.next_virtual_deadline()? - self.clocks.now_virtual())
    }

    fn run_timers(&self) {
        if self.gap().is_some_and(|gap| gap <= 0) {
            self.clocks.run_virtual();
        }
    }

    /// Runs the timers that are due and determines how far the next slice goes. `end` is the end of
    /// the processor's turn.
    fn begin_slice(&self, end: i64) {
        self.run_timers();
        self.counter.limit_to(|| {
            let now = self.counter.now();
            // A timer that is due again already does not keep the guest from going on.
            let gap = self.gap().map_or(i64::MAX, |gap| gap.max(1));
            now.saturating_add(gap).min(end)
        });
    }

    /// All processors sleep: has time go on towards the next timer, or waits for somebody outside.
    fn pass_time(&self, wait: impl FnOnce(Option<i64>)) {
        let Some(gap) = self.gap() else { return wait(None) };
        if gap > 0 && self.sleep {
            let ahead = self.drift.to_catch_up(&self.clocks, self.counter.now());
            let before = drift::real(&self.clocks);
            wait(Some(gap.saturating_add(ahead)));
            let slept = drift::real(&self.clocks) - before;
            self.counter.skip((slept - ahead).clamp(0, gap));
        } else {
            self.counter.skip(gap.max(0));
        }
    }
}

/// The virtual clock's view of the counter.
struct Paced {
    counter: Arc<Counter>,
    icount: Weak<Icount>,
}

impl Pace for Paced {
    fn elapsed(&self) -> i64 {
        self.counter.now()
    }

    fn deadline_moved(&self) {
        self.counter.interrupt();
        if let Some(icount) = self.icount.upgrade() {
            icount.rotation.notify();
        }
    }
}

/// An engine whose instructions are counted, in its turn.
pub struct Counted<E> {
    engine: E,
    signals: Arc<Signals>,
    icount: Arc<Icount>,
    /// Its place in the rotation.
    place: usize,
}

impl<E: Engine> Counted<E> {
    /// Has `engine`, whose mailbox is `signals`, take part in the rotation. The engine stops after
    /// the instruction for which [`Counter::count`] says so.
    pub fn new(engine: E, signals: Arc<Signals>, icount: &Arc<Icount>) -> Self {
        let place = icount.rotation.join(&signals);
        let others = Arc::downgrade(icount);
        signals.set_kick(move || {
            if let Some(icount) = others.upgrade() {
                icount.rotation.notify();
            }
        });
        Counted { engine, signals, icount: icount.clone(), place }
    }
}

impl<E: Engine> Engine for Counted<E> {
    fn run(&mut self) -> Exit {
        let icount = &*self.icount;
        icount.rotation.enter(self.place);
        while let Some(end) = icount.rotation.wait(self.place, icount) {
            icount.drift.resume(&icount.clocks);
            icount.begin_slice(end);
            let exit = self.engine.run();
            self.signals.take(request::YIELD);
            icount.drift.look(&icount.clocks, &icount.counter);
            icount.rotation.leave(self.place, &exit, icount.counter.now());
            if !matches!(exit, Exit::Attention | Exit::Halted { .. }) {
                return exit;
            }
        }
        icount.drift.pause(&icount.clocks);
        Exit::Attention
    }

    fn reset(&mut self) {
        self.engine.reset();
    }

    fn with_state(&mut self, change: &mut dyn FnMut(&mut CpuState)) {
        self.engine.with_state(change);
    }
}

#[cfg(test)]
mod tests;
