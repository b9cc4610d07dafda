//! A lock for readers and writers whose holders wait for the disk while they have it.
//!
//! It is fair: who comes first is served first, and readers that follow each other are let in together.
//! Who waits is woken once, when the lock is theirs. (Elsewhere, readers that wait for a writer wake each
//! other again and again to look, which costs a processor as long as the writer waits for its disk.)

use std::collections::VecDeque;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// A value that many may look at, or one may change.
#[derive(Debug, Default)]
pub struct RwLock<T> {
    turns: Turns,
    /// Never waited for: `turns` has settled who holds it.
    value: async_lock::RwLock<T>,
}

impl<T> RwLock<T> {
    /// A lock that nobody has.
    pub fn new(value: T) -> Self {
        Self { turns: Turns::default(), value: async_lock::RwLock::new(value) }
    }

    /// Takes it together with other readers.
    pub async fn read(&self) -> ReadGuard<'_, T> {
        let turn = self.turns.take(Kind::Reader).await;
        let value = self.value.try_read().expect("no writer has a reader's turn");
        ReadGuard { value, _turn: turn }
    }

    /// Takes it alone.
    pub async fn write(&self) -> WriteGuard<'_, T> {
        let turn = self.turns.take(Kind::Writer).await;
        let value = self.value.try_write().expect("nobody else has a writer's turn");
        WriteGuard { value, _turn: turn }
    }

    /// The value, which nobody else can reach.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

/// The right to look.
pub struct ReadGuard<'a, T> {
    // Before the turn: whoever is next finds the value free.
    value: async_lock::RwLockReadGuard<'a, T>,
    _turn: Turn<'a>,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// The right to change.
pub struct WriteGuard<'a, T> {
    // As above.
    value: async_lock::RwLockWriteGuard<'a, T>,
    _turn: Turn<'a>,
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Reader,
    Writer,
}

/// A writer has it.
const WRITER: usize = 1;
/// Somebody waits: only `Turns::serve` gives it to anybody.
const QUEUED: usize = 2;
/// One reader; above it, their number.
const READER: usize = 4;

/// Who has the lock, and who waits.
#[derive(Debug, Default)]
struct Turns {
    state: AtomicUsize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiter>,
    next: u64,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    kind: Kind,
    waker: Waker,
}

impl Turns {
    fn take(&self, kind: Kind) -> Take<'_> {
        Take { turns: self, kind, place: Place::New }
    }

    /// Takes the lock where nobody waits and nobody is in the way.
    fn try_take(&self, kind: Kind) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let next = match kind {
                Kind::Reader if state & (WRITER | QUEUED) == 0 => state + READER,
                Kind::Writer if state == 0 => WRITER,
                _ => return false,
            };
            match self.state.compare_exchange_weak(
                state,
                next,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
    }

    /// Gives the lock to those in front, as far as it goes; returns whom to wake. From when `QUEUED` is
    /// set until nobody waits, the state changes only here and where somebody lets go, who then comes here.
    fn serve(&self, queue: &mut Queue) -> Vec<Waker> {
        let mut served = Vec::new();
        while let Some(first) = queue.waiting.front() {
            let state = self.state.load(Ordering::Acquire);
            let gain = match first.kind {
                Kind::Reader if state & WRITER == 0 => READER,
                Kind::Writer if state == QUEUED => WRITER,
                _ => return served,
            };
            self.state.fetch_add(gain, Ordering::Acquire);
            served.extend(queue.waiting.pop_front().map(|waiter| waiter.waker));
        }
        self.state.fetch_and(!QUEUED, Ordering::Relaxed);
        served
    }

    /// Somebody who has the lock lets go.
    fn release(&self, kind: Kind) {
        let share = if kind == Kind::Reader { READER } else { WRITER };
        let left = self.state.fetch_sub(share, Ordering::AcqRel) - share;
        if left == QUEUED {
            let served = self.serve(&mut self.queue.lock());
            served.into_iter().for_each(Waker::wake);
        }
    }
}

/// Waiting for a turn.
struct Take<'a> {
    turns: &'a Turns,
    kind: Kind,
    place: Place,
}

enum Place {
    /// Nothing has been asked yet.
    New,
    /// In the queue under this number, or served.
    Queued(u64),
    /// It has become a [`Turn`].
    Over,
}

impl<'a> Future for Take<'a> {
    type Output = Turn<'a>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Turn<'a>> {
        let (turns, kind) = (self.turns, self.kind);
        let served = match self.place {
            Place::New if turns.try_take(kind) => Vec::new(),
            Place::New => {
                let mut queue = turns.queue.lock();
                queue.next += 1;
                let id = queue.next;
                queue.waiting.push_back(Waiter { id, kind, waker: context.waker().clone() });
                self.place = Place::Queued(id);
                // Whoever lets go from here on comes to serve; who did before is seen now.
                turns.state.fetch_or(QUEUED, Ordering::AcqRel);
                turns.serve(&mut queue)
            }
            Place::Queued(_) => Vec::new(),
            Place::Over => return Poll::Pending,
        };
        served.into_iter().for_each(Waker::wake);
        if let Place::Queued(id) = self.place
            && let Some(waiter) = turns.queue.lock().waiting.iter_mut().find(|one| one.id == id)
        {
            waiter.waker.clone_from(context.waker());
            return Poll::Pending;
        }
        self.place = Place::Over;
        Poll::Ready(Turn { turns, kind })
    }
}

