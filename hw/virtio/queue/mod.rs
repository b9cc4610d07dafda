//! Virtqueues: where drivers make buffers available and devices return them used.
//!
//! The rings lie in guest memory, which the driver may change at any time and fill with nonsense:
//! everything is copied before it is looked at, and a ring that breaks the rules stops the queue and
//! puts the device into the state that only a reset ends (2.1.2).
//!
//! The rings are walked here and not by the crate virtio-queue: that one knows no packed rings, ends a
//! malformed chain as if it were complete, and reaches memory by its own maps, past our tracking of
//! pages that are written and our switch of bus mastering.

mod chain;
mod packed;
mod split;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};

use base::memory::Dma;
use base::state::{State, StateError};
use parking_lot::Mutex;

pub use chain::{Buffer, Chain, cut};

use super::{ToDriver, features};

/// Sizes that a queue may have.
pub const MAX_SIZE: u16 = 32768;
/// Means that no message is sent.
pub const NO_VECTOR: u16 = 0xffff;

/// How a ring breaks the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// It, or a buffer, is not in memory.
    #[error("not in guest memory")]
    Memory,
    /// More chains are available than fit.
    #[error("{0} chains are said to be available, which do not fit")]
    Index(u16),
    /// There is no such descriptor.
    #[error("there is no descriptor {0}")]
    Descriptor(u16),
    /// A chain has no end.
    #[error("a chain of descriptors is a loop")]
    Loop,
    /// A chain has too many buffers.
    #[error("a chain has too many buffers")]
    TooLong,
    /// Buffers to be read come before those to be written.
    #[error("a buffer to be read follows one to be written")]
    Order,
    /// An indirect table where none may be, or of an impossible length.
    #[error("an indirect table is not valid")]
    Table,
    /// The driver makes more available than there are descriptors.
    #[error("more chains are available than there are descriptors")]
    Full,
    /// An impossible size.
    #[error("{0} is not a size of a queue")]
    Size(u16),
    /// A device got a request that it can not even answer.
    #[error("{0}")]
    Request(&'static str),
}

/// Which of the features that concern rings were negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
struct RingFeatures {
    packed: bool,
    indirect: bool,
    event_idx: bool,
    notify_on_empty: bool,
}

impl RingFeatures {
    fn of(features: u64) -> Self {
        RingFeatures {
            packed: features & features::RING_PACKED != 0,
            indirect: features & features::INDIRECT_DESC != 0,
            event_idx: features & features::EVENT_IDX != 0,
            notify_on_empty: features & features::NOTIFY_ON_EMPTY != 0
                && features & features::VERSION_1 == 0,
        }
    }
}

/// A queue's registers and positions.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(check)]
pub struct QueueState {
    /// Descriptors in the ring; zero means that there is no queue.
    pub size: u16,
    /// Whether the driver uses it.
    pub enabled: bool,
    /// Where the descriptors are.
    pub descriptors: u64,
    /// Where the driver writes: the available ring, or its event suppression.
    pub driver_area: u64,
    /// Where the device writes: the used ring, or its event suppression.
    pub device_area: u64,
    next_avail: u16,
    avail_wrap: bool,
    next_used: u16,
    used_wrap: bool,
    /// Used entries since the driver's wish for interrupts was last looked at.
    unsignalled: u16,
    features: RingFeatures,
    /// The ring broke the rules.
    broken: bool,
}

impl QueueState {
    fn at_reset(size: u16) -> Self {
        QueueState { size, avail_wrap: true, used_wrap: true, ..QueueState::default() }
    }

    fn check(&self) -> Result<(), StateError> {
        let fits = |at: u16| !self.features.packed || at < self.size.max(1);
        if self.size > MAX_SIZE || !fits(self.next_avail) || !fits(self.next_used) {
            return Err(StateError::invalid("a position outside of the ring"));
        }
        Ok(())
    }
}

/// A ring in guest memory, and how far both sides have come.
struct Ring<'a> {
    mem: &'a Dma,
    st: &'a mut QueueState,
    features: RingFeatures,
}

struct Inner {
    st: QueueState,
    /// Counts resets, so that what is left of the life before one is known.
    life: u32,
    /// Descriptors of the ring that chains of this life take up.
    out: u16,
    /// Where chains that go back are listed.
    used: Vec<Used>,
}

/// A chain that goes back.
struct Used {
    id: u16,
    slots: u16,
    written: u32,
}

type Kick = Box<dyn Fn() + Send + Sync>;

/// A queue of a device.
pub struct VirtQueue {
    index: u16,
    max_size: u16,
    mem: Dma,
    driver: Arc<ToDriver>,
    vector: AtomicU16,
    inner: Mutex<Inner>,
    in_flight: Arc<AtomicUsize>,
    kick: OnceLock<Kick>,
}

