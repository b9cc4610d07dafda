//! io_uring: requests go to the kernel as they are, and a thread takes what comes back.
//!
//! Unsafe: the kernel fills memory and follows pointers until a request has ended.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::File;
use std::future::Future;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;

use io_uring::{IoUring, opcode, squeue, types};
use parking_lot::Mutex;

use super::pool::Outcome;
use super::{HostIo, HostOp, Pool};
use crate::vector::Vector;
use crate::{Error, Result};

/// Requests in the kernel at a time; the others wait here.
const DEPTH: u32 = 128;
/// What follows from completions goes to the kernel by so many: one call for several requests, but the disk
/// has something to do while others are being worked out.
const BATCH: usize = 4;
/// The request that ends the thread.
const END: u64 = u64::MAX;

/// Reads, writes and flushes by io_uring; everything else by worker threads.
pub struct Uring {
    shared: Arc<Shared>,
    rest: Pool,
}

struct Shared {
    ring: IoUring,
    /// Whoever holds it fills the submission queue.
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    waiting: VecDeque<Flight>,
}

/// A request in the kernel, or on its way there.
struct Flight {
    file: Arc<File>,
    op: HostOp,
    /// Bytes that have moved already.
    done: usize,
    pieces: Pieces,
    outcome: Arc<Mutex<Outcome>>,
}

/// Where the kernel finds the memory of a request.
struct Pieces(Box<[libc::iovec]>);

// SAFETY: the pointers are those of the flight's vector, which is Send and outlives them; only the kernel
// follows them.
unsafe impl Send for Pieces {}

impl Uring {
    /// A ring and its thread; fails where the kernel has no io_uring, or does not give it.
    pub fn new() -> Result<Self> {
        let failed = |error: std::io::Error| {
            Error::from(error).context("Unable to use linux io_uring: failed to init the ring")
        };
        // Completions of more than are in flight at a time have room, and so has the end.
        let ring = IoUring::builder().build(2 * DEPTH).map_err(failed)?;
        let shared = Arc::new(Shared { ring, queue: Mutex::default() });
        let reaper = shared.clone();
        base::thread::builder("io_uring").spawn(move || reaper.reap())?;
        Ok(Self { shared, rest: Pool::new() })
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let _queue = self.shared.queue.lock();
        self.shared.push(&opcode::Nop::new().build().user_data(END));
    }
}

impl HostIo for Uring {
    fn submit(
        &self,
        file: Arc<File>,
        op: HostOp,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> {
        if op.try_now(&file) {
            return Box::pin(std::future::ready(Ok(())));
        }
        if !matches!(op, HostOp::Read { .. } | HostOp::Write { .. } | HostOp::Sync) {
            return self.rest.submit(file, op);
        }
        let outcome = Arc::<Mutex<Outcome>>::default();
        let pieces = Pieces(Box::default());
        let flight = Flight { file, op, done: 0, pieces, outcome: outcome.clone() };
        self.shared.start(&mut self.shared.queue.lock(), flight);
        Box::pin(super::pool::Pending(outcome))
    }
}

impl Flight {
    fn memory(&self) -> Option<&Vector> {
        match &self.op {
            HostOp::Read { into, .. } => Some(into),
            HostOp::Write { from, .. } => Some(from),
            _ => None,
        }
    }

    /// What the kernel is asked: all that has not been done. Its pointers are good while the flight is.
    fn entry(&mut self) -> squeue::Entry {
        let fd = types::Fd(self.file.as_raw_fd());
        if let Some(memory) = self.memory() {
            let rest = memory.slice(self.done, memory.len() - self.done);
            self.pieces = Pieces(rest.iovecs().into());
        }
        let (start, count) = (self.pieces.0.as_ptr(), self.pieces.0.len() as u32);
        let done = self.done as u64;
        match &self.op {
            HostOp::Read { at, .. } => {
                opcode::Readv::new(fd, start, count).offset(at.wrapping_add(done)).build()
            }
            HostOp::Write { at, .. } => {
                opcode::Writev::new(fd, start, count).offset(at.wrapping_add(done)).build()
            }
            _ => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        }
    }

    /// What a result of the kernel's comes to; `None` if there is more to do.
    fn judge(&mut self, result: i32) -> Option<Result<()>> {
        let moved = match (usize::try_from(result), &self.op) {
            (Ok(moved), _) => moved,
            (Err(_), _) if [-libc::EINTR, -libc::EAGAIN].contains(&result) => return None,
            // A special file that keeps nothing back.
            (Err(_), HostOp::Sync) if result == -libc::EINVAL => return Some(Ok(())),
            (Err(_), _) => return Some(Err(Error::from_errno(-result))),
        };
        self.done += moved;
        let memory = self.memory().filter(|memory| self.done < memory.len());
        match (memory, &self.op) {
            (None, _) => Some(Ok(())),
            (Some(memory), HostOp::Read { .. }) if moved == 0 => {
                // Beyond the end of the file.
                memory.slice(self.done, memory.len()).fill(0);
                Some(Ok(()))
            }
            (Some(_), _) if moved == 0 => Some(Err(Error::from_errno(libc::ENOSPC))),
            _ => None,
        }
    }
}

thread_local! {
    /// The ring whose completions this thread takes.
    static REAPED: Cell<usize> = const { Cell::new(0) };
}

impl Shared {
    fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Puts an entry where the kernel finds it, and tells. The queue is locked.
    fn push(&self, entry: &squeue::Entry) {
        let held_back = {
            // SAFETY: who calls this holds the queue's lock, so nobody else has the submission queue.
            let mut submission = unsafe { self.ring.submission_shared() };
            // SAFETY: memory, iovecs and file of the entry are kept in `flights` until its completion
            // has been taken.
            while unsafe { submission.push(entry) }.is_err() {
                // The kernel has not taken what is there.
                submission.sync();
                let _ = self.ring.submit();
            }
            submission.len()
        };
        // The thread that takes completions tells of what is left when it waits again.
        if REAPED.get() == self.id() && held_back < BATCH {
            return;
        }
        // Out of memory, for the moment.
        while self.ring.submit().is_err() {
            std::thread::yield_now();
        }
    }

