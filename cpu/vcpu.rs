//! vCPU threads: each runs one processor on an engine, and stops, sleeps and works on request.
//!
//! A thread is either *parked* (it only takes jobs) or runs guest code. [`Vcpus::pause`] returns when
//! all are parked, so whatever happens until [`Vcpus::resume`] happens with the guest standing still.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use crate::signals::{Signals, request};
use crate::state::CpuState;

/// Why an engine came back from guest code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Somebody wants attention: look at the requests and go on.
    Attention,
    /// The processor sleeps until one of these requests arrives.
    Halted {
        /// Bits of [`request`].
        wake: u32,
    },
    /// A triple fault.
    Shutdown,
    /// The guest told that it has crashed.
    Crashed,
    /// The engine cannot go on.
    Failed(String),
}

/// What executes a processor's guest code: the interpreter, KVM, or nobody.
pub trait Engine: Send {
    /// Runs until something other than guest code is to be done. Returns soon after
    /// [`request::STOP`] is posted, but need not clear it.
    fn run(&mut self) -> Exit;
    /// RESET.
    fn reset(&mut self);
    /// Lets `change` look at and modify the architectural state.
    fn with_state(&mut self, change: &mut dyn FnMut(&mut CpuState));
}

/// What a vCPU tells the machine. Sent with no lock held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VcpuEvent {
    /// A triple fault shut a processor down.
    Shutdown {
        /// Its number.
        index: usize,
    },
    /// The guest told that it has crashed.
    Crashed {
        /// Number of the processor that did.
        index: usize,
    },
    /// An engine failed; the machine should stop.
    Failed {
        /// Number of the processor.
        index: usize,
        /// What happened.
        reason: String,
    },
}

/// Takes events from vCPU threads.
pub type EventSink = Arc<dyn Fn(VcpuEvent) + Send + Sync>;

type Job = Box<dyn FnOnce(&mut dyn Engine) + Send>;

#[derive(Default)]
struct Control {
    run: bool,
    quit: bool,
    parked: bool,
    jobs: VecDeque<Job>,
}

struct Slot {
    index: usize,
    signals: Arc<Signals>,
    thread_id: AtomicI32,
    control: Mutex<Control>,
    changed: Condvar,
}

struct Vcpu {
    slot: Arc<Slot>,
    thread: Option<JoinHandle<()>>,
}

/// The processors of a machine.
pub struct Vcpus {
    vcpus: Vec<Vcpu>,
}

impl Vcpus {
    /// Starts a parked thread for each engine. `name` is what threads are called, with the number
    /// for `{}`; without one they have the process's.
    pub fn start(
        engines: Vec<(Arc<Signals>, Box<dyn Engine>)>,
        events: &EventSink,
        name: &str,
    ) -> io::Result<Self> {
        let vcpus = engines
            .into_iter()
            .enumerate()
            .map(|(index, (signals, engine))| {
                let slot = Arc::new(Slot {
                    index,
                    signals,
                    thread_id: AtomicI32::new(0),
                    control: Mutex::default(),
                    changed: Condvar::new(),
                });
                let (mine, events) = (slot.clone(), events.clone());
                let name = name.replace("{}", &index.to_string());
                let thread =
                    base::thread::builder(&name).spawn(move || mine.serve(engine, &events))?;
                Ok(Vcpu { slot, thread: Some(thread) })
            })
            .collect::<io::Result<_>>()?;
        let vcpus = Vcpus { vcpus };
        vcpus.wait_parked();
        Ok(vcpus)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.vcpus.len()
    }

    /// The host's ids of the threads.
    pub fn thread_ids(&self) -> Vec<i32> {
        self.vcpus.iter().map(|vcpu| vcpu.slot.thread_id.load(Ordering::Relaxed)).collect()
    }

    /// The mailboxes.
    pub fn signals(&self) -> Vec<Arc<Signals>> {
        self.vcpus.iter().map(|vcpu| vcpu.slot.signals.clone()).collect()
    }

    /// Posts requests to one processor.
    pub fn post(&self, index: usize, requests: u32) {
        if let Some(vcpu) = self.vcpus.get(index) {
            vcpu.slot.signals.post(requests);
        }
    }

    /// Lets all processors run.
    pub fn resume(&self) {
        for vcpu in &self.vcpus {
            vcpu.slot.control.lock().run = true;
            vcpu.slot.changed.notify_all();
        }
    }

    /// Stops all processors and returns when none executes guest code any more. Not to be called on
    /// a vCPU thread.
    pub fn pause(&self) {
        self.hold();
        self.wait_parked();
    }

    /// Has all processors stop soon, without waiting for them: what a vCPU thread may do.
    pub fn hold(&self) {
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            vcpu.slot.control.lock().run = false;
            self.post(index, request::STOP);
        }
    }

    fn wait_parked(&self) {
        for vcpu in &self.vcpus {
            let mut control = vcpu.slot.control.lock();
            while !control.parked && !control.quit {
                vcpu.slot.changed.wait(&mut control);
            }
        }
    }

    /// Runs `job` on a parked processor's thread and returns its result; `None` if there is no such
    /// processor.
    pub fn run_on<R: Send + 'static>(
        &self,
        index: usize,
        job: impl FnOnce(&mut dyn Engine) -> R + Send + 'static,
    ) -> Option<R> {
        let vcpu = self.vcpus.get(index)?;
        let (result, answer) = mpsc::channel();
        let job: Job = Box::new(move |engine| {
            // Nobody waits any more only if the caller is gone.
            let _ = result.send(job(engine));
        });
        vcpu.slot.control.lock().jobs.push_back(job);
        vcpu.slot.changed.notify_all();
        answer.recv().ok()
    }

    /// RESET of all processors, which must be paused.
    pub fn reset(&self) {
        for index in 0..self.count() {
            self.run_on(index, |engine| engine.reset());
        }
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            let mut control = vcpu.slot.control.lock();
            (control.run, control.quit) = (false, true);
            drop(control);
            self.post(index, request::STOP);
            vcpu.slot.changed.notify_all();
        }
        for vcpu in &mut self.vcpus {
            if let Some(thread) = vcpu.thread.take() {
                // A vCPU thread that panicked has said so already.
                let _ = thread.join();
            }
        }
    }
}