impl VirtQueue {
    /// Queue number `index`, with a ring of at most (and, unless the driver changes it, exactly)
    /// `size` descriptors.
    pub fn new(index: u16, size: u16, mem: &Dma, driver: &Arc<ToDriver>) -> Arc<Self> {
        Arc::new(VirtQueue {
            index,
            max_size: size,
            mem: mem.clone(),
            driver: driver.clone(),
            vector: AtomicU16::new(NO_VECTOR),
            inner: Mutex::new(Inner {
                st: QueueState::at_reset(size),
                life: 0,
                out: 0,
                used: Vec::new(),
            }),
            in_flight: Arc::default(),
            kick: OnceLock::new(),
        })
    }

    /// Its number.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Descriptors in its ring, unless the driver wants fewer.
    pub fn max_size(&self) -> u16 {
        self.max_size
    }

    /// What happens when the driver notifies; it must not wait. To be called once.
    pub fn on_kick(&self, kick: impl Fn() + Send + Sync + 'static) {
        let first = self.kick.set(Box::new(kick)).is_ok();
        debug_assert!(first, "two workers of one queue");
    }

    /// The driver says that there is something in the queue. Takes no lock.
    pub fn kick(&self) {
        if let Some(kick) = self.kick.get() {
            kick();
        }
    }

    /// The way to the driver.
    pub fn driver(&self) -> &Arc<ToDriver> {
        &self.driver
    }

    /// The number of the message that it sends.
    pub fn vector(&self) -> u16 {
        self.vector.load(Ordering::Relaxed)
    }

    /// Sets the number of the message that it sends.
    pub fn set_vector(&self, vector: u16) {
        self.vector.store(vector, Ordering::Relaxed);
    }

    /// Its registers.
    pub fn state(&self) -> QueueState {
        self.inner.lock().st.clone()
    }

    /// Puts saved registers and positions back.
    pub fn restore(&self, state: QueueState) {
        self.inner.lock().st = state;
    }

    /// Changes registers; a queue in use keeps them (4.1.4.3.2).
    pub fn configure(&self, change: impl FnOnce(&mut QueueState)) {
        let mut inner = self.inner.lock();
        if !inner.st.enabled {
            change(&mut inner.st);
        }
    }

    /// The driver begins to use the queue.
    pub fn enable(&self, features: u64) {
        let mut inner = self.inner.lock();
        if inner.st.enabled {
            return;
        }
        let features = RingFeatures::of(features);
        inner.st.features = features;
        inner.st.enabled = true;
        let size = inner.st.size;
        let sound =
            size > 0 && size <= self.max_size && (features.packed || size.is_power_of_two());
        let lengths = if features.packed { packed::lengths(size) } else { split::lengths(size) };
        let st = &inner.st;
        let areas = [st.descriptors, st.driver_area, st.device_area];
        let in_range = areas.iter().zip(lengths).all(|(at, len)| at.checked_add(len).is_some());
        if !sound {
            self.fail(&mut inner, RingError::Size(size));
        } else if !in_range {
            self.fail(&mut inner, RingError::Memory);
        }
    }

    /// How many chains the device has, those from before a reset included.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Whether the driver uses it.
    pub fn is_enabled(&self) -> bool {
        self.inner.lock().st.enabled
    }

    /// Back to the state after power-up. Chains that are out are lost.
    pub fn reset(&self) {
        let mut inner = self.inner.lock();
        inner.st = QueueState::at_reset(self.max_size);
        inner.life = inner.life.wrapping_add(1);
        inner.out = 0;
        self.set_vector(NO_VECTOR);
    }

    fn fail(&self, inner: &mut Inner, error: RingError) {
        inner.st.broken = true;
        base::guest_error!("virtio queue {}: {error}", self.index);
        self.driver.fail();
    }

    /// Does something with the ring, if there is one in use and memory to be reached.
    fn with<T>(
        &self,
        inner: &mut Inner,
        act: impl FnOnce(&mut Ring<'_>) -> Result<T, RingError>,
    ) -> Option<T> {
        let st = &mut inner.st;
        let driver = &self.driver;
        if !st.enabled || st.broken || !driver.is_ready() || driver.is_broken() {
            return None;
        }
        if !self.mem.is_enabled() {
            return None;
        }
        let features = st.features;
        match act(&mut Ring { mem: &self.mem, st, features }) {
            Ok(value) => Some(value),
            // Switched off meanwhile.
            Err(RingError::Memory) if !self.mem.is_enabled() => None,
            Err(error) => {
                self.fail(inner, error);
                None
            }
        }
    }

    /// Takes the next chain that the driver has made available.
    pub fn pop(&self) -> Option<Chain> {
        let mut inner = self.inner.lock();
        let pop = |ring: &mut Ring<'_>| {
            if ring.features.packed { packed::pop(ring) } else { split::pop(ring) }
        };
        let found = self.with(&mut inner, pop).flatten()?;
        inner.out = inner.out.saturating_add(found.slots);
        if inner.out > inner.st.size {
            self.fail(&mut inner, RingError::Full);
            return None;
        }
        Some(Chain::new(found, inner.life, &self.mem, &self.in_flight))
    }

