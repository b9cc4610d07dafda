//! The loop that serves host I/O: descriptors, bottom halves, delays and the machine's timers.
//!
//! One [`EventLoop`] belongs to one thread (the main loop, or an I/O thread). Everything another
//! thread may do with it goes through a cloneable [`LoopHandle`]. Callbacks run on the loop's
//! thread, one after the other, and with no lock of the loop held, so a callback may watch,
//! unwatch, schedule and quit as it likes.
//!
//! Descriptors behave as level-triggered ones: a handler is called again for as long as the
//! descriptor is ready. Those of [`Edges`] do not. Sleeping is precise to the nanosecond, through a timer descriptor.

mod bottom_half;
mod delay;
mod edges;
mod signals;
#[cfg(test)]
mod tests;
mod wake;
mod watch;

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

pub use bottom_half::BottomHalf;
pub use delay::Delay;
pub use edges::Edges;
pub use signals::{Signal, SignalInfo, block_signals};
pub use watch::{Ready, Watch};

use bottom_half::Jobs;
use delay::Delays;
use edges::Groups;
use wake::WakePending;
use watch::Watches;

use crate::clock::Clocks;

/// What the loop's own descriptors are called in its events. Nothing is to be done about them but to look again, so
/// they report edges, and nobody reads them.
const OWN: u64 = u64::MAX;
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
    events: Vec<EpollEvent>,
    timer: TimerFd,
    /// When the timer expires.
    timer_armed: Option<Instant>,
    handle: LoopHandle,
}

/// What any thread may use to reach a loop.
#[derive(Clone)]
pub struct LoopHandle(Arc<Shared>);

struct Shared {
    epoll: Epoll,
    waker: EventFd,
    wake_pending: WakePending,
    quit: AtomicBool,
    asleep: AtomicBool,
    watches: Watches,
    groups: Groups,
    jobs: Jobs,
    delays: Delays,
}

impl EventLoop {
    /// Makes a loop; it does nothing before [`run`](Self::run).
    pub fn new() -> io::Result<EventLoop> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let waker = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
        )?;
        let edges = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(&waker, EpollEvent::new(edges, OWN))?;
        epoll.add(&timer, EpollEvent::new(edges, OWN))?;
        let shared = Shared {
            epoll,
            waker,
            wake_pending: WakePending::default(),
            quit: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            watches: Watches::default(),
            groups: Groups::default(),
            jobs: Jobs::default(),
            delays: Delays::default(),
        };
        Ok(EventLoop {
            events: vec![EpollEvent::empty(); EVENTS_PER_ROUND],
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

        let sleeps = self.prepare_sleep(timers, may_block)?;
        let timeout = if sleeps { EpollTimeout::NONE } else { EpollTimeout::ZERO };
        shared.asleep.store(sleeps, Ordering::Relaxed);
        let waited = shared.epoll.wait(&mut self.events, timeout);
        shared.asleep.store(false, Ordering::Relaxed);
        let count = match waited {
            Err(Errno::EINTR) => 0,
            result => result?,
        };
        shared.wake_pending.seen();

        for event in self.events[..count].iter().filter(|event| event.data() != OWN) {
            if !shared.groups.dispatch(event) {
                shared.watches.dispatch(event);
            }
        }
        shared.watches.dispatch_always_ready();
        shared.delays.run_expired();
        timers.run_expired();
        shared.jobs.run();
        Ok(())
    }

    /// Arms the timer descriptor for the earliest deadline; returns whether the loop may sleep until then.
    fn prepare_sleep(&mut self, timers: &dyn Timers, may_block: bool) -> io::Result<bool> {
        let shared = &self.handle.0;
        let busy = !may_block
            || !shared.jobs.is_empty()
            || shared.watches.any_always_ready()
            || shared.quit.load(Ordering::Acquire);
        if busy {
            return Ok(false);
        }
        let deadlines = [timers.next_deadline(), shared.delays.next_deadline()];
        match deadlines.into_iter().flatten().min() {
            Some(Duration::ZERO) => return Ok(false),
            Some(wait) => self.arm(wait)?,
            None if self.timer_armed.is_some() => {
                self.timer.unset()?;
                self.timer_armed = None;
            }
            None => {}
        }
        Ok(true)
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
        let _ = self.0.waker.write(1);
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
