//! Ports of the host that lead to guests, and addresses of the guest's network that lead to programs of
//! the host.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use nix::errno::Errno;

use super::bridge::Bridge;
use super::forward::HostForward;
use super::slots::{Slots, Token};
use super::socket;

/// As many there may be.
const MAX_FORWARDS: usize = 4096;

/// A forwarded port.
pub struct Forward {
    /// The rule.
    pub rule: HostForward,
    /// What listens.
    pub listener: Listener,
}

/// What listens at a forwarded port.
pub enum Listener {
    /// A socket that takes connections.
    Tcp(TcpListener),
    /// A flow that is always there.
    Udp(Token),
}

/// The forwards.
pub struct Forwards {
    ports: Slots<Forward>,
    servers: Vec<(SocketAddrV4, Server)>,
    children: Vec<Child>,
}

/// What answers at an address of the guest's network.
pub enum Server {
    /// A program for each connection, and its arguments.
    Command(Vec<OsString>),
    /// A character device.
    Chardev(Arc<Bridge>),
}

impl Default for Forwards {
    fn default() -> Self {
        Forwards { ports: Slots::new(MAX_FORWARDS), servers: Vec::new(), children: Vec::new() }
    }
}

impl Forwards {
    /// Adds a server.
    pub fn add_server(&mut self, at: SocketAddrV4, server: Server) {
        self.servers.push((at, server));
    }

    /// A connection to the server at an address, if there is one there.
    pub fn connect(&mut self, to: SocketAddr) -> Option<Result<OwnedFd, Errno>> {
        let SocketAddr::V4(to) = to else { return None };
        let (_, server) = self.servers.iter().find(|(at, _)| *at == to)?;
        let failed =
            |error: io::Error| error.raw_os_error().map_or(Errno::ECONNREFUSED, Errno::from_raw);
        Some(match server {
            Server::Command(command) => {
                self.children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
                start(command)
                    .map(|(child, socket)| {
                        self.children.push(child);
                        socket
                    })
                    .map_err(failed)
            }
            Server::Chardev(bridge) => bridge.connect().map_err(failed),
        })
    }

    /// Adds one that `make` makes for its token.
    pub fn add(&mut self, make: impl FnOnce(Token) -> Option<Forward>) -> bool {
        self.ports.insert_with(make).is_some()
    }

    /// Takes out what listens at an address.
    pub fn remove(&mut self, udp: bool, host: SocketAddrV4) -> Option<Forward> {
        let found = self
            .ports
            .iter()
            .find(|(_, forward)| forward.rule.udp == udp && forward.rule.host == host);
        let (token, _) = found?;
        self.ports.remove(token)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Forward> {
        self.ports.iter().map(|(_, forward)| forward)
    }

    /// Whether an address of the guest's network is a forward to the host.
    pub fn has_server(&self, address: Ipv4Addr) -> bool {
        self.servers.iter().any(|(at, _)| *at.ip() == address)
    }

    /// Takes a connection: its socket, who made it, and for which guest it is.
    pub fn accept(&mut self, token: Token) -> Option<(OwnedFd, SocketAddr, SocketAddr)> {
        let forward = self.ports.get(token)?;
        let Listener::Tcp(listener) = &forward.listener else { return None };
        let (socket, peer) = socket::accept(listener).ok()?;
        Some((socket, peer, SocketAddr::V4(forward.rule.guest)))
    }
}

/// Starts a program that talks through its stdin and stdout. It gets a process group of its own: some, like
/// Samba's server, end by sending a signal to all of theirs.
fn start(command: &[OsString]) -> io::Result<(Child, OwnedFd)> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let (ours, theirs) = socket::pair()?;
    ours.set_nonblocking(true)?;
    let input = OwnedFd::from(theirs.try_clone()?);
    let child = Command::new(program)
        .args(arguments)
        .process_group(0)
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    Ok((child, ours.into()))
}
