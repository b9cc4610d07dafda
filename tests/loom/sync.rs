//! `base::sync` as loom has it: each operation is a point where threads may be switched.

use std::ops::{Deref, DerefMut};

pub use loom::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, Ordering, fence};

/// A lock.
#[derive(Debug, Default)]
pub struct Mutex<T>(loom::sync::Mutex<T>);

/// A lock that is held.
pub struct MutexGuard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>);

/// What every use of a guard may rely on.
const HELD: &str = "a guard is without its lock only while it waits";

impl<T> Mutex<T> {
    /// A lock around `value`.
    pub fn new(value: T) -> Self {
        Mutex(loom::sync::Mutex::new(value))
    }

    /// Takes the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(self.0.lock().ok())
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.as_ref().expect(HELD)
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect(HELD)
    }
}

/// A place to wait for a change of what a lock protects.
#[derive(Debug, Default)]
pub struct Condvar(loom::sync::Condvar);

impl Condvar {
    /// Wakes everybody who waits.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Gives the lock up, waits, and takes it again.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        guard.0 = guard.0.take().and_then(|held| self.0.wait(held).ok());
    }
}

/// Waits a moment for another thread to do what it is in the middle of.
pub fn spin() {
    loom::thread::yield_now();
}
