//! What `cargo xtask bench` has a guest ask of a disk: many requests at a time by the kernel's asynchronous
//! I/O, past its cache.
//!
//! Each kind of load runs for a while, the first part of which does not count, and prints a line:
//!
//! ```text
//! disk: random-read 23456        nanoseconds from one request's end to the next
//! ```
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const WARM_UP: Duration = Duration::from_millis(1000);
const MEASURED: Duration = Duration::from_millis(3000);

/// What memory and offsets are multiples of.
const PAGE: usize = 4096;
const MAX_DEPTH: usize = 32;

struct Load {
    name: &'static str,
    write: bool,
    random: bool,
    size: usize,
    depth: usize,
}

const LOADS: [Load; 4] = [
    Load { name: "read", write: false, random: false, size: 1 << 20, depth: 4 },
    Load { name: "write", write: true, random: false, size: 1 << 20, depth: 4 },
    Load { name: "random-read", write: false, random: true, size: PAGE, depth: MAX_DEPTH },
    Load { name: "random-write", write: true, random: true, size: PAGE, depth: MAX_DEPTH },
];

/// `struct iocb` of Linux's aio_abi.h, where bytes are in this order.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Request {
    data: u64,
    key: u32,
    flags: u32,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    len: u64,
    offset: i64,
    reserved: [u64; 2],
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    request: u64,
    result: i64,
    more: i64,
}

const READ: u16 = 0;
const WRITE: u16 = 1;

/// A context of asynchronous I/O.
struct Context(libc::c_ulong);

fn check(result: i64, call: &str) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| {
        let error = io::Error::last_os_error();
        io::Error::new(error.kind(), format!("{call}: {error}"))
    })
}

impl Context {
    fn new() -> io::Result<Self> {
        let mut context = MaybeUninit::<libc::c_ulong>::zeroed();
        // SAFETY: the kernel writes one word there.
        let result = unsafe { libc::syscall(libc::SYS_io_setup, MAX_DEPTH, context.as_mut_ptr()) };
        check(result, "io_setup")?;
        // SAFETY: zero before, and the kernel's word now.
        Ok(Self(unsafe { context.assume_init() }))
    }

    /// # Safety
    ///
    /// The requests' buffers must be there, and nobody else's, until their events have been taken.
    unsafe fn submit(&self, requests: &mut [Request]) -> io::Result<()> {
        let pointers: Vec<*mut Request> = requests.iter_mut().map(std::ptr::from_mut).collect();
        let mut sent = 0;
        while sent < pointers.len() {
            let rest = &pointers[sent..];
            // SAFETY: the kernel copies the requests; the caller answers for their buffers.
            let result =
                unsafe { libc::syscall(libc::SYS_io_submit, self.0, rest.len(), rest.as_ptr()) };
            sent += check(result, "io_submit")?;
        }
        Ok(())
    }

    /// Waits for at least one event.
    fn wait<'a>(&self, events: &'a mut [Event]) -> io::Result<&'a [Event]> {
        let (room, none) = (events.len(), std::ptr::null::<libc::timespec>());
        // SAFETY: the kernel writes no more events than there is room for.
        let result = unsafe {
            libc::syscall(libc::SYS_io_getevents, self.0, 1, room, events.as_mut_ptr(), none)
        };
        Ok(&events[..check(result, "io_getevents")?])
    }
}

/// Where requests go: one after the other, or anywhere.
struct Places {
    random: bool,
    size: u64,
    /// How many there are.
    count: u64,
    state: u64,
}

impl Places {
    fn next(&mut self) -> i64 {
        let place = if self.random {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            self.state % self.count
        } else {
            self.state += 1;
            (self.state - 1) % self.count
        };
        (place * self.size) as i64
    }
}

/// Nanoseconds for a request while there are others.
fn run(disk: &File, len: u64, load: &Load) -> io::Result<f64> {
    let count = len / load.size as u64;
    let state = u64::from(load.random);
    let mut places = Places { random: load.random, size: load.size as u64, count, state };
    let mut memory = vec![0x5a_u8; load.depth * load.size + PAGE];
    let start = memory.as_mut_ptr().addr().next_multiple_of(PAGE) as u64;
    let context = Context::new()?;
    let request = |slot: u64, offset| Request {
        data: slot,
        opcode: if load.write { WRITE } else { READ },
        file: disk.as_raw_fd() as u32,
        buffer: start + slot * load.size as u64,
        len: load.size as u64,
        offset,
        ..Request::default()
    };
    let mut requests: Vec<Request> =
        (0..load.depth as u64).map(|slot| request(slot, places.next())).collect();
    // SAFETY: each request has a part of the memory for itself; those in flight are waited for below.
    unsafe { context.submit(&mut requests)? };
    let (mut events, mut in_flight) = ([Event::default(); MAX_DEPTH], load.depth);
    let (mut begun, mut warm, mut done) = (Instant::now(), false, 0_u64);
    let mut time = None;
    while in_flight > 0 {
        let ended = context.wait(&mut events)?;
        in_flight -= ended.len();
        for event in ended {
            check(event.result, "a request")
                .map_err(|_| io::Error::from_raw_os_error(-event.result as i32))?;
        }
        done += ended.len() as u64;
        let elapsed = begun.elapsed();
        if !warm && elapsed >= WARM_UP {
            (warm, begun, done) = (true, Instant::now(), 0);
        } else if warm && time.is_none() && elapsed >= MEASURED {
            time = Some(elapsed.as_nanos() as f64 / done as f64);
        }
        if time.is_none() {
            requests.clear();
            requests.extend(ended.iter().map(|event| request(event.data, places.next())));
            in_flight += requests.len();
            // SAFETY: as above; these parts are free again.
            unsafe { context.submit(&mut requests)? };
        }
    }
    drop(memory);
    time.ok_or_else(|| io::Error::other("no time to measure"))
}

fn run_all(path: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let disk = options.read(true).write(true).custom_flags(libc::O_DIRECT).open(path)?;
    let len = io::Seek::seek(&mut &disk, io::SeekFrom::End(0))?;
    for load in &LOADS {
        println!("disk: {} {:.0}", load.name, run(&disk, len, load)?);
    }
    Ok(())
}

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: disk-load DEVICE");
        return ExitCode::FAILURE;
    };
    match run_all(&path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("disk: failed {error}");
            ExitCode::FAILURE
        }
    }
}
