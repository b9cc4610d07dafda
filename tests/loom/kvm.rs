//! `cpu/kvm`: a processor that is in guest code where it does not see its mailbox.

use crate::sync::{Condvar, Mutex};

#[path = "../../cpu/kvm/presence.rs"]
mod presence;

/// `Kick`, with the kernel replaced by what it promises: KVM_RUN returns when the byte
/// `immediate_exit` is set, before or while it runs. The signal that makes it look is part of that.
#[derive(Default)]
pub struct Kick {
    presence: presence::Presence,
    immediate_exit: Mutex<bool>,
    changed: Condvar,
}

impl Kick {
    /// See the original.
    pub fn enter(&self) {
        *self.immediate_exit.lock() = false;
        self.presence.enter();
    }

    /// See the original.
    pub fn leave(&self) {
        self.presence.leave();
    }

    /// See the original.
    pub fn kick(&self) {
        if self.presence.is_inside() {
            *self.immediate_exit.lock() = true;
            self.changed.notify_all();
        }
    }

    /// Runs guest code, which does not end by itself.
    pub fn run(&self) {
        let mut exit = self.immediate_exit.lock();
        while !*exit {
            self.changed.wait(&mut exit);
        }
    }
}
