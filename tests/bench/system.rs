//! What programs ask of their kernel.
#![allow(unsafe_code)]

use crate::os::{self, check};
use crate::random::fold;
use crate::{Round, Workload};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

pub const WORKLOADS: [Workload; 8] = [
    Workload::new("getpid", getpid, 5000),
    Workload::new("clock", clock, 5000),
    Workload::new("pipe", pipe, 124_716),
    Workload::new("pipe-switch", pipe_switch, 17_018),
    Workload::new("fork", fork, 45),
    Workload::new("exec", exec, 5),
    Workload::new("signal", signal, 1000),
    Workload::new("file", file, 0xcbf2_9ce4_842a_3525),
];

/// Makes this program end at once.
pub const NOTHING: &str = "--nothing";

/// The cheapest system call.
fn getpid() -> Round {
    Box::new(|| {
        let own = u64::from(std::process::id());
        // SAFETY: takes nothing, changes nothing.
        (0..5_000).filter(|_| unsafe { libc::syscall(libc::SYS_getpid) } as u64 == own).count()
            as u64
    })
}

/// The time of day, through the vDSO where the clock allows it.
fn clock() -> Round {
    Box::new(|| {
        let mut last = Instant::now();
        let forward = |_: &u32| {
            let now = Instant::now();
            let forward = now >= last;
            last = now;
            forward
        };
        (0..5_000u32).filter(forward).count() as u64
    })
}

/// Through a pipe and back out, without a switch.
fn pipe() -> Round {
    Box::new(|| {
        let Ok((mut reader, mut writer)) = std::io::pipe() else { return 0 };
        let mut buffer = [0; 64];
        let mut sum = 0;
        for turn in 0..1_000u64 {
            let written = writer.write_all(&[turn as u8; 64]);
            if written.and_then(|()| reader.read_exact(&mut buffer)).is_ok() {
                sum += u64::from(buffer[63]);
            }
        }
        sum
    })
}

/// A byte to another process and back: two switches of address space.
fn pipe_switch() -> Round {
    const TURNS: u64 = 300;
    Box::new(|| {
        let (Ok((mut here, mut far_end)), Ok((mut far, mut near_end))) =
            (std::io::pipe(), std::io::pipe())
        else {
            return 0;
        };
        // On one CPU a switch is a switch; the workloads for two CPUs have their own.
        let all = os::cpus();
        os::run_on(all[0]);
        // SAFETY: this process has one thread; the copy leaves by `_exit`.
        let pid = unsafe { check(libc::fork().into(), "fork") } as i32;
        let mut byte = [0];
        if pid == 0 {
            for _ in 0..TURNS {
                if far.read_exact(&mut byte).is_err() || far_end.write_all(&[byte[0] + 1]).is_err()
                {
                    break;
                }
            }
            // SAFETY: ends this copy of the process and nothing else.
            unsafe { libc::_exit(0) };
        }
        let mut sum = 0;
        for turn in 0..TURNS {
            let sent = near_end.write_all(&[turn as u8 / 2]);
            if sent.and_then(|()| here.read_exact(&mut byte)).is_ok() {
                sum += u64::from(byte[0]);
            }
        }
        // SAFETY: waits for the child made above.
        unsafe { check(libc::waitpid(pid, std::ptr::null_mut(), 0).into(), "waitpid") };
        os::run_on_all(&all);
        sum
    })
}

/// Children that end at once.
fn fork() -> Round {
    Box::new(|| (0..10).map(|turn| os::in_child(|| turn)).sum())
}

/// Programs that end at once.
fn exec() -> Round {
    Box::new(|| {
        (0..5)
            .filter(|_| {
                let status = Command::new("/proc/self/exe").arg(NOTHING).status();
                status.is_ok_and(|status| status.success())
            })
            .count() as u64
    })
}

/// A signal to oneself, handled.
fn signal() -> Round {
    static HANDLED: AtomicU64 = AtomicU64::new(0);
    extern "C" fn handle(_: i32) {
        HANDLED.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the handler only adds to an atomic, which is allowed in a signal handler.
    unsafe { libc::signal(libc::SIGUSR1, handle as *const () as libc::sighandler_t) };
    Box::new(|| {
        HANDLED.store(0, Ordering::Relaxed);
        for _ in 0..1_000 {
            // SAFETY: the signal has a handler.
            unsafe { libc::raise(libc::SIGUSR1) };
        }
        HANDLED.load(Ordering::Relaxed)
    })
}

/// A file in memory: made, written, read back at places, measured, removed.
fn file() -> Round {
    // The guest's /tmp is a tmpfs; on the host that is surer of /dev/shm.
    let directory = if Path::new("/dev/shm").exists() { "/dev/shm" } else { "/tmp" };
    let path = format!("{directory}/rhea-workload-{}", std::process::id());
    Box::new(move || {
        let work = || -> std::io::Result<u64> {
            let mut sum = 0;
            for turn in 0..8 {
                let mut file = File::options()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .open(&path)?;
                for block in 0..16u8 {
                    file.write_all(&[block + turn; 4096])?;
                }
                let mut buffer = [0; 1024];
                for block in (0..64u64).rev() {
                    file.seek(SeekFrom::Start(block * 1024))?;
                    file.read_exact(&mut buffer)?;
                    sum += u64::from(buffer[512]);
                }
                sum += fs::metadata(&path)?.len();
                fs::remove_file(&path)?;
            }
            Ok(sum)
        };
        work().map_or(0, |sum| fold(sum, b""))
    })
}
