//! The cable between a back end and a card (or, through a hub's port, another back end).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use crate::{Delivery, End, Frame, Offload, Offloads, Part, segment};

/// The two sides of a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The back end that the cable belongs to.
    Host,
    /// The card.
    Guest,
}

impl Side {
    /// The other one.
    pub fn other(self) -> Side {
        match self {
            Side::Host => Side::Guest,
            Side::Guest => Side::Host,
        }
    }
}

/// What a filter does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// The filter keeps it, and may send it on later with [`Cable::resume`].
    Keep,
}

/// Something that sees the frames of a cable (`-object filter-...`).
pub trait Filter: Send + Sync {
    /// A frame that the end on side `from` sends. Does not wait, and does not send on this cable.
    fn see(&self, from: Side, frame: &Frame<'_>) -> Verdict;

    /// Its line of `info network`.
    fn info(&self) -> String;
}

/// A number for a back end or a card that comes now, larger than those of all that came before: lists of both have
/// them in that order.
pub fn next_arrival() -> u64 {
    static ARRIVALS: AtomicU64 = AtomicU64::new(0);
    ARRIVALS.fetch_add(1, Ordering::Relaxed)
}

/// A cable. An end is attached by a weak reference: it lives as long as its owner lets it.
pub struct Cable {
    id: String,
    arrival: u64,
    lanes: RwLock<Vec<Arc<Lane>>>,
    /// In the order in which frames of the back end meet them; those of the card go backwards.
    filters: RwLock<Vec<(String, Arc<dyn Filter>)>>,
    filtered: AtomicBool,
    up: [AtomicBool; 2],
    /// What a person calls the card.
    card: Mutex<Option<String>>,
}

/// One queue of each side.
#[derive(Default)]
struct Lane {
    ends: [RwLock<Option<Weak<dyn End>>>; 2],
    /// What an end could not take any more of a frame that was taken apart for it.
    rest: [Mutex<VecDeque<Vec<u8>>>; 2],
    /// Length of `rest`, to look at without the lock.
    waiting: [AtomicUsize; 2],
    /// Bytes that each side has sent.
    sent: [AtomicU64; 2],
}

impl Lane {
    fn end(&self, side: Side) -> Option<Arc<dyn End>> {
        self.ends[side as usize].read().as_ref().and_then(Weak::upgrade)
    }

