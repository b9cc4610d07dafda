//! Hubs: `-netdev hubport`. What one port of a hub sends, all others get.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
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
    netdev.downcast::<Member>().map(|member| member.port.hub.number)
}

/// As many frames wait at a port whose end has no room for them, while other ports have. More get lost.
const ROOM: usize = 64;

/// What joins ports.
struct Hub {
    number: i64,
    /// Replaced as a whole, so that nobody who sends to them holds a lock. A port is here until its back end
    /// goes.
    ports: RwLock<Arc<[Arc<Port>]>>,
}

/// `-netdev hubport` itself.
struct Member {
    id: String,
    port: Arc<Port>,
}

/// A port: the host's end of its own cable, and perhaps the card's end of another back end's.
struct Port {
    hub: Arc<Hub>,
    /// Where the frames of the hub go.
    plug: Plug,
    waiting: Mutex<VecDeque<(Vec<u8>, Offload)>>,
    /// Something waits or is being sent: what comes meanwhile goes behind. Changed under the lock, and looked
    /// at without.
    behind: AtomicBool,
    /// Sends what waits.
    retry: BottomHalf,
}

fn make(context: &Context, id: &str, values: &Values) -> Result<Netdev, NetError> {
    let number = values.int("hubid").unwrap_or(0);
    let ports = context.networks.list();
    let mut hubs =
        ports.iter().filter_map(|netdev| Some(netdev.downcast::<Member>()?.port.hub.clone()));
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
        hub: hub.clone(),
        plug,
        waiting: Mutex::default(),
        behind: AtomicBool::new(false),
        retry: context.handle.bottom_half({
            let me = me.clone();
            move || me.upgrade().into_iter().for_each(|port| port.catch_up())
        }),
    });
    hub.change_ports(|ports| ports.push(port.clone()));
    let end: Weak<dyn End> = Arc::<Port>::downgrade(&port);
    port.plug.attach(end.clone());
    if is_bridge {
        // No card can have this port any more.
        card.attach(end);
    }
    Ok(Netdev { kind: KIND.name, cable, backend: Arc::new(Member { id: id.into(), port }) })
}

impl Hub {
    fn change_ports(&self, change: impl FnOnce(&mut Vec<Arc<Port>>)) {
        let mut ports = self.ports.write();
        let mut changed = ports.to_vec();
        change(&mut changed);
        *ports = changed.into();
    }
}

impl Port {
    /// The ports of the hub as they are now.
    fn ports(&self) -> Arc<[Arc<Port>]> {
        self.hub.ports.read().clone()
    }

    /// Those of `ports` that are not this one.
    fn others<'a>(&self, ports: &'a [Arc<Port>]) -> impl Iterator<Item = &'a Arc<Port>> {
        ports.iter().filter(|port| !std::ptr::eq(&***port, self))
    }

    /// Gives the end of this port a frame of another one, unless it is behind.
    fn offer(&self, frame: &Frame<'_>) -> Delivery {
        if self.behind.load(Ordering::Acquire) { Delivery::Full } else { self.plug.send(frame) }
    }

    /// Keeps a frame that others have taken until the end has room.
    fn keep(&self, frame: &Frame<'_>) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < ROOM {
            waiting.push_back((frame.to_vec(), frame.offload));
            self.behind.store(true, Ordering::Release);
        }
        // The end may have had room again before the frame waited.
        self.retry.schedule();
    }

    /// Sends what waits, and tells the others if all of it went.
    fn catch_up(&self) {
        let all = self.send_waiting();
        self.plug.flush();
        if all {
            self.others(&self.ports()).for_each(|port| port.plug.ready());
        }
    }

    fn send_waiting(&self) -> bool {
        loop {
            let next = {
                let mut waiting = self.waiting.lock();
                let next = waiting.pop_front();
                self.behind.store(next.is_some(), Ordering::Release);
                next
            };
            let Some((bytes, offload)) = next else { return true };
            let parts = [Part::from(&bytes[..])];
            if self.plug.send(&Frame::new(&parts, offload)) == Delivery::Full {
                self.waiting.lock().push_front((bytes, offload));
                return false;
            }
        }
    }
}

impl End for Port {
    /// As long as one of the others takes frames they go on; those that do not may miss some.
    fn deliver(&self, frame: &Frame<'_>) -> Delivery {
        let ports = self.ports();
        let (mut taken, mut behind) = (false, Vec::new());
        for port in self.others(&ports) {
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

    fn deliver_all(&self, frames: &[Frame<'_>]) -> usize {
        let ports = self.ports();
        let mut others = self.others(&ports);
        if let (Some(only), None) = (others.next(), others.next()) {
            return if only.behind.load(Ordering::Acquire) {
                0
            } else {
                only.plug.send_all(frames)
            };
        }
        let full = frames.iter().position(|frame| self.deliver(frame) == Delivery::Full);
        full.unwrap_or(frames.len())
    }

    fn flush(&self) {
        self.others(&self.ports()).for_each(|port| port.plug.flush());
    }

    fn wake(&self) {
        self.retry.schedule();
    }

    fn accepts(&self) -> Offloads {
        // Each of the others gets what it can take of it.
        Offloads::ALL
    }
}

impl Backend for Member {
    fn info(&self, _lane: usize) -> String {
        format!("hub {}", self.port.hub.number)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let (port, plug) = (&self.port, &self.port.plug);
        port.hub.change_ports(|ports| ports.retain(|other| !Arc::ptr_eq(other, port)));
        plug.detach();
        if plug.cable().id() != self.id {
            // The card's place at the other back end's cable is free again.
            plug.cable().set_card(None);
        }
    }
}