/// Who gives up leaves the queue, or passes on what was given meanwhile.
impl Drop for Take<'_> {
    fn drop(&mut self) {
        let Place::Queued(id) = self.place else { return };
        let served = {
            let mut queue = self.turns.queue.lock();
            let before = queue.waiting.len();
            queue.waiting.retain(|waiter| waiter.id != id);
            match queue.waiting.len() < before {
                // Those behind may have waited for this one alone.
                true => self.turns.serve(&mut queue),
                false => {
                    drop(queue);
                    return self.turns.release(self.kind);
                }
            }
        };
        served.into_iter().for_each(Waker::wake);
    }
}

/// The lock, for as long as this lives.
#[derive(Debug)]
struct Turn<'a> {
    turns: &'a Turns,
    kind: Kind,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.release(self.kind);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::task::Wake;

    use super::*;
    use crate::engine::{block_on, spawn};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Somebody who asks when told, and how often he was woken.
    struct Someone<F> {
        asking: Pin<Box<F>>,
        woken: Arc<Count>,
    }

    impl<F: Future> Someone<F> {
        fn new(asking: F) -> Self {
            Self { asking: Box::pin(asking), woken: Arc::default() }
        }

        fn ask(&mut self) -> Option<F::Output> {
            let waker = self.woken.clone().into();
            match self.asking.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(value) => Some(value),
                Poll::Pending => None,
            }
        }

        fn woken(&self) -> usize {
            self.woken.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn who_comes_first_is_served_first_and_woken_once() {
        let lock = RwLock::new(0);
        let first = block_on(lock.read());
        let mut writer = Someone::new(lock.write());
        assert!(writer.ask().is_none());
        // They could share it with the first, but the writer was here before them.
        let mut readers = [Someone::new(lock.read()), Someone::new(lock.read())];
        let mut last = Someone::new(lock.write());
        assert!(readers.iter_mut().all(|reader| reader.ask().is_none()) && last.ask().is_none());
        drop(first);
        assert_eq!((writer.woken(), readers[0].woken()), (1, 0));
        let mut guard = writer.ask().unwrap();
        *guard = 7;
        assert!(readers.iter_mut().all(|reader| reader.ask().is_none()));
        drop(guard);
        let both = readers.each_mut().map(|reader| reader.ask().unwrap());
        assert_eq!(both.each_ref().map(|guard| **guard), [7, 7]);
        assert_eq!((readers[0].woken(), readers[1].woken(), last.woken()), (1, 1, 0));
        drop(both);
        assert!(last.ask().is_some());
        assert_eq!(last.woken(), 1);
        assert_eq!(lock.turns.state.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_gives_up_does_not_hold_up_others() {
        let lock = RwLock::new(());
        let first = block_on(lock.read());
        let mut writer = Someone::new(lock.write());
        assert!(writer.ask().is_none());
        let mut reader = Someone::new(lock.read());
        assert!(reader.ask().is_none());
        drop(writer);
        assert_eq!(reader.woken(), 1);
        // Served, but never told: the next one gets it.
        let mut writer = Someone::new(lock.write());
        assert!(writer.ask().is_none());
        drop(first);
        drop(reader);
        assert!(writer.ask().is_some());
        drop(writer);
        let mut asked = pin!(lock.read());
        assert!(Someone::new(asked.as_mut()).ask().is_some());
        assert_eq!(lock.turns.state.load(Ordering::Relaxed), 0);
    }

    /// Tasks on many threads; some give up while they wait.
    #[test]
    fn many_threads_keep_what_the_lock_promises() {
        const TASKS: u64 = 64;
        const ROUNDS: u64 = 300;
        let lock = Arc::new(RwLock::new((0_u64, 0_u64)));
        let (send, receive) = std::sync::mpsc::channel();
        let written = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let (lock, send, written) = (lock.clone(), send.clone(), written.clone());
                std::thread::spawn(move || {
                    for task in 0..TASKS / 4 {
                        let (lock, send, written) = (lock.clone(), send.clone(), written.clone());
                        let work = async move {
                            for round in 0..ROUNDS {
                                match (thread * 31 + task * 7 + round) % 5 {
                                    0 => {
                                        let mut both = lock.write().await;
                                        both.0 += 1;
                                        others().await;
                                        both.1 += 1;
                                        written.fetch_add(1, Ordering::Relaxed);
                                    }
                                    1 => {
                                        // Asks once, and gives up or lets go.
                                        let mut asking = pin!(lock.write());
                                        std::future::poll_fn(|context| {
                                            drop(asking.as_mut().poll(context));
                                            Poll::Ready(())
                                        })
                                        .await;
                                    }
                                    _ => {
                                        let both = lock.read().await;
                                        others().await;
                                        assert_eq!(both.0, both.1);
                                    }
                                }
                            }
                        };
                        spawn(work, move |()| send.send(()).unwrap());
                    }
                })
            })
            .collect();
        drop(send);
        assert_eq!(receive.iter().count() as u64, TASKS);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let both = *block_on(lock.read());
        let written = written.load(Ordering::Relaxed);
        assert_eq!(both, (written, written));
        assert_eq!(lock.turns.state.load(Ordering::Relaxed), 0);
    }

    /// Lets other tasks run; now and then goes on on another thread.
    async fn others() {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let mut asked = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut asked, true) {
                return Poll::Ready(());
            }
            let waker = context.waker().clone();
            match CALLS.fetch_add(1, Ordering::Relaxed) % 64 {
                0 => drop(std::thread::spawn(move || waker.wake())),
                _ => waker.wake(),
            }
            Poll::Pending
        })
        .await
    }
}
