//! Watching descriptors.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use parking_lot::Mutex;

use super::LoopHandle;

/// What a descriptor is ready for; only what is wanted is ever reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// A read will not block; it may report end of file or an error.
    pub readable: bool,
    /// A write will not block; it may report an error.
    pub writable: bool,
}

#[derive(Default)]
pub(super) struct Watches {
    sources: Mutex<HashMap<u64, Arc<Source>>>,
    next_token: AtomicU64,
    /// Wanted sources that the kernel cannot poll (regular files): those are always ready.
    always_ready: Mutex<BTreeSet<u64>>,
}

struct Source {
    fd: Box<dyn AsFd + Send + Sync>,
    handler: Box<dyn Fn(Ready) + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    read: bool,
    write: bool,
    registered: bool,
    unpollable: bool,
    closed: bool,
}

impl State {
    /// What is to be reported, as levels.
    fn interest(&self) -> EpollFlags {
        let mut interest = EpollFlags::empty();
        interest.set(EpollFlags::EPOLLIN, self.read && !self.closed);
        interest.set(EpollFlags::EPOLLOUT, self.write && !self.closed);
        interest
    }
}

impl Watches {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.sources.lock().is_empty()
    }

    pub(super) fn any_always_ready(&self) -> bool {
        !self.always_ready.lock().is_empty()
    }

    pub(super) fn dispatch(&self, event: &EpollEvent) {
        let flags = event.events();
        let failed = flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        let ready = Ready {
            readable: flags.contains(EpollFlags::EPOLLIN) || failed,
            writable: flags.contains(EpollFlags::EPOLLOUT) || failed,
        };
        self.call(event.data(), ready);
    }

    pub(super) fn dispatch_always_ready(&self) {
        let tokens: Vec<u64> = self.always_ready.lock().iter().copied().collect();
        for token in tokens {
            self.call(token, Ready { readable: true, writable: true });
        }
    }

    fn call(&self, token: u64, ready: Ready) {
        let Some(source) = self.sources.lock().get(&token).cloned() else { return };
        let ready = {
            let state = source.state.lock();
            Ready {
                readable: ready.readable && state.read,
                writable: ready.writable && state.write,
            }
        };
        if ready.readable || ready.writable {
            (source.handler)(ready);
        }
    }

    /// Tells the kernel what the source wants now.
    fn apply(
        &self,
        epoll: &Epoll,
        source: &Source,
        token: u64,
        state: &mut State,
    ) -> io::Result<()> {
        let interest = state.interest();
        let wanted = !interest.is_empty();
        if wanted && !state.unpollable {
            let mut event = EpollEvent::new(interest, token);
            let result = match state.registered {
                true => epoll.modify(&source.fd, &mut event),
                false => epoll.add(&source.fd, event),
            };
            match result {
                Ok(()) => state.registered = true,
                Err(Errno::EPERM) => state.unpollable = true,
                Err(error) => return Err(error.into()),
            }
        } else if state.registered {
            state.registered = false;
            epoll.delete(&source.fd)?;
        }
        if state.unpollable {
            let mut always_ready = self.always_ready.lock();
            match wanted {
                true => always_ready.insert(token),
                false => always_ready.remove(&token),
            };
        }
        Ok(())
    }
}

/// A descriptor that a loop looks after; dropping it ends that. A handler that is running on the
/// loop's thread at that moment finishes.
pub struct Watch {
    handle: LoopHandle,
    source: Arc<Source>,
    token: u64,
}

impl LoopHandle {
    /// Has `handler` called while `fd` is ready for what is wanted: nothing at first, see
    /// [`Watch::want_read`] and [`Watch::want_write`]. The descriptor stays open as long as the
    /// watch lives. One descriptor can have one watch in a loop.
    pub fn watch(
        &self,
        fd: impl AsFd + Send + Sync + 'static,
        handler: impl Fn(Ready) + Send + Sync + 'static,
    ) -> Watch {
        let watches = &self.0.watches;
        let token = watches.next_token.fetch_add(1, Ordering::Relaxed);
        let source = Arc::new(Source {
            fd: Box::new(fd),
            handler: Box::new(handler),
            state: Mutex::new(State::default()),
        });
        watches.sources.lock().insert(token, source.clone());
        Watch { handle: self.clone(), source, token }
    }
}

impl Watch {
    /// Whether the handler is to be called while there is something to read.
    pub fn want_read(&self, want: bool) -> io::Result<()> {
        self.update(|state| std::mem::replace(&mut state.read, want) != want)
    }

    /// Whether the handler is to be called while there is room to write.
    pub fn want_write(&self, want: bool) -> io::Result<()> {
        self.update(|state| std::mem::replace(&mut state.write, want) != want)
    }

    fn update(&self, change: impl FnOnce(&mut State) -> bool) -> io::Result<()> {
        let mut state = self.source.state.lock();
        if !change(&mut state) {
            return Ok(());
        }
        let shared = &self.handle.0;
        shared.watches.apply(&shared.epoll, &self.source, self.token, &mut state)?;
        let unpollable = state.unpollable;
        drop(state);
        if unpollable {
            self.handle.wake();
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let shared = &self.handle.0;
        let mut state = self.source.state.lock();
        state.closed = true;
        // Deregistering fails only for a descriptor that the kernel has already forgotten.
        let _ = shared.watches.apply(&shared.epoll, &self.source, self.token, &mut state);
        drop(state);
        let removed = shared.watches.sources.lock().remove(&self.token);
        drop(removed);
    }
}
