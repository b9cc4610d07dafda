//! `pty`: a pseudo-terminal that a terminal program opens by name.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::ttyname;
use parking_lot::Mutex;

use super::link::Link;
use super::registry::Context;
use super::stream::{FdPair, Stream};
use super::{Backend, CharEvent, ChardevError};
use crate::event_loop::{Delay, LoopHandle};
use crate::fd::set_nonblocking;

/// The kernel does not tell when somebody opens the other side, so it is looked at this often.
const CONNECTION_CHECK: Duration = Duration::from_secs(1);

pub(super) struct Pty {
    name: PathBuf,
    symlink: Option<String>,
    master: Arc<OwnedFd>,
    handle: LoopHandle,
    link: Arc<Link>,
    stream: Arc<Stream>,
    connected: AtomicBool,
    next_check: Mutex<Option<Delay>>,
    this: Weak<Pty>,
}

impl Pty {
    /// Makes a pseudo-terminal, says its name, and links it to `symlink` if that is given.
    pub(super) fn open(
        context: &Context,
        link: &Arc<Link>,
        label: &str,
        symlink: Option<&str>,
    ) -> Result<Arc<Pty>, ChardevError> {
        let (master, name) = make().map_err(ChardevError::io("Failed to create PTY"))?;
        if let Some(symlink) = symlink {
            std::os::unix::fs::symlink(&name, symlink)
                .map_err(ChardevError::io("Failed to create PTY symlink"))?;
        }
        println!("char device redirected to {} (label {label})", name.display());

        let master = Arc::new(master);
        let pty = Arc::new_cyclic(|this: &Weak<Pty>| {
            let ended = this.clone();
            let transport = FdPair { input: Some(master.clone()), output: Some(master.clone()) };
            let stream = Stream::new(
                &context.handle,
                link.clone(),
                Some(master.clone()),
                Some(master.clone()),
                Box::new(transport),
                move || {
                    if let Some(pty) = ended.upgrade() {
                        pty.check();
                    }
                },
            );
            Pty {
                name,
                symlink: symlink.map(Into::into),
                master,
                handle: context.handle.clone(),
                link: link.clone(),
                stream,
                connected: AtomicBool::new(false),
                next_check: Mutex::new(None),
                this: this.clone(),
            }
        });
        pty.check();
        Ok(pty)
    }

    fn peer_present(&self) -> bool {
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::empty())];
        let polled = poll(&mut fds, PollTimeout::ZERO);
        let events = fds[0].revents().unwrap_or(PollFlags::empty());
        polled.is_ok() && !events.contains(PollFlags::POLLHUP)
    }

    fn check_soon(&self) {
        let this = self.this.clone();
        self.handle.schedule(move || {
            if let Some(pty) = this.upgrade() {
                pty.check();
            }
        });
    }

    /// Brings the front end's view up to date; runs on the loop's thread.
    fn check(&self) {
        let present = self.peer_present();
        let was_connected = self.connected.swap(present, Ordering::AcqRel);
        if present {
            if !was_connected {
                self.link.event(CharEvent::Opened);
            }
            self.stream.accept_input();
        } else {
            self.link.event(CharEvent::Closed);
            if was_connected {
                self.link.write_ready();
            }
            let this = self.this.clone();
            let check = self.handle.after(CONNECTION_CHECK, move || {
                if let Some(pty) = this.upgrade() {
                    pty.check();
                }
            });
            *self.next_check.lock() = Some(check);
        }
    }
}

/// Both ends in raw mode; ours does not block, and the other is left for somebody to open.
fn make() -> std::io::Result<(OwnedFd, PathBuf)> {
    let pty = openpty(None, None)?;
    let mut termios = tcgetattr(&pty.slave)?;
    cfmakeraw(&mut termios);
    tcsetattr(&pty.slave, SetArg::TCSANOW, &termios)?;
    set_nonblocking(&pty.master)?;
    let name = ttyname(&pty.slave)?;
    Ok((pty.master, name))
}

impl Backend for Pty {
    fn write(&self, bytes: &[u8]) -> usize {
        if !self.connected.load(Ordering::Acquire) {
            if !self.peer_present() {
                return bytes.len();
            }
            // Somebody came since the last check: let the front end know soon.
            self.check_soon();
        }
        self.stream.write(bytes)
    }

    fn notify_writable(&self) {
        if self.peer_present() {
            self.stream.notify_writable();
        } else {
            // Nobody will read what is in the way. Once that is noticed, output is dropped.
            self.check_soon();
        }
    }

    fn accept_input(&self) {
        if self.connected.load(Ordering::Acquire) {
            self.stream.accept_input();
        }
    }

    fn clean_up(&self) {
        if let Some(symlink) = &self.symlink {
            let _ = std::fs::remove_file(symlink);
        }
    }

    fn filename(&self) -> String {
        format!("pty:{}", self.name.display())
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        self.clean_up();
    }
}