    fn start(&self, queue: &mut Queue, mut flight: Flight) {
        let full = queue.flights.len() - queue.free.len() >= DEPTH as usize;
        if full {
            return queue.waiting.push_back(flight);
        }
        let index = queue.free.pop().unwrap_or_else(|| {
            queue.flights.push(None);
            queue.flights.len() - 1
        });
        let entry = flight.entry().user_data(index as u64);
        queue.flights[index] = Some(flight);
        self.push(&entry);
    }

    /// Takes what is done until the end has come, and nothing is in the kernel any more.
    fn reap(&self) {
        REAPED.set(self.id());
        let (mut ended, mut last, mut idle, mut busy) = (Vec::new(), false, false, false);
        while !(last && idle && !busy) {
            // Those who are ready may wait for what has ended meanwhile.
            if self.ring.submit_and_wait(usize::from(!busy)).is_err() {
                std::thread::yield_now();
            }
            {
                let mut queue = self.queue.lock();
                // SAFETY: this thread alone has the completion queue.
                for entry in unsafe { self.ring.completion_shared() } {
                    last |= entry.user_data() == END;
                    ended.extend(self.end(&mut queue, entry.user_data(), entry.result()));
                }
                idle = queue.flights.len() == queue.free.len();
            }
            busy = super::task::run_round(|| {
                for (outcome, result) in ended.drain(..) {
                    Outcome::tell(&outcome, result);
                }
            });
        }
    }

    /// Ends a request, or lets it go on.
    fn end(
        &self,
        queue: &mut Queue,
        number: u64,
        result: i32,
    ) -> Option<(Arc<Mutex<Outcome>>, Result<()>)> {
        let index = usize::try_from(number).ok()?;
        let flight = queue.flights.get_mut(index)?.as_mut()?;
        let Some(result) = flight.judge(result) else {
            let entry = flight.entry().user_data(number);
            self.push(&entry);
            return None;
        };
        // Before anybody hears of it: who then closes the image has closed the file and its locks.
        let Flight { outcome, .. } = queue.flights[index].take()?;
        queue.free.push(index);
        if let Some(next) = queue.waiting.pop_front() {
            self.start(queue, next);
        }
        Some((outcome, result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{block_on, spawn};

    fn ring() -> Option<Arc<Uring>> {
        let ring = Uring::new();
        if let Err(error) = &ring {
            eprintln!("skipped: {error}");
        }
        ring.ok().map(Arc::new)
    }

    #[test]
    fn more_requests_than_there_is_room_for() {
        let Some(ring) = ring() else { return };
        let file = Arc::new(tempfile::tempfile().unwrap());
        let (send, receive) = std::sync::mpsc::channel();
        for i in 0..1000_u64 {
            let (file, ring, send) = (file.clone(), ring.clone(), send.clone());
            let request = async move {
                let from = Vector::from(&[i as u8; 100][..]);
                ring.submit(file.clone(), HostOp::Write { at: i * 100, from, in_turn: true })
                    .await?;
                ring.submit(file.clone(), HostOp::Sync).await?;
                let into = Vector::zeroed(100);
                let read = HostOp::Read { at: i * 100, into: into.clone(), cached: false };
                ring.submit(file, read).await?;
                crate::Result::Ok(into.to_vec() == [i as u8; 100])
            };
            spawn(request, move |result| send.send(result).unwrap());
        }
        for _ in 0..1000 {
            assert!(receive.recv().unwrap().unwrap());
        }
    }

    #[test]
    fn ends_of_files_and_many_pieces() {
        let Some(ring) = ring() else { return };
        let file = Arc::new(tempfile::tempfile().unwrap());
        let pieces: Vec<Vector> = (0..3000_u32).map(|i| Vector::from(&[i as u8; 3][..])).collect();
        let from = Vector::concat(&pieces);
        let write = HostOp::Write { at: 5, from: from.clone(), in_turn: true };
        block_on(ring.submit(file.clone(), write)).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 9005);
        let into = Vector::zeroed(10_000);
        into.fill(1);
        let read = HostOp::Read { at: 5, into: into.clone(), cached: false };
        block_on(ring.submit(file.clone(), read)).unwrap();
        assert_eq!(into.first_difference(&from), None);
        block_on(ring.submit(file.clone(), HostOp::Truncate { len: 10, allocate: false })).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 10);
        let closed = std::fs::File::open("/dev/null").unwrap();
        let write = HostOp::Write { at: 0, from, in_turn: true };
        assert!(block_on(ring.submit(Arc::new(closed), write)).is_err());
    }
}
