//! Running futures: on the calling thread, or by whoever completes what they wait for.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Context, Poll, Wake};
use std::thread::Thread;

use parking_lot::Mutex;

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
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        while !parked.woken.swap(false, Ordering::Acquire) {
            std::thread::park();
        }
    }
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A request under way. Whoever wakes it runs it on; a wake while it runs makes it run again.
struct Task {
    work: Mutex<Option<Work>>,
    again: AtomicBool,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        // Sequentially consistent: either the thread that runs it sees this, or the lock is free below.
        self.again.swap(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let waker = self.clone().into();
        while self.again.load(Ordering::SeqCst) {
            // Held by the thread that runs it: it sees `again` when it has let go.
            let Some(mut work) = self.work.try_lock() else { return };
            if !self.again.swap(false, Ordering::SeqCst) {
                continue;
            }
            if let Some(future) = work.as_mut()
                && future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
            {
                *work = None;
            }
            drop(work);
            fence(Ordering::SeqCst);
        }
    }
}

/// Starts a request and returns; `done` is called with the result, on any thread. It runs here until it
/// first waits, then on the threads that complete its parts.
pub fn spawn<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
    done: impl FnOnce(T) + Send + 'static,
) {
    let work: Work = Box::pin(async move { done(future.await) });
    Arc::new(Task { work: Mutex::new(Some(work)), again: AtomicBool::new(false) }).wake();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{HostIo, HostOp, Pool};
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
                pool.submit(file.clone(), HostOp::Write { at, from }).await?;
                let into = Vector::zeroed(16);
                pool.submit(file, HostOp::Read { at, into: into.clone() }).await?;
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
}
