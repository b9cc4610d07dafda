//! `-accel tcg,thread=single`: processors that take turns, one at a time.
//!
//! Each still has a thread of its own, on which it sleeps and takes jobs; guest code it executes
//! only while it has the turn. Whoever waits for a turn too long asks the one that has it to pass
//! it on, and turns are granted in the order in which they were asked for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::signals::{Signals, request};
use crate::state::CpuState;
use crate::vcpu::{Engine, Exit};

/// How long a processor runs while others wait.
const SLICE: Duration = Duration::from_millis(10);

/// The turn.
#[derive(Default)]
pub struct Turns {
    /// Those who want it, the first of whom has it.
    queue: Mutex<VecDeque<Arc<Signals>>>,
    changed: Condvar,
}

impl Turns {
    fn take(&self, me: &Arc<Signals>) {
        let mut queue = self.queue.lock();
        queue.push_back(me.clone());
        while let Some(first) = queue.front().filter(|first| !Arc::ptr_eq(first, me)) {
            let first = first.clone();
            if self.changed.wait_for(&mut queue, SLICE).timed_out() {
                first.post(request::YIELD);
            }
        }
    }

    fn pass_on(&self) {
        self.queue.lock().pop_front();
        self.changed.notify_all();
    }
}

/// An engine that executes guest code in its turn only.
pub struct InTurn<E> {
    engine: E,
    signals: Arc<Signals>,
    turns: Arc<Turns>,
}

impl<E: Engine> InTurn<E> {
    /// Has `engine`, whose mailbox is `signals`, wait for its turns.
    pub fn new(engine: E, signals: Arc<Signals>, turns: Arc<Turns>) -> Self {
        InTurn { engine, signals, turns }
    }
}

impl<E: Engine> Engine for InTurn<E> {
    fn run(&mut self) -> Exit {
        self.turns.take(&self.signals);
        self.signals.take(request::YIELD);
        let exit = self.engine.run();
        self.turns.pass_on();
        exit
    }

    fn reset(&mut self) {
        self.engine.reset();
    }

    fn with_state(&mut self, change: &mut dyn FnMut(&mut CpuState)) {
        self.engine.with_state(change);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

    use super::*;
    use crate::vcpu::{EventSink, Vcpus};

    /// Never rests; counts its turns, and how many of its kind run at once.
    struct Busy {
        signals: Arc<Signals>,
        turns: Arc<AtomicUsize>,
        running: Arc<AtomicU32>,
    }

    impl Engine for Busy {
        fn run(&mut self) -> Exit {
            assert_eq!(self.running.fetch_add(1, Ordering::SeqCst), 0, "two at once");
            self.turns.fetch_add(1, Ordering::SeqCst);
            while self.signals.pending() & (request::STOP | request::YIELD) == 0 {
                std::hint::spin_loop();
            }
            self.running.fetch_sub(1, Ordering::SeqCst);
            Exit::Attention
        }
        fn reset(&mut self) {}
        fn with_state(&mut self, _: &mut dyn FnMut(&mut CpuState)) {}
    }

    #[test]
    fn one_at_a_time_and_everybody() {
        let (turns, running) = (Arc::<Turns>::default(), Arc::<AtomicU32>::default());
        let counts: Vec<_> = (0..3).map(|_| Arc::<AtomicUsize>::default()).collect();
        let engines = counts.iter().map(|count| {
            let signals = Arc::<Signals>::default();
            let (turns_of, running) = (count.clone(), running.clone());
            let busy = Busy { signals: signals.clone(), turns: turns_of, running };
            let engine = InTurn::new(busy, signals.clone(), turns.clone());
            (signals, Box::new(engine) as Box<dyn Engine>)
        });
        let sink: EventSink = Arc::new(|_| ());
        let vcpus = Vcpus::start(engines.collect(), &sink, "CPU {}").unwrap();
        vcpus.resume();
        while counts.iter().any(|count| count.load(Ordering::SeqCst) < 3) {
            std::thread::yield_now();
        }
        vcpus.pause();
        assert_eq!(running.load(Ordering::SeqCst), 0);
    }
}
