//! What a back end has done: `query-blockstats`.

use std::time::Instant;

use parking_lot::Mutex;

use super::Request;
use crate::Result;

/// Kinds of requests, each counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Read,
    Write,
    Flush,
    Unmap,
    /// To zones of disks that have them; none has so far.
    Append,
}

/// The figures of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Bytes moved.
    pub bytes: u64,
    /// Requests done.
    pub operations: u64,
    /// Nanoseconds spent on them.
    pub nanoseconds: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that could not be.
    pub invalid: u64,
    /// Requests that were merged into others.
    pub merged: u64,
}

#[derive(Default)]
struct Inner {
    accounts: [Account; 5],
    last: Option<Instant>,
    highest: u64,
}

/// All figures of a back end.
#[derive(Default)]
pub struct Stats(Mutex<Inner>);

/// A request under way.
pub(super) struct Ticket {
    kind: Kind,
    bytes: u64,
    end: u64,
    since: Instant,
}

impl Stats {
    /// The figures of a kind.
    pub fn of(&self, kind: Kind) -> Account {
        self.0.lock().accounts[kind as usize]
    }

    /// Nanoseconds since the last request was done.
    pub fn idle_nanoseconds(&self) -> Option<u64> {
        self.0.lock().last.map(|last| last.elapsed().as_nanos() as u64)
    }

    /// The first byte after the last that was written.
    pub fn highest_written(&self) -> u64 {
        self.0.lock().highest
    }

    /// The guest asked for what can not be.
    pub fn invalid(&self, kind: Kind) {
        self.0.lock().accounts[kind as usize].invalid += 1;
    }

    pub(super) fn begin(&self, request: &Request) -> Ticket {
        let (kind, bytes, end) = match request {
            Request::Read { into, .. } => (Kind::Read, into.len() as u64, 0),
            Request::Write { at, from, .. } => {
                (Kind::Write, from.len() as u64, at.saturating_add(from.len() as u64))
            }
            Request::Flush => (Kind::Flush, 0, 0),
            Request::Discard { len, .. } => (Kind::Unmap, *len, 0),
            Request::Zeroes { at, len, .. } => (Kind::Write, *len, at.saturating_add(*len)),
        };
        Ticket { kind, bytes, end, since: Instant::now() }
    }

    pub(super) fn end(&self, ticket: Ticket, result: &Result<()>) {
        let now = Instant::now();
        let mut inner = self.0.lock();
        let account = &mut inner.accounts[ticket.kind as usize];
        account.nanoseconds += (now - ticket.since).as_nanos() as u64;
        if result.is_ok() {
            account.bytes += ticket.bytes;
            account.operations += 1;
            inner.highest = inner.highest.max(ticket.end);
        } else {
            account.failed += 1;
        }
        inner.last = Some(now);
    }
}
