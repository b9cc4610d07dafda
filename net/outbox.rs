//! Bytes on their way into a socket, which takes what it has room for.

use std::io;
use std::os::fd::AsFd;

use crate::frame::send_parts;
use crate::{Frame, Part};

/// The bytes that have not gone yet.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// How many of them have gone.
    gone: usize,
}

impl Outbox {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.gone
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it holds memory.
    pub fn has_memory(&self) -> bool {
        self.bytes.capacity() > 0
    }

    /// Adds bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.close_up();
        self.bytes.extend_from_slice(bytes);
    }

    /// Adds the range `at..at + len` of a frame; returns how many bytes.
    pub fn append(&mut self, frame: &Frame<'_>, at: usize, len: usize) -> usize {
        self.close_up();
        frame.append(at, len, &mut self.bytes)
    }

    /// Moves what waits to the front, if that is less than what has gone: so each byte is moved once at most.
    fn close_up(&mut self) {
        if self.gone > self.len() {
            self.bytes.drain(..self.gone);
            self.gone = 0;
        }
    }

    /// Gives a socket as much as it takes, without waiting; returns how much.
    pub fn send(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let before = self.len();
        while !self.is_empty() {
            let parts = [Part::from(&self.bytes[self.gone..])];
            match send_parts(&socket, &parts, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) {
                Ok(sent) => self.gone += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let left = self.len();
        if left == 0 {
            self.bytes.clear();
            self.gone = 0;
        }
        Ok(before - left)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;
    use crate::Offload;

    proptest! {
        #[test]
        fn what_goes_in_comes_out(steps in prop::collection::vec((0usize..60_000, 0usize..90_000), 1..20)) {
            let (ours, theirs) = UnixStream::pair().unwrap();
            theirs.set_nonblocking(true).unwrap();
            let (mut outbox, mut put, mut got) = (Outbox::default(), Vec::new(), Vec::new());
            for (len, take) in steps {
                let bytes: Vec<u8> = (0..len).map(|at| (at * 7 + put.len()) as u8).collect();
                put.extend_from_slice(&bytes);
                let (first, second) = bytes.split_at(len / 3);
                outbox.extend(first);
                let parts = [Part::from(second)];
                let frame = Frame::new(&parts, Offload::default());
                prop_assert_eq!(outbox.append(&frame, 0, usize::MAX), second.len());
                outbox.send(&ours).unwrap();
                let mut buffer = vec![0; take];
                let count = (&theirs).read(&mut buffer).unwrap_or(0);
                got.extend_from_slice(&buffer[..count]);
            }
            while got.len() < put.len() {
                outbox.send(&ours).unwrap();
                let mut buffer = [0; 4096];
                let count = (&theirs).read(&mut buffer).unwrap();
                got.extend_from_slice(&buffer[..count]);
            }
            prop_assert!(outbox.is_empty() && got == put);
        }
    }
}
