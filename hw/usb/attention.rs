//! The way from a device's bell to its controller.

use std::sync::{Arc, OnceLock};

use base::clock::{Clocks, Timer};

struct Inner {
    clocks: Clocks,
    /// Nanoseconds from the bell to the call.
    patience: i64,
    timer: OnceLock<Timer>,
}

/// A controller's timer, which bells bring forward. No lock of a device is taken on the way.
#[derive(Clone)]
pub struct Attention(Arc<Inner>);

impl Attention {
    /// The controller is called so many nanoseconds after a bell was rung.
    pub fn new(clocks: &Clocks, patience: i64) -> Self {
        Attention(Arc::new(Inner { clocks: clocks.clone(), patience, timer: OnceLock::new() }))
    }

    /// The timer that calls the controller. To be called once.
    pub fn connect(&self, timer: Timer) {
        self.0.timer.get_or_init(|| timer);
    }

    /// A bell rings.
    pub fn ring(&self) {
        let Inner { clocks, patience, timer } = &*self.0;
        let at = clocks.now_virtual() + patience;
        if let Some(timer) = timer.get()
            && timer.deadline().is_none_or(|deadline| deadline > at)
        {
            timer.set(at);
        }
    }

    /// Calls the controller at a time of its own choice.
    pub fn call_at(&self, at: i64) {
        if let Some(timer) = self.0.timer.get() {
            timer.set(at);
        }
    }

    /// Does not call it any more, unless a bell is rung.
    pub fn cancel(&self) {
        if let Some(timer) = self.0.timer.get() {
            timer.cancel();
        }
    }
}
