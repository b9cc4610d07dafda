//! From the cable to the driver (virtio 1.2, 5.1.6.3 and 5.1.6.4).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use base::event_loop::{BottomHalf, LoopHandle};
use net::{Delivery, End, Frame, Offloads, Plug};
use parking_lot::Mutex;

use super::transmit::Sender;
use super::{Shared, feature};
use crate::virtio::{Chain, VirtQueue};

/// Where the number of buffers is in the header.
const COUNT_AT: u64 = 10;
const MAX_HEADER: usize = 12;

/// The card's end of a lane, and its receive queue.
pub(super) struct Receiver {
    shared: Arc<Shared>,
    queue: Arc<VirtQueue>,
    sender: OnceLock<Weak<Sender>>,
    /// Says that there is room.
    ready: BottomHalf,
    /// A frame did not fit.
    refused: Arc<AtomicBool>,
    room: Mutex<Room>,
}

/// What frames are brought in with, kept for the next one.
#[derive(Default)]
struct Room {
    chains: Vec<(Chain, u32)>,
    bytes: Vec<u8>,
}

impl Receiver {
    pub fn new(
        shared: &Arc<Shared>,
        queue: &Arc<VirtQueue>,
        plug: Plug,
        main_loop: &LoopHandle,
    ) -> Arc<Self> {
        let refused = Arc::<AtomicBool>::default();
        let flag = refused.clone();
        let ready = main_loop.bottom_half(move || {
            if flag.swap(false, Ordering::AcqRel) {
                plug.ready();
            }
        });
        Arc::new(Receiver {
            shared: shared.clone(),
            queue: queue.clone(),
            sender: OnceLock::new(),
            ready,
            refused,
            room: Mutex::default(),
        })
    }

    /// Who is woken when the other end has room.
    pub fn answers_to(&self, sender: &Arc<Sender>) {
        self.sender.get_or_init(|| Arc::downgrade(sender));
    }

    /// The driver has made buffers available.
    pub fn offer_room(&self) {
        if self.refused.load(Ordering::Acquire) {
            self.ready.schedule();
        }
    }

    fn refuse(&self) -> Delivery {
        self.refused.store(true, Ordering::Release);
        // Buffers may have come just before.
        if self.queue.ask_for_notifications(true) {
            self.ready.schedule();
        }
        Delivery::Full
    }

    /// Takes chains for `need` bytes: several if the driver puts frames together.
    fn reserve(&self, need: u64, chains: &mut Vec<(Chain, u32)>) -> Result<(), Refusal> {
        let several = self.shared.has(feature::MRG_RXBUF);
        let mut room = 0;
        while room < need {
            let Some(chain) = self.queue.pop() else {
                while let Some((chain, _)) = chains.pop() {
                    self.queue.unpop(chain);
                }
                return Err(Refusal::Full);
            };
            let len = chain.writable_len();
            if chains.is_empty() && len < MAX_HEADER as u64 {
                self.queue.refuse("a receive buffer without room for a header");
                return Err(Refusal::Broken);
            }
            if !several && len < need {
                self.queue.unpop(chain);
                return Err(Refusal::TooLarge);
            }
            room += len;
            chains.push((chain, len.min(u64::from(u32::MAX)) as u32));
        }
        Ok(())
    }
}

/// Why a frame does not get in.
enum Refusal {
    /// Later it might.
    Full,
    /// It fits into no buffer.
    TooLarge,
    /// The driver gave nonsense.
    Broken,
}

impl End for Receiver {
    fn deliver(&self, frame: &Frame<'_>) -> Delivery {
        let shared = &self.shared;
        if !shared.driver.is_ready() {
            return self.refuse();
        }
        let mut start = [0; 16];
        frame.copy(0, &mut start);
        if !shared.filter.lock().wants(&start) {
            return Delivery::Taken;
        }
        let header_len = shared.header_len();
        let mut room = self.room.lock();
        let Room { chains, bytes } = &mut *room;
        let len = frame.len();
        match self.reserve((header_len + len) as u64, chains) {
            Ok(()) => {}
            Err(Refusal::Full) => {
                drop(room);
                return self.refuse();
            }
            Err(Refusal::TooLarge | Refusal::Broken) => {
                chains.clear();
                return Delivery::Taken;
            }
        }
        bytes.clear();
        bytes.resize(header_len + len, 0);
        let header = frame.offload.to_vnet();
        bytes[..header.len()].copy_from_slice(&header);
        if header_len > header.len() {
            let count = chains.len() as u16;
            bytes[COUNT_AT as usize..header_len].copy_from_slice(&count.to_le_bytes());
        }
        frame.copy(0, &mut bytes[header_len..]);
        let mut at = 0;
        for (chain, written) in chains.iter_mut() {
            let len = (*written as usize).min(bytes.len() - at);
            // A buffer that is not memory takes nothing.
            chain.write(0, &bytes[at..at + len]);
            *written = len as u32;
            at += len;
        }
        self.queue.push_all(chains);
        chains.clear();
        Delivery::Taken
    }

    fn flush(&self) {
        self.queue.signal();
    }

    fn wake(&self) {
        if let Some(sender) = self.sender.get().and_then(Weak::upgrade) {
            sender.schedule();
        }
    }

    fn accepts(&self) -> Offloads {
        self.shared.guest_takes()
    }

    fn link_changed(&self, _: bool) {
        self.shared.look_at_link();
    }
}
