//! The way from displays and monitors to devices.

use std::ops::BitOr;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::typist::Typist;
use super::{InputEvent, InputSink, KeyCode, Leds};
use crate::clock::Clocks;

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds(u8);

impl Kinds {
    /// Keys.
    pub const KEY: Kinds = Kinds(1);
    /// Buttons and wheels.
    pub const BUTTON: Kinds = Kinds(1 << 1);
    /// Movements by so much.
    pub const REL: Kinds = Kinds(1 << 2);
    /// Movements to a place.
    pub const ABS: Kinds = Kinds(1 << 3);
    /// Fingers.
    pub const TOUCH: Kinds = Kinds(1 << 4);

    fn overlaps(self, other: Kinds) -> bool {
        self.0 & other.0 != 0
    }

    /// The name of a single kind in QMP.
    fn name(self) -> &'static str {
        match self {
            Kinds::KEY => "key",
            Kinds::BUTTON => "btn",
            Kinds::REL => "rel",
            Kinds::ABS => "abs",
            _ => "mtt",
        }
    }
}

impl BitOr for Kinds {
    type Output = Kinds;
    fn bitor(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }
}

/// A head of a display, by whose device the operator calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Screen {
    /// Id of the device.
    pub device: String,
    /// Number of the head.
    pub head: u32,
}

/// There is no device for a kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Input handler not found for event type {0}")]
pub struct NoDevice(&'static str);

/// A pointing device, as `query-mice` tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mouse {
    /// Its number.
    pub index: i64,
    /// Its name.
    pub name: &'static str,
    /// Whether it gets events of its kind.
    pub current: bool,
    /// Whether it is told places instead of movements.
    pub absolute: bool,
}

/// Why the operator's choice of a mouse is not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// There is none of this number.
    #[error("Mouse at index '{0}' not found")]
    NotFound(i64),
    /// It is something else.
    #[error("Input device '{0}' is not a mouse")]
    NotAMouse(&'static str),
}

/// What has changed for those who send events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The guest has switched the lights of its keyboard.
    Leds(Leds),
    /// Which device is the first of its kind: see [`Router::is_absolute`].
    Order,
}

type Listener = Arc<dyn Fn(Change) + Send + Sync>;

struct Device {
    id: i64,
    name: &'static str,
    kinds: Kinds,
    /// The screen that it belongs to, if not to all.
    screen: Option<Screen>,
    sink: Arc<dyn InputSink>,
}

impl Device {
    fn is_mouse(&self) -> bool {
        self.kinds.overlaps(Kinds::REL | Kinds::ABS)
    }
}

#[derive(Default)]
struct State {
    /// Those that come first get the events.
    devices: Vec<Device>,
    last_id: i64,
    leds: Leds,
    /// Events are dropped while the guest does not run.
    running: bool,
    listeners: Vec<Listener>,
}

impl State {
    /// The device that takes a kind of event from a screen: one that belongs to it, or one that
    /// belongs to none.
    fn find(&self, kinds: Kinds, from: Option<&Screen>) -> Option<&Device> {
        let takes = |device: &&Device| device.kinds.overlaps(kinds);
        let bound = |device: &&Device| from.is_some() && device.screen.as_ref() == from;
        let mut devices = self.devices.iter().filter(takes);
        devices.clone().find(bound).or_else(|| devices.find(|device| device.screen.is_none()))
    }

    fn position(&self, id: i64) -> Option<usize> {
        self.devices.iter().position(|device| device.id == id)
    }
}

/// The way from displays and monitors to devices. No lock is held while a device is called, so
/// that devices may call it with theirs held.
pub struct Router {
    state: Mutex<State>,
    typist: Arc<Typist>,
}

impl Router {
    /// A router to no devices yet.
    pub fn new(clocks: &Clocks) -> Arc<Self> {
        Arc::new_cyclic(|me| Router {
            state: Mutex::default(),
            typist: Typist::new(clocks, me.clone()),
        })
    }

    /// Tells whether the guest runs; while it does not, events are dropped.
    pub fn set_running(&self, running: bool) {
        self.state.lock().running = running;
    }

    /// Whether the guest runs.
    pub fn is_running(&self) -> bool {
        self.state.lock().running
    }

    /// Adds a device for events of these kinds, after those that are there.
    pub fn register(
        self: &Arc<Self>,
        name: &'static str,
        kinds: Kinds,
        screen: Option<Screen>,
        sink: Arc<dyn InputSink>,
    ) -> Registration {
        let id = {
            let mut state = self.state.lock();
            state.last_id += 1;
            let id = state.last_id;
            state.devices.push(Device { id, name, kinds, screen, sink });
            id
        };
        self.tell(Change::Order);
        Registration { router: Arc::downgrade(self), id }
    }