    /// Delivers what is left of an earlier frame.
    fn deliver_rest(&self, to: Side, end: &dyn End) -> Delivery {
        let side = to as usize;
        if self.waiting[side].load(Ordering::Acquire) == 0 {
            return Delivery::Taken;
        }
        loop {
            // The end is not called with the lock held.
            let Some(bytes) = self.rest[side].lock().pop_front() else { return Delivery::Taken };
            let parts = [Part::from(&bytes[..])];
            if end.deliver(&Frame::new(&parts, Offload::default())) == Delivery::Full {
                self.rest[side].lock().push_front(bytes);
                return Delivery::Full;
            }
            self.waiting[side].fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn clear_rest(&self) {
        for side in [Side::Host, Side::Guest] {
            let mut rest = self.rest[side as usize].lock();
            self.waiting[side as usize].fetch_sub(rest.len(), Ordering::AcqRel);
            rest.clear();
        }
    }

    fn deliver(&self, to: Side, frame: &Frame<'_>) -> Delivery {
        let Some(end) = self.end(to) else { return Delivery::Taken };
        if self.deliver_rest(to, &*end) == Delivery::Full {
            return Delivery::Full;
        }
        if end.accepts().take(&frame.offload) {
            return end.deliver(frame);
        }
        self.deliver_finished(to, &*end, frame)
    }

    /// Delivers frames in turn; returns how many were taken.
    fn deliver_all(&self, to: Side, frames: &[Frame<'_>]) -> usize {
        let Some(end) = self.end(to) else { return frames.len() };
        if self.deliver_rest(to, &*end) == Delivery::Full {
            return 0;
        }
        let accepted = end.accepts();
        if frames.iter().all(|frame| accepted.take(&frame.offload)) {
            return end.deliver_all(frames);
        }
        let full = frames.iter().position(|frame| self.deliver(to, frame) == Delivery::Full);
        full.unwrap_or(frames.len())
    }

    /// Delivers what an end cannot finish itself.
    fn deliver_finished(&self, to: Side, end: &dyn End, frame: &Frame<'_>) -> Delivery {
        let mut pieces = 0;
        let mut full = false;
        segment::finish(frame, |piece| {
            pieces += 1;
            if !full {
                full = end.deliver(piece) == Delivery::Full;
            }
            if full && pieces > 1 {
                self.waiting[to as usize].fetch_add(1, Ordering::AcqRel);
                self.rest[to as usize].lock().push_back(piece.to_vec());
            }
            // When not even the first one went, nothing has happened.
            !(full && pieces == 1)
        });
        if full && pieces == 1 { Delivery::Full } else { Delivery::Taken }
    }
}

impl Cable {
    /// A cable with nothing on either side.
    pub fn new(id: &str) -> Arc<Cable> {
        Arc::new(Cable {
            id: id.into(),
            arrival: next_arrival(),
            lanes: RwLock::new(vec![Arc::default()]),
            filters: RwLock::default(),
            filtered: AtomicBool::new(false),
            up: [AtomicBool::new(true), AtomicBool::new(true)],
            card: Mutex::default(),
        })
    }

    /// The id of the back end.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// When it came, see [`next_arrival`].
    pub fn arrival(&self) -> u64 {
        self.arrival
    }

    /// One side of a lane; lanes come to be as they are asked for.
    pub fn plug(self: &Arc<Self>, side: Side, lane: usize) -> Plug {
        let mut lanes = self.lanes.write();
        if lanes.len() <= lane {
            lanes.resize_with(lane + 1, Arc::default);
        }
        Plug { cable: self.clone(), lane: lanes[lane].clone(), side }
    }

    /// How many lanes there are: what the back end made.
    pub fn lanes(&self) -> usize {
        self.lanes.read().len()
    }

    /// The id or name of the card, while there is one (`info network`).
    pub fn card(&self) -> Option<String> {
        self.card.lock().clone()
    }

    /// Names the card, or says that it has gone.
    pub fn set_card(&self, name: Option<String>) {
        *self.card.lock() = name;
    }

    /// Bytes that a side has sent, those that a filter has kept among them.
    pub fn bytes_sent(&self, side: Side) -> u64 {
        let lanes = self.lanes.read();
        lanes.iter().map(|lane| lane.sent[side as usize].load(Ordering::Relaxed)).sum()
    }

    /// Whether an end sits on this side.
    pub fn occupied(&self, side: Side) -> bool {
        self.lanes.read().iter().any(|lane| lane.end(side).is_some())
    }

    /// Whether frames get through.
    pub fn is_up(&self) -> bool {
        self.up.iter().all(|up| up.load(Ordering::Relaxed))
    }

    /// Whether the link is up as set for one side.
    pub fn side_is_up(&self, side: Side) -> bool {
        self.up[side as usize].load(Ordering::Relaxed)
    }

    /// `set_link` of a card, or of a back end, which takes the card's side with it.
    pub fn set_link(&self, side: Side, up: bool) {
        let sides: &[Side] = match side {
            Side::Host => &[Side::Host, Side::Guest],
            Side::Guest => &[Side::Guest],
        };
        let lanes = self.lanes.read().clone();
        for &side in sides {
            self.up[side as usize].store(up, Ordering::Relaxed);
            for end in lanes.iter().filter_map(|lane| lane.end(side)) {
                end.link_changed(up);
            }
        }
        for lane in lanes {
            if !up {
                lane.clear_rest();
            }
            // Who waited for room has it now: with the link down frames just vanish.
            for side in [Side::Host, Side::Guest] {
                if let Some(end) = lane.end(side) {
                    end.wake();
                }
            }
        }
    }

    /// Adds a filter: `place` is its index in the order of frames of the back end.
    pub fn add_filter(&self, place: usize, id: &str, filter: Arc<dyn Filter>) {
        let mut filters = self.filters.write();
        let place = place.min(filters.len());
        filters.insert(place, (id.into(), filter));
        self.filtered.store(true, Ordering::Release);
    }

    /// Takes a filter away.
    pub fn remove_filter(&self, id: &str) {
        let mut filters = self.filters.write();
        filters.retain(|(name, _)| name != id);
        self.filtered.store(!filters.is_empty(), Ordering::Release);
    }

    /// What `info network` shows of the filters.
    pub fn filter_info(&self) -> String {
        self.filters.read().iter().map(|(_, filter)| filter.info()).collect()
    }

    /// The ids of the filters, in the order of frames of the back end.
    pub fn filters(&self) -> Vec<String> {
        self.filters.read().iter().map(|(id, _)| id.clone()).collect()
    }

    /// Sends on what the filter `after` kept, in the first lane: past the filters that come after it.
    /// With `Full` the filter keeps it longer.
    pub fn resume(&self, after: &str, from: Side, frame: &Frame<'_>) -> Delivery {
        if !self.is_up() || self.filter(from, Some(after), frame) == Verdict::Keep {
            return Delivery::Taken;
        }
        let Some(lane) = self.lanes.read().first().cloned() else { return Delivery::Taken };
        let delivery = lane.deliver(from.other(), frame);
        if let Some(end) = lane.end(from.other()) {
            end.flush();
        }
        delivery
    }

    fn filter(&self, from: Side, after: Option<&str>, frame: &Frame<'_>) -> Verdict {
        if !self.filtered.load(Ordering::Acquire) {
            return Verdict::Pass;
        }
        let mut filters = self.filters.read().clone();
        if from == Side::Guest {
            filters.reverse();
        }
        let first = after.and_then(|after| filters.iter().position(|(id, _)| id == after));
        let rest = filters.into_iter().skip(first.map_or(0, |at| at + 1));
        for (_, filter) in rest {
            if filter.see(from, frame) == Verdict::Keep {
                return Verdict::Keep;
            }
        }
        Verdict::Pass
    }
}

/// One side of one lane: what an end sends through.
#[derive(Clone)]
pub struct Plug {
    cable: Arc<Cable>,
    lane: Arc<Lane>,
    side: Side,
}

impl Plug {
    /// The cable.
    pub fn cable(&self) -> &Arc<Cable> {
        &self.cable
    }

    /// Puts an end here: it gets the other side's frames.
    pub fn attach(&self, end: Weak<dyn End>) {
        *self.lane.ends[self.side as usize].write() = Some(end);
    }

    /// Takes the end away.
    pub fn detach(&self) {
        *self.lane.ends[self.side as usize].write() = None;
        self.lane.clear_rest();
        if let Some(other) = self.lane.end(self.side.other()) {
            other.wake();
        }
    }

    /// Sends a frame to the other end. [`Delivery::Full`]: keep it until [`End::wake`].
    pub fn send(&self, frame: &Frame<'_>) -> Delivery {
        if !self.cable.is_up() {
            return Delivery::Taken;
        }
        let delivery = match self.cable.filtered.load(Ordering::Acquire) {
            true => self.send_filtered(frame),
            false => self.lane.deliver(self.side.other(), frame),
        };
        if delivery == Delivery::Taken {
            let sent = &self.lane.sent[self.side as usize];
            sent.fetch_add(frame.len() as u64, Ordering::Relaxed);
        }
        delivery
    }

    /// Sends frames in turn, as long as there is room; returns how many. For bursts: who is at the other end is
    /// found out once.
    pub fn send_all(&self, frames: &[Frame<'_>]) -> usize {
        if frames.is_empty() || !self.cable.is_up() {
            return frames.len();
        }
        if self.cable.filtered.load(Ordering::Acquire) {
            let full = frames.iter().position(|frame| self.send(frame) == Delivery::Full);
            return full.unwrap_or(frames.len());
        }
        let taken = self.lane.deliver_all(self.side.other(), frames);
        let bytes = frames[..taken].iter().map(Frame::len).sum::<usize>();
        self.lane.sent[self.side as usize].fetch_add(bytes as u64, Ordering::Relaxed);
        taken
    }

    /// A filter must see each frame once: so there has to be room before it does.
    fn send_filtered(&self, frame: &Frame<'_>) -> Delivery {
        let to = self.side.other();
        let Some(end) = self.lane.end(to) else { return Delivery::Taken };
        if self.lane.deliver_rest(to, &*end) == Delivery::Full {
            return Delivery::Full;
        }
        if self.cable.filter(self.side, None, frame) == Verdict::Pass
            && self.lane.deliver(to, frame) == Delivery::Full
        {
            segment::finish(frame, |piece| {
                self.lane.waiting[to as usize].fetch_add(1, Ordering::AcqRel);
                self.lane.rest[to as usize].lock().push_back(piece.to_vec());
                true
            });
        }
        Delivery::Taken
    }

    /// The burst is over.
    pub fn flush(&self) {
        if let Some(end) = self.lane.end(self.side.other()) {
            // Whether it is full now or not: the end has got what it could take.
            let _ = self.lane.deliver_rest(self.side.other(), &*end);
            end.flush();
        }
    }

    /// This end has room again after it answered [`Delivery::Full`].
    pub fn ready(&self) {
        if let Some(end) = self.lane.end(self.side.other()) {
            end.wake();
        }
    }

    /// What the other end takes as it is; everything if there is none.
    pub fn peer_accepts(&self) -> Offloads {
        self.lane.end(self.side.other()).map_or(Offloads::ALL, |end| end.accepts())
    }

    /// Whether there is another end.
    pub fn has_peer(&self) -> bool {
        self.lane.end(self.side.other()).is_some()
    }
}
