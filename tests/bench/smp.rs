//! Two CPUs at once.
//!
//! The two threads of a round are bound to a CPU each. `parallel-one` and
//! `parallel-two` are the same integer work on one CPU and on both at a time:
//! twice the first over the second is the speed-up.
#![allow(unsafe_code)]

use crate::os::{self, Access, PAGE, Pages, check};
use crate::{Need, Round, Workload, integer};
use std::hint::spin_loop;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;

pub const WORKLOADS: [Workload; 9] = [
    Workload::new("atomics", atomics, 40_000).needs(Need::TwoCpus),
    Workload::new("mutex", mutex, 10_000).needs(Need::TwoCpus),
    Workload::new("futex", futex, 1000).needs(Need::TwoCpus),
    Workload::new("cache-line", cache_line, 10_000).needs(Need::TwoCpus),
    Workload::new("munmap", munmap, 19_900).needs(Need::TwoCpus),
    Workload::new("mprotect", mprotect, 33_586).needs(Need::TwoCpus),
    Workload::new("membarrier", membarrier, 300).needs(Need::TwoCpus),
    Workload::new("parallel-one", parallel_one, 0x4783_f0c8_29c9_c0e1).needs(Need::TwoCpus),
    Workload::new("parallel-two", parallel_two, 0x8f07_e190_5393_81c2).needs(Need::TwoCpus),
];

/// Runs the two, each on its own CPU, and returns what the first returned.
fn both<T: Send>(first: impl FnOnce() -> T + Send, second: impl FnOnce() + Send) -> T {
    let cpus = os::cpus();
    let (one, other) = (cpus[0], cpus[1]);
    let started = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            os::run_on(other);
            started.store(true, Ordering::Release);
            second();
        });
        // In a thread of its own, so that this one stays free to run anywhere.
        let first = scope.spawn(|| {
            os::run_on(one);
            while !started.load(Ordering::Acquire) {
                thread::yield_now();
            }
            first()
        });
        first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// `work` on one CPU while the other keeps running in the same address space.
fn beside_a_runner<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let (done, turns) = (AtomicBool::new(false), AtomicU64::new(0));
    both(
        || {
            let result = work();
            done.store(true, Ordering::Release);
            result
        },
        || {
            while !done.load(Ordering::Acquire) {
                turns.store(turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
        },
    )
}

/// One counter, locked instructions from both sides.
fn atomics() -> Round {
    Box::new(|| {
        let counter = AtomicU64::new(0);
        let work = || {
            for turn in 0..20_000 {
                counter.fetch_add(1, Ordering::SeqCst);
                if turn % 4 == 0 {
                    let seen = counter.load(Ordering::Relaxed);
                    // Whether it succeeds depends on the other CPU; the sum does not.
                    let _ =
                        counter.compare_exchange(seen, seen, Ordering::SeqCst, Ordering::Relaxed);
                }
            }
        };
        both(work, work);
        counter.into_inner()
    })
}

/// One lock, held shortly and often.
fn mutex() -> Round {
    Box::new(|| {
        let counter = Mutex::new(0u64);
        let work = || {
            for _ in 0..5_000 {
                if let Ok(mut counter) = counter.lock() {
                    *counter += 1;
                }
            }
        };
        both(work, work);
        counter.into_inner().unwrap_or(0)
    })
}

/// Sleep and wake: each thread waits in the kernel for the other.
fn futex() -> Round {
    const TURNS: u32 = 500;
    fn call(word: &AtomicU32, operation: i32, value: u32) {
        // SAFETY: the kernel reads the word and nothing else; that it may have changed by then is
        // the call's purpose, so its error is no matter.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                operation | libc::FUTEX_PRIVATE_FLAG,
                value,
                std::ptr::null::<libc::timespec>(),
            );
        }
    }
    Box::new(|| {
        let turn = AtomicU32::new(0);
        let play = |parity: u32| {
            for _ in 0..TURNS {
                loop {
                    let seen = turn.load(Ordering::Acquire);
                    if seen % 2 == parity {
                        break;
                    }
                    call(&turn, libc::FUTEX_WAIT, seen);
                }
                turn.fetch_add(1, Ordering::Release);
                call(&turn, libc::FUTEX_WAKE, 1);
            }
        };
        both(|| play(0), || play(1));
        u64::from(turn.into_inner())
    })
}

/// One cache line goes to and fro, without the kernel.
fn cache_line() -> Round {
    Box::new(|| {
        let turn = AtomicU32::new(0);
        let play = |parity: u32| {
            for _ in 0..5_000 {
                while turn.load(Ordering::Acquire) % 2 != parity {
                    spin_loop();
                }
                turn.fetch_add(1, Ordering::Release);
            }
        };
        both(|| play(0), || play(1));
        u64::from(turn.into_inner())
    })
}

/// Pages taken away while the other CPU runs: an interrupt to it each time.
fn munmap() -> Round {
    Box::new(|| {
        beside_a_runner(|| {
            (0..200u64)
                .map(|turn| {
                    let mut pages = Pages::new(4 * PAGE, Access::ReadWrite);
                    pages.bytes().iter_mut().step_by(PAGE).for_each(|byte| *byte = turn as u8);
                    u64::from(pages.bytes()[2 * PAGE])
                })
                .sum()
        })
    })
}

/// Permissions taken away while the other CPU runs.
fn mprotect() -> Round {
    Box::new(|| {
        beside_a_runner(|| {
            let mut pages = Pages::new(PAGE, Access::ReadWrite);
            let mut sum = 0;
            for turn in 0..300u64 {
                pages.bytes()[0] = turn as u8;
                // SAFETY: the page is only read until access is given back.
                unsafe { pages.protect(0, PAGE, Access::Read) };
                sum += u64::from(pages.bytes()[0]);
                // SAFETY: gives access back.
                unsafe { pages.protect(0, PAGE, Access::ReadWrite) };
            }
            sum
        })
    })
}

/// A barrier on every CPU that runs this process.
fn membarrier() -> Round {
    const PRIVATE_EXPEDITED: i32 = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;
    let barrier = |command: i32| {
        // SAFETY: takes two numbers and no pointer.
        check(unsafe { libc::syscall(libc::SYS_membarrier, command, 0) }, "membarrier")
    };
    barrier(REGISTER_PRIVATE_EXPEDITED);
    Box::new(move || {
        beside_a_runner(|| (0..300).map(|_| barrier(PRIVATE_EXPEDITED) as u64 + 1).sum())
    })
}

/// A little of what integer programs do.
fn integer_work() -> u64 {
    integer::sieve()() ^ integer::quicksort()()
}

fn parallel_one() -> Round {
    Box::new(|| both(integer_work, || {}))
}

fn parallel_two() -> Round {
    Box::new(|| {
        let other = AtomicU64::new(0);
        let one = both(integer_work, || other.store(integer_work(), Ordering::Relaxed));
        one.wrapping_add(other.into_inner())
    })
}
