//! Worker threads that block so that nobody else does.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::{Condvar, Mutex, MutexGuard};

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
    /// Files, by their addresses, that somebody writes to in turn, and the writes that wait for that.
    turns: HashMap<usize, VecDeque<Job>>,
    ended: VecDeque<Ended>,
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

/// A job that has been done, before anybody has heard of it.
struct Ended {
    done: Arc<Mutex<Outcome>>,
    result: Result<()>,
}

impl Job {
    /// The file that is written to in turn.
    fn turn(&self) -> Option<usize> {
        let in_turn = matches!(self.op, HostOp::Write { in_turn: true, .. });
        in_turn.then(|| Arc::as_ptr(&self.file).addr())
    }

    /// Does it. The file is let go of before anybody hears of it: who then closes the image has closed the file and
    /// its locks.
    fn perform(self) -> Ended {
        let result = self.op.perform(&self.file);
        Ended { done: self.done, result }
    }
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
        let call = self.work() > 0 && self.idle > 0 && self.called == 0;
        self.called += usize::from(call);
        call
    }

    /// How much there is to do.
    fn work(&self) -> usize {
        self.jobs.len() + self.ended.len()
    }

    /// Takes a job, which may have to wait for its turn.
    fn add(&mut self, job: Job) {
        if let Some(turn) = job.turn() {
            if let Some(waiting) = self.turns.get_mut(&turn) {
                return waiting.push_back(job);
            }
            self.turns.insert(turn, VecDeque::new());
        }
        self.jobs.push_back(job);
    }

    /// A turn has ended: whose is next?
    fn next_in(&mut self, turn: usize) -> Option<Job> {
        let next = self.turns.get_mut(&turn).and_then(VecDeque::pop_front);
        if next.is_none() {
            self.turns.remove(&turn);
        }
        next
    }
}

impl Shared {
    /// Starts a worker if there is more to do than workers sleep. An error: there is no worker at all.
    fn staff(self: &Arc<Self>, queue: &mut Queue) -> Result<()> {
        if queue.idle < queue.work() && queue.workers < MAX_WORKERS {
            let shared = self.clone();
            match base::thread::builder("worker").spawn(move || work(&shared)) {
                Ok(_) => queue.workers += 1,
                Err(error) if queue.workers == 0 => return Err(Error::from(error)),
                // Those that run are enough, only slower.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn call(&self, mut queue: MutexGuard<'_, Queue>) {
        let call = queue.call();
        drop(queue);
        if call {
            self.wake.notify_one();
        }
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
        queue.add(Job { file, op, done: done.clone() });
        if let Err(error) = self.shared.staff(&mut queue) {
            // Nobody works, so this is all there is.
            (queue.jobs, queue.turns) = Default::default();
            return Box::pin(std::future::ready(Err(error)));
        }
        self.shared.call(queue);
        Box::pin(Pending(done))
    }
}

fn work(shared: &Arc<Shared>) {
    let mut queue = shared.queue.lock();
    loop {
        if let Some(Ended { done, result }) = queue.ended.pop_front() {
            shared.call(queue);
            Outcome::tell(&done, result);
            queue = shared.queue.lock();
        } else if let Some(job) = queue.jobs.pop_front() {
            shared.call(queue);
            work_on(shared, job);
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

/// Does a job, and those that wait for their turn behind it. Meanwhile others see to what comes of it.
fn work_on(shared: &Arc<Shared>, mut job: Job) {
    loop {
        let turn = job.turn();
        let ended = job.perform();
        let mut queue = shared.queue.lock();
        let Some(next) = turn.and_then(|turn| queue.next_in(turn)) else {
            // In the order in which they ended; this thread goes on with that.
            return queue.ended.push_back(ended);
        };
        queue.ended.push_back(ended);
        // If nobody can be had, this thread comes to it in the end.
        let _ = shared.staff(&mut queue);
        shared.call(queue);
        job = next;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{block_on, spawn};
    use super::*;
    use crate::vector::Vector;

    #[test]
    fn who_hears_of_a_write_may_wait_for_another_one() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let pool = Arc::new(Pool::new());
        let (send, receive) = std::sync::mpsc::channel();
        let count = MAX_WORKERS as u64 / 2;
        for at in 0..count {
            let write = {
                let (pool, file) = (pool.clone(), file.clone());
                move |at| {
                    let from = Vector::from(&[at as u8][..]);
                    pool.submit(file.clone(), HostOp::Write { at, from, in_turn: true })
                }
            };
            let send = send.clone();
            spawn(write(at), move |first| {
                let second = block_on(write(count + at));
                send.send((first, second)).unwrap();
            });
        }
        for _ in 0..count {
            let (first, second) = receive.recv_timeout(Duration::from_secs(60)).unwrap();
            first.and(second).unwrap();
        }
        let into = Vector::zeroed(2 * count as usize);
        let read = HostOp::Read { at: 0, into: into.clone(), cached: true };
        block_on(pool.submit(file, read)).unwrap();
        assert_eq!(into.to_vec(), (0..2 * count as u8).collect::<Vec<u8>>());
        assert!(pool.shared.queue.lock().turns.is_empty());
    }
}
