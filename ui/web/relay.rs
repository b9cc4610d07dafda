//! Bytes between a WebSocket and a terminal or a monitor. No more is taken from either side than the
//! other one takes.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use base::chardev::{TextConsole, TextConsoleView};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::connection::ConnectionError;
use crate::wire::{Wire, WireError};

/// Bytes in one message.
const CHUNK: usize = 16 << 10;

/// What a WebSocket is connected with.
pub trait Pipe {
    /// Where it shows that there is something to read, or room to write if that was wanted.
    fn fd(&self) -> BorrowedFd<'_>;
    /// What to wait for there to be able to write.
    fn wanted_to_write(&self) -> PollFlags;
    /// Appends what is there, and has the next show.
    fn read(&mut self, into: &mut Vec<u8>) -> Result<(), ConnectionError>;
    /// Takes what it can.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
}

/// A terminal that others look at too.
pub struct TerminalPipe {
    view: TextConsoleView,
    news: Arc<EventFd>,
}

impl TerminalPipe {
    pub fn new(terminal: &Arc<TextConsole>) -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let news = Arc::new(EventFd::from_value_and_flags(0, flags)?);
        let wake = news.clone();
        let view = terminal.watch(move || {
            // Fails only when it has been woken too often to count, and wakes all the same.
            let _ = wake.write(1);
        });
        Ok(TerminalPipe { view, news })
    }
}

impl Pipe for TerminalPipe {
    fn fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }

    fn wanted_to_write(&self) -> PollFlags {
        PollFlags::POLLIN
    }

    fn read(&mut self, into: &mut Vec<u8>) -> Result<(), ConnectionError> {
        // Fails if there is no news, which is none either.
        let _ = self.news.read();
        self.view.wait();
        self.view.read(into, CHUNK);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.view.type_in(bytes))
    }
}

/// A monitor that nobody else uses.
pub struct MonitorPipe(UnixStream);

impl MonitorPipe {
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(MonitorPipe(stream))
    }
}

impl Pipe for MonitorPipe {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn wanted_to_write(&self) -> PollFlags {
        PollFlags::POLLOUT
    }

    fn read(&mut self, into: &mut Vec<u8>) -> Result<(), ConnectionError> {
        let mut chunk = vec![0; CHUNK];
        match self.0.read(&mut chunk) {
            Ok(0) => Err(WireError::Closed.into()),
            Ok(count) => {
                into.extend(&chunk[..count]);
                Ok(())
            }
            Err(error) if is_temporary(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if is_temporary(&error) => Ok(0),
            result => result,
        }
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// A WebSocket and what it is connected with.
pub struct Relay<P> {
    wire: Wire,
    pipe: P,
    /// What the visitor has sent and the pipe has not taken.
    waiting: Vec<u8>,
}

impl<P: Pipe> Relay<P> {
    pub fn new(wire: Wire, pipe: P) -> Self {
        Relay { wire, pipe, waiting: Vec::new() }
    }

    /// Goes on until one side ends.
    pub fn run(mut self) -> Result<(), ConnectionError> {
        let mut said = Vec::new();
        loop {
            let mut more = false;
            if !self.wire.is_sending() {
                self.pipe.read(&mut said)?;
                // What was too much for one message shows by nothing else.
                more = !said.is_empty();
                self.wire.send(&mut said);
            }
            self.wire.flush()?;
            let taken = self.pipe.write(&self.waiting)?;
            self.waiting.drain(..taken);
            if self.wait(more)? {
                let received = self.wire.receive(&mut self.waiting);
                if received.is_err() {
                    // A good-bye may still be answered.
                    let _ = self.wire.flush();
                }
                received?;
            }
        }
    }

    /// Waits for either side, unless there is `more` to do; says whether the visitor has sent
    /// something.
    fn wait(&self, more: bool) -> io::Result<bool> {
        let (sending, waiting) = (self.wire.is_sending(), !self.waiting.is_empty());
        let mut wire = PollFlags::empty();
        wire.set(PollFlags::POLLIN, !waiting);
        wire.set(PollFlags::POLLOUT, sending);
        let mut pipe = PollFlags::empty();
        pipe.set(PollFlags::POLLIN, !sending);
        if waiting {
            pipe |= self.pipe.wanted_to_write();
        }
        let mut fds = [PollFd::new(self.wire.as_fd(), wire), PollFd::new(self.pipe.fd(), pipe)];
        let patience = if more && !sending { PollTimeout::ZERO } else { PollTimeout::NONE };
        match poll(&mut fds, patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = PollFlags::POLLHUP | PollFlags::POLLERR;
        let events = fds[0].revents().unwrap_or(PollFlags::empty());
        Ok(events.intersects(PollFlags::POLLIN | ended))
    }
}
