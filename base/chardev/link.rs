//! What connects a back end with the front end attached to it.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::{CharClient, CharEvent};

/// The upward side of a back end: finds the client, if there is one, and calls it with no lock
/// held. Calls come from the event loop's thread only, so that a client sees bytes and events in
/// their order.
pub(super) struct Link {
    state: Mutex<State>,
    frontend_open: AtomicBool,
    log: Option<Mutex<File>>,
}

struct State {
    client: Option<Arc<dyn CharClient>>,
    open: bool,
}

impl Link {
    pub(super) fn new(log: Option<File>) -> Arc<Link> {
        Arc::new(Link {
            state: Mutex::new(State { client: None, open: false }),
            frontend_open: AtomicBool::new(false),
            log: log.map(Mutex::new),
        })
    }

    /// Takes the client, unless there already is one.
    pub(super) fn attach(&self, client: Arc<dyn CharClient>) -> bool {
        let mut state = self.state.lock();
        if state.client.is_some() {
            return false;
        }
        state.client = Some(client.clone());
        let open = state.open;
        drop(state);
        self.frontend_open.store(true, Ordering::Relaxed);
        if open {
            client.event(CharEvent::Opened);
        }
        true
    }

    pub(super) fn detach(&self) {
        self.frontend_open.store(false, Ordering::Relaxed);
        let client = self.state.lock().client.take();
        drop(client);
    }

    pub(super) fn in_use(&self) -> bool {
        self.state.lock().client.is_some()
    }

    pub(super) fn is_open(&self) -> bool {
        self.state.lock().open
    }

    pub(super) fn set_frontend_open(&self, open: bool) {
        self.frontend_open.store(open, Ordering::Relaxed);
    }

    pub(super) fn frontend_open(&self) -> bool {
        self.frontend_open.load(Ordering::Relaxed)
    }

    fn client(&self) -> Option<Arc<dyn CharClient>> {
        self.state.lock().client.clone()
    }

    pub(super) fn can_receive(&self) -> usize {
        self.client().map_or(0, |client| client.can_receive())
    }

    pub(super) fn receive(&self, bytes: &[u8]) {
        if let Some(client) = self.client() {
            client.receive(bytes);
        }
    }

    pub(super) fn write_ready(&self) {
        if let Some(client) = self.client() {
            client.write_ready();
        }
    }

    /// Passes an event on. Opening what is open, or closing what is closed, is no event.
    pub(super) fn event(&self, event: CharEvent) {
        let mut state = self.state.lock();
        match event {
            CharEvent::Opened | CharEvent::Closed => {
                let open = event == CharEvent::Opened;
                if state.open == open {
                    return;
                }
                state.open = open;
            }
            CharEvent::Break | CharEvent::FocusGained | CharEvent::FocusLost => {}
        }
        let client = state.client.clone();
        drop(state);
        if let Some(client) = client {
            client.event(event);
        }
    }

    /// Appends what the guest wrote to the log file. A full disk must not stop the guest.
    pub(super) fn log(&self, bytes: &[u8]) {
        if let Some(log) = &self.log {
            let _ = log.lock().write_all(bytes);
        }
    }
}
