//! Running futures: on the calling thread, or on the thread that completes what they wait for.
//!
//! A waker only says that a task is ready; it never runs it. Who wakes may hold locks (a lock's list of
//! waiters is locked while they are woken), and a task run there could need them. Tasks that are ready
//! run when the thread that woke them comes back to its [`run`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, Wake};
use std::thread::Thread;

use parking_lot::Mutex;

thread_local! {
    /// Tasks that were woken on this thread and have not run yet.
    static READY: RefCell<VecDeque<Arc<Task>>> = const { RefCell::new(VecDeque::new()) };
    /// This thread is inside [`run`].
    static RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// Does something that may wake tasks, and then runs those that are ready.
pub(super) fn run<T>(act: impl FnOnce() -> T) -> T {
    if RUNNING.replace(true) {
        // The call further up runs them.
        return act();
    }
    let leave = Leave;
    let value = act();
    run_ready();
    drop(leave);
    value
}

/// Does something that may wake tasks, and runs those that are ready then, each once. Whether others
/// are ready now: for threads that tasks wait for. Tasks may wake each other for as long as one of them
/// waits for this very thread.
pub(super) fn run_round(act: impl FnOnce()) -> bool {
    RUNNING.set(true);
    let leave = Leave;
    act();
    for _ in 0..READY.with_borrow(VecDeque::len) {
        if let Some(task) = READY.with_borrow_mut(VecDeque::pop_front) {
            task.run();
        }
    }
    drop(leave);
    !READY.with_borrow(VecDeque::is_empty)
}

/// The thread is no longer inside [`run`], also when what it did panics.
struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        RUNNING.set(false);
    }
}

fn run_ready() {
    while let Some(task) = READY.with_borrow_mut(VecDeque::pop_front) {
        task.run();
    }
}

struct Parked {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Waits for a future on this thread. Not for threads that must not wait (device handlers).
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let parked = Arc::new(Parked { thread: std::thread::current(), woken: AtomicBool::new(false) });
    let waker = parked.clone().into();
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = run(|| future.as_mut().poll(&mut context)) {
            return value;
        }
        // Called by a task, it must not leave to the task what it may wait for.
        run(run_ready);
        while !parked.woken.swap(false, Ordering::Acquire) {
            std::thread::park();
        }
    }
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A request under way.
struct Task {
    work: Mutex<Option<Work>>,
    state: AtomicU8,
}

/// It waits to be woken.
const ASLEEP: u8 = 0;
/// It is in a thread's queue.
const QUEUED: u8 = 1;
/// A thread runs it.
const ACTIVE: u8 = 2;
/// It was woken while a thread ran it.
const AGAIN: u8 = 3;

impl Task {
    fn run(self: Arc<Self>) {
        self.state.store(ACTIVE, Ordering::Release);
        let waker = self.clone().into();
        {
            let mut work = self.work.lock();
            if let Some(future) = work.as_mut()
                && future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
            {
                *work = None;
            }
        }
        let rest = self.state.compare_exchange(ACTIVE, ASLEEP, Ordering::AcqRel, Ordering::Acquire);
        if rest.is_err() {
            self.state.store(QUEUED, Ordering::Release);
            READY.with_borrow_mut(|ready| ready.push_back(self));
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let next = |state| match state {
            ASLEEP => Some(QUEUED),
            ACTIVE => Some(AGAIN),
            _ => None,
        };
        let before = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        if before != Ok(ASLEEP) {
            return;
        }
        if RUNNING.get() {
            READY.with_borrow_mut(|ready| ready.push_back(self));
            return;
        }
        // A thread that runs no tasks, and nobody knows what it holds.
        let task = self.clone();
        let helper = std::thread::Builder::new().name("disk".into());
        if helper.spawn(move || run(|| task.run())).is_err() {
            run(|| self.run());
        }
    }
}

/// Starts a request and returns; `done` is called with the result, on any thread. It runs here until it
/// first waits (later on this thread, inside another task), then on the threads that complete its parts.
pub fn spawn<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
    done: impl FnOnce(T) + Send + 'static,
) {
    let work: Work = Box::pin(async move { done(future.await) });
    let task = Arc::new(Task { work: Mutex::new(Some(work)), state: AtomicU8::new(ASLEEP) });
    run(|| task.wake());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{HostIo, HostOp, Pool, Uring};
    use crate::vector::Vector;

    #[test]
    fn requests_complete_from_the_pool() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let pool = Arc::new(Pool::new());
        let (send, receive) = std::sync::mpsc::channel();
        for i in 0..100_u8 {
            let (file, pool, send) = (file.clone(), pool.clone(), send.clone());
            let request = async move {
                let at = u64::from(i) * 16;
                let from = Vector::from(&[i; 16][..]);
                pool.submit(file.clone(), HostOp::Write { at, from, in_turn: true }).await?;
                let into = Vector::zeroed(16);
                pool.submit(file, HostOp::Read { at, into: into.clone(), cached: true }).await?;
                crate::Result::Ok((i, into.to_vec()))
            };
            spawn(request, move |result| send.send(result).unwrap());
        }
        for _ in 0..100 {
            let (i, bytes) = receive.recv().unwrap().unwrap();
            assert_eq!(bytes, [i; 16]);
        }
        assert_eq!(block_on(async { 7 }), 7);
    }

    #[test]
    fn tasks_wait_for_each_other_without_holding_anybody_up() {
        take_turns(Arc::new(Pool::new()));
        match Uring::new() {
            Ok(ring) => take_turns(Arc::new(ring)),
            Err(error) => eprintln!("skipped: {error}"),
        }
    }

    fn take_turns(io: Arc<dyn HostIo>) {
        let file = Arc::new(tempfile::tempfile().unwrap());
        // Its readers wake each other while they wait for a writer.
        let lock = Arc::new(async_lock::RwLock::new(0_u64));
        let (send, receive) = std::sync::mpsc::channel();
        for i in 0..1000_u64 {
            let (file, io, lock, send) = (file.clone(), io.clone(), lock.clone(), send.clone());
            let request = async move {
                let op =
                    |at| HostOp::Write { at, from: Vector::from(&[1][..]), in_turn: at % 2 == 0 };
                // From here on, a thread of the engine goes on.
                io.submit(file.clone(), op(i)).await?;
                if i % 3 == 0 {
                    let mut sum = lock.write().await;
                    io.submit(file, op(i)).await?;
                    *sum += 1;
                } else {
                    let _sum = lock.read().await;
                    io.submit(file, op(i)).await?;
                }
                crate::Result::Ok(())
            };
            spawn(request, move |result| send.send(result).unwrap());
        }
        for _ in 0..1000 {
            receive.recv().unwrap().unwrap();
        }
        assert_eq!(*block_on(lock.read()), 334);
    }
}
