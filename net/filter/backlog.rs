//! Frames that a filter holds until they can go on.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use base::clock::{ClockKind, Clocks, Timer};
use parking_lot::Mutex;

use crate::{Cable, Delivery, Frame, Offload, Part, Side};

/// Bytes that are held at most; what comes on top is lost.
const ROOM: usize = 64 << 20;
/// How long to wait for an end that takes nothing.
const RETRY: i64 = 1_000_000;
const MICROSECOND: i64 = 1000;

struct Held {
    from: Side,
    bytes: Vec<u8>,
    offload: Offload,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Held>,
    bytes: usize,
}

/// Called when there is room again.
type OnRoom = Box<dyn Fn() + Send + Sync>;

/// The frames, and the timer that lets them go.
pub(super) struct Backlog {
    /// The filter, behind which they go on.
    id: String,
    cable: Weak<Cable>,
    clocks: Clocks,
    /// Microseconds until what came goes on; without, it goes on at once.
    interval: Option<Arc<AtomicU32>>,
    queue: Mutex<Queue>,
    timer: OnceLock<Timer>,
    on_room: OnceLock<OnRoom>,
}

impl Backlog {
    pub fn new(
        id: &str,
        cable: &Arc<Cable>,
        clocks: &Clocks,
        interval: Option<Arc<AtomicU32>>,
    ) -> Arc<Self> {
        let backlog = Arc::new(Backlog {
            id: id.into(),
            cable: Arc::downgrade(cable),
            clocks: clocks.clone(),
            interval,
            queue: Mutex::default(),
            timer: OnceLock::new(),
            on_room: OnceLock::new(),
        });
        let me = Arc::downgrade(&backlog);
        let expired = move || me.upgrade().into_iter().for_each(|backlog| backlog.expired());
        backlog.timer.get_or_init(|| clocks.timer(ClockKind::Virtual, expired));
        backlog
    }

    /// Who is told that there is room again after there was none. To be called once.
    pub fn tell(&self, on_room: impl Fn() + Send + Sync + 'static) {
        self.on_room.get_or_init(|| Box::new(on_room));
    }

    fn wait(&self, nanoseconds: i64) {
        if let Some(timer) = self.timer.get() {
            timer.set(self.clocks.now_virtual() + nanoseconds);
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.lock().frames.is_empty()
    }

    /// Keeps a frame until the interval is over.
    pub fn hold(&self, from: Side, frame: &Frame<'_>) {
        self.push(Held { from, bytes: frame.to_vec(), offload: frame.offload });
    }

    /// Keeps a frame that goes on as soon as it can.
    pub fn push_bytes(&self, from: Side, bytes: &[u8], offload: Offload) {
        self.push(Held { from, bytes: bytes.to_vec(), offload });
    }

    fn push(&self, held: Held) {
        let mut queue = self.queue.lock();
        if queue.bytes + held.bytes.len() > ROOM {
            return;
        }
        queue.bytes += held.bytes.len();
        queue.frames.push_back(held);
        let first = queue.frames.len() == 1;
        drop(queue);
        if let (true, Some(interval)) = (first, &self.interval) {
            self.wait(i64::from(interval.load(Ordering::Relaxed)) * MICROSECOND);
        }
    }

    fn expired(&self) {
        self.release();
        if self.is_empty() {
            self.on_room.get().into_iter().for_each(|tell| tell());
        }
    }

    /// Lets all go on, as far as the ends take them.
    pub fn release(&self) {
        let Some(cable) = self.cable.upgrade() else { return };
        loop {
            let Some(held) = self.queue.lock().frames.pop_front() else { break };
            let parts = [Part::from(&held.bytes[..])];
            let frame = Frame::new(&parts, held.offload);
            let full = cable.resume(&self.id, held.from, &frame) == Delivery::Full;
            let mut queue = self.queue.lock();
            if full {
                queue.frames.push_front(held);
                drop(queue);
                return self.wait(RETRY);
            }
            queue.bytes -= held.bytes.len();
        }
    }
}
