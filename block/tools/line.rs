//! What several threads make ready in any order, taken in order: by whichever of them has the next one at
//! hand, while the others make more ready. Nobody waits for a turn, which would cost a wake-up each.

use std::collections::BTreeMap;

use parking_lot::{Condvar, Mutex, MutexGuard};

/// Things in a line, by their numbers.
pub(super) struct Line<T> {
    state: Mutex<State<T>>,
    moved: Condvar,
    /// How many may wait.
    room: usize,
}

struct State<T> {
    next: u64,
    waiting: BTreeMap<u64, T>,
    /// Somebody is taking them.
    taken: bool,
    closed: bool,
}

impl<T> Line<T> {
    /// A line that begins with number 0.
    pub(super) fn new(room: usize) -> Self {
        let state = State { next: 0, waiting: BTreeMap::new(), taken: false, closed: false };
        Self { state: Mutex::new(state), moved: Condvar::new(), room }
    }

    /// Hands in what has a number. If nobody takes from the line, `take` gets all that is next until
    /// something is missing. After that, or if somebody else takes, this waits while there is no room. Every
    /// number must be handed in, or the line closed.
    pub(super) fn enter<E>(
        &self,
        number: u64,
        item: T,
        mut take: impl FnMut(T) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut state = self.state.lock();
        state.waiting.insert(number, item);
        let mut result = Ok(());
        if state.taken {
            self.wait_for_room(state);
            return result;
        }
        state.taken = true;
        while !state.closed && result.is_ok() {
            let next = state.next;
            let Some(item) = state.waiting.remove(&next) else { break };
            drop(state);
            result = take(item);
            state = self.state.lock();
            state.next += 1;
            self.moved.notify_one();
        }
        state.taken = false;
        state.closed |= result.is_err();
        self.moved.notify_all();
        self.wait_for_room(state);
        result
    }

    /// What is missing is in the hands of somebody who waits for nothing here.
    fn wait_for_room(&self, mut state: MutexGuard<'_, State<T>>) {
        while state.waiting.len() > self.room && !state.closed {
            self.moved.wait(&mut state);
        }
    }

    /// Nothing more is taken.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn what_comes_in_any_order_is_taken_in_order() {
        const COUNT: u64 = 2000;
        let line = Line::new(3);
        let (given, taken) = (AtomicU64::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| {
                    loop {
                        let number = given.fetch_add(1, Ordering::Relaxed);
                        if number >= COUNT {
                            return;
                        }
                        if number % 7 == 0 {
                            std::thread::yield_now();
                        }
                        let take = |number| {
                            taken.lock().push(number);
                            Ok::<(), ()>(())
                        };
                        line.enter(number, number, take).unwrap();
                    }
                });
            }
        });
        assert!(taken.into_inner().into_iter().eq(0..COUNT));
    }

    #[test]
    fn who_is_late_is_waited_for() {
        const WORKERS: usize = 4;
        const COUNT: u64 = 500;
        let line = Line::new(3);
        let (given, most) = (AtomicU64::new(0), Mutex::new(0));
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    loop {
                        let number = given.fetch_add(1, Ordering::Relaxed);
                        if number >= COUNT {
                            return;
                        }
                        if number == 0 {
                            std::thread::sleep(std::time::Duration::from_millis(100));
                        }
                        line.enter(number, number, |_| Ok::<(), ()>(())).unwrap();
                        let waiting = line.state.lock().waiting.len();
                        let mut most = most.lock();
                        *most = waiting.max(*most);
                    }
                });
            }
        });
        assert!(*most.lock() <= line.room + WORKERS);
    }

    #[test]
    fn a_failure_ends_it_for_all() {
        let line = Line::new(1);
        let take = |number| if number == 1 { Err(number) } else { Ok(()) };
        assert_eq!(line.enter(1, 1, take), Ok(()));
        assert_eq!(line.enter(0, 0, take), Err(1));
        // Nobody is left to make room, and none is needed.
        assert_eq!((line.enter(3, 3, take), line.enter(2, 2, take)), (Ok(()), Ok(())));
        line.close();
    }
}
