//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo, and what cannot be reached.

use std::net::SocketAddr;

use nix::errno::Errno;

use super::out::OutFrame;
use super::tcp::{FlowKey, Macs, Shared};
use super::wire::{self, ETHERNET, ICMP, ICMP6, IpFields, Route};

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;

const UNREACHABLE6: u8 = 1;
const ECHO_REQUEST6: u8 = 128;
const ECHO_REPLY6: u8 = 129;

/// As an error quotes at least (RFC 792): the first bytes behind the IP header.
const QUOTED: usize = 8;

/// Why something was not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no way.
    Network,
    /// The host does not answer.
    Host,
    /// Nobody listens at the port.
    Port,
    /// It is forbidden.
    Prohibited,
}

impl Reason {
    fn code(self, v6: bool) -> u8 {
        match (self, v6) {
            (Reason::Network, _) => 0,
            (Reason::Host, false) => 1,
            (Reason::Host, true) => 3,
            (Reason::Port, false) => 3,
            (Reason::Port, true) => 4,
            (Reason::Prohibited, false) => 13,
            (Reason::Prohibited, true) => 1,
        }
    }

    /// From the error of a socket.
    pub fn of(error: Errno) -> Reason {
        match error {
            Errno::ECONNREFUSED => Reason::Port,
            Errno::EHOSTUNREACH => Reason::Host,
            Errno::EACCES | Errno::EPERM => Reason::Prohibited,
            _ => Reason::Network,
        }
    }
}

/// The answer to an echo request, if `message` is one.
pub fn echo_reply(message: &[u8], v6: bool) -> Option<Vec<u8>> {
    let (request, reply) =
        if v6 { (ECHO_REQUEST6, ECHO_REPLY6) } else { (ECHO_REQUEST, ECHO_REPLY) };
    if message.len() < 8 || message[0] != request || message[1] != 0 {
        return None;
    }
    let mut answer = message.to_vec();
    answer[0] = reply;
    answer[2..4].fill(0);
    Some(answer)
}

/// A frame with an ICMP message, whose checksum is filled in.
pub fn frame(route: &Route, ttl: u8, tos: u8, message: Vec<u8>, shared: &mut Shared) -> OutFrame {
    let protocol = if route.source.is_ipv6() { ICMP6 } else { ICMP };
    shared.packet_id = shared.packet_id.wrapping_add(1);
    let fields = IpFields { protocol, ttl, tos, id: shared.packet_id };
    route.frame(fields, message, 2).into()
}

/// Tells the sender that what it sent `from` its address `to` another did not get there. `begin` is the
/// begin of what followed the IP header, `len` how much that was.
pub fn unreachable(
    protocol: u8,
    from: SocketAddr,
    to: SocketAddr,
    (begin, len): (&[u8], usize),
    reason: Reason,
    macs: Macs,
    shared: &mut Shared,
) -> OutFrame {
    let v6 = from.is_ipv6();
    let original =
        Route { source_mac: macs.guest, target_mac: macs.ours, source: from.ip(), target: to.ip() };
    let mut quoted = Vec::new();
    original.write_headers(IpFields { protocol, ttl: 64, tos: 0, id: 0 }, len, &mut quoted);
    let kind = if v6 { UNREACHABLE6 } else { UNREACHABLE };
    let mut message = vec![kind, reason.code(v6), 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&quoted[ETHERNET..]);
    message.extend_from_slice(&begin[..begin.len().min(QUOTED)]);
    let route =
        Route { source_mac: macs.ours, target_mac: macs.guest, source: to.ip(), target: from.ip() };
    frame(&route, 255, 0, message, shared)
}

/// Tells that a connection cannot be made.
pub fn tcp_unreachable(
    key: &FlowKey,
    seq: u32,
    error: Errno,
    macs: Macs,
    shared: &mut Shared,
) -> OutFrame {
    let mut begin = Vec::with_capacity(QUOTED);
    begin.extend_from_slice(&key.guest.port().to_be_bytes());
    begin.extend_from_slice(&key.remote.port().to_be_bytes());
    begin.extend_from_slice(&seq.to_be_bytes());
    unreachable(wire::TCP, key.guest, key.remote, (&begin, 20), Reason::of(error), macs, shared)
}
