use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::signals::Signal;
use super::*;

fn new_loop() -> (EventLoop, LoopHandle) {
    let event_loop = EventLoop::new().unwrap();
    let handle = event_loop.handle();
    (event_loop, handle)
}

#[test]
fn who_waits_is_asleep() {
    let (mut event_loop, handle) = new_loop();
    event_loop.run_once(&(), false).unwrap();
    assert!(!handle.is_asleep());
    std::thread::scope(|scope| {
        scope.spawn(|| event_loop.run(&()).unwrap());
        while !handle.is_asleep() {
            std::thread::yield_now();
        }
        handle.quit();
    });
    assert!(!handle.is_asleep());
}

#[test]
fn jobs_run_in_order_and_on_the_loop_thread() {
    let (mut event_loop, handle) = new_loop();
    let order = Arc::new(Mutex::new(Vec::new()));
    let inside = handle.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..100 {
                let (order, inside) = (order.clone(), inside.clone());
                handle.schedule(move || {
                    assert!(inside.is_current());
                    order.lock().push(n);
                });
            }
            let quit = handle.clone();
            handle.schedule(move || quit.quit());
        });
        event_loop.run(&()).unwrap();
    });
    assert!(!handle.is_current());
    assert_eq!(*order.lock(), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_job_scheduled_by_a_job_runs_in_the_next_round() {
    let (mut event_loop, handle) = new_loop();
    let count = Arc::new(AtomicUsize::new(0));
    let (h, c) = (handle.clone(), count.clone());
    handle.schedule(move || {
        h.schedule(move || {
            c.fetch_add(1, Ordering::Relaxed);
        });
    });
    event_loop.run_once(&(), true).unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 0);
    event_loop.run_once(&(), true).unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[test]
fn bottom_half_requests_coalesce_and_can_be_cancelled() {
    let (mut event_loop, handle) = new_loop();
    let count = Arc::new(AtomicUsize::new(0));
    let c = count.clone();
    let bottom_half = handle.bottom_half(move || {
        c.fetch_add(1, Ordering::Relaxed);
    });
    for _ in 0..5 {
        bottom_half.schedule();
    }
    event_loop.run_once(&(), false).unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 1);
    bottom_half.schedule();
    bottom_half.cancel();
    event_loop.run_once(&(), false).unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 1);
    bottom_half.schedule();
    event_loop.run_once(&(), false).unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 2);
}

#[test]
fn wake_ups_from_many_threads_are_never_lost() {
    let (mut event_loop, handle) = new_loop();
    let count = Arc::new(AtomicUsize::new(0));
    const THREADS: usize = 4;
    const JOBS: usize = 2_000;
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..JOBS {
                    let (count, quit) = (count.clone(), handle.clone());
                    handle.schedule(move || {
                        if count.fetch_add(1, Ordering::Relaxed) + 1 == THREADS * JOBS {
                            quit.quit();
                        }
                    });
                }
            });
        }
        event_loop.run(&()).unwrap();
    });
    assert_eq!(count.load(Ordering::Relaxed), THREADS * JOBS);
}

#[test]
fn a_reader_that_takes_one_byte_at_a_time_is_called_until_all_is_read() {
    let (mut event_loop, handle) = new_loop();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"level").unwrap();
    drop(theirs);
    let ours = Arc::new(ours);
    let (seen, quit) = (Arc::new(Mutex::new(Vec::new())), handle.clone());
    let (s, reader) = (seen.clone(), ours.clone());
    let watch = handle.watch(ours, move |ready| {
        assert!(ready.readable && !ready.writable);
        let mut byte = [0];
        match (&*reader).read(&mut byte).unwrap() {
            0 => quit.quit(),
            _ => s.lock().push(byte[0]),
        }
    });
    watch.want_read(true).unwrap();
    // The end of the stream stays readable: end the test from inside the handler only.
    event_loop.run(&()).unwrap();
    assert_eq!(*seen.lock(), b"level");
}

#[test]
fn interest_can_be_dropped_and_taken_up_again() {
    let (mut event_loop, handle) = new_loop();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let c = calls.clone();
    let watch = handle.watch(ours, move |_| {
        c.fetch_add(1, Ordering::Relaxed);
    });
    watch.want_read(true).unwrap();
    theirs.write_all(b"x").unwrap();
    event_loop.run_once(&(), true).unwrap();
    event_loop.run_once(&(), true).unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 2, "nothing was read, so it is called again");
    watch.want_read(false).unwrap();
    event_loop.run_once(&(), false).unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    watch.want_read(true).unwrap();
    event_loop.run_once(&(), true).unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    drop(watch);
    event_loop.run_once(&(), false).unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

#[test]
fn edges_are_told_once_each_and_until_the_descriptor_is_closed() {
    use nix::sys::epoll::EpollFlags;
    let (mut event_loop, handle) = new_loop();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let edges = handle.edges(move |key, flags| log.lock().push((key, flags))).unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let key = (1 << Edges::KEY_BITS) - 2;
    let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
    edges.add(&ours, key, interest).unwrap();
    let mut told = || {
        event_loop.run_once(&(), false).unwrap();
        std::mem::take(&mut *seen.lock())
    };
    assert_eq!(told(), [(key, EpollFlags::EPOLLOUT)], "it has room from the start");
    assert_eq!(told(), []);
    theirs.write_all(b"x").unwrap();
    assert_eq!(told(), [(key, interest)]);
    assert_eq!(told(), [], "though nobody has read it");
    theirs.write_all(b"y").unwrap();
    assert_eq!(told(), [(key, interest)]);
    // Another group's are told to that one.
    let others = Arc::new(AtomicUsize::new(0));
    let count = others.clone();
    let count_up = move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
    };
    let second = handle.edges(count_up).unwrap();
    let (closed, _peer) = UnixStream::pair().unwrap();
    second.add(&closed, 0, interest).unwrap();
    assert_eq!((told(), others.load(Ordering::Relaxed)), (vec![], 1));
    drop(ours);
    theirs.write_all(b"z").unwrap_err();
    assert_eq!(told(), []);
}

