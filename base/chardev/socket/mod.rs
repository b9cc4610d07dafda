//! `socket`: unix and TCP sockets, as client or as server of one peer at a time.

pub(super) mod address;
mod telnet;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::SigSet;
use parking_lot::Mutex;

use self::address::{Connected, Listening, connect, inet_name, listen, unix_name};
use self::telnet::{GREETING, IAC, Input, Telnet};
use super::link::Link;
use super::registry::Context;
use super::spec::{SocketAddress, SocketSpec};
use super::stream::{Fd, Stream, Transport};
use super::{Backend, CharEvent, ChardevError};
use crate::event_loop::{Delay, LoopHandle, Watch};
use crate::fd::receive_with_fds;
use crate::{error_report, info_report};

pub(super) struct Socket {
    label: String,
    spec: SocketSpec,
    handle: LoopHandle,
    link: Arc<Link>,
    listener: Option<Listener>,
    state: Mutex<State>,
    this: Weak<Socket>,
}

struct Listener {
    socket: Arc<Listening>,
    watch: Watch,
    /// The socket's file, wherever the program's directory is at the end.
    file: Option<PathBuf>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    /// Counts connections, so that late news of an old one is not taken for news of the next.
    generation: u64,
    reconnect: Option<Delay>,
    failure_reported: bool,
}

#[derive(Clone)]
struct Connection {
    stream: Arc<Stream>,
    name: String,
    received_fd: Arc<Mutex<Option<OwnedFd>>>,
}

impl Socket {
    pub(super) fn open(
        context: &Context,
        link: &Arc<Link>,
        label: &str,
        spec: &SocketSpec,
    ) -> Result<Arc<Socket>, ChardevError> {
        let listening = spec.server.then(|| listen(&spec.address)).transpose()?.map(Arc::new);
        let socket = Arc::new_cyclic(|this: &Weak<Socket>| Socket {
            label: label.into(),
            spec: spec.clone(),
            handle: context.handle.clone(),
            link: link.clone(),
            listener: listening.map(|socket| {
                let this = this.clone();
                let watch = context.handle.watch(socket.clone(), move |_| {
                    if let Some(socket) = this.upgrade() {
                        socket.accept();
                    }
                });
                let file = match &spec.address {
                    SocketAddress::Unix { path, abstract_name: false, .. } => {
                        std::path::absolute(path).ok()
                    }
                    _ => None,
                };
                Listener { socket, watch, file }
            }),
            state: Mutex::default(),
            this: this.clone(),
        });
        socket.start()?;
        Ok(socket)
    }

    fn start(&self) -> Result<(), ChardevError> {
        let failed = |error| ChardevError::io("cannot set up socket")(error);
        match &self.listener {
            Some(listener) if self.spec.wait => {
                info_report!("QEMU waiting for connection on: {}", self.filename());
                let peer = wait_readable(&listener.socket).and_then(|()| listener.socket.accept());
                let peer = peer.map_err(ChardevError::io("Failed to accept connection"))?;
                listener.socket.set_nonblocking().map_err(failed)?;
                self.connected(peer).map_err(failed)
            }
            Some(listener) => {
                listener.socket.set_nonblocking().map_err(failed)?;
                listener.watch.want_read(true).map_err(failed)
            }
            None if self.spec.reconnect.is_zero() => {
                self.connected(connect(&self.spec.address)?).map_err(failed)
            }
            None => {
                self.connect_in_background();
                Ok(())
            }
        }
    }

    fn accept(&self) {
        let Some(listener) = &self.listener else { return };
        // A peer that has gone again is no reason to stop listening.
        if let Ok(peer) = listener.socket.accept() {
            let _ = self.connected(peer);
        }
    }

    /// Resolving and connecting may wait, so a thread does it.
    fn connect_in_background(&self) {
        let (this, handle) = (self.this.clone(), self.handle.clone());
        let address = self.spec.address.clone();
        std::thread::spawn(move || {
            let result = connect(&address);
            handle.schedule(move || {
                if let Some(socket) = this.upgrade() {
                    socket.connect_finished(result);
                }
            });
        });
    }

