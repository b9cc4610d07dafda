//! Many descriptors with one handler: sockets of a network address translator, of which there are thousands.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::epoll::{EpollEvent, EpollFlags};
use parking_lot::Mutex;

use super::{LoopHandle, OWN};

/// Where a group's number is in the data of an event. Watches have numbers below, which they never leave.
const GROUP_SHIFT: u32 = 48;
const FIRST_GROUP: u64 = 1;
const LAST_GROUP: u64 = (OWN >> GROUP_SHIFT) - 1;

type Handler = Arc<dyn Fn(u64, EpollFlags) + Send + Sync>;

/// The handlers of groups, by number.
#[derive(Default)]
pub(super) struct Groups(Mutex<HashMap<u64, Handler>>);

impl Groups {
    /// Calls the handler of a group; whether the event is one of a group.
    pub(super) fn dispatch(&self, event: &EpollEvent) -> bool {
        let group = event.data() >> GROUP_SHIFT;
        if group < FIRST_GROUP {
            return false;
        }
        let handler = self.0.lock().get(&group).cloned();
        if let Some(handler) = handler {
            handler(event.data() & ((1 << GROUP_SHIFT) - 1), event.events());
        }
        true
    }
}

/// Descriptors that a loop looks after together. Their handler is told of changes only: whoever leaves something unread
/// does not hear of it again. With this the handler goes; descriptors go as they are closed.
pub struct Edges {
    handle: LoopHandle,
    group: u64,
}

impl LoopHandle {
    /// Has `handler` called on the loop's thread with the key of a descriptor and what it has become ready for.
    pub fn edges(
        &self,
        handler: impl Fn(u64, EpollFlags) + Send + Sync + 'static,
    ) -> io::Result<Edges> {
        let mut groups = self.0.groups.0.lock();
        let free = (FIRST_GROUP..=LAST_GROUP).find(|number| !groups.contains_key(number));
        let group = free.ok_or_else(|| io::Error::from(io::ErrorKind::QuotaExceeded))?;
        groups.insert(group, Arc::new(handler));
        Ok(Edges { handle: self.clone(), group })
    }
}

impl Edges {
    /// As many bits of a key count.
    pub const KEY_BITS: u32 = GROUP_SHIFT;

    /// Watches a descriptor for `interest` until it is closed. What it is ready for now is told at once.
    pub fn add(&self, fd: impl AsFd, key: u64, interest: EpollFlags) -> io::Result<()> {
        let data = self.group << GROUP_SHIFT | key;
        Ok(self.handle.0.epoll.add(fd, EpollEvent::new(interest | EpollFlags::EPOLLET, data))?)
    }
}

impl Drop for Edges {
    fn drop(&mut self) {
        let removed = self.handle.0.groups.0.lock().remove(&self.group);
        drop(removed);
    }
}