    /// Puts back the chain that was taken last: nothing was done with it.
    pub fn unpop(&self, chain: Chain) {
        let mut inner = self.inner.lock();
        if chain.life != inner.life {
            return;
        }
        let st = &mut inner.st;
        if st.features.packed && chain.place + chain.slots >= st.size {
            st.avail_wrap = !st.avail_wrap;
        }
        st.next_avail = chain.place;
        inner.out = inner.out.saturating_sub(chain.slots);
    }

    /// Gives a chain back to the driver, with `written` bytes of it written, and interrupts if the
    /// driver wants that.
    pub fn push(&self, chain: Chain, written: u32) {
        let chain = [(chain, written)];
        let interrupt = {
            let mut inner = self.inner.lock();
            self.put(&mut inner, &chain);
            self.wants_interrupt(&mut inner)
        };
        // The driver may be told that nothing is left with the device only once that is so.
        drop(chain);
        if interrupt {
            self.driver.interrupt(self.vector());
        }
    }

    /// Gives chains back to the driver, each with how many bytes of it were written. The driver sees all
    /// of them at once, and hears of them by [`Self::signal`], before which they are to be dropped.
    pub fn push_all(&self, chains: &[(Chain, u32)]) {
        self.put(&mut self.inner.lock(), chains);
    }

    /// Interrupts, if the driver wants that for what was given back since the last time.
    pub fn signal(&self) {
        if self.wants_interrupt(&mut self.inner.lock()) {
            self.driver.interrupt(self.vector());
        }
    }

    fn put(&self, inner: &mut Inner, chains: &[(Chain, u32)]) {
        let life = inner.life;
        let mut used = std::mem::take(&mut inner.used);
        used.clear();
        for (chain, written) in chains.iter().filter(|(chain, _)| chain.life == life) {
            inner.out = inner.out.saturating_sub(chain.slots);
            used.push(Used { id: chain.id, slots: chain.slots, written: *written });
        }
        if !used.is_empty() {
            self.with(inner, |ring| {
                if ring.features.packed {
                    packed::push(ring, &used)
                } else {
                    split::push(ring, &used)
                }
            });
        }
        inner.used = used;
    }

    fn wants_interrupt(&self, inner: &mut Inner) -> bool {
        if inner.st.unsignalled == 0 {
            return false;
        }
        let wants = |ring: &mut Ring<'_>| {
            if ring.features.packed {
                packed::wants_interrupt(ring)
            } else {
                split::wants_interrupt(ring)
            }
        };
        self.with(inner, wants).unwrap_or(false)
    }

    /// A request in the queue makes no sense at all: the device needs a reset.
    pub fn refuse(&self, why: &'static str) {
        self.fail(&mut self.inner.lock(), RingError::Request(why));
    }

    /// Whether something is available.
    pub fn has_more(&self) -> bool {
        let look = |ring: &mut Ring<'_>| {
            if ring.features.packed {
                packed::has_more(ring)
            } else {
                split::waiting(ring).map(|count| count > 0)
            }
        };
        self.with(&mut self.inner.lock(), look).unwrap_or(false)
    }

    /// Asks the driver for notifications, or to be spared them. Returns whether something has become
    /// available that it will not notify of.
    pub fn ask_for_notifications(&self, wanted: bool) -> bool {
        let ask = |ring: &mut Ring<'_>| {
            if ring.features.packed { packed::ask(ring, wanted) } else { split::ask(ring, wanted) }
        };
        self.with(&mut self.inner.lock(), ask);
        if !wanted {
            return false;
        }
        // The wish is seen before the ring is looked at again (2.7.10, 2.8.10).
        fence(Ordering::SeqCst);
        self.has_more()
    }

    /// Serves the queue until it is empty: what a worker does when it is kicked. After a whole ring of
    /// chains, others get their turn first.
    pub fn serve(&self, mut each: impl FnMut(Chain)) {
        let mut turns = self.max_size;
        loop {
            self.ask_for_notifications(false);
            while turns > 0
                && let Some(chain) = self.pop()
            {
                each(chain);
                turns -= 1;
            }
            if turns == 0 {
                return self.kick();
            }
            if !self.ask_for_notifications(true) {
                return;
            }
        }
    }
}