    /// Sends what happened at one moment, at a screen or wherever. Each device gets its share at
    /// once.
    pub fn send(&self, from: Option<&Screen>, events: &[InputEvent]) {
        let mut shares: Vec<(i64, Arc<dyn InputSink>, Vec<InputEvent>)> = Vec::new();
        {
            let state = self.state.lock();
            if !state.running {
                return;
            }
            for event in events {
                let Some(device) = state.find(event.kind(), from) else { continue };
                match shares.iter_mut().find(|(id, ..)| *id == device.id) {
                    Some((_, _, share)) => share.push(*event),
                    None => shares.push((device.id, device.sink.clone(), vec![*event])),
                }
            }
        }
        shares.iter().for_each(|(_, sink, share)| sink.input(share));
    }

    /// Whether there is a device for each of the events.
    pub fn check(&self, from: Option<&Screen>, events: &[InputEvent]) -> Result<(), NoDevice> {
        let state = self.state.lock();
        let missing = events.iter().find(|event| state.find(event.kind(), from).is_none());
        missing.map_or(Ok(()), |event| Err(NoDevice(event.kind().name())))
    }

    /// A key goes down or up, after whatever [`Router::press`] still has under way.
    pub fn key(&self, from: Option<&Screen>, key: KeyCode, down: bool) {
        if self.is_running() {
            self.typist.key(from, key, down);
        }
    }

    /// Presses keys one after the other and releases them the other way round, `hold` milliseconds
    /// of the guest's time between any two of these.
    pub fn press(&self, keys: &[KeyCode], hold: Option<u32>) {
        if self.is_running() {
            self.typist.press(keys, hold);
        }
    }

    /// Whether a screen's pointer is to be told as places. If nobody points, it is not.
    pub fn is_absolute(&self, screen: Option<&Screen>) -> bool {
        let state = self.state.lock();
        let pointer = state.find(Kinds::REL | Kinds::ABS, screen);
        pointer.is_some_and(|device| device.kinds.overlaps(Kinds::ABS))
    }

    /// The pointing devices; the one that gets events of its kind comes last.
    pub fn mice(&self) -> Vec<Mouse> {
        let state = self.state.lock();
        let mice = state.devices.iter().filter(|device| device.is_mouse());
        let mouse = |(n, device): (usize, &Device)| Mouse {
            index: device.id,
            name: device.name,
            current: n == 0,
            absolute: device.kinds.overlaps(Kinds::ABS),
        };
        let mut mice: Vec<_> = mice.enumerate().map(mouse).collect();
        mice.reverse();
        mice
    }

    /// The operator wants this mouse to get the events.
    pub fn choose_mouse(&self, index: i64) -> Result<(), ChoiceError> {
        {
            let state = self.state.lock();
            let at = state.position(index).ok_or(ChoiceError::NotFound(index))?;
            let device = &state.devices[at];
            if !device.is_mouse() {
                return Err(ChoiceError::NotAMouse(device.name));
            }
        }
        self.place(index, true);
        Ok(())
    }

    /// Moves a device before all others, or behind them.
    fn place(&self, id: i64, first: bool) {
        {
            let mut state = self.state.lock();
            let Some(at) = state.position(id) else { return };
            let device = state.devices.remove(at);
            let to = if first { 0 } else { state.devices.len() };
            state.devices.insert(to, device);
            if at == to {
                return;
            }
        }
        self.tell(Change::Order);
    }

    /// The guest switches the lights of its keyboard.
    pub fn set_leds(&self, leds: Leds) {
        if std::mem::replace(&mut self.state.lock().leds, leds) != leds {
            self.tell(Change::Leds(leds));
        }
    }

    /// The lights as the guest has switched them last.
    pub fn leds(&self) -> Leds {
        self.state.lock().leds
    }

    /// From now on `listener` is told of changes, perhaps with a device's lock held: it only takes
    /// note.
    pub fn listen(&self, listener: impl Fn(Change) + Send + Sync + 'static) {
        self.state.lock().listeners.push(Arc::new(listener));
    }

    fn tell(&self, change: Change) {
        let listeners = self.state.lock().listeners.clone();
        listeners.iter().for_each(|listener| listener(change));
    }
}

/// A device's tie to the router; dropping it unties.
pub struct Registration {
    router: Weak<Router>,
    id: i64,
}

impl Registration {
    /// The guest uses the device: it gets events before others of its kind.
    pub fn activate(&self) {
        if let Some(router) = self.router.upgrade() {
            router.place(self.id, true);
        }
    }

    /// The guest does not use the device any more: others come before it.
    pub fn deactivate(&self) {
        if let Some(router) = self.router.upgrade() {
            router.place(self.id, false);
        }
    }

    /// The lights as they are.
    pub fn leds(&self) -> Leds {
        self.router.upgrade().map(|router| router.leds()).unwrap_or_default()
    }

    /// The guest switches lights of the device.
    pub fn set_leds(&self, leds: Leds) {
        if let Some(router) = self.router.upgrade() {
            router.set_leds(leds);
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Some(router) = self.router.upgrade() else { return };
        // The device's own destructor is not to run under the lock.
        let gone = {
            let mut state = router.state.lock();
            state.position(self.id).map(|at| state.devices.remove(at))
        };
        if gone.is_some() {
            router.tell(Change::Order);
        }
    }
}

#[cfg(test)]
mod tests;
