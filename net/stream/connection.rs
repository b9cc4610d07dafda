//! A connected socket that carries frames.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use base::chardev::Connected;
use parking_lot::Mutex;

use super::framing::Deframer;
use crate::outbox::Outbox;
use crate::{Delivery, Frame, segment};

/// As many bytes of a burst are worth a call.
const ENOUGH: usize = 64 * 1024;

/// While fewer bytes wait for the socket, it takes another frame.
const MOST: usize = 256 * 1024;

/// A socket, and what is on its way in and out.
pub(super) struct Connection {
    socket: Connected,
    outbox: Mutex<Outbox>,
    pub inbox: Mutex<Deframer>,
}

impl Connection {
    pub fn new(socket: Connected) -> io::Result<Self> {
        match &socket {
            Connected::Unix(stream) => stream.set_nonblocking(true)?,
            Connected::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
            }
        }
        Ok(Connection { socket, outbox: Mutex::default(), inbox: Mutex::default() })
    }

    /// How `info network` shows it.
    pub fn name(&self) -> String {
        match &self.socket {
            Connected::Tcp(_) => format!("tcp:{}", self.peer()),
            Connected::Unix(stream) => {
                let named = [stream.peer_addr(), stream.local_addr()].into_iter().flatten();
                let mut paths = named.filter_map(|name| Some(name.as_pathname()?.to_owned()));
                paths.next().map_or("unix:".into(), |path| format!("unix:{}", path.display()))
            }
        }
    }

    /// The address of a peer that has one.
    pub fn peer(&self) -> String {
        match &self.socket {
            Connected::Tcp(stream) => stream.peer_addr().map(|peer| peer.to_string()),
            Connected::Unix(_) => Ok(String::new()),
        }
        .unwrap_or_default()
    }

    /// Takes a frame to be sent, with others of its burst, unless too many wait.
    pub fn send(&self, frame: &Frame<'_>) -> io::Result<Delivery> {
        let mut outbox = self.outbox.lock();
        if outbox.len() >= ENOUGH {
            outbox.send(self)?;
        }
        if outbox.len() >= MOST {
            return Ok(Delivery::Full);
        }
        segment::finish(frame, |frame| {
            outbox.extend(&(frame.len() as u32).to_be_bytes());
            outbox.append(frame, 0, usize::MAX);
            true
        });
        Ok(Delivery::Taken)
    }

    /// Sends what waits; whether all of it went.
    pub fn catch_up(&self) -> io::Result<bool> {
        let mut outbox = self.outbox.lock();
        outbox.send(self)?;
        Ok(outbox.is_empty())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Connected::Unix(stream) => stream.as_fd(),
            Connected::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Read for &Connection {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match &self.socket {
            Connected::Unix(stream) => (&*stream).read(to),
            Connected::Tcp(stream) => (&*stream).read(to),
        }
    }
}
