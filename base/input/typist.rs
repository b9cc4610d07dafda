//! Types keys at the pace that guests can follow: `sendkey`.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::router::{Router, Screen};
use super::{InputEvent, KeyCode};
use crate::clock::{ClockKind, Clocks, Timer};

/// How long a key is held by default, in milliseconds.
const HOLD: u32 = 10;
const MILLISECOND: i64 = 1_000_000;
/// What waits at most; beyond that keys are forgotten.
const LIMIT: usize = 1024;

enum Step {
    /// Until the queue goes on, in milliseconds.
    Wait(u32),
    Key(Option<Screen>, KeyCode, bool),
}

/// Keys that wait for those before them. While anything waits, the first step is a wait that is
/// under way.
pub(super) struct Typist {
    clocks: Clocks,
    router: Weak<Router>,
    timer: Timer,
    steps: Mutex<VecDeque<Step>>,
}

impl Typist {
    pub fn new(clocks: &Clocks, router: Weak<Router>) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Typist>| {
            let me = me.clone();
            let go_on = move || {
                if let Some(typist) = me.upgrade() {
                    typist.go_on();
                }
            };
            let timer = clocks.timer(ClockKind::Virtual, go_on);
            Typist { clocks: clocks.clone(), router, timer, steps: Mutex::default() }
        })
    }

    /// A key now, or after what waits.
    pub fn key(&self, from: Option<&Screen>, key: KeyCode, down: bool) {
        {
            let mut steps = self.steps.lock();
            if !steps.is_empty() {
                if steps.len() < LIMIT {
                    steps.push_back(Step::Key(from.cloned(), key, down));
                }
                return;
            }
        }
        self.send(from, key, down);
    }

    /// See [`Router::press`].
    pub fn press(&self, keys: &[KeyCode], hold: Option<u32>) {
        let hold = hold.filter(|&hold| hold > 0).unwrap_or(HOLD);
        let down = keys.iter().map(|&key| (key, true));
        for (key, down) in down.chain(keys.iter().rev().map(|&key| (key, false))) {
            self.key(None, key, down);
            self.wait(hold);
        }
    }

    fn wait(&self, milliseconds: u32) {
        let mut steps = self.steps.lock();
        if steps.is_empty() {
            self.arm(milliseconds);
        }
        if steps.len() < LIMIT {
            steps.push_back(Step::Wait(milliseconds));
        }
    }

    fn arm(&self, milliseconds: u32) {
        let now = self.clocks.now_virtual();
        self.timer.set(now.saturating_add(i64::from(milliseconds) * MILLISECOND));
    }

    /// A wait is over: everything up to the next one.
    fn go_on(&self) {
        let mut keys = Vec::new();
        {
            let mut steps = self.steps.lock();
            steps.pop_front();
            while let Some(step) = steps.pop_front() {
                match step {
                    Step::Key(from, key, down) => keys.push((from, key, down)),
                    Step::Wait(milliseconds) => {
                        steps.push_front(step);
                        self.arm(milliseconds);
                        break;
                    }
                }
            }
        }
        keys.iter().for_each(|(from, key, down)| self.send(from.as_ref(), *key, *down));
    }

    fn send(&self, from: Option<&Screen>, key: KeyCode, down: bool) {
        if let Some(router) = self.router.upgrade() {
            router.send(from, &[InputEvent::Key(key, down)]);
        }
    }
}
