//! The atomics and locks of the structures whose protocols are explored exhaustively.
//!
//! `tests/loom` compiles the sources of those structures against its own version of this module, in
//! which every operation is a point where threads may be switched. They use nothing but what is
//! here.

pub use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, Ordering, fence};

pub use parking_lot::{Condvar, Mutex};

/// Waits a moment for another thread to do what it is in the middle of.
pub fn spin() {
    std::hint::spin_loop();
}
