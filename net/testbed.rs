//! What tests of back ends stand on: a loop, a card that keeps what it gets, and the events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::chardev::{Chardevs, EscapeActions};
use base::clock::Clocks;
use base::event_loop::{EventLoop, LoopHandle};
use base::fdset::FdSets;
use parking_lot::Mutex;

use crate::netdev::{Context, NetEvent, NetEvents, NetdevSpec};
use crate::{
    Delivery, End, Frame, NetError, Netdev, Networks, Offload, Offloads, Part, Plug, Side,
};

struct NoActions;

impl EscapeActions for NoActions {
    fn quit(&self) {}
    fn commit_snapshots(&self) {}
}

/// Surroundings of back ends.
pub(crate) fn context(handle: LoopHandle, clocks: &Clocks) -> Context {
    let fd_sets = Arc::new(FdSets::default());
    let chardevs = Arc::new(Chardevs::new(handle.clone(), fd_sets, Arc::new(NoActions)));
    Context {
        handle,
        clocks: clocks.clone(),
        chardevs,
        events: NetEvents::new(|_| ()),
        networks: Arc::default(),
    }
}

/// A card with room for so many frames.
pub(crate) struct Card {
    frames: Mutex<VecDeque<Vec<u8>>>,
    room: Mutex<usize>,
}

impl End for Card {
    fn deliver(&self, frame: &Frame<'_>) -> Delivery {
        let mut room = self.room.lock();
        if *room == 0 {
            return Delivery::Full;
        }
        *room -= 1;
        self.frames.lock().push_back(frame.to_vec());
        Delivery::Taken
    }
    fn wake(&self) {}
    fn accepts(&self) -> Offloads {
        Offloads::default()
    }
}

/// A back end with a card.
pub(crate) struct Guest {
    card: Arc<Card>,
    plug: Plug,
    pub netdev: Netdev,
}

impl Guest {
    /// The guest sends a frame.
    pub fn send(&self, bytes: &[u8]) -> Delivery {
        let parts = [Part::from(bytes)];
        let delivery = self.plug.send(&Frame::new(&parts, Offload::default()));
        self.plug.flush();
        delivery
    }

    /// The card has room for so many frames from now on.
    pub fn set_room(&self, room: usize) {
        *self.card.room.lock() = room;
        self.plug.ready();
    }

    /// What the card has got.
    pub fn take(&self) -> Vec<Vec<u8>> {
        self.card.frames.lock().drain(..).collect()
    }
}

/// A loop with back ends.
pub(crate) struct Bed {
    event_loop: EventLoop,
    pub context: Context,
    pub events: Arc<Mutex<Vec<NetEvent>>>,
}

impl Bed {
    pub fn new() -> Self {
        let event_loop = EventLoop::new().unwrap();
        let mut context = context(event_loop.handle(), &Clocks::new());
        let events = Arc::<Mutex<Vec<NetEvent>>>::default();
        let log = events.clone();
        context.events = NetEvents::new(move |event| log.lock().push(event));
        Bed { event_loop, context, events }
    }

    pub fn networks(&self) -> &Networks {
        &self.context.networks
    }

    /// A back end of these options, with a card.
    pub fn guest(&self, options: &str) -> Result<Guest, NetError> {
        let netdev = NetdevSpec::parse(options)?.make(&self.context)?;
        self.networks().add(netdev.clone())?;
        let room = Mutex::new(usize::MAX);
        let card = Arc::new(Card { frames: Mutex::default(), room });
        let plug = netdev.cable.plug(Side::Guest, 0);
        let end: Arc<dyn End> = card.clone();
        plug.attach(Arc::downgrade(&end));
        Ok(Guest { card, plug, netdev })
    }

    /// The loop runs until something is so.
    pub fn until(&mut self, so: impl Fn(&Bed) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !so(self) {
            assert!(Instant::now() < deadline, "waited in vain; events: {:?}", self.events.lock());
            self.turn();
        }
    }

    /// The loop runs for a moment.
    pub fn turn(&mut self) {
        let _delay = self.event_loop.handle().after(Duration::from_millis(2), || ());
        let clocks = self.context.clocks.clone();
        // Whoever sets a delay wakes the loop: without this round it would not sleep.
        self.event_loop.run_once(&clocks, false).unwrap();
        self.event_loop.run_once(&clocks, true).unwrap();
    }

    /// The loop runs until a card has got so many frames.
    pub fn frames(&mut self, guest: &Guest, count: usize) -> Vec<Vec<u8>> {
        self.until(|_| guest.card.frames.lock().len() >= count);
        guest.take()
    }
}
