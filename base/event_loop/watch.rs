//! Watching descriptors.
//!
//! The poller underneath reports edges. A source is therefore armed again after each call of its
//! handler, which makes the poller look at the descriptor afresh: the handler sees levels.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
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
    sources: Mutex<HashMap<usize, Arc<Source>>>,
    next_token: AtomicUsize,
    /// Wanted sources that the kernel cannot poll (regular files): those are always ready.
    always_ready: Mutex<BTreeSet<usize>>,
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
    /// Registered anew since the last event was taken from the poller.
    armed: bool,
}

impl State {
    fn interest(&self) -> Option<Interest> {
        match (self.read, self.write) {
            (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
            (true, false) => Some(Interest::READABLE),
            (false, true) => Some(Interest::WRITABLE),
            (false, false) => None,
        }
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

    pub(super) fn dispatch(&self, registry: &Registry, event: &Event) {
        let failed = event.is_error() || event.is_read_closed() || event.is_write_closed();
        let ready = Ready {
            readable: event.is_readable() || failed,
            writable: event.is_writable() || failed,
        };
        self.call(registry, event.token(), ready);
    }

    pub(super) fn dispatch_always_ready(&self, registry: &Registry) {
        let tokens: Vec<usize> = self.always_ready.lock().iter().copied().collect();
        for token in tokens {
            self.call(registry, Token(token), Ready { readable: true, writable: true });
        }
    }

    fn call(&self, registry: &Registry, token: Token, ready: Ready) {
        let Some(source) = self.sources.lock().get(&token.0).cloned() else { return };
        let ready = {
            let mut state = source.state.lock();
            state.armed = false;
            Ready {
                readable: ready.readable && state.read,
                writable: ready.writable && state.write,
            }
        };
        if ready.readable || ready.writable {
            (source.handler)(ready);
        }
        let mut state = source.state.lock();
        if state.registered && !state.armed {
            // A descriptor that could be armed before can be armed again.
            let _ = self.apply(registry, &source, token, &mut state);
        }
    }

    /// Tells the poller what the source wants now.
    fn apply(
        &self,
        registry: &Registry,
        source: &Source,
        token: Token,
        state: &mut State,
    ) -> io::Result<()> {
        let raw = source.fd.as_fd().as_raw_fd();
        let mut fd = SourceFd(&raw);
        let interest = state.interest().filter(|_| !state.closed);
        if let Some(interest) = interest.filter(|_| !state.unpollable) {
            let result = if state.registered {
                registry.reregister(&mut fd, token, interest)
            } else {
                registry.register(&mut fd, token, interest)
            };
            match result {
                Ok(()) => {
                    state.registered = true;
                    state.armed = true;
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    state.unpollable = true;
                }
                Err(error) => return Err(error),
            }
        } else if state.registered {
            state.registered = false;
            registry.deregister(&mut fd)?;
        }
        if state.unpollable {
            let mut always_ready = self.always_ready.lock();
            match interest {
                Some(_) => always_ready.insert(token.0),
                None => always_ready.remove(&token.0),
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
    token: Token,
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
        let token = Token(watches.next_token.fetch_add(1, Ordering::Relaxed));
        let source = Arc::new(Source {
            fd: Box::new(fd),
            handler: Box::new(handler),
            state: Mutex::new(State::default()),
        });
        watches.sources.lock().insert(token.0, source.clone());
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
        self.handle.0.watches.apply(
            &self.handle.0.registry,
            &self.source,
            self.token,
            &mut state,
        )?;
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
        // Deregistering fails only for a descriptor that the poller has already forgotten.
        let _ = shared.watches.apply(&shared.registry, &self.source, self.token, &mut state);
        drop(state);
        let removed = shared.watches.sources.lock().remove(&self.token.0);
        drop(removed);
    }
}
