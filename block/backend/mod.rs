//! Back ends: the ends of the graph that devices hold.
//!
//! A device submits requests and is called back when they are done. Submitting never waits, so it may
//! be done with the device's lock held; `done` is called exactly once, never from inside `submit`, with
//! no lock of the block layer held, so it may take the device's lock. What a request that failed leads
//! to is the operator's choice (`werror`, `rerror`): see [`Backend::on_error`].

mod helper;
mod info;
mod policy;
mod removable;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};

pub use helper::Helper;
pub use info::{DriveInfo, Interface, Media};
pub use policy::{ErrorAction, ErrorPolicy, Event, EventSink, IoStatus, OnError, Operation};
pub use removable::Drive;
pub use stats::{Account, Kind as RequestKind, Stats};

use crate::driver::ZeroFlags;
use crate::engine;
use crate::node::{Child, Claim, Node, Permissions, Role};
use crate::throttle;
use crate::vector::Vector;
use crate::{Error, Result};

/// What a device asks of its disk.
#[derive(Clone, Debug)]
pub enum Request {
    /// Fill the memory. Guest memory is reported as written before `done` is called.
    Read {
        /// The first byte.
        at: u64,
        /// Where to.
        into: Vector,
    },
    /// Store the memory.
    Write {
        /// The first byte.
        at: u64,
        /// What.
        from: Vector,
        /// Done means that it survives a power cut.
        fua: bool,
    },
    /// What was done before survives a power cut.
    Flush,
    /// The range is no longer needed.
    Discard {
        /// The first byte.
        at: u64,
        /// How many.
        len: u64,
    },
    /// The range shall read as zeroes.
    Zeroes {
        /// The first byte.
        at: u64,
        /// How many.
        len: u64,
        /// Its storage may be given back.
        unmap: bool,
    },
}

impl Request {
    /// Whether it writes, and how many bytes, as far as limits are concerned.
    fn weight(&self) -> Option<(bool, u64)> {
        match self {
            Self::Read { into, .. } => Some((false, into.len() as u64)),
            Self::Write { from, .. } => Some((true, from.len() as u64)),
            Self::Zeroes { len, .. } | Self::Discard { len, .. } => Some((true, *len)),
            Self::Flush => None,
        }
    }
}

/// Called with the outcome of a request.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// A request again, after the machine stopped because of it.
pub type Retry = Box<dyn FnOnce() + Send>;

/// Who uses a back end, and how.
#[derive(Clone, Debug, Default)]
pub struct Use {
    /// The device's id, if the operator gave it one.
    pub id: Option<String>,
    /// The device's path in the object tree.
    pub path: String,
    /// It can not do without a medium.
    pub needs_medium: bool,
    /// It writes; one that only may write takes a read-only medium, too.
    pub must_write: bool,
    /// It may write.
    pub writes: bool,
    /// It takes a medium of any length, at any time.
    pub resizes: bool,
    /// Others may write, too (`share-rw`).
    pub shares_writes: bool,
}

impl Use {
    /// As monitors name it: by the device's id, unless what holds the disk is only a part of it.
    pub fn name(&self) -> &str {
        let whole = |id: &&String| self.path.rsplit('/').next() == Some(id.as_str());
        self.id.as_ref().filter(whole).unwrap_or(&self.path)
    }
}

struct User {
    what: Use,
    drive: Option<Weak<dyn Drive>>,
}

#[derive(Default)]
struct State {
    medium: Option<Arc<Medium>>,
    user: Option<User>,
    in_flight: usize,
    /// How many hold requests back.
    held: usize,
    waiting: VecDeque<(Request, Done)>,
    throttle: Option<Arc<throttle::Group>>,
    /// Requests that wait for their turn.
    throttled: BTreeMap<u64, (Request, Done)>,
    next_throttled: u64,
    io_status: IoStatus,
    policy: ErrorPolicy,
}

/// A medium in the drive. The claim is taken when a device uses it.
struct Medium {
    node: Arc<Node>,
    claim: Mutex<Option<Child>>,
}

/// A device's end of the graph.
pub struct Backend {
    name: String,
    forgotten: AtomicBool,
    info: DriveInfo,
    helper: Arc<Helper>,
    events: Arc<dyn EventSink>,
    write_cache: AtomicBool,
    state: Mutex<State>,
    idle: Condvar,
    parked: Mutex<Vec<Retry>>,
    stats: Stats,
}

