//! Requests, failures and media, without a device.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use base::memory::{Client, PAGE_SIZE, RamBlock, RamPiece};

use super::*;
use crate::driver::{Driver, Extent, Io, Preallocation};
use crate::engine::{HostIo, HostOp, Inline, Pool};
use crate::file::{Access, HostFile};
use crate::graph::Graph;
use crate::null::Null;

const PATIENCE: Duration = Duration::from_secs(20);

fn null(len: u64) -> Arc<Node> {
    Node::new(
        Some("n".into()),
        "null-co://",
        false,
        Box::new(Null::new("null-co", len, true, None)),
        vec![],
    )
}

/// A back end with an event log.
fn backend(node: Arc<Node>, policy: ErrorPolicy) -> (Arc<Graph>, Arc<Backend>, Receiver<Event>) {
    let graph = Graph::new(Arc::new(Inline)).unwrap();
    let (send, events) = channel();
    graph.listen(move |event| drop(send.send(event)));
    let backend = graph.add_backend("d", DriveInfo { policy, ..DriveInfo::default() }).unwrap();
    backend.set_node(Some(node)).unwrap();
    (graph, backend, events)
}

fn wait(backend: &Arc<Backend>, request: Request) -> Result<()> {
    let (send, done) = channel();
    backend.submit(request, Box::new(move |result| send.send(result).unwrap()));
    done.recv_timeout(PATIENCE).unwrap()
}

/// A device holds its lock while it submits, and takes it in the callback, even if the request is done
/// before `submit` returns.
#[test]
fn a_callback_may_take_the_lock_that_submit_was_called_under() {
    let (_graph, backend, _) = backend(null(1 << 20), ErrorPolicy::default());
    let device = Arc::new(Mutex::new(0));
    let (send, done) = channel();
    let mut st = device.lock();
    for _ in 0..10 {
        let (device, send) = (device.clone(), send.clone());
        let request = Request::Read { at: 0, into: Vector::zeroed(512) };
        backend.submit(
            request,
            Box::new(move |result| {
                *device.lock() += 1;
                send.send(result).unwrap();
            }),
        );
    }
    *st += 100;
    drop(st);
    (0..10).for_each(|_| done.recv_timeout(PATIENCE).unwrap().unwrap());
    backend.drain();
    assert_eq!(*device.lock(), 110);
    let account = backend.stats().of(RequestKind::Read);
    assert_eq!((account.operations, account.bytes), (10, 5120));
}

#[test]
fn guest_memory_is_filled_in_place_and_marked() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, &[7; 8192]).unwrap();
    let path = file.path().to_str().unwrap();
    let io: Arc<dyn HostIo> = Arc::new(Pool::new());
    let driver = HostFile::open(path, Access::default(), io).unwrap();
    let node = Node::new(None, path, false, Box::new(driver), vec![]);
    let (_graph, backend, _) = backend(node, ErrorPolicy::default());
    let ram = Arc::new(RamBlock::anonymous("ram", 4 * PAGE_SIZE).unwrap());
    ram.tracking().take_dirty(Client::Migration, 0, 4 * PAGE_SIZE, |_| ());
    let piece = |offset, len| RamPiece::new(&ram, offset, len).unwrap();
    let into = Vector::guest(vec![piece(100, 412), piece(2 * PAGE_SIZE, 100)]);
    wait(&backend, Request::Read { at: 0, into }).unwrap();
    let mut bytes = [0; 514];
    ram.read(99, &mut bytes);
    assert_eq!((bytes[0], bytes[1], bytes[412], bytes[413]), (0, 7, 7, 0));
    let mut dirty = Vec::new();
    ram.tracking().take_dirty(Client::Migration, 0, 4 * PAGE_SIZE, |at| dirty.push(at));
    assert_eq!(dirty, [0, 2 * PAGE_SIZE]);
}