    fn connect_finished(&self, result: Result<Connected, ChardevError>) {
        let connected = result.and_then(|peer| {
            self.connected(peer).map_err(ChardevError::io("cannot set up socket"))
        });
        if let Err(error) = connected {
            if !std::mem::replace(&mut self.state.lock().failure_reported, true) {
                error_report!("Unable to connect character device {}: {error}", self.label);
            }
            self.reconnect_later();
        }
    }

    fn reconnect_later(&self) {
        let this = self.this.clone();
        let delay = self.handle.after(self.spec.reconnect, move || {
            if let Some(socket) = this.upgrade() {
                socket.connect_in_background();
            }
        });
        self.state.lock().reconnect = Some(delay);
    }

    /// Starts the exchange with a peer.
    fn connected(&self, peer: Connected) -> io::Result<()> {
        let name = self.connection_name(&peer);
        let peer = Peer::new(peer, &self.spec)?;
        let received_fd = peer.received_fd.clone();
        let fd = peer.fd();
        let generation = {
            let mut state = self.state.lock();
            state.failure_reported = false;
            state.generation += 1;
            state.generation
        };
        let this = self.this.clone();
        let stream = Stream::new(
            &self.handle,
            self.link.clone(),
            Some(fd.clone()),
            Some(fd),
            Box::new(peer),
            move || {
                if let Some(socket) = this.upgrade() {
                    socket.disconnected(generation);
                }
            },
        );
        if let Some(listener) = &self.listener {
            listener.watch.want_read(false)?;
        }
        self.state.lock().connection =
            Some(Connection { stream: stream.clone(), name, received_fd });
        self.link.event(CharEvent::Opened);
        stream.accept_input();
        Ok(())
    }

    fn disconnected(&self, generation: u64) {
        let mut state = self.state.lock();
        if state.generation != generation || state.connection.is_none() {
            return;
        }
        let old = state.connection.take();
        drop(state);
        drop(old);
        self.link.event(CharEvent::Closed);
        // Whoever waits for room to write learns that everything is dropped now.
        self.link.write_ready();
        if let Some(listener) = &self.listener {
            let _ = listener.watch.want_read(true);
        } else if !self.spec.reconnect.is_zero() {
            self.reconnect_later();
        }
    }

    fn connection(&self) -> Option<Connection> {
        self.state.lock().connection.clone()
    }

    fn stream(&self) -> Option<Arc<Stream>> {
        self.connection().map(|connection| connection.stream)
    }

    fn protocol(&self) -> &'static str {
        if self.spec.telnet { "telnet" } else { "tcp" }
    }

    fn server_suffix(&self) -> &'static str {
        if self.spec.server { ",server=on" } else { "" }
    }

    fn connection_name(&self, peer: &Connected) -> String {
        let server = self.server_suffix();
        match peer {
            Connected::Unix(stream) => {
                // Only a server's address has a name; a client shows its peer's.
                let address =
                    if self.spec.server { stream.local_addr() } else { stream.peer_addr() };
                let name = address.as_ref().map_or(String::new(), unix_name);
                format!("unix:{name}{server}")
            }
            Connected::Tcp(stream) => {
                let local = inet_name(stream.local_addr());
                let remote = inet_name(stream.peer_addr());
                format!("{}:{local}{server} <-> {remote}", self.protocol())
            }
        }
    }

    fn disconnected_name(&self) -> String {
        let server = self.server_suffix();
        let listener = self.listener.as_ref().map(|listener| &*listener.socket);
        match (listener, &self.spec.address) {
            (Some(Listening::Unix(listener)), _) => {
                let name = listener.local_addr().as_ref().map_or(String::new(), unix_name);
                format!("disconnected:unix:{name}{server}")
            }
            (Some(Listening::Tcp(listener)), _) => {
                let name = inet_name(listener.local_addr());
                format!("disconnected:{}:{name}{server}", self.protocol())
            }
            (None, SocketAddress::Unix { path, .. }) => format!("disconnected:unix:{path}"),
            (None, SocketAddress::Inet { host, port, .. }) => {
                format!("disconnected:{}:{host}:{port}", self.protocol())
            }
            (None, SocketAddress::Fd(number)) => format!("disconnected:fd:{number}"),
        }
    }
}

