//! Frames to and from character devices: each behind its length, four bytes, big-endian; if wanted, the
//! length of a virtio header, and that header, between the two.

use std::sync::{Arc, OnceLock};

use base::chardev::{CharClient, CharPort, Chardev};
use parking_lot::Mutex;

use super::Gate;
use super::backlog::Backlog;
use crate::offload::VNET_HEADER;
use crate::stream::framing::{Deframer, LENGTH};
use crate::{Frame, NetError, Offload, Side, segment};

/// Bytes that wait for the device at most; frames on top of them are lost.
const ROOM: usize = 4 << 20;

fn attach(chardev: &Chardev, client: Arc<dyn CharClient>) -> Result<CharPort, NetError> {
    chardev.attach(client).map_err(|error| NetError::failed(error.to_string()))
}

/// Where frames go.
pub(super) struct Outlet {
    vnet: bool,
    port: OnceLock<CharPort>,
    waiting: Mutex<Vec<u8>>,
}

impl Outlet {
    pub fn open(chardev: &Chardev, vnet: bool) -> Result<Arc<Outlet>, NetError> {
        let outlet = Arc::new(Outlet { vnet, port: OnceLock::new(), waiting: Mutex::default() });
        let port = attach(chardev, Arc::new(Sink(Arc::downgrade(&outlet))))?;
        outlet.port.get_or_init(|| port);
        Ok(outlet)
    }

    /// Sends a frame, as it would be on a wire: cut, and with its sums. So there is never anything in
    /// the virtio header, and its length is zero.
    pub fn send(&self, frame: &Frame<'_>) {
        let mut waiting = self.waiting.lock();
        if waiting.len() > ROOM {
            return;
        }
        segment::finish(frame, |piece| {
            waiting.extend((piece.len() as u32).to_be_bytes());
            if self.vnet {
                waiting.extend([0; LENGTH]);
            }
            let begin = waiting.len();
            waiting.resize(begin + piece.len(), 0);
            piece.copy(0, &mut waiting[begin..]);
            true
        });
        self.flush(&mut waiting);
    }

    fn flush(&self, waiting: &mut Vec<u8>) {
        if let Some(port) = self.port.get() {
            let written = port.write(waiting);
            waiting.drain(..written);
        }
    }
}

/// The front end of an outlet's device. What comes from there is nobody's.
struct Sink(std::sync::Weak<Outlet>);

impl CharClient for Sink {
    fn can_receive(&self) -> usize {
        usize::MAX
    }

    fn receive(&self, _: &[u8]) {}

    fn write_ready(&self) {
        if let Some(outlet) = self.0.upgrade() {
            let mut waiting = outlet.waiting.lock();
            outlet.flush(&mut waiting);
        }
    }
}

/// Where frames come from.
pub(super) struct Inlet {
    port: OnceLock<CharPort>,
}

impl Inlet {
    pub fn open(
        chardev: &Chardev,
        vnet: bool,
        gate: Arc<Gate>,
        backlog: Arc<Backlog>,
    ) -> Result<Arc<Inlet>, NetError> {
        let between = if vnet { LENGTH } else { 0 };
        let deframer = Mutex::new(Deframer::with_header(between));
        let inlet = Arc::new(Inlet { port: OnceLock::new() });
        let me = Arc::downgrade(&inlet);
        backlog.tell(move || {
            let inlet = me.upgrade();
            inlet.iter().filter_map(|inlet| inlet.port.get()).for_each(CharPort::accept_input);
        });
        let port = attach(chardev, Arc::new(Source { gate, vnet, deframer, backlog }))?;
        inlet.port.get_or_init(|| port);
        Ok(inlet)
    }
}

/// The front end of an inlet's device.
struct Source {
    gate: Arc<Gate>,
    vnet: bool,
    deframer: Mutex<Deframer>,
    backlog: Arc<Backlog>,
}

impl Source {
    /// Sends a frame on, behind the filter, in the directions that are the filter's.
    fn inject(&self, frame: &[u8]) {
        let (offload, bytes) =
            if self.vnet { split_vnet(frame) } else { (Offload::default(), frame) };
        for from in [Side::Host, Side::Guest] {
            if self.gate.is_on() && self.gate.takes_from(from) {
                self.backlog.push_bytes(from, bytes, offload);
            }
        }
    }
}

/// Takes off the length of a virtio header, and the header.
fn split_vnet(frame: &[u8]) -> (Offload, &[u8]) {
    let Some((len, rest)) = frame.split_first_chunk::<LENGTH>() else {
        return (Offload::default(), &[]);
    };
    let len = (u32::from_be_bytes(*len) as usize).min(rest.len());
    let (header, bytes) = rest.split_at(len);
    let header = header.first_chunk::<VNET_HEADER>();
    (header.and_then(Offload::from_vnet).unwrap_or_default(), bytes)
}

impl CharClient for Source {
    fn can_receive(&self) -> usize {
        // What the ends do not take holds the device back.
        const AT_ONCE: usize = 64 << 10;
        if self.backlog.is_empty() { AT_ONCE } else { 0 }
    }

    fn receive(&self, mut bytes: &[u8]) {
        let mut deframer = self.deframer.lock();
        while !bytes.is_empty() {
            // Reading from memory does not fail.
            let _ = deframer.fill(&mut bytes);
            loop {
                match deframer.next() {
                    Ok(Some(frame)) => self.inject(frame),
                    Ok(None) => break,
                    Err(_) => {
                        base::warn_report!("filter redirector get invalid packet");
                        *deframer = Deframer::with_header(if self.vnet { LENGTH } else { 0 });
                        return;
                    }
                }
                deframer.take();
            }
        }
        drop(deframer);
        self.backlog.release();
    }
}
