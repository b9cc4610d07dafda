//! Threads: whether they are called anything (`-name debug-threads=on`), and how long they have run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Builder;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

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

/// How long a thread of this process has run, by the number that the kernel has for it; nothing if
/// there is none.
pub fn cpu_time(thread: i32) -> Option<Duration> {
    // As pthread_getcpuclockid(3) makes it: the number's complement above three bits, which say that
    // it is a thread, and that all it does counts.
    let clock = ClockId::from_raw((!thread << 3) | 0b110);
    // Beyond that bits would be lost, and the kernel counts no further.
    let is_number = (1..1 << 28).contains(&thread);
    is_number.then(|| clock_gettime(clock).ok().map(Duration::from)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_thread_grows_with_its_work() {
        let own = nix::unistd::gettid().as_raw();
        let before = cpu_time(own).unwrap();
        let mut sum = 0_u64;
        while cpu_time(own).unwrap() == before {
            sum = std::hint::black_box(sum + 1);
        }
        assert_eq!(cpu_time(0), None);
        assert_eq!(cpu_time(i32::MAX), None);
    }
}
