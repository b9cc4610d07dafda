//! Hubs: `-netdev hubport`. What one port of a hub sends, all others get.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use base::event_loop::BottomHalf;
use parking_lot::{Mutex, RwLock};

use crate::netdev::{Context, NetdevKind};
use crate::options::{Kind, Values, must, opt};
use crate::{
    Backend, Cable, Delivery, End, Frame, NetError, Netdev, Offload, Offloads, Part, Plug, Side,
};

/// `-netdev hubport`.
pub static KIND: NetdevKind = NetdevKind {
    name: "hubport",
    keys: &[must("hubid", Kind::Int), opt("netdev", Kind::Text)],
    dotted: false,
    make,
};

/// The number of the hub that a back end is a port of, if it is one.
pub fn hub_number(netdev: &Netdev) -> Option<i64> {
    netdev.downcast::<Port>().map(|port| port.hub.number)
}

/// As many frames wait at a port whose end has no room for them, while other ports have. More get lost.
const ROOM: usize = 64;

/// What joins ports.
struct Hub {
    number: i64,
    /// Replaced as a whole, so that nobody who sends to them holds a lock.
    ports: RwLock<Arc<[Weak<Port>]>>,
}

/// A port: the host's end of its own cable, and perhaps the card's end of another back end's.
struct Port {
    id: String,
    hub: Arc<Hub>,
    me: Weak<Port>,
    /// Where the frames of the hub go.
    plug: Plug,
    waiting: Mutex<Waiting>,
    /// Sends what waits.
    retry: BottomHalf,
}

#[derive(Default)]
struct Waiting {
    frames: VecDeque<Vec<u8>>,
    /// Somebody is sending them: what comes meanwhile goes behind.
    leaving: bool,
}

fn make(context: &Context, id: &str, values: &Values) -> Result<Netdev, NetError> {
    let number = values.int("hubid").unwrap_or(0);
    let ports = context.networks.list();
    let mut hubs = ports.iter().filter_map(|netdev| Some(netdev.downcast::<Port>()?.hub.clone()));
    let hub = hubs.find(|hub| hub.number == number);
    let hub = hub.unwrap_or_else(|| Arc::new(Hub { number, ports: RwLock::new(Arc::new([])) }));
    let cable = Cable::new(id);
    let (own, card) = (cable.plug(Side::Host, 0), cable.plug(Side::Guest, 0));
    let (plug, is_bridge) = match values.text("netdev") {
        Some(name) => {
            let missing = || NetError::Failed(format!("netdev '{name}' not found"));
            let other = context.networks.get(name).ok_or_else(missing)?;
            if other.cable.occupied(Side::Guest) {
                return Err(NetError::Failed(format!("netdev '{name}' is already in use")));
            }
            other.cable.set_card(Some(id.into()));
            (other.cable.plug(Side::Guest, 0), true)
        }
        None => (own, false),
    };
    let port = Arc::new_cyclic(|me: &Weak<Port>| Port {
        id: id.into(),
        hub: hub.clone(),
        me: me.clone(),
        plug,
        waiting: Mutex::default(),
        retry: context.handle.bottom_half({
            let me = me.clone();
            move || me.upgrade().into_iter().for_each(|port| port.catch_up())
        }),
    });
    hub.change_ports(|ports| ports.push(port.me.clone()));
    port.plug.attach(port.me.clone());
    if is_bridge {
        // No card can have this port any more.
        card.attach(port.me.clone());
    }
    Ok(Netdev { kind: KIND.name, cable, backend: port })
}

impl Hub {
    fn change_ports(&self, change: impl FnOnce(&mut Vec<Weak<Port>>)) {
        let mut ports = self.ports.write();
        let mut changed = ports.to_vec();
        change(&mut changed);
        *ports = changed.into();
    }
}

impl Port {
    /// All ports of the hub but this one.
    fn others(&self) -> impl Iterator<Item = Arc<Port>> {
        let (ports, mut next) = (self.hub.ports.read().clone(), 0);
        std::iter::from_fn(move || {
            let port = ports.get(next)?;
            next += 1;
            Some(port.upgrade())
        })
        .flatten()
        .filter(|port| !std::ptr::eq(&**port, self))
    }

    /// Gives the end of this port a frame of another one, unless it is behind.
    fn offer(&self, frame: &Frame<'_>) -> Delivery {
        let behind = {
            let waiting = self.waiting.lock();
            waiting.leaving || !waiting.frames.is_empty()
        };
        if behind { Delivery::Full } else { self.plug.send(frame) }
    }

    /// Keeps a frame that others have taken until the end has room.
    fn keep(&self, frame: &Frame<'_>) {
        let mut waiting = self.waiting.lock();
        if waiting.frames.len() < ROOM {
            waiting.frames.push_back(frame.to_vec());
        }
        // The end may have had room again before the frame waited.
        self.retry.schedule();
    }

    /// Sends what waits, and tells the others if all of it went.
    fn catch_up(&self) {
        let all = self.send_waiting();
        self.plug.flush();
        if all {
            self.others().for_each(|port| port.plug.ready());
        }
    }

    fn send_waiting(&self) -> bool {
        loop {
            let next = {
                let mut waiting = self.waiting.lock();
                let next = waiting.frames.pop_front();
                waiting.leaving = next.is_some();
                next
            };
            let Some(bytes) = next else { return true };
            let parts = [Part::from(&bytes[..])];
            if self.plug.send(&Frame::new(&parts, Offload::default())) == Delivery::Full {
                let mut waiting = self.waiting.lock();
                waiting.frames.push_front(bytes);
                waiting.leaving = false;
                return false;
            }
        }
    }
}

impl End for Port {
    /// As long as one of the others takes frames they go on; those that do not may miss some.
    fn deliver(&self, frame: &Frame<'_>) -> Delivery {
        let (mut taken, mut behind) = (false, Vec::new());
        for port in self.others() {
            match port.offer(frame) {
                Delivery::Taken => taken = true,
                Delivery::Full => behind.push(port),
            }
        }
        if !taken && !behind.is_empty() {
            return Delivery::Full;
        }
        behind.iter().for_each(|port| port.keep(frame));
        Delivery::Taken
    }

    fn flush(&self) {
        self.others().for_each(|port| port.plug.flush());
    }

    fn wake(&self) {
        self.retry.schedule();
    }

    fn accepts(&self) -> Offloads {
        Offloads::default()
    }
}

impl Backend for Port {
    fn info(&self, _lane: usize) -> String {
        format!("hub {}", self.hub.number)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.hub.change_ports(|ports| ports.retain(|port| !port.ptr_eq(&self.me)));
        self.plug.detach();
        if self.plug.cable().id() != self.id {
            // The card's place at the other back end's cable is free again.
            self.plug.cable().set_card(None);
        }
    }
}