#[test]
fn what_is_beyond_the_end_fails() {
    let (_graph, backend, _) = backend(null(1024), ErrorPolicy::default());
    let write = |at| Request::Write { at, from: Vector::zeroed(512), fua: true };
    wait(&backend, write(512)).unwrap();
    assert_eq!(wait(&backend, write(1024)).unwrap_err().errno(), libc::EIO);
    assert_eq!(wait(&backend, write(u64::MAX)).unwrap_err().errno(), libc::EIO);
    assert_eq!(backend.stats().of(RequestKind::Write).failed, 2);
    assert_eq!(backend.stats().highest_written(), 1024);
    backend.set_node(None).unwrap();
    assert_eq!(wait(&backend, write(0)).unwrap_err().errno(), libc::ENOMEDIUM);
}

#[test]
fn failures_lead_to_what_the_operator_chose() {
    use {ErrorAction as A, Operation as O};
    let error = Error::from_errno;
    for (policy, operation, errno, action) in [
        (OnError::Report, O::Write, libc::ENOSPC, A::Report),
        (OnError::NoSpace, O::Write, libc::ENOSPC, A::Stop),
        (OnError::NoSpace, O::Write, libc::EIO, A::Report),
        (OnError::Stop, O::Read, libc::EIO, A::Stop),
        (OnError::Ignore, O::Read, libc::EIO, A::Ignore),
    ] {
        let policy = ErrorPolicy { read: policy, write: policy };
        let (graph, backend, events) = backend(null(1024), policy);
        assert_eq!(backend.on_error(operation, &error(errno)), action);
        let event = events.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(event, Event::IoError { action: told, .. } if told == action));
        assert_eq!(backend.io_status() == IoStatus::Ok, action != A::Stop);
        if action == A::Stop {
            let (send, tried) = channel();
            backend.park(Box::new(move || send.send(()).unwrap()));
            assert_eq!(events.recv_timeout(PATIENCE).unwrap(), Event::Stop);
            assert!(tried.try_recv().is_err());
            graph.resume();
            tried.recv_timeout(PATIENCE).unwrap();
            assert_eq!(backend.io_status(), IoStatus::Ok);
        }
    }
}

#[test]
fn held_requests_wait_and_then_go_to_the_new_medium() {
    let (_graph, backend, _) = backend(null(1024), ErrorPolicy::default());
    let hold = backend.hold();
    let (send, done) = channel();
    let request = Request::Read { at: 1 << 20, into: Vector::zeroed(512) };
    backend.submit(request, Box::new(move |result| send.send(result).unwrap()));
    assert!(done.try_recv().is_err());
    backend.set_node(Some(null(2 << 20))).unwrap();
    drop(hold);
    done.recv_timeout(PATIENCE).unwrap().unwrap();
}

/// A disk whose requests are done by other threads.
struct Slow(Pool, Arc<std::fs::File>);

impl Driver for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }
    fn len(&self) -> Result<u64> {
        Ok(1 << 20)
    }
    fn read(&self, at: u64, into: Vector) -> Io<'_, ()> {
        self.0.submit(self.1.clone(), HostOp::Read { at, into, cached: true })
    }
    fn write(&self, at: u64, from: Vector) -> Io<'_, ()> {
        self.0.submit(self.1.clone(), HostOp::Write { at, from, in_turn: true })
    }
    fn write_zeroes(&self, _: u64, _: u64, _: ZeroFlags) -> Io<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn discard(&self, _: u64, _: u64) -> Io<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn flush(&self) -> Io<'_, ()> {
        self.0.submit(self.1.clone(), HostOp::Sync)
    }
    fn truncate(&self, _: u64, _: Preallocation) -> Io<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn status(&self, _: u64, len: u64) -> Io<'_, Extent> {
        Box::pin(std::future::ready(Ok(Extent { len, ..Extent::default() })))
    }
}

#[test]
fn drain_waits_for_all_callbacks() {
    let slow = Slow(Pool::new(), Arc::new(tempfile::tempfile().unwrap()));
    let node = Node::new(None, "slow", false, Box::new(slow), vec![]);
    let (_graph, backend, _) = backend(node, ErrorPolicy::default());
    let count = Arc::new(Mutex::new(0));
    for i in 0..64 {
        let count = count.clone();
        let request = Request::Write { at: i * 4096, from: Vector::zeroed(4096), fua: i % 2 == 0 };
        backend.submit(request, Box::new(move |_| *count.lock() += 1));
    }
    backend.drain();
    assert_eq!(*count.lock(), 64);
    assert_eq!(backend.in_flight(), 0);
}