/// Waits with no signal blocked, so that one that would end the program does.
fn wait_readable(listening: &Listening) -> io::Result<()> {
    loop {
        let mut fds = [PollFd::new(listening.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut fds, None, Some(SigSet::empty())) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Backend for Socket {
    fn write(&self, bytes: &[u8]) -> usize {
        self.stream().map_or(bytes.len(), |stream| stream.write(bytes))
    }

    fn notify_writable(&self) {
        match self.stream() {
            Some(stream) => stream.notify_writable(),
            None => {
                let link = self.link.clone();
                self.handle.schedule(move || link.write_ready());
            }
        }
    }

    fn accept_input(&self) {
        if let Some(stream) = self.stream() {
            stream.accept_input();
        }
    }

    fn filename(&self) -> String {
        self.connection().map_or_else(|| self.disconnected_name(), |connection| connection.name)
    }

    fn clean_up(&self) {
        if let Some(file) = self.listener.as_ref().and_then(|listener| listener.file.as_ref()) {
            let _ = std::fs::remove_file(file);
        }
    }

    fn take_fd(&self) -> Option<OwnedFd> {
        self.connection()?.received_fd.lock().take()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.clean_up();
    }
}

/// The transport of one connection.
struct Peer {
    socket: PeerSocket,
    telnet: Option<Mutex<Telnet>>,
    /// The first half of a doubled byte has been sent, the second has not.
    owes_iac: AtomicBool,
    received_fd: Arc<Mutex<Option<OwnedFd>>>,
}

enum PeerSocket {
    Unix(Arc<UnixStream>),
    Tcp(Arc<TcpStream>),
}

impl Peer {
    fn new(peer: Connected, spec: &SocketSpec) -> io::Result<Peer> {
        let socket = match peer {
            Connected::Unix(stream) => {
                stream.set_nonblocking(true)?;
                PeerSocket::Unix(Arc::new(stream))
            }
            Connected::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(spec.nodelay)?;
                PeerSocket::Tcp(Arc::new(stream))
            }
        };
        let peer = Peer {
            socket,
            telnet: spec.telnet.then(Mutex::default),
            owes_iac: AtomicBool::new(false),
            received_fd: Arc::default(),
        };
        if spec.telnet && spec.server {
            // A fresh socket has room for a dozen bytes.
            peer.write_raw(&GREETING)?;
        }
        Ok(peer)
    }

    fn fd(&self) -> Fd {
        match &self.socket {
            PeerSocket::Unix(stream) => stream.clone(),
            PeerSocket::Tcp(stream) => stream.clone(),
        }
    }

    fn write_raw(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.socket {
            PeerSocket::Unix(stream) => (&**stream).write(bytes),
            PeerSocket::Tcp(stream) => (&**stream).write(bytes),
        }
    }

    /// Writes up to the next IAC, or one IAC, which is doubled.
    fn write_telnet(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.owes_iac.load(Ordering::Relaxed) {
            self.write_raw(&[IAC])?;
            self.owes_iac.store(false, Ordering::Relaxed);
        }
        match bytes.iter().position(|&byte| byte == IAC) {
            Some(0) => {
                let sent = self.write_raw(&[IAC, IAC])?;
                self.owes_iac.store(sent == 1, Ordering::Relaxed);
                Ok(sent.min(1))
            }
            Some(position) => self.write_raw(&bytes[..position]),
            None => self.write_raw(bytes),
        }
    }
}

impl Transport for Peer {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.socket {
            PeerSocket::Unix(stream) => {
                let (count, fds) = receive_with_fds(stream, buffer)?;
                if let Some(fd) = fds.into_iter().next() {
                    *self.received_fd.lock() = Some(fd);
                }
                Ok(count)
            }
            PeerSocket::Tcp(stream) => (&**stream).read(buffer),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.telnet.is_some() { self.write_telnet(bytes) } else { self.write_raw(bytes) }
    }

    fn deliver(&self, bytes: &mut [u8], link: &Link) {
        let Some(telnet) = &self.telnet else { return link.receive(bytes) };
        let mut data = Vec::with_capacity(bytes.len());
        for &byte in bytes.iter() {
            let input = telnet.lock().input(byte);
            match input {
                Input::Data(byte) => data.push(byte),
                Input::Break => {
                    link.receive(&std::mem::take(&mut data));
                    link.event(CharEvent::Break);
                }
                Input::Nothing => {}
            }
        }
        if !data.is_empty() {
            link.receive(&data);
        }
    }
}

#[cfg(test)]
mod tests;
