//! The web console: a page for browsers with the machine's screen, terminals, monitor, disks and
//! figures, served by the program itself.
//!
//! Connections are accepted by a thread of their own, and each has a thread until it ends, so that
//! whoever comes, and however many, the main loop and the guest have nothing to do with it. A
//! [`Front`] understands requests and knows who may ask; it has no input or output of its own. What
//! it lets through is either answered at once or becomes a WebSocket: to a session of
//! [`vnc`](crate::vnc), to a terminal, or to a monitor.
//!
//! The page speaks QMP for all that it does to the machine; what it needs beyond that is in
//! [`Host`].

mod assets;
mod connection;
mod front;
mod options;
mod relay;
mod server;
mod typing;

use std::os::unix::net::UnixStream;

use base::chardev::ChardevError;
use base::options::OptionError;
use base::tls::TlsError;

pub use front::{Channel, Front, Outcome};
pub use options::{GROUP, Settings, Token};
pub use server::{Server, Surroundings};

/// A monitor for one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Monitor {
    /// For programs: QMP.
    Control,
    /// For people: a prompt.
    Prompt,
}

/// A terminal of the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TerminalInfo {
    /// The id of its character device.
    pub id: String,
    /// What people call it.
    pub title: String,
}

/// What the machine has done since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Nanoseconds that each processor's thread has run.
    pub processors: Vec<u64>,
    /// Each drive's name, and bytes read and written.
    pub drives: Vec<(String, [u64; 2])>,
    /// Each network card's name, and bytes received and sent.
    pub cards: Vec<(String, [u64; 2])>,
}

/// What the page needs of the machine.
pub trait Host: Send + Sync {
    /// The terminals that there are now.
    fn terminals(&self) -> Vec<TerminalInfo>;
    /// Serves a monitor to who has the other end of `stream`, until that is closed.
    fn serve_monitor(&self, kind: Monitor, stream: UnixStream);
    /// What has been done so far.
    fn figures(&self) -> Figures;
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// For this reason.
    #[error("{0}")]
    Refused(String),
    /// An option's form.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// An address.
    #[error(transparent)]
    Address(#[from] ChardevError),
    /// Credentials.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The screen's side.
    #[error(transparent)]
    Vnc(#[from] crate::vnc::VncError),
    /// The host.
    #[error("{}", base::report::strerror(.0))]
    Io(#[from] std::io::Error),
}
