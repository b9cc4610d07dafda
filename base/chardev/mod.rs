//! Character devices: where the bytes of serial ports, monitors and debug consoles go.
//!
//! A [`Chardev`] has a back end (a terminal, a socket, a file, ...) and, once something has
//! attached, a front end: the handle [`CharPort`] that a device writes to, and the [`CharClient`]
//! that it receives by. `mux=on` lets several front ends share one back end.
//!
//! Nothing here blocks a guest and nothing is lost in silence:
//! - [`CharPort::write`] takes what the back end accepts now. The rest is for the device to keep
//!   (or for an [`OutQueue`]) and to offer again when it hears [`CharClient::write_ready`].
//! - A back end reads no more than [`CharClient::can_receive`] allows, and leaves the rest to its
//!   peer until the device calls [`CharPort::accept_input`].
//! - While nobody is connected, output is dropped, as on an unplugged cable.
//!
//! Clients are called on the event loop's thread with no lock of this module held. Writing may be
//! done from any thread, also with the device locked.

mod error;
mod file;
mod legacy;
mod link;
mod mux;
mod out_queue;
mod paired;
mod pty;
mod registry;
mod ringbuf;
mod serial;
mod socket;
mod spec;
mod stdio;
mod stream;
mod terminal;
#[cfg(test)]
mod tests;
mod text_console;
mod udp;
mod vc;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

pub use error::ChardevError;
pub use legacy::Legacy;
pub use mux::EscapeActions;
pub use out_queue::OutQueue;
pub use registry::{ChardevInfo, Chardevs};
pub use serial::{ModemLines, Parity, SerialLine, SerialParams};
pub use socket::address::{Connected, Family, Listening, connect, listen};
pub use spec::{
    BACKENDS, BackendSpec, ChardevSpec, OPTIONS, OptionType, SocketAddress, SocketSpec, UdpSpec,
};
pub use text_console::{TextConsole, TextConsoleView};

pub use terminal::{Terminal, terminal_size};
pub use vc::{VcKeyboard, VcScreen, VcScreens, VcSize};

use link::Link;
use mux::Mux;
use stream::Stream;

use crate::event_loop::LoopHandle;

/// What happens to a front end besides data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CharEvent {
    /// Somebody is connected.
    Opened,
    /// Nobody is connected any more.
    Closed,
    /// A break condition on the line.
    Break,
    /// Input of a multiplexed device now goes here.
    FocusGained,
    /// Input of a multiplexed device now goes elsewhere.
    FocusLost,
}

/// What a front end implements to be called by its back end.
pub trait CharClient: Send + Sync {
    /// How many bytes [`receive`](Self::receive) may bring now.
    fn can_receive(&self) -> usize;

    /// Takes bytes, at most as many as [`can_receive`](Self::can_receive) last said.
    fn receive(&self, bytes: &[u8]);

    /// Something happened.
    fn event(&self, _event: CharEvent) {}

    /// After a write that was cut short: it is time to try again.
    fn write_ready(&self) {}
}

/// What a back end implements.
trait Backend: Send + Sync {
    /// The stream of a back end that is one for good.
    fn stream(&self) -> Option<&Stream> {
        None
    }

    /// Takes what it can without blocking; zero means "not now". Who has no stream has no use for
    /// bytes.
    fn write(&self, bytes: &[u8]) -> usize {
        self.stream().map_or(bytes.len(), |stream| stream.write(bytes))
    }

    /// The last write was cut short: have the link say when to try again.
    fn notify_writable(&self) {
        if let Some(stream) = self.stream() {
            stream.notify_writable();
        }
    }

    /// The front end has room again.
    fn accept_input(&self) {
        if let Some(stream) = self.stream() {
            stream.accept_input();
        }
    }

    /// As `query-chardev` shows it.
    fn filename(&self) -> String;

    /// The lines and parameters of a serial port, if this is one.
    fn serial_line(&self) -> Option<&dyn SerialLine> {
        None
    }

    /// A descriptor that came with the bytes last received.
    fn take_fd(&self) -> Option<OwnedFd> {
        None
    }

    /// Directs shared input to this front end.
    fn take_focus(&self) {}

    /// The program ends: removes what other programs can see in the file system.
    fn clean_up(&self) {}

    /// The front end has gone.
    fn detached(&self) {}

    /// The contents of a ring buffer, if this is one.
    fn ring(&self) -> Option<&ringbuf::Ring> {
        None
    }

    /// The text console that this is, if it is one.
    fn text_console(self: Arc<Self>) -> Option<Arc<TextConsole>> {
        None
    }
}

/// A character device.
pub struct Chardev {
    label: String,
    /// The name of the kind of its back end.
    backend_name: &'static str,
    kind: Kind,
}

enum Kind {
    Single(Connection),
    Mux(Arc<Mux>),
}

/// A back end and the link to what is attached to it.
#[derive(Clone)]
struct Connection {
    link: Arc<Link>,
    backend: Arc<dyn Backend>,
}

