//! The loop that serves host I/O: descriptors, bottom halves, delays and the machine's timers.
//!
//! One [`EventLoop`] belongs to one thread (the main loop, or an I/O thread). Everything another
//! thread may do with it goes through a cloneable [`LoopHandle`]. Callbacks run on the loop's
//! thread, one after the other, and with no lock of the loop held, so a callback may watch,
//! unwatch, schedule and quit as it likes.
//!
//! Descriptors behave as level-triggered ones: a handler is called again for as long as the
//! descriptor is ready. Sleeping is precise to the nanosecond, through a timer descriptor.

mod bottom_half;
mod delay;
mod signals;
#[cfg(test)]
mod tests;
mod wake;
mod watch;

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

pub use bottom_half::BottomHalf;
pub use delay::Delay;
pub use signals::{Signal, SignalInfo, block_signals};
pub use watch::{Ready, Watch};

use bottom_half::Jobs;
use delay::Delays;
use wake::WakePending;
use watch::Watches;

use crate::clock::Clocks;

const WAKE: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);
const EVENTS_PER_ROUND: usize = 128;

thread_local! {
    /// Address of the loop that this thread is running, zero if none. Only ever compared.
    static RUNNING: Cell<usize> = const { Cell::new(0) };
}

/// The timers that a loop serves while it runs.
///
/// Whoever arms a timer that is earlier than [`next_deadline`](Self::next_deadline) was must call
/// [`LoopHandle::wake`] afterwards.
pub trait Timers {
    /// Host time until the earliest timer, `None` if there is none.
    fn next_deadline(&self) -> Option<Duration>;
    /// Calls what has expired.
    fn run_expired(&self);
}

/// A loop without timers, such as an I/O thread's.
impl Timers for () {
    fn next_deadline(&self) -> Option<Duration> {
        None
    }

    fn run_expired(&self) {}
}

impl Timers for Clocks {
    fn next_deadline(&self) -> Option<Duration> {
        Clocks::next_deadline(self)
    }

    fn run_expired(&self) {
        Clocks::run_expired(self);
    }
}

/// An event loop; see the module's documentation.
pub struct EventLoop {
    poll: Poll,
    events: Events,
    timer: TimerFd,
    /// When the timer expires.
    timer_armed: Option<Instant>,
    handle: LoopHandle,
}

/// What any thread may use to reach a loop.
#[derive(Clone)]
pub struct LoopHandle(Arc<Shared>);

struct Shared {
    registry: Registry,
    waker: Waker,
    wake_pending: WakePending,
    quit: AtomicBool,
    asleep: AtomicBool,
    watches: Watches,
    jobs: Jobs,
    delays: Delays,
}

