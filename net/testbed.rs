//! What tests of back ends stand on: a loop, a card that keeps what it gets, and the events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base::chardev::{Chardevs, EscapeActions};
use base::clock::Clocks;
use base::event_loop::{EventLoop, LoopHandle};
use base::fdset::FdSets;
use parking_lot::Mutex;

use crate::checksum::{Sum, pseudo_header};
use crate::netdev::{Context, NetEvent, NetEvents, NetdevSpec};
use crate::{
    Checksum, Delivery, End, Frame, Gso, GsoKind, NetError, Netdev, Networks, Offload, Offloads,
    Part, Plug, Side,
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

/// A card with room for so many frames. Its guest hears of them when a burst is over.
#[derive(Default)]
pub(crate) struct Card {
    unheard: Mutex<VecDeque<Vec<u8>>>,
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
        self.unheard.lock().push_back(frame.to_vec());
        Delivery::Taken
    }
    fn flush(&self) {
        self.frames.lock().append(&mut self.unheard.lock());
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
        self.send_with(bytes, Offload::default())
    }

    /// The guest sends a frame of which something is left to be done.
    pub fn send_with(&self, bytes: &[u8], offload: Offload) -> Delivery {
        let parts = [Part::from(bytes)];
        let delivery = self.plug.send(&Frame::new(&parts, offload));
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

/// A TCP segment of 3,500 bytes of data, to be cut into pieces of 1,000, and what is left to be done.
pub(crate) fn large_frame() -> (Vec<u8>, Offload) {
    const HEADERS: usize = 54;
    const LEN: usize = 3500;
    let mut frame = vec![0; HEADERS + LEN];
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    frame[16..18].copy_from_slice(&((HEADERS - 14 + LEN) as u16).to_be_bytes());
    frame[23] = 6;
    frame[26..34].copy_from_slice(&[10, 0, 2, 15, 10, 0, 2, 2]);
    frame[46] = 5 << 4;
    frame[HEADERS..].iter_mut().zip(0..).for_each(|(byte, n)| *byte = (n % 251) as u8);
    let checksum = Checksum::Partial { start: 34, offset: 16 };
    let gso = Gso { kind: GsoKind::Tcp4, size: 1000, ecn: false, header_len: HEADERS as u16 };
    (frame, Offload { checksum, gso: Some(gso) })
}

/// Whether these are the pieces of [`large_frame`], with the right checksums.
pub(crate) fn are_its_pieces(pieces: &[Vec<u8>]) -> bool {
    let (whole, _) = large_frame();
    let right = |frame: &Vec<u8>| {
        let (ip, tcp) = frame[14..].split_at(20);
        let sum = pseudo_header(&ip[12..16], &ip[16..20], 6, tcp.len());
        Sum::default().bytes(ip).finish() == 0 && sum.bytes(tcp).finish() == 0
    };
    let lens: Vec<usize> = pieces.iter().map(Vec::len).collect();
    let data: Vec<u8> = pieces.iter().flat_map(|frame| frame[54..].iter().copied()).collect();
    lens == [1054, 1054, 1054, 554] && data == whole[54..] && pieces.iter().all(right)
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
        let card = Arc::new(Card { room: Mutex::new(usize::MAX), ..Card::default() });
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
        let over = Arc::new(AtomicBool::new(false));
        let set = over.clone();
        let end = move || set.store(true, Ordering::Relaxed);
        let _delay = self.event_loop.handle().after(Duration::from_millis(2), end);
        let clocks = self.context.clocks.clone();
        while !over.load(Ordering::Relaxed) {
            self.event_loop.run_once(&clocks, true).unwrap();
        }
    }

    /// The loop runs until a card has got so many frames.
    pub fn frames(&mut self, guest: &Guest, count: usize) -> Vec<Vec<u8>> {
        self.until(|_| guest.card.frames.lock().len() >= count);
        guest.take()
    }
}
