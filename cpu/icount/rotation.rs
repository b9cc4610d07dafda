//! Whose turn it is, decided by what processors have done and by nothing else.
//!
//! In [`crate::turns`] a processor that wakes up queues for its turn when its thread gets around to
//! it. Here it stays in the rotation while it sleeps, and who passes the turn on looks whether it has
//! been woken: the order does not depend on the host's scheduler.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::Icount;
use crate::signals::{Signals, request};
use crate::vcpu::Exit;

/// How many instructions a processor executes while others could.
const TURN: u64 = 1 << 15;
/// And how long that is at most in the guest's time.
const LONGEST_TURN: i64 = 2_000_000;

/// What a processor does when it gets the turn.
#[derive(Clone, Copy)]
enum Wish {
    /// It goes on, or will when its thread is there.
    Run,
    /// It sleeps until one of these requests is there.
    Sleep { wake: u32 },
    /// It has shut down.
    None,
}

struct Member {
    signals: Arc<Signals>,
    wish: Wish,
}

impl Member {
    fn wants_turn(&self) -> bool {
        match self.wish {
            Wish::Run => true,
            Wish::Sleep { wake } => self.signals.pending() & wake != 0,
            Wish::None => false,
        }
    }

    fn stops(&self) -> bool {
        self.signals.pending() & request::STOP != 0
    }
}

#[derive(Default)]
struct Members {
    all: Vec<Member>,
    /// Who has the turn. A processor that is paused keeps it.
    turn: usize,
    /// When, on the counter, another one gets it.
    end: i64,
}

impl Members {
    /// The first that `holds` is true of, from `from` on and around.
    fn first(&self, from: usize, holds: impl Fn(&Member) -> bool) -> Option<usize> {
        let count = self.all.len();
        (from..from + count).map(|place| place % count).find(|&place| holds(&self.all[place]))
    }
}

/// The processors of a machine, in order.
#[derive(Default)]
pub(super) struct Rotation {
    members: Mutex<Members>,
    changed: Condvar,
}

impl Rotation {
    /// Adds a processor and returns its place.
    pub fn join(&self, signals: &Arc<Signals>) -> usize {
        let all = &mut self.members.lock().all;
        // Expected from the start: a thread that comes late is waited for.
        all.push(Member { signals: signals.clone(), wish: Wish::Run });
        all.len() - 1
    }

    /// Something has happened that those who wait may wait for.
    pub fn notify(&self) {
        // A thread that has looked is waiting by the time the lock is free.
        drop(self.members.lock());
        self.changed.notify_all();
    }

    /// A processor's thread is here, and the processor may have been reset meanwhile.
    pub fn enter(&self, place: usize) {
        self.members.lock().all[place].wish = Wish::Run;
    }

    /// Waits for the turn and returns when it ends; `None` if the processor is to stop. Who has the
    /// turn while all sleep sees to time going on.
    pub fn wait(&self, place: usize, icount: &Icount) -> Option<i64> {
        let mut members = self.members.lock();
        loop {
            if members.all[place].stops() {
                return None;
            }
            if members.turn != place {
                self.changed.wait(&mut members);
                continue;
            }
            match members.first(place, Member::wants_turn) {
                Some(next) if next == place => break,
                Some(next) => {
                    members.turn = next;
                    self.changed.notify_all();
                }
                None => self.idle(&mut members, icount),
            }
        }
        let now = icount.counter.now();
        if now >= members.end {
            members.end = now + icount.counter.nanoseconds(TURN).min(LONGEST_TURN);
        }
        Some(members.end)
    }

    fn idle(&self, members: &mut MutexGuard<'_, Members>, icount: &Icount) {
        icount.pass_time(|wait| match wait {
            Some(wait) => {
                self.changed.wait_for(members, Duration::from_nanos(wait as u64));
            }
            None => self.changed.wait(members),
        });
        // Timers wake processors, which takes the lock.
        MutexGuard::unlocked(members, || icount.run_timers());
    }

    /// The processor that has the turn has left guest code at `now`.
    pub fn leave(&self, place: usize, exit: &Exit, now: i64) {
        let mut members = self.members.lock();
        let member = &mut members.all[place];
        member.wish = match *exit {
            Exit::Attention => Wish::Run,
            Exit::Halted { wake } => Wish::Sleep { wake },
            Exit::Shutdown | Exit::Crashed | Exit::Failed(_) => Wish::None,
        };
        let gives_way = member.signals.pending() & request::LET_START != 0;
        let goes_on = member.wants_turn() && now < members.end && !gives_way;
        if goes_on || members.all[place].stops() {
            return;
        }
        let next = members.first(place + 1, Member::wants_turn);
        // Somebody has to see to time going on.
        let next = next.or_else(|| members.first(place, |m| !matches!(m.wish, Wish::None)));
        members.end = now;
        if let Some(next) = next.filter(|&next| next != place) {
            members.turn = next;
            self.changed.notify_all();
        }
    }
}
