//! The thread that calls back when nobody else may, and that wakes sleepers.
//!
//! A request that needs no host I/O is done before `submit` returns, on the thread of a device that
//! holds its own lock; its callback goes to this thread. So does whatever a request that is being
//! submitted happens to complete besides.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

type Job = Box<dyn FnOnce() + Send>;

thread_local! {
    static SUBMITTING: Cell<bool> = const { Cell::new(false) };
}

#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    /// By time, then in order.
    later: BTreeMap<(Instant, u64), Job>,
    count: u64,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// A thread for callbacks; it ends with the last owner.
pub struct Helper {
    shared: Arc<Shared>,
}

impl Helper {
    /// Starts the thread.
    pub fn new() -> std::io::Result<Arc<Self>> {
        let shared = Arc::<Shared>::default();
        let inside = shared.clone();
        base::thread::builder("disk-done").spawn(move || run(&inside))?;
        Ok(Arc::new(Helper { shared }))
    }

    /// Does something that may complete requests; their callbacks are called elsewhere.
    pub(super) fn submitting(&self, submit: impl FnOnce()) {
        let outer = SUBMITTING.replace(true);
        submit();
        SUBMITTING.set(outer);
    }

    /// Calls back: here, or on the helper's thread if this one is inside a device.
    pub(super) fn finish(&self, job: Job) {
        if SUBMITTING.get() {
            self.shared.queue.lock().jobs.push(job);
            self.shared.wake.notify_one();
        } else {
            job();
        }
    }

    /// Calls at a time, on the helper's thread.
    pub fn at(&self, time: Instant, job: Job) {
        let mut queue = self.shared.queue.lock();
        queue.count += 1;
        let key = (time, queue.count);
        queue.later.insert(key, job);
        self.shared.wake.notify_one();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

fn run(shared: &Shared) {
    let mut queue = shared.queue.lock();
    loop {
        let jobs = if let Some(first) = queue.later.first_entry()
            && first.key().0 <= Instant::now()
        {
            vec![first.remove()]
        } else {
            std::mem::take(&mut queue.jobs)
        };
        if !jobs.is_empty() {
            drop(queue);
            jobs.into_iter().for_each(|job| job());
            queue = shared.queue.lock();
        } else if queue.closed {
            return;
        } else if let Some((&(time, _), _)) = queue.later.first_key_value() {
            shared.wake.wait_until(&mut queue, time);
        } else {
            shared.wake.wait(&mut queue);
        }
    }
}