impl Chardev {
    /// A device for one front end and one peer within the program, who holds the other end of
    /// `stream`. Once the peer has closed it, the front end is let go.
    pub fn paired(label: &str, handle: &LoopHandle, stream: UnixStream) -> io::Result<Chardev> {
        stream.set_nonblocking(true)?;
        let link = Link::new(None);
        let backend = Arc::new(paired::Paired::new(handle, &link, stream));
        let kind = Kind::Single(Connection { link, backend });
        Ok(Chardev { label: label.into(), backend_name: "socket", kind })
    }

    /// Its id.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The name of the kind of its back end.
    pub fn backend_name(&self) -> &'static str {
        self.backend_name
    }

    /// As `query-chardev` shows it.
    pub fn filename(&self) -> String {
        match &self.kind {
            Kind::Single(single) => single.backend.filename(),
            Kind::Mux(_) => "mux".into(),
        }
    }

    /// Attaches a front end, which hears at once if somebody is connected.
    ///
    /// To be called where the client's calls come from: on the loop's thread, or before the loop
    /// runs. The front end stays attached until the port is dropped.
    pub fn attach(&self, client: Arc<dyn CharClient>) -> Result<CharPort, ChardevError> {
        let connection = match &self.kind {
            Kind::Single(single) => {
                if !single.link.attach(client) {
                    return Err(ChardevError::InUse(self.label.clone()));
                }
                single.clone()
            }
            Kind::Mux(mux) => mux.attach(client),
        };
        connection.backend.accept_input();
        Ok(CharPort { connection })
    }

    /// Reads up to `size` bytes from a ring buffer; `None` if this is not one.
    pub fn ring_read(&self, size: usize) -> Option<Vec<u8>> {
        Some(self.single()?.backend.ring()?.read(size))
    }

    /// Appends to a ring buffer; `None` if this is not one.
    pub fn ring_write(&self, bytes: &[u8]) -> Option<()> {
        self.single()?.backend.ring()?.write(bytes);
        Some(())
    }

    /// Makes the front end see a break condition, as a line or an operator would.
    pub fn send_break(&self) {
        match &self.kind {
            Kind::Single(single) => single.link.event(CharEvent::Break),
            Kind::Mux(mux) => mux.send_break(),
        }
    }

    /// The text console that displays show, if this is one.
    pub fn text_console(&self) -> Option<Arc<TextConsole>> {
        self.single()?.backend.clone().text_console()
    }

    fn single(&self) -> Option<&Connection> {
        match &self.kind {
            Kind::Single(single) => Some(single),
            Kind::Mux(_) => None,
        }
    }

    fn in_use(&self) -> bool {
        match &self.kind {
            Kind::Single(single) => single.link.in_use(),
            Kind::Mux(mux) => mux.in_use(),
        }
    }

    fn frontend_open(&self) -> bool {
        match &self.kind {
            Kind::Single(single) => single.link.frontend_open(),
            Kind::Mux(mux) => mux.in_use(),
        }
    }
}

/// A front end's handle on the character device that it is attached to; dropping it detaches.
pub struct CharPort {
    connection: Connection,
}

impl CharPort {
    /// Offers bytes; returns how many were accepted. If that is fewer, the client's
    /// [`write_ready`](CharClient::write_ready) is called when it is worth offering the rest.
    #[must_use = "what was not accepted must be offered again"]
    pub fn write(&self, bytes: &[u8]) -> usize {
        let Connection { link, backend } = &self.connection;
        let accepted = backend.write(bytes).min(bytes.len());
        link.log(&bytes[..accepted]);
        if accepted < bytes.len() {
            backend.notify_writable();
        }
        accepted
    }

    /// There is room again after [`CharClient::can_receive`] said zero.
    pub fn accept_input(&self) {
        self.connection.backend.accept_input();
    }

    /// Whether somebody is connected.
    pub fn is_connected(&self) -> bool {
        self.connection.link.is_open()
    }

    /// Whether the guest's side is in use, where the front end can tell (a virtio port).
    pub fn set_open(&self, open: bool) {
        self.connection.link.set_frontend_open(open);
    }

    /// Directs the input of a multiplexed device here.
    pub fn take_focus(&self) {
        self.connection.backend.take_focus();
    }

    /// The descriptor that came with the bytes just received, if one did.
    pub fn take_fd(&self) -> Option<OwnedFd> {
        self.connection.backend.take_fd()
    }

    /// The real serial port behind this device, if there is one.
    pub fn serial_line(&self) -> Option<&dyn SerialLine> {
        self.connection.backend.serial_line()
    }

    /// As `query-chardev` shows it.
    pub fn filename(&self) -> String {
        self.connection.backend.filename()
    }
}

impl Drop for CharPort {
    fn drop(&mut self) {
        self.connection.link.detach();
        self.connection.backend.detached();
    }
}
