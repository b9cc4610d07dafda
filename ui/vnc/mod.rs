//! VNC: the screen, the keyboard and the mouse over a network, by the protocol RFB (RFC 6143 and the
//! community's description of its extensions).
//!
//! Connections are accepted on the main loop, and then each has a thread of its own. What goes on in
//! it is in layers: a [`wire`](crate::wire) moves bytes, encrypted and framed or not; a [`session`]
//! understands them; a [`canvas`] knows what the client has on its screen, so that [`encode`] is given
//! only what really differs.

mod auth;
mod canvas;
mod connection;
mod encode;
mod keyboard;
mod options;
mod pixel;
mod protocol;
mod server;
mod servers;
pub mod session;
mod tiles;

use base::chardev::ChardevError;
use base::options::OptionError;
use base::tls::TlsError;

pub use options::{GROUP, Settings, Share};
pub use protocol::{Fault, Power};
pub use server::{
    Auth, ClientInfo, Endpoint, Event, EventKind, Expiry, Host, Server, Surroundings,
};
pub use servers::Servers;
pub use tiles::Tiles;

/// Why there is no server, or it does not do something.
#[derive(Debug, thiserror::Error)]
pub enum VncError {
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
    /// The host.
    #[error("{}", base::report::strerror(.0))]
    Io(#[from] std::io::Error),
}