#[test]
fn writable_is_reported_once_the_peer_reads() {
    let (mut event_loop, handle) = new_loop();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let ours = Arc::new(ours);
    while (&*ours).write(&[0; 4096]).is_ok() {}
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let watch = handle.watch(ours, move |ready| {
        assert!(ready.writable);
        counted.fetch_add(1, Ordering::Relaxed);
    });
    watch.want_write(true).unwrap();
    event_loop.run_once(&(), false).unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    let mut buffer = [0; 65536];
    while theirs.read(&mut buffer).is_ok_and(|n| n > 0) {}
    event_loop.run_once(&(), true).unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
fn regular_files_are_always_ready() {
    let (mut event_loop, handle) = new_loop();
    let file = Arc::new(tempfile());
    (&*file).write_all(b"abc").unwrap();
    std::io::Seek::rewind(&mut &*file).unwrap();
    let (quit, reader) = (handle.clone(), file.clone());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let s = seen.clone();
    let watch = handle.watch(file, move |_| {
        let mut byte = [0];
        match (&*reader).read(&mut byte).unwrap() {
            0 => quit.quit(),
            _ => s.lock().push(byte[0]),
        }
    });
    watch.want_read(true).unwrap();
    event_loop.run(&()).unwrap();
    assert_eq!(*seen.lock(), b"abc");
    watch.want_read(false).unwrap();
    assert!(!handle.0.watches.any_always_ready());
}

fn tempfile() -> std::fs::File {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    std::fs::File::from(memfd_create("rhea-test", MFdFlags::MFD_CLOEXEC).unwrap())
}

#[test]
fn a_watch_may_be_dropped_by_its_own_handler() {
    let (mut event_loop, handle) = new_loop();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"x").unwrap();
    let slot: Arc<Mutex<Option<Watch>>> = Arc::default();
    let weak: Weak<Mutex<Option<Watch>>> = Arc::downgrade(&slot);
    let calls = Arc::new(AtomicUsize::new(0));
    let c = calls.clone();
    let watch = handle.watch(ours, move |_| {
        c.fetch_add(1, Ordering::Relaxed);
        let dropped = weak.upgrade().and_then(|slot| slot.lock().take());
        drop(dropped);
    });
    watch.want_read(true).unwrap();
    *slot.lock() = Some(watch);
    event_loop.run_once(&(), true).unwrap();
    event_loop.run_once(&(), false).unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert!(handle.0.watches.is_empty());
}

/// Timers at given instants, in the manner of the machine's clocks.
struct TestTimers {
    deadline: Mutex<Option<Instant>>,
    fired: mpsc::Sender<()>,
    handle: LoopHandle,
}

impl Timers for TestTimers {
    fn next_deadline(&self) -> Option<Duration> {
        self.deadline.lock().map(|at| at.saturating_duration_since(Instant::now()))
    }

    fn run_expired(&self) {
        let mut deadline = self.deadline.lock();
        if deadline.is_some_and(|at| at <= Instant::now()) {
            *deadline = None;
            drop(deadline);
            self.fired.send(()).unwrap();
            self.handle.quit();
        }
    }
}

#[test]
fn timers_are_served_and_an_earlier_one_from_another_thread_wakes_the_loop() {
    let (mut event_loop, handle) = new_loop();
    let (fired, results) = mpsc::channel();
    let far = Instant::now() + Duration::from_secs(3600);
    let timers = TestTimers { deadline: Mutex::new(Some(far)), fired, handle: handle.clone() };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            *timers.deadline.lock() = Some(Instant::now() + Duration::from_micros(300));
            handle.wake();
        });
        event_loop.run(&timers).unwrap();
    });
    assert!(results.try_recv().is_ok());
}

#[test]
fn delays_run_in_the_order_of_their_time_unless_dropped() {
    let (mut event_loop, handle) = new_loop();
    let order = Arc::new(Mutex::new(Vec::new()));
    let push = |n| {
        let order = order.clone();
        move || order.lock().push(n)
    };
    let quit = handle.clone();
    let _last = handle.after(Duration::from_micros(900), move || quit.quit());
    let _second = handle.after(Duration::from_micros(600), push(2));
    let _first = handle.after(Duration::from_micros(300), push(1));
    drop(handle.after(Duration::from_micros(100), push(0)));
    event_loop.run(&()).unwrap();
    assert_eq!(*order.lock(), [1, 2]);
}

#[test]
fn signals_arrive_as_events() {
    let (mut event_loop, handle) = new_loop();
    let (sender, results) = mpsc::channel();
    let quit = handle.clone();
    let _watch = handle
        .on_signals(&[Signal::SIGUSR2], move |info| {
            sender.send(info).unwrap();
            quit.quit();
        })
        .unwrap();
    // To this thread, where it is blocked: the other test threads do not block it.
    nix::sys::signal::raise(Signal::SIGUSR2).unwrap();
    event_loop.run(&()).unwrap();
    let info = results.recv().unwrap();
    assert_eq!(info, SignalInfo { signal: Signal::SIGUSR2, pid: std::process::id() });
}
