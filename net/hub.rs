//! Hubs: `-netdev hubport`. What one port of a hub sends, all others get.

use std::sync::{Arc, Weak};

use base::event_loop::LoopHandle;
use parking_lot::Mutex;

use crate::netdev::{Context, NetdevKind};
use crate::options::{Kind, Values, must, opt};
use crate::{
    Backend, Cable, Delivery, End, Frame, NetError, Netdev, Networks, Offloads, Plug, Side,
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
    netdev.downcast::<Port>().map(|port| port.hub)
}

/// What a port has of the frames for it that its end had no room for. More get lost, as in a hub.
const ROOM: usize = 64;

/// A port: the host's end of its own cable, and perhaps the card's end of another back end's.
struct Port {
    id: String,
    hub: i64,
    networks: Weak<Networks>,
    /// Where the frames of the hub go.
    plugs: Vec<Plug>,
    handle: LoopHandle,
    me: Weak<Port>,
    waiting: Mutex<Vec<Vec<u8>>>,
}

fn make(context: &Context, id: &str, values: &Values) -> Result<Netdev, NetError> {
    let hub = values.int("hubid").unwrap_or(0);
    let cable = Cable::new(id);
    let mut plugs = vec![cable.plug(Side::Host, 0)];
    if let Some(name) = values.text("netdev") {
        let missing = || NetError::Failed(format!("netdev '{name}' not found"));
        let other = context.networks.get(name).ok_or_else(missing)?;
        if other.cable.occupied(Side::Guest) {
            return Err(NetError::Failed(format!("netdev '{name}' is already in use")));
        }
        other.cable.set_card(Some(id.into()));
        plugs.push(other.cable.plug(Side::Guest, 0));
    }
    let port = Arc::new_cyclic(|me: &Weak<Port>| Port {
        id: id.into(),
        hub,
        networks: Arc::downgrade(&context.networks),
        plugs,
        handle: context.handle.clone(),
        me: me.clone(),
        waiting: Mutex::default(),
    });
    for plug in &port.plugs {
        let end: Weak<dyn End> = port.me.clone();
        plug.attach(end);
    }
    Ok(Netdev { kind: KIND.name, cable, backend: port })
}

impl Port {
    fn others(&self) -> Vec<Arc<Port>> {
        let all = self.networks.upgrade().map(|networks| networks.list()).unwrap_or_default();
        let ports = all.iter().filter_map(|netdev| netdev.downcast::<Port>());
        ports.filter(|port| port.hub == self.hub && port.id != self.id).collect()
    }

    /// Takes a frame for this port's end, which is told of it on the loop: a sender is not to run
    /// into the receivers' locks.
    fn queue(&self, bytes: &[u8]) {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= ROOM {
            return;
        }
        waiting.push(bytes.to_vec());
        if waiting.len() == 1 {
            self.wake();
        }
    }

    fn pass_on(&self) {
        let frames = std::mem::take(&mut *self.waiting.lock());
        let mut frames = frames.into_iter();
        while let Some(bytes) = frames.next() {
            let parts = [crate::Part::from(&bytes[..])];
            let frame = Frame::new(&parts, Default::default());
            let full = self.plugs.iter().filter(|plug| plug.has_peer());
            let mut full = full.map(|plug| plug.send(&frame) == Delivery::Full);
            if full.any(|full| full) {
                let mut waiting = self.waiting.lock();
                let rest = std::iter::once(bytes).chain(frames);
                waiting.splice(0..0, rest);
                break;
            }
        }
        self.plugs.iter().for_each(Plug::flush);
    }
}

impl End for Port {
    fn deliver(&self, frame: &Frame<'_>) -> Delivery {
        let bytes = frame.to_vec();
        self.others().iter().for_each(|port| port.queue(&bytes));
        Delivery::Taken
    }

    fn wake(&self) {
        let me = self.me.clone();
        self.handle.schedule(move || {
            me.upgrade().into_iter().for_each(|port| port.pass_on());
        });
    }

    fn accepts(&self) -> Offloads {
        Offloads::default()
    }
}

impl Backend for Port {
    fn info(&self, _lane: usize) -> String {
        format!("hub {}", self.hub)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.plugs.iter().for_each(Plug::detach);
        // The card's place at another back end's cable is free again.
        for plug in self.plugs.iter().skip(1) {
            plug.cable().set_card(None);
        }
    }
}