impl Slot {
    fn serve(&self, mut engine: Box<dyn Engine>, events: &EventSink) {
        self.thread_id.store(nix::unistd::gettid().as_raw(), Ordering::Relaxed);
        while self.park(&mut *engine) {
            match engine.run() {
                Exit::Attention => {}
                Exit::Halted { wake } => self.signals.wait(wake | request::STOP),
                Exit::Shutdown => {
                    events(VcpuEvent::Shutdown { index: self.index });
                    self.signals.wait(request::STOP | request::INIT);
                }
                Exit::Crashed => events(VcpuEvent::Crashed { index: self.index }),
                Exit::Failed(reason) => {
                    events(VcpuEvent::Failed { index: self.index, reason });
                    self.signals.wait(request::STOP);
                }
            }
        }
    }

    /// Stays until the guest may run, doing jobs meanwhile. Returns false when it is time to end.
    fn park(&self, engine: &mut dyn Engine) -> bool {
        let mut control = self.control.lock();
        while !control.run {
            if let Some(job) = control.jobs.pop_front() {
                parking_lot::MutexGuard::unlocked(&mut control, || job(engine));
                continue;
            }
            control.parked = true;
            self.changed.notify_all();
            if control.quit {
                return false;
            }
            self.changed.wait(&mut control);
        }
        control.parked = false;
        // Under the lock: a later pause clears `run` first and posts again.
        self.signals.take(request::STOP);
        true
    }
}

/// An engine that executes nothing: the machine is driven from outside (qtest).
pub struct NoEngine;

impl Engine for NoEngine {
    fn run(&mut self) -> Exit {
        Exit::Halted { wake: 0 }
    }
    fn reset(&mut self) {}
    fn with_state(&mut self, _: &mut dyn FnMut(&mut CpuState)) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Counts rounds of guest code; each round is short.
    struct Counter {
        rounds: Arc<AtomicUsize>,
        signals: Arc<Signals>,
    }

    impl Engine for Counter {
        fn run(&mut self) -> Exit {
            while self.signals.pending() & request::STOP == 0 {
                self.rounds.fetch_add(1, Ordering::Relaxed);
            }
            Exit::Attention
        }
        fn reset(&mut self) {
            self.rounds.store(0, Ordering::Relaxed);
        }
        fn with_state(&mut self, _: &mut dyn FnMut(&mut CpuState)) {}
    }

    fn counters(count: usize) -> (Vcpus, Vec<Arc<AtomicUsize>>) {
        let rounds: Vec<_> = (0..count).map(|_| Arc::<AtomicUsize>::default()).collect();
        let engines = rounds
            .iter()
            .map(|rounds| {
                let signals = Arc::<Signals>::default();
                let engine = Counter { rounds: rounds.clone(), signals: signals.clone() };
                (signals, Box::new(engine) as Box<dyn Engine>)
            })
            .collect();
        (Vcpus::start(engines, &(Arc::new(|_| ()) as EventSink), "CPU {}").unwrap(), rounds)
    }

    #[test]
    fn nothing_moves_while_paused() {
        let (vcpus, rounds) = counters(3);
        for _ in 0..50 {
            vcpus.resume();
            while rounds.iter().any(|rounds| rounds.load(Ordering::Relaxed) == 0) {
                std::thread::yield_now();
            }
            vcpus.pause();
            let before: Vec<_> = rounds.iter().map(|r| r.load(Ordering::Relaxed)).collect();
            std::thread::yield_now();
            let after: Vec<_> = rounds.iter().map(|r| r.load(Ordering::Relaxed)).collect();
            assert_eq!(before, after);
            vcpus.reset();
        }
    }

    #[test]
    fn jobs_run_on_the_vcpus_own_thread() {
        let (vcpus, _) = counters(2);
        let ids = vcpus.thread_ids();
        let id = vcpus.run_on(1, |_| nix::unistd::gettid().as_raw());
        assert_eq!(id, Some(ids[1]));
        assert_eq!(vcpus.run_on(2, |_| ()), None);
    }

    #[test]
    fn a_shutdown_is_reported() {
        struct Dies;
        impl Engine for Dies {
            fn run(&mut self) -> Exit {
                Exit::Shutdown
            }
            fn reset(&mut self) {}
            fn with_state(&mut self, _: &mut dyn FnMut(&mut CpuState)) {}
        }
        let (send, receive) = mpsc::channel();
        let send = Mutex::new(send);
        let sink: EventSink = Arc::new(move |event| drop(send.lock().send(event)));
        let engines: Vec<(_, Box<dyn Engine>)> = vec![(Arc::default(), Box::new(Dies))];
        let vcpus = Vcpus::start(engines, &sink, "CPU {}").unwrap();
        vcpus.resume();
        assert_eq!(receive.recv().unwrap(), VcpuEvent::Shutdown { index: 0 });
        vcpus.pause();
    }
}
