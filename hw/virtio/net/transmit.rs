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

/// Serves a transmit queue.
pub(super) struct Sender {
    shared: Arc<Shared>,
    queue: Arc<VirtQueue>,
    plug: Plug,
    job: BottomHalf,
    /// Has one thread at a time send.
    work: Mutex<Work>,
}

#[derive(Default)]
struct Work {
    /// What the other end had no room for.
    refused: Option<Chain>,
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
            Sender { shared, queue, plug, job, work: Mutex::default() }
        })
    }

    /// There is something to be sent, or room for it.
    pub fn schedule(&self) {
        self.job.schedule();
    }

    /// Drops what waits.
    pub fn forget(&self) {
        self.work.lock().refused = None;
    }

    fn serve(&self) {
        let mut work = self.work.lock();
        let Work { refused, done } = &mut *work;
        let mut turns = self.queue.max_size();
        'serving: loop {
            self.queue.ask_for_notifications(false);
            while turns > 0
                && let Some(chain) = refused.take().or_else(|| self.queue.pop())
            {
                turns -= 1;
                if self.send(&chain) == Delivery::Full {
                    *refused = Some(chain);
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
