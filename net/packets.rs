//! Ends whose host side takes and gives whole frames: taps and datagram sockets.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock, Weak};

use base::event_loop::{LoopHandle, Ready, Watch};
use parking_lot::Mutex;

use crate::{Delivery, End, Frame, NetError, Offload, Offloads, Part, Plug};

/// A descriptor that takes and gives whole frames, and does not block.
pub(crate) trait Medium: AsFd + Send + Sync + 'static {
    /// Sends a frame.
    fn send(&self, frame: &Frame<'_>) -> io::Result<()>;
    /// Receives a frame into `buffer`: where it begins and ends there, and its state.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<Received>;
    /// What [`send`](Self::send) takes.
    fn accepts(&self) -> Offloads;
    /// Whether the other side has gone for good, by an error of either.
    fn is_end(&self, error: &io::Error) -> bool {
        let _ = error;
        false
    }
}

/// A frame in a buffer.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub place: std::ops::Range<usize>,
    pub offload: Offload,
}

/// The largest frame, with room for a header: 64 KiB of TCP and headers around it.
const ROOM: usize = (64 << 10) + 512;
/// How many frames are taken before others get their turn.
const BURST: usize = 256;

/// The end of such a descriptor.
pub(crate) struct Packets<M> {
    me: Weak<Self>,
    medium: Arc<M>,
    plug: Plug,
    handle: LoopHandle,
    watch: OnceLock<Watch>,
    inbox: Mutex<Inbox>,
}

struct Inbox {
    buffer: Box<[u8]>,
    /// A frame that the other end had no room for.
    waiting: Option<Received>,
}

/// So that a descriptor can be watched and used.
struct Shared<M>(Arc<M>);

impl<M: AsFd> AsFd for Shared<M> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<M: Medium> Packets<M> {
    /// Puts the descriptor at the end of a cable.
    pub fn create(medium: M, plug: Plug, handle: &LoopHandle) -> Result<Arc<Self>, NetError> {
        let medium = Arc::new(medium);
        let packets = Arc::new_cyclic(|me: &Weak<Self>| Packets {
            me: me.clone(),
            medium: medium.clone(),
            plug: plug.clone(),
            handle: handle.clone(),
            watch: OnceLock::new(),
            inbox: Mutex::new(Inbox { buffer: vec![0; ROOM].into(), waiting: None }),
        });
        let me = packets.me.clone();
        let watch = handle.watch(Shared(medium), move |ready| {
            if let Some(packets) = me.upgrade() {
                packets.serve(ready);
            }
        });
        watch.want_read(true).map_err(|error| NetError::failed(base::report::strerror(&error)))?;
        let _ = packets.watch.set(watch);
        let end: Weak<dyn End> = packets.me.clone();
        plug.attach(end);
        Ok(packets)
    }

    fn want(&self, read: Option<bool>, write: Option<bool>) {
        let Some(watch) = self.watch.get() else { return };
        // What could be watched once can be watched again.
        let _ = read.map(|want| watch.want_read(want));
        let _ = write.map(|want| watch.want_write(want));
    }

    fn serve(&self, ready: Ready) {
        if ready.writable {
            self.want(None, Some(false));
            self.plug.ready();
        }
        if ready.readable {
            self.receive();
        }
    }

    /// Passes frames on until there are none, or no room.
    fn receive(&self) {
        let mut inbox = self.inbox.lock();
        let mut sent = false;
        for _ in 0..BURST {
            let Inbox { buffer, waiting } = &mut *inbox;
            let received = match waiting.take() {
                Some(received) => received,
                None => match self.medium.receive(buffer) {
                    Ok(received) if received.place.is_empty() => continue,
                    Ok(received) => received,
                    Err(error) if self.medium.is_end(&error) => {
                        self.want(Some(false), None);
                        break;
                    }
                    // Nothing, or a fault of one frame (a peer that is not there yet).
                    Err(_) => break,
                },
            };
            let bytes = buffer.get(received.place.clone()).unwrap_or_default();
            let parts = [Part::from(bytes)];
            if self.plug.send(&Frame::new(&parts, received.offload)) == Delivery::Full {
                *waiting = Some(received);
                self.want(Some(false), None);
                break;
            }
            sent = true;
        }
        drop(inbox);
        if sent {
            self.plug.flush();
        }
    }
}

impl<M: Medium> End for Packets<M> {
    fn deliver(&self, frame: &Frame<'_>) -> Delivery {
        match self.medium.send(frame) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.want(None, Some(true));
                Delivery::Full
            }
            // A frame that the host does not take is a frame that got lost on the way.
            _ => Delivery::Taken,
        }
    }

    fn wake(&self) {
        let me = self.me.clone();
        self.handle.schedule(move || {
            if let Some(packets) = me.upgrade() {
                packets.want(Some(true), None);
                packets.receive();
            }
        });
    }

    fn accepts(&self) -> Offloads {
        self.medium.accepts()
    }
}

impl<M> Drop for Packets<M> {
    fn drop(&mut self) {
        self.plug.detach();
    }
}
