//! Threads, and whether they are called anything (`-name debug-threads=on`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Builder;

static NAMED: AtomicBool = AtomicBool::new(false);

/// What the kernel keeps of a name.
const MAX_NAME: usize = 15;

/// Has threads that are started from now on bear names.
pub fn name_threads() {
    NAMED.store(true, Ordering::Relaxed);
}

/// A thread to start. Without names it is called what its process is.
pub fn builder(name: &str) -> Builder {
    if NAMED.load(Ordering::Relaxed) {
        Builder::new().name(name.chars().take(MAX_NAME).collect())
    } else {
        Builder::new()
    }
}
