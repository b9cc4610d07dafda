//! Bytes between descriptors and a front end, with flow control in both directions.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use nix::unistd;

use super::Link;
use crate::event_loop::{LoopHandle, Ready, Watch};

const BUFFER_SIZE: usize = 4096;

/// A descriptor that a stream shares with its watch.
pub(super) type Fd = Arc<dyn AsFd + Send + Sync>;

/// How bytes get in and out. Neither function blocks.
pub(super) trait Transport: Send + Sync {
    /// Reads; zero is the end.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes some.
    fn write(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Whether a read would return bytes that the descriptor no longer knows of.
    fn has_buffered(&self) -> bool {
        false
    }

    /// Passes on what was read, after taking out what is not meant for the front end.
    fn deliver(&self, bytes: &mut [u8], link: &Link) {
        link.receive(bytes);
    }
}

/// A pair of descriptors; without an input nothing comes, without an output all is dropped.
pub(super) struct FdPair {
    pub(super) input: Option<Fd>,
    pub(super) output: Option<Fd>,
}

impl Transport for FdPair {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.as_ref().map_or(Ok(0), |fd| Ok(unistd::read(fd.as_fd(), buffer)?))
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.output.as_ref().map_or(Ok(bytes.len()), |fd| Ok(unistd::write(fd.as_fd(), bytes)?))
    }
}

/// A running exchange. Ends, at most once, when the peer closes or fails.
pub(super) struct Stream {
    link: Arc<Link>,
    transport: Box<dyn Transport>,
    input: Option<Arc<Watch>>,
    output: Option<Arc<Watch>>,
    handle: LoopHandle,
    ended: Arc<dyn Fn() + Send + Sync>,
    this: Weak<Stream>,
}

impl Stream {
    /// Connects `transport`, which uses these descriptors, with `link`. Reading starts with
    /// [`accept_input`](Self::accept_input). `ended` is called on the loop's thread.
    pub(super) fn new(
        handle: &LoopHandle,
        link: Arc<Link>,
        input: Option<Fd>,
        output: Option<Fd>,
        transport: Box<dyn Transport>,
        ended: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Stream> {
        Arc::new_cyclic(|this: &Weak<Stream>| {
            let watch = |fd: Fd| {
                let stream = this.clone();
                Arc::new(handle.watch(fd, move |ready| {
                    if let Some(stream) = stream.upgrade() {
                        stream.ready(ready);
                    }
                }))
            };
            let shared = matches!((&input, &output), (Some(i), Some(o)) if Arc::ptr_eq(i, o));
            let input = input.map(&watch);
            let output = if shared { input.clone() } else { output.map(&watch) };
            let (handle, ended, this) = (handle.clone(), Arc::new(ended), this.clone());
            Stream { link, transport, input, output, handle, ended, this }
        })
    }

    /// Connects plain descriptors; their end closes the link.
    pub(super) fn of_fds(
        handle: &LoopHandle,
        link: &Arc<Link>,
        input: Option<Fd>,
        output: Option<Fd>,
    ) -> Arc<Stream> {
        let transport = FdPair { input: input.clone(), output: output.clone() };
        let closed = link.clone();
        Stream::new(handle, link.clone(), input, output, Box::new(transport), move || {
            closed.event(super::CharEvent::Closed);
        })
    }

    /// Writes what can be written now. When the peer has gone, everything is dropped.
    pub(super) fn write(&self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.transport.write(&bytes[written..]) {
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return written,
                Err(_) => {
                    let ended = self.ended.clone();
                    self.handle.schedule(move || ended());
                    return bytes.len();
                }
            }
        }
        written
    }

    /// Has the link say when a write may succeed.
    pub(super) fn notify_writable(&self) {
        if let Some(output) = &self.output
            && output.want_write(true).is_err()
        {
            // It cannot be watched: try again at once rather than never.
            let link = self.link.clone();
            self.handle.schedule(move || link.write_ready());
        }
    }

    /// Reads again, as the front end has room.
    pub(super) fn accept_input(&self) {
        let (Some(input), Some(stream)) = (&self.input, self.this.upgrade()) else { return };
        if input.want_read(true).is_err() {
            self.handle.schedule(move || (stream.ended)());
        } else if self.transport.has_buffered() {
            self.handle.schedule(move || stream.read());
        }
    }

    fn ready(&self, ready: Ready) {
        if ready.readable {
            self.read();
        }
        if ready.writable {
            if let Some(output) = &self.output {
                let _ = output.want_write(false);
            }
            self.link.write_ready();
        }
    }

    fn read(&self) {
        self.read_once();
        while self.transport.has_buffered() && self.link.can_receive() > 0 {
            self.read_once();
        }
    }

    fn read_once(&self) {
        let Some(input) = &self.input else { return };
        let room = self.link.can_receive();
        if room == 0 {
            let _ = input.want_read(false);
            // The front end may have made room, and said so, just before reading was switched off.
            if self.link.can_receive() > 0 {
                self.accept_input();
            }
            return;
        }
        let mut buffer = [0; BUFFER_SIZE];
        let buffer = &mut buffer[..room.min(BUFFER_SIZE)];
        match self.transport.read(buffer) {
            Ok(n) if n > 0 => self.transport.deliver(&mut buffer[..n], &self.link),
            Err(e)
                if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Ok(_) | Err(_) => {
                let _ = input.want_read(false);
                (self.ended)();
            }
        }
    }
}
