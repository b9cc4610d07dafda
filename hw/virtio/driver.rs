//! The way from a device to its driver.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Sends interrupts, as the transport does it. Called from any thread, with a lock of the device's
/// held or none.
pub trait Interrupts: Send + Sync {
    /// A queue has used buffers. `vector` is what the driver chose for it.
    fn queue(&self, vector: u16);
    /// Configuration, or the status, has changed.
    fn config(&self);
}

/// What devices and their queues tell the driver.
pub struct ToDriver {
    interrupts: Box<dyn Interrupts>,
    generation: AtomicU8,
    broken: AtomicBool,
    /// Whether the driver is ready, so that the device may use its queues.
    ready: AtomicBool,
}

impl ToDriver {
    /// A way over a transport's interrupts.
    pub fn new(interrupts: Box<dyn Interrupts>) -> Self {
        ToDriver {
            interrupts,
            generation: AtomicU8::new(0),
            broken: AtomicBool::new(false),
            ready: AtomicBool::new(false),
        }
    }

    /// A queue has used buffers.
    pub fn interrupt(&self, vector: u16) {
        self.interrupts.queue(vector);
    }

    /// The device's configuration has changed.
    pub fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.interrupts.config();
    }

    /// Changes whenever the configuration does.
    pub fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    /// The device can not go on: it needs a reset (2.1.2).
    pub fn fail(&self) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            self.interrupts.config();
        }
    }

    /// Whether it needs a reset.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Sets whether it needs a reset, as after one or as it was saved.
    pub(super) fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::Release);
    }

    /// Whether the driver is ready, so that the device may use its queues.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub(super) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }
}
