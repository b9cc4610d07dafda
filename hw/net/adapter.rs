//! A card that copies each frame between its own memory and the guest's, and its end of the cable:
//! frames come in with the device locked; those that go out are put together with the lock held and
//! sent without, by a worker on the main loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use base::device::{Device, WeakShared};
use base::event_loop::{BottomHalf, LoopHandle};
use base::props::MacAddr;
use net::{Delivery, End, Frame, Offload, Offloads, Part, Plug};
use parking_lot::Mutex;

use super::card::{Card, Socket};

/// Frames that are sent before others get their turn.
const BURST: usize = 256;

/// A frame on its way out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub bytes: Vec<u8>,
    pub offload: Offload,
}

impl From<Vec<u8>> for Outgoing {
    fn from(bytes: Vec<u8>) -> Self {
        Outgoing { bytes, offload: Offload::default() }
    }
}

/// What the end of the cable needs of the card behind it.
pub(super) trait Adapter: Device {
    /// The next frame that the driver wants sent.
    fn next_frame(&mut self) -> Option<Outgoing>;

    /// The buffer of a frame that was sent, to be used again.
    fn recycle(&mut self, buffer: Vec<u8>) {
        drop(buffer);
    }

    /// A frame comes from the cable. A card that answers [`Delivery::Full`] calls
    /// [`AdapterEnd::offer_room`] when the driver has made room.
    fn receive(&mut self, frame: &Frame<'_>) -> Delivery;

    /// The burst is over: now the driver hears of what has come and gone.
    fn burst_over(&mut self) {}

    /// Whether what is sent comes back instead.
    fn loops(&self) -> bool;

    /// The cable was plugged in or pulled.
    fn cable_changed(&mut self, up: bool);

    /// The address that the card goes by now.
    fn shown_mac(&self) -> MacAddr;
}

/// The card's end of the cable.
pub(super) struct AdapterEnd<A> {
    device: WeakShared<A>,
    plug: Plug,
    job: BottomHalf,
    /// The card has refused a frame, and the other end waits.
    refused: AtomicBool,
    /// What the other end had no room for.
    waiting: Mutex<Option<Outgoing>>,
}

impl<A: Adapter> AdapterEnd<A> {
    pub fn new(device: &WeakShared<A>, socket: &Socket, main_loop: &LoopHandle) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| {
            let me = me.clone();
            let job = main_loop.bottom_half(move || {
                if let Some(end) = me.upgrade() {
                    end.run();
                }
            });
            let (refused, waiting) = Default::default();
            AdapterEnd { device: device.clone(), plug: socket.plug(0), job, refused, waiting }
        })
    }

    /// The card is there, and takes frames from now on.
    pub fn enter(self: &Arc<Self>, socket: &Socket) {
        let me: Weak<Self> = Arc::downgrade(self);
        socket.enter(me.clone(), vec![me]);
    }

    /// Has the worker look what there is to do.
    pub fn schedule(&self) {
        self.job.schedule();
    }

    /// The card, which is locked, takes frames: one that it has refused may come again.
    pub fn offer_room(&self) {
        if self.refused.load(Ordering::Relaxed) {
            self.schedule();
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut A) -> T) -> Option<T> {
        self.device.upgrade().map(|device| act(&mut device.lock()))
    }

    fn run(&self) {
        if self.refused.swap(false, Ordering::Relaxed) {
            self.plug.ready();
        }
        self.transmit();
    }

    fn transmit(&self) {
        let next = |device: &mut A| device.next_frame().map(|frame| (frame, device.loops()));
        let waiting = self.waiting.lock().take().map(|frame| (frame, false));
        let mut upcoming = waiting.or_else(|| self.with(next).flatten());
        let mut left = BURST;
        while let Some((frame, loops)) = upcoming.take() {
            let parts = [Part::from(&frame.bytes[..])];
            if loops {
                self.with(|device| {
                    // A frame that comes back to a full ring is lost.
                    let _ = device.receive(&Frame::new(&parts, Offload::default()));
                });
            } else if self.plug.send(&Frame::new(&parts, frame.offload)) == Delivery::Full {
                *self.waiting.lock() = Some(frame);
                break;
            }
            left -= 1;
            if left == 0 {
                self.schedule();
                break;
            }
            upcoming = self
                .with(|device| {
                    device.recycle(frame.bytes);
                    next(device)
                })
                .flatten();
        }
        self.with(A::burst_over);
        self.plug.flush();
    }
}

impl<A: Adapter> End for AdapterEnd<A> {
    fn deliver(&self, frame: &Frame<'_>) -> Delivery {
        let receive = |device: &mut A| {
            let delivery = device.receive(frame);
            if delivery == Delivery::Full {
                // With the lock held, so that no room comes up in between. The driver has to hear of what it is to
                // make room of.
                self.refused.store(true, Ordering::Relaxed);
                device.burst_over();
            }
            delivery
        };
        self.with(receive).unwrap_or(Delivery::Taken)
    }

    fn flush(&self) {
        self.with(A::burst_over);
    }

    fn wake(&self) {
        self.schedule();
    }

    fn accepts(&self) -> Offloads {
        // Sums are the card's or the driver's to check, and nobody puts segments together.
        Offloads::default()
    }

    fn link_changed(&self, _: bool) {
        let up = self.plug.cable().is_up();
        self.with(|device| device.cable_changed(up));
    }
}

impl<A: Adapter> Card for AdapterEnd<A> {
    fn mac(&self) -> MacAddr {
        self.with(|device| device.shown_mac()).unwrap_or_default()
    }
}