impl Backend {
    /// A back end with a name, or with an empty one if only its node has a name.
    pub fn new(
        name: &str,
        info: DriveInfo,
        helper: &Arc<Helper>,
        events: &Arc<dyn EventSink>,
    ) -> Arc<Self> {
        let write_cache = AtomicBool::new(info.write_cache);
        let state = State { policy: info.policy, ..State::default() };
        Arc::new(Self {
            name: name.to_owned(),
            forgotten: AtomicBool::new(false),
            info,
            helper: helper.clone(),
            events: events.clone(),
            write_cache,
            state: Mutex::new(state),
            idle: Condvar::new(),
            parked: Mutex::default(),
            stats: Stats::default(),
        })
    }

    /// `-drive`'s id; empty if the device names a node, or after `drive_del`.
    pub fn name(&self) -> &str {
        if self.forgotten.load(Ordering::Relaxed) { "" } else { &self.name }
    }

    /// The operator does not know it by its name any more.
    pub fn forget(&self) {
        self.forgotten.store(true, Ordering::Relaxed);
    }

    /// What `-drive` told of it.
    pub fn info(&self) -> &DriveInfo {
        &self.info
    }

    /// What it has done so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Its node, if there is a medium.
    pub fn node(&self) -> Option<Arc<Node>> {
        self.state.lock().medium.as_ref().map(|medium| medium.node.clone())
    }

    /// Whether there is a medium.
    pub fn present(&self) -> bool {
        self.state.lock().medium.is_some()
    }

    /// The length in bytes.
    pub fn len(&self) -> Result<u64> {
        self.node().ok_or_else(no_medium)?.len()
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Whether the medium, or else the drive, can not be written.
    pub fn is_read_only(&self) -> bool {
        self.node().map_or(self.info.read_only, |node| node.is_read_only())
    }

    /// Whether writes are done before they survive a power cut.
    pub fn write_cache(&self) -> bool {
        self.write_cache.load(Ordering::Acquire)
    }

    /// Switches the write cache.
    pub fn set_write_cache(&self, on: bool) {
        self.write_cache.store(on, Ordering::Release);
    }

    /// A device begins to use it; `drive` hears what happens to the medium.
    pub fn plug(&self, what: Use, drive: Option<Weak<dyn Drive>>) -> Result<()> {
        let mut state = self.state.lock();
        if state.user.is_some() {
            return Err(Error::new(libc::EBUSY, "the drive is in use"));
        }
        match &state.medium {
            Some(medium) => medium.claim_for(&what, &self.holder(&what))?,
            None if what.needs_medium => {
                return Err(Error::invalid("Device needs media, but drive is empty"));
            }
            None => {}
        }
        state.user = Some(User { what, drive });
        Ok(())
    }

    /// As messages about permissions name it.
    fn holder(&self, what: &Use) -> String {
        let name = if self.name().is_empty() { &what.path } else { self.name() };
        format!("block device '{name}'")
    }

    /// How the device uses it.
    pub fn device(&self) -> Option<Use> {
        self.state.lock().user.as_ref().map(|user| user.what.clone())
    }

    /// The device has gone. Nothing may be in flight any more.
    pub fn unplug(&self) {
        self.parked.lock().clear();
        let mut state = self.state.lock();
        state.user = None;
        if let Some(medium) = &state.medium {
            medium.claim.lock().take();
        }
    }

    /// Puts a medium in, or takes it out. The caller holds requests back ([`Self::hold`]). If the new one
    /// is refused, the old one stays.
    pub fn set_node(&self, node: Option<Arc<Node>>) -> Result<()> {
        let mut state = self.state.lock();
        let medium = node.map(|node| Arc::new(Medium { node, claim: Mutex::default() }));
        // The old claim goes first: the new medium may be an overlay over the old one.
        if let Some(old) = &state.medium {
            old.claim.lock().take();
        }
        if let Some(user) = &state.user {
            let holder = self.holder(&user.what);
            if let Some(medium) = &medium
                && let Err(error) = medium.claim_for(&user.what, &holder)
            {
                if let Some(old) = &state.medium {
                    // It was granted before.
                    old.claim_for(&user.what, &holder)?;
                }
                return Err(error);
            }
        }
        state.medium = medium;
        Ok(())
    }

    /// Begins a request and returns. `done` is called exactly once, never from in here.
    pub fn submit(self: &Arc<Self>, request: Request, done: Done) {
        let mut state = self.state.lock();
        if state.held > 0 {
            state.waiting.push_back((request, done));
            return;
        }
        if let Some(group) = &state.throttle
            && let Some((write, bytes)) = request.weight()
        {
            let now = Instant::now();
            let wait = group.reserve(write, bytes, now);
            if !wait.is_zero() {
                let number = state.next_throttled;
                state.next_throttled += 1;
                state.throttled.insert(number, (request, done));
                drop(state);
                let me = self.clone();
                self.helper.at(now + wait, Box::new(move || me.release(number)));
                return;
            }
        }
        self.start(state, request, done);
    }

    /// Begins a request whose turn has come, unless a drain has done so already.
    fn release(self: &Arc<Self>, number: u64) {
        let mut state = self.state.lock();
        if let Some((request, done)) = state.throttled.remove(&number) {
            self.start(state, request, done);
        }
    }

    fn start(self: &Arc<Self>, mut state: MutexGuard<'_, State>, request: Request, done: Done) {
        state.in_flight += 1;
        let medium = state.medium.clone();
        drop(state);
        let me = self.clone();
        let account = self.stats.begin(&request);
        let write_cache = self.write_cache();
        let helper = self.helper.clone();
        self.helper.submitting(move || {
            let work = async move {
                let node = &medium.as_ref().ok_or_else(no_medium)?.node;
                perform(node, request, write_cache).await
            };
            engine::spawn(work, move |result| {
                helper.finish(Box::new(move || {
                    me.stats.end(account, &result);
                    done(result);
                    me.ended();
                }));
            });
        });
    }

    fn ended(&self) {
        let mut state = self.state.lock();
        state.in_flight -= 1;
        if state.in_flight == 0 {
            self.idle.notify_all();
        }
    }

    /// Waits until nothing is in flight; limits are lifted for it. Not under a lock that `done` takes.
    pub fn drain(self: &Arc<Self>) {
        loop {
            let mut state = self.state.lock();
            let Some((_, (request, done))) = state.throttled.pop_first() else { break };
            self.start(state, request, done);
        }
        let mut state = self.state.lock();
        while state.in_flight > 0 {
            self.idle.wait(&mut state);
        }
    }

    /// Holds new requests back and waits for those in flight, until the result is dropped.
    pub fn hold(self: &Arc<Self>) -> Hold {
        self.state.lock().held += 1;
        self.drain();
        Hold(self.clone())
    }

    /// The limits, and the group that shares them.
    pub fn throttle(&self) -> Option<Arc<throttle::Group>> {
        self.state.lock().throttle.clone()
    }

    /// Joins a group that shares limits, or leaves it.
    pub fn set_throttle(&self, group: Option<Arc<throttle::Group>>) {
        self.state.lock().throttle = group;
    }

    /// How many requests are in flight.
    pub fn in_flight(&self) -> usize {
        self.state.lock().in_flight
    }
}

/// Holds requests of a back end back while it lives.
pub struct Hold(Arc<Backend>);

impl Drop for Hold {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.0.state.lock();
            state.held -= 1;
            if state.held > 0 {
                return;
            }
            std::mem::take(&mut state.waiting)
        };
        for (request, done) in waiting {
            self.0.submit(request, done);
        }
    }
}

