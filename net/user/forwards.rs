//! Ports of the host that lead to guests.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::os::fd::OwnedFd;

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

/// The forwarded ports.
pub struct Forwards(Slots<Forward>);

impl Default for Forwards {
    fn default() -> Self {
        Forwards(Slots::new(MAX_FORWARDS))
    }
}

impl Forwards {
    /// Adds one that `make` makes for its token.
    pub fn add(&mut self, make: impl FnOnce(Token) -> Option<Forward>) -> bool {
        self.0.insert_with(make).is_some()
    }

    /// Takes out what listens at an address.
    pub fn remove(&mut self, udp: bool, host: SocketAddrV4) -> Option<Forward> {
        let found =
            self.0.iter().find(|(_, forward)| forward.rule.udp == udp && forward.rule.host == host);
        let (token, _) = found?;
        self.0.remove(token)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Forward> {
        self.0.iter().map(|(_, forward)| forward)
    }

    /// Whether an address of the guest's network is a forward to the host.
    pub fn has_server(&self, _address: Ipv4Addr) -> bool {
        false
    }

    /// Takes a connection: its socket, who made it, and for which guest it is.
    pub fn accept(&mut self, token: Token) -> Option<(OwnedFd, SocketAddr, SocketAddr)> {
        let forward = self.0.get(token)?;
        let Listener::Tcp(listener) = &forward.listener else { return None };
        let (socket, peer) = socket::accept(listener).ok()?;
        Some((socket, peer, SocketAddr::V4(forward.rule.guest)))
    }
}
