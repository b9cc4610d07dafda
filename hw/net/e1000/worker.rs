//! The adapter's end of its cable: frames come in with the device locked, and go out without.

use std::sync::Arc;

use base::device::WeakShared;
use base::event_loop::{BottomHalf, LoopHandle};
use base::props::MacAddr;
use net::{Delivery, End, Frame, Offload, Offloads, Part, Plug};
use parking_lot::Mutex;

use super::E1000;
use crate::net::card::Card;

/// Frames that are sent before others get their turn.
const BURST: usize = 256;

/// A frame on its way out.
pub(super) struct Outgoing {
    pub bytes: Vec<u8>,
    pub offload: Offload,
}

/// The end of the cable.
pub(super) struct E1000End {
    device: WeakShared<E1000>,
    plug: Plug,
    job: BottomHalf,
    /// What the other end had no room for.
    refused: Mutex<Option<Outgoing>>,
}

impl E1000End {
    pub fn new(device: &WeakShared<E1000>, plug: Plug, main_loop: &LoopHandle) -> Arc<Self> {
        Arc::new_cyclic(|me: &std::sync::Weak<Self>| {
            let me = me.clone();
            let job = main_loop.bottom_half(move || {
                if let Some(end) = me.upgrade() {
                    end.run();
                }
            });
            E1000End { device: device.clone(), plug, job, refused: Mutex::default() }
        })
    }

    /// Has the worker look what there is to do.
    pub fn schedule(&self) {
        self.job.schedule();
    }

    fn with<T>(&self, act: impl FnOnce(&mut E1000) -> T) -> Option<T> {
        self.device.upgrade().map(|device| act(&mut device.lock()))
    }

    fn run(&self) {
        if self.with(E1000::take_refused).unwrap_or(false) {
            self.plug.ready();
        }
        self.transmit();
    }

    fn transmit(&self) {
        let waiting = self.refused.lock().take();
        let mut next = waiting.or_else(|| self.with(E1000::next_frame).flatten());
        let mut left = BURST;
        while let Some(frame) = next.take() {
            let parts = [Part::from(&frame.bytes[..])];
            if self.with(|device| device.loops()).unwrap_or(false) {
                self.with(|device| {
                    // A frame that comes back to a full ring is lost.
                    let _ = device.receive(&Frame::new(&parts, Offload::default()));
                    device.burst_over();
                });
            } else if self.plug.send(&Frame::new(&parts, frame.offload)) == Delivery::Full {
                *self.refused.lock() = Some(frame);
                break;
            }
            left -= 1;
            if left == 0 {
                self.schedule();
                break;
            }
            next = self
                .with(|device| {
                    device.recycle(frame.bytes);
                    device.next_frame()
                })
                .flatten();
        }
        self.with(E1000::burst_over);
        self.plug.flush();
    }
}

impl End for E1000End {
    fn deliver(&self, frame: &Frame<'_>) -> Delivery {
        self.with(|device| device.receive(frame)).unwrap_or(Delivery::Taken)
    }

    fn flush(&self) {
        self.with(E1000::burst_over);
    }

    fn wake(&self) {
        self.schedule();
    }

    fn accepts(&self) -> Offloads {
        // The controller checks sums of what comes in, and puts nothing together.
        Offloads::default()
    }

    fn link_changed(&self, _: bool) {
        let up = self.plug.cable().is_up();
        self.with(|device| device.cable_changed(up));
    }
}

impl Card for E1000End {
    fn mac(&self) -> MacAddr {
        self.with(|device| device.shown_mac()).unwrap_or_default()
    }
}