impl Medium {
    fn claim_for(&self, what: &Use, holder: &str) -> Result<()> {
        let mut needs = Permissions::CONSISTENT_READ;
        let mut shares = Permissions::CONSISTENT_READ.with(Permissions::WRITE_UNCHANGED);
        if what.must_write || what.writes && !self.node.is_read_only() {
            needs = needs.with(Permissions::WRITE);
        }
        if what.shares_writes {
            shares = shares.with(Permissions::WRITE);
        }
        if what.resizes {
            shares = shares.with(Permissions::RESIZE);
        }
        let claim = self.node.attach(holder, Role::User, Claim { needs, shares })?;
        *self.claim.lock() = Some(claim);
        Ok(())
    }
}

fn no_medium() -> Error {
    Error::from_errno(libc::ENOMEDIUM)
}

async fn perform(node: &Node, request: Request, write_cache: bool) -> Result<()> {
    match request {
        Request::Read { at, into } => {
            let result = node.read(at, into.clone()).await;
            into.mark_written();
            result
        }
        Request::Write { at, from, fua } => {
            inside(node, at, from.len() as u64)?;
            node.write(at, from).await?;
            make_last(node, fua || !write_cache).await
        }
        Request::Flush => node.flush().await,
        Request::Discard { at, len } => node.discard(at, len).await,
        Request::Zeroes { at, len, unmap } => {
            inside(node, at, len)?;
            node.write_zeroes(at, len, ZeroFlags { unmap }).await?;
            make_last(node, !write_cache).await
        }
    }
}

async fn make_last(node: &Node, needed: bool) -> Result<()> {
    if needed { node.flush().await } else { Ok(()) }
}

/// A device does not make its disk longer by writing behind the end, as a format does with its file.
fn inside(node: &Node, at: u64, len: u64) -> Result<()> {
    match at.checked_add(len) {
        Some(end) if end <= node.len()? => Ok(()),
        _ => Err(Error::from_errno(libc::EIO)),
    }
}
