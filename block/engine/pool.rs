//! Worker threads that block so that nobody else does.

use std::collections::VecDeque;
use std::fs::File;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::{Condvar, Mutex};

use super::{HostIo, HostOp};
use crate::{Error, Result};

/// How many workers at most: what a disk can do at once.
const MAX_WORKERS: usize = 16;

/// A pool of worker threads, started when there is work; they end with the pool.
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    workers: usize,
    idle: usize,
    /// Workers that were called and have not come yet.
    called: usize,
    closed: bool,
}

struct Job {
    file: Arc<File>,
    op: HostOp,
    done: Arc<Mutex<Outcome>>,
}

/// What has become of a request, and who waits for it.
#[derive(Default)]
pub(super) struct Outcome {
    result: Option<Result<()>>,
    waker: Option<Waker>,
}

impl Outcome {
    /// The request has ended.
    pub(super) fn tell(outcome: &Mutex<Self>, result: Result<()>) {
        let waker = {
            let mut outcome = outcome.lock();
            outcome.result = Some(result);
            outcome.waker.take()
        };
        if let Some(waker) = waker {
            super::task::run(|| waker.wake());
        }
    }
}

/// Waits for an outcome.
pub(super) struct Pending(pub(super) Arc<Mutex<Outcome>>);

impl Future for Pending {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let mut outcome = self.0.lock();
        match outcome.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                outcome.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Queue {
    /// Whether to call a worker: there is work, one sleeps, and none is on the way. Who comes calls the
    /// next, so that quick work does not wake everybody, and slow work gets everybody in the end.
    fn call(&mut self) -> bool {
        let call = !self.jobs.is_empty() && self.idle > 0 && self.called == 0;
        self.called += usize::from(call);
        call
    }
}

impl Pool {
    /// A pool without threads yet.
    pub fn new() -> Self {
        let queue = Mutex::new(Queue::default());
        Self { shared: Arc::new(Shared { queue, wake: Condvar::new() }) }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

impl HostIo for Pool {
    fn submit(
        &self,
        file: Arc<File>,
        op: HostOp,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> {
        if op.try_now(&file) {
            return Box::pin(std::future::ready(Ok(())));
        }
        let done = Arc::new(Mutex::new(Outcome::default()));
        let mut queue = self.shared.queue.lock();
        if queue.idle <= queue.jobs.len() && queue.workers < MAX_WORKERS {
            let shared = self.shared.clone();
            let worker = base::thread::builder("worker");
            match worker.spawn(move || work(&shared)) {
                Ok(_) => queue.workers += 1,
                Err(error) if queue.workers == 0 => {
                    return Box::pin(std::future::ready(Err(Error::from(error))));
                }
                // Those that run are enough, only slower.
                Err(_) => {}
            }
        }
        queue.jobs.push_back(Job { file, op, done: done.clone() });
        let call = queue.call();
        drop(queue);
        if call {
            self.shared.wake.notify_one();
        }
        Box::pin(Pending(done))
    }
}

fn work(shared: &Shared) {
    let mut queue = shared.queue.lock();
    loop {
        if let Some(Job { file, op, done }) = queue.jobs.pop_front() {
            let call = queue.call();
            drop(queue);
            if call {
                shared.wake.notify_one();
            }
            let result = op.perform(&file);
            // Before anybody hears of it: who then closes the image has closed the file and its locks.
            drop((file, op));
            Outcome::tell(&done, result);
            queue = shared.queue.lock();
        } else if queue.closed {
            return;
        } else {
            queue.idle += 1;
            shared.wake.wait(&mut queue);
            queue.idle -= 1;
            queue.called = queue.called.saturating_sub(1);
        }
    }
}
