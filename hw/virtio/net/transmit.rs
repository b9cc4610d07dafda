//! From the driver to the cable (virtio 1.2, 5.1.6.2).

use std::sync::{Arc, Weak};

use base::event_loop::{BottomHalf, LoopHandle};
use base::memory::RamPiece;
use net::offload::VNET_HEADER;
use net::{Delivery, Frame, Offload, Part, Plug};
use parking_lot::Mutex;

use super::Shared;
use crate::virtio::queue::cut;
use crate::virtio::{Chain, VirtQueue};

/// The longest frame: one that is to be cut, with its headers.
const MAX_FRAME: u64 = 0x1_0000 + 256;

/// A frame that is sent at once, by the thread of the driver, where that spares a wake-up: copying it
/// takes less time.
const SMALL: u64 = 2048;

/// Serves a transmit queue.
pub(super) struct Sender {
    shared: Arc<Shared>,
    queue: Arc<VirtQueue>,
    plug: Plug,
    main_loop: LoopHandle,
    job: BottomHalf,
    /// Has one thread at a time send.
    work: Mutex<Work>,
}

#[derive(Default)]
struct Work {
    /// What is to be sent next; the other end may have had no room for it.
    next: Option<Chain>,
    done: Vec<(Chain, u32)>,
}

impl Sender {
    pub fn new(
        shared: &Arc<Shared>,
        queue: &Arc<VirtQueue>,
        plug: Plug,
        main_loop: &LoopHandle,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| {
            let me = me.clone();
            let job = main_loop.bottom_half(move || {
                if let Some(sender) = me.upgrade() {
                    sender.serve();
                }
            });
            let (shared, queue) = (shared.clone(), queue.clone());
            let main_loop = main_loop.clone();
            Sender { shared, queue, plug, main_loop, job, work: Mutex::default() }
        })
    }

    /// There is something to be sent, or room for it.
    pub fn schedule(&self) {
        self.job.schedule();
    }

    /// Drops what waits.
    pub fn forget(&self) {
        self.work.lock().next = None;
    }

    /// The driver has something to be sent. One small frame, such as a question or an answer, goes at
    /// once if the loop would have to be woken up for it; everything else is the loop's, so that the
    /// driver can go on meanwhile.
    pub fn on_kick(&self) {
        if !self.main_loop.is_asleep() || !self.send_one() {
            self.schedule();
        }
    }

    /// Sends a small frame; whether that was all there is to do.
    fn send_one(&self) -> bool {
        let Some(mut work) = self.work.try_lock() else { return false };
        if work.next.is_some() {
            return false;
        }
        let Some(chain) = self.queue.pop() else { return true };
        if chain.readable_len() > SMALL || self.send(&chain) == Delivery::Full {
            work.next = Some(chain);
            return false;
        }
        work.done.push((chain, 0));
        self.give_back(&mut work.done);
        let more = self.queue.ask_for_notifications(true);
        drop(work);
        self.plug.flush();
        !more
    }

    fn serve(&self) {
        let mut work = self.work.lock();
        let Work { next, done } = &mut *work;
        let mut turns = self.queue.max_size();
        'serving: loop {
            self.queue.ask_for_notifications(false);
            while turns > 0
                && let Some(chain) = next.take().or_else(|| self.queue.pop())
            {
                turns -= 1;
                if self.send(&chain) == Delivery::Full {
                    *next = Some(chain);
                    break 'serving;
                }
                done.push((chain, 0));
            }
            self.give_back(done);
            if turns == 0 {
                // Others get their turn first.
                self.schedule();
                break;
            }
            if !self.queue.ask_for_notifications(true) {
                break;
            }
        }
        self.give_back(done);
        drop(work);
        self.plug.flush();
    }

    fn give_back(&self, done: &mut Vec<(Chain, u32)>) {
        if !done.is_empty() {
            self.queue.push_all(done);
            done.clear();
            self.queue.signal();
        }
    }

    /// Sends the frame of a chain. What makes no sense is as good as sent.
    fn send(&self, chain: &Chain) -> Delivery {
        let header_len = self.shared.header_len();
        let mut header = [0; VNET_HEADER];
        if chain.readable_len() <= header_len as u64 || !chain.read(0, &mut header) {
            self.queue.refuse("a frame without a header");
            return Delivery::Taken;
        }
        let len = chain.readable_len() - header_len as u64;
        let Some(offload) = Offload::from_vnet(&header).filter(|_| len <= MAX_FRAME) else {
            base::guest_error!("virtio-net: a frame of {len} bytes with a header without sense");
            return Delivery::Taken;
        };
        match pieces(chain, header_len) {
            Some(pieces) => {
                let parts: Vec<Part<'_>> = pieces.iter().map(Part::guest).collect();
                self.plug.send(&Frame::new(&parts, offload))
            }
            // A buffer that is not in memory.
            None => Delivery::Taken,
        }
    }
}

/// The memory of a frame behind its header.
fn pieces(chain: &Chain, header_len: usize) -> Option<Vec<RamPiece>> {
    let mut pieces = Vec::new();
    for buffer in cut(chain.readable(), header_len as u64, u64::MAX) {
        pieces.extend(chain.memory().ram_pieces(buffer.addr, buffer.len as usize, false)?);
    }
    Some(pieces)
}
