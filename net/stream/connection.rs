//! A connected socket that carries frames.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use base::chardev::Connected;
use parking_lot::Mutex;

use super::framing::{Deframer, LENGTH};
use crate::frame::send_parts;
use crate::{Delivery, Frame, Part};

/// How many parts of a frame go out by one call.
const PARTS: usize = 64;

/// A socket, and what is on its way in and out.
pub(super) struct Connection {
    socket: Connected,
    /// The rest of a frame that the socket did not take whole.
    rest: Mutex<Vec<u8>>,
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
        Ok(Connection { socket, rest: Mutex::default(), inbox: Mutex::default() })
    }

    /// How `info network` shows it.
    pub fn name(&self) -> String {
        match &self.socket {
            Connected::Tcp(stream) => match stream.peer_addr() {
                Ok(address) => format!("tcp:{}:{}", address.ip(), address.port()),
                Err(_) => "tcp".into(),
            },
            Connected::Unix(stream) => {
                let named = [stream.peer_addr(), stream.local_addr()].into_iter().flatten();
                let mut paths = named.filter_map(|name| Some(name.as_pathname()?.to_owned()));
                paths.next().map_or("unix:".into(), |path| format!("unix:{}", path.display()))
            }
        }
    }

    /// Sends a frame, whole or not at all: what the socket does not take goes later.
    pub fn send(&self, frame: &Frame<'_>) -> io::Result<Delivery> {
        let mut rest = self.rest.lock();
        if !rest.is_empty() {
            return Ok(Delivery::Full);
        }
        let length = (frame.len() as u32).to_be_bytes();
        let mut parts = [Part::from(&length[..]); PARTS];
        let count = frame.gather(0, frame.len(), &mut parts[1..]);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let sent = match send_parts(self, &parts[..=count], flags) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Delivery::Full),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        if sent < LENGTH + frame.len() {
            rest.extend(&length[sent.min(LENGTH)..]);
            let at = rest.len();
            let gone = sent.saturating_sub(LENGTH);
            rest.resize(at + frame.len() - gone, 0);
            frame.copy(gone, &mut rest[at..]);
        }
        Ok(Delivery::Taken)
    }

    /// Whether a part of a frame still has to go.
    pub fn is_behind(&self) -> bool {
        !self.rest.lock().is_empty()
    }

    /// Sends what was left; whether all of it went.
    pub fn catch_up(&self) -> io::Result<bool> {
        let mut rest = self.rest.lock();
        while !rest.is_empty() {
            match self.write(&rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(rest.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.socket {
            Connected::Unix(stream) => (&*stream).write(bytes),
            Connected::Tcp(stream) => (&*stream).write(bytes),
        }
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