impl EventLoop {
    /// Makes a loop; it does nothing before [`run`](Self::run).
    pub fn new() -> io::Result<EventLoop> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
        )?;
        let raw = timer.as_fd().as_raw_fd();
        poll.registry().register(&mut SourceFd(&raw), TIMER, Interest::READABLE)?;
        let shared = Shared {
            registry: poll.registry().try_clone()?,
            waker,
            wake_pending: WakePending::default(),
            quit: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            watches: Watches::default(),
            jobs: Jobs::default(),
            delays: Delays::default(),
        };
        Ok(EventLoop {
            poll,
            events: Events::with_capacity(EVENTS_PER_ROUND),
            timer,
            timer_armed: None,
            handle: LoopHandle(Arc::new(shared)),
        })
    }

    /// A handle to this loop.
    pub fn handle(&self) -> LoopHandle {
        self.handle.clone()
    }

    /// Serves everything until [`LoopHandle::quit`]. What was scheduled before the request to quit
    /// still runs.
    pub fn run(&mut self, timers: &dyn Timers) -> io::Result<()> {
        while !self.handle.0.quit.swap(false, Ordering::AcqRel) {
            self.run_once(timers, true)?;
        }
        let _running = Running::enter(&self.handle.0);
        self.handle.0.jobs.run();
        Ok(())
    }

    /// One round: waits for something to do (unless `may_block` is false), and does it.
    pub fn run_once(&mut self, timers: &dyn Timers, may_block: bool) -> io::Result<()> {
        let shared = self.handle.0.clone();
        let _running = Running::enter(&shared);

        let timeout = self.prepare_sleep(timers, may_block)?;
        shared.asleep.store(timeout.is_none(), Ordering::Relaxed);
        let polled = self.poll.poll(&mut self.events, timeout);
        shared.asleep.store(false, Ordering::Relaxed);
        if let Err(error) = polled {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
            self.events.clear();
        }
        shared.wake_pending.seen();

        for event in self.events.iter().filter(|e| e.token() != WAKE && e.token() != TIMER) {
            shared.watches.dispatch(&shared.registry, event);
        }
        shared.watches.dispatch_always_ready(&shared.registry);
        shared.delays.run_expired();
        timers.run_expired();
        shared.jobs.run();
        Ok(())
    }

    /// Arms the timer descriptor for the earliest deadline; returns the timeout for the poll.
    fn prepare_sleep(
        &mut self,
        timers: &dyn Timers,
        may_block: bool,
    ) -> io::Result<Option<Duration>> {
        let shared = &self.handle.0;
        let busy = !may_block
            || !shared.jobs.is_empty()
            || shared.watches.any_always_ready()
            || shared.quit.load(Ordering::Acquire);
        if busy {
            return Ok(Some(Duration::ZERO));
        }
        let deadlines = [timers.next_deadline(), shared.delays.next_deadline()];
        match deadlines.into_iter().flatten().min() {
            Some(Duration::ZERO) => return Ok(Some(Duration::ZERO)),
            Some(wait) => self.arm(wait)?,
            None if self.timer_armed.is_some() => {
                self.timer.unset()?;
                self.timer_armed = None;
            }
            None => {}
        }
        Ok(None)
    }

    /// Has the timer expire after `wait` at the latest. One that expires before, for a deadline that has moved since,
    /// stays: the loop then looks once more, which costs less than setting it before each sleep.
    fn arm(&mut self, wait: Duration) -> io::Result<()> {
        let now = Instant::now();
        let deadline = now + wait;
        if self.timer_armed.is_none_or(|at| at <= now || at > deadline) {
            let expiration = Expiration::OneShot(TimeSpec::from_duration(wait));
            self.timer.set(expiration, TimerSetTimeFlags::empty())?;
            self.timer_armed = Some(deadline);
        }
        Ok(())
    }
}

impl LoopHandle {
    /// Makes the loop look at its timers and queues again. Costs nothing on the loop's own thread
    /// (it looks before it sleeps) and almost nothing while an earlier wake-up is under way.
    pub fn wake(&self) {
        if self.is_current() || !self.0.wake_pending.announce() {
            return;
        }
        // The only failure that an event descriptor knows here is "counter full", which means
        // that the loop is being woken anyway.
        let _ = self.0.waker.wake();
    }

    /// Whether the caller runs on this loop's thread, inside the loop.
    pub fn is_current(&self) -> bool {
        RUNNING.get() == Arc::as_ptr(&self.0) as usize
    }

    /// Whether the loop sleeps, so that work for it would have to wake it first. Only a hint: it may
    /// wake up or fall asleep at any time.
    pub fn is_asleep(&self) -> bool {
        self.0.asleep.load(Ordering::Relaxed)
    }

    /// Makes [`EventLoop::run`] return.
    pub fn quit(&self) {
        self.0.quit.store(true, Ordering::Release);
        self.wake();
    }
}

/// Marks the current thread as running a loop; restores what was there (loops may nest).
struct Running(usize);

impl Running {
    fn enter(shared: &Arc<Shared>) -> Running {
        Running(RUNNING.replace(Arc::as_ptr(shared) as usize))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.set(self.0);
    }
}
