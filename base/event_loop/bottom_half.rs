//! Work that any thread hands to the loop.

use std::sync::Arc;

use super::LoopHandle;
use crate::sync::{AtomicBool, Mutex, Ordering};

enum Job {
    Once(Box<dyn FnOnce() + Send>),
    Repeatable(Arc<Inner>),
}

/// Jobs in the order in which they were scheduled.
#[derive(Default)]
pub(super) struct Jobs(Mutex<Vec<Job>>);

impl Jobs {
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Runs what is queued now. What these jobs schedule waits for the next round, so that
    /// descriptors and timers get their turn.
    pub(super) fn run(&self) {
        let jobs = std::mem::take(&mut *self.0.lock());
        for job in jobs {
            match job {
                Job::Once(run) => run(),
                Job::Repeatable(inner) => {
                    if inner.scheduled.swap(false, Ordering::AcqRel) {
                        (inner.run)();
                    }
                }
            }
        }
    }
}

/// A callback that can be scheduled again and again; several requests before it runs count as one.
#[derive(Clone)]
pub struct BottomHalf {
    handle: LoopHandle,
    inner: Arc<Inner>,
}

struct Inner {
    scheduled: AtomicBool,
    run: Box<dyn Fn() + Send + Sync>,
}

impl BottomHalf {
    /// Runs the callback on the loop's thread, soon.
    pub fn schedule(&self) {
        if !self.inner.scheduled.swap(true, Ordering::AcqRel) {
            self.handle.push(Job::Repeatable(self.inner.clone()));
        }
    }

    /// Forgets a request that has not run yet.
    pub fn cancel(&self) {
        self.inner.scheduled.store(false, Ordering::Release);
    }
}

impl LoopHandle {
    /// Runs `job` once on the loop's thread, soon.
    pub fn schedule(&self, job: impl FnOnce() + Send + 'static) {
        self.push(Job::Once(Box::new(job)));
    }

    /// Makes a bottom half of `run`.
    pub fn bottom_half(&self, run: impl Fn() + Send + Sync + 'static) -> BottomHalf {
        let inner = Inner { scheduled: AtomicBool::new(false), run: Box::new(run) };
        BottomHalf { handle: self.clone(), inner: Arc::new(inner) }
    }

    fn push(&self, job: Job) {
        self.0.jobs.0.lock().push(job);
        self.wake();
    }
}
