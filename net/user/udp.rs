//! UDP: a socket of the host for each port of a guest, as long as it is in use.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, UdpSocket};

use base::clock::SECOND;

use nix::errno::Errno;

use super::slots::{Slots, Token};
use super::socket::Inbox;

/// As many ports of guests may be in use.
const MAX_FLOWS: usize = 4096;

/// How long a port stays open that nobody uses (RFC 4787, REQ-5, asks for more than two minutes).
const IDLE: i64 = 240 * SECOND;
/// The same for questions to name servers.
const IDLE_DNS: i64 = 10 * SECOND;

const DNS_PORT: u16 = 53;

/// As many datagrams one flow may receive before the next one gets its turn.
const TURN: usize = 32;

/// A port of a guest.
pub struct Flow {
    guest: SocketAddr,
    socket: UdpSocket,
    /// When it ends unless it is used; a forwarded port stays.
    expires: Option<i64>,
    /// The real address of the name server that was asked: its answers come from ours.
    name_server: Option<SocketAddr>,
    active: bool,
}

impl Flow {
    /// The guest's end.
    pub fn guest(&self) -> SocketAddr {
        self.guest
    }

    /// The host's end.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// When it ends, unless it is used.
    pub fn expires(&self) -> Option<i64> {
        self.expires
    }

    /// Whether it was forwarded by a rule.
    pub fn is_forward(&self) -> bool {
        self.expires.is_none()
    }
}

/// The ports of guests.
pub struct Table {
    flows: Slots<Flow>,
    by_guest: HashMap<SocketAddr, Token>,
    active: VecDeque<Token>,
    inbox: Inbox,
}

/// A datagram for a guest.
pub struct Datagram<'a> {
    pub guest: SocketAddr,
    /// Who sent it.
    pub from: SocketAddr,
    /// Whether that is the name server that the guest asked by our address.
    pub from_name_server: bool,
    pub payload: &'a [u8],
}

impl Default for Table {
    fn default() -> Self {
        Table {
            flows: Slots::new(MAX_FLOWS),
            by_guest: HashMap::new(),
            active: VecDeque::new(),
            inbox: Inbox::default(),
        }
    }
}

impl Table {
    /// All flows, for the lists.
    pub fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.flows.iter().map(|(_, flow)| flow)
    }

    /// Sends a datagram of a guest to a real address. `open` makes and registers a socket.
    pub fn send(
        &mut self,
        guest: SocketAddr,
        (to, is_name_server): (SocketAddr, bool),
        payload: &[u8],
        now: i64,
        open: impl FnOnce(Token) -> io::Result<UdpSocket>,
    ) -> io::Result<()> {
        let token = match self.by_guest.get(&guest) {
            Some(&token) => token,
            None => self.open(guest, now, open)?,
        };
        let Some(flow) = self.flows.get_mut(token) else { return Ok(()) };
        if is_name_server {
            flow.name_server = Some(to);
        }
        if flow.expires.is_some() {
            let idle = if to.port() == DNS_PORT { IDLE_DNS } else { IDLE };
            flow.expires = Some(now + idle);
        }
        match flow.socket.send_to(payload, to) {
            // A full queue loses datagrams, as any link does.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result.map(drop),
        }
    }

    fn open(
        &mut self,
        guest: SocketAddr,
        now: i64,
        open: impl FnOnce(Token) -> io::Result<UdpSocket>,
    ) -> io::Result<Token> {
        self.make_room();
        let mut result = Err(io::Error::from(io::ErrorKind::QuotaExceeded));
        let token = self.flows.insert_with(|token| {
            let socket = open(token).map_err(|error| result = Err(error)).ok()?;
            let expires = Some(now + IDLE);
            Some(Flow { guest, socket, expires, name_server: None, active: false })
        });
        match token {
            Some(token) => {
                self.by_guest.insert(guest, token);
                Ok(token)
            }
            None => result,
        }
    }

    /// Ends the flow that would end first, if there are too many.
    fn make_room(&mut self) {
        if self.flows.len() < MAX_FLOWS {
            return;
        }
        let oldest = self.flows.iter().filter_map(|(token, flow)| Some((flow.expires?, token)));
        if let Some((_, token)) = oldest.min_by_key(|(at, _)| *at) {
            self.remove(token);
        }
    }

    /// Whether a port of a guest is one that a rule forwards.
    pub fn is_forwarded(&self, guest: SocketAddr) -> bool {
        let flow = self.by_guest.get(&guest).and_then(|&token| self.flows.get(token));
        flow.is_some_and(Flow::is_forward)
    }

    /// Keeps a bound socket for a port of the guest.
    pub fn forward(
        &mut self,
        guest: SocketAddr,
        socket: UdpSocket,
        register: impl FnOnce(&UdpSocket, Token) -> bool,
    ) -> Option<Token> {
        if let Some(&token) = self.by_guest.get(&guest) {
            self.remove(token);
        }
        let token = self.flows.insert_with(|token| {
            register(&socket, token).then_some(())?;
            Some(Flow { guest, socket, expires: None, name_server: None, active: false })
        })?;
        self.by_guest.insert(guest, token);
        Some(token)
    }

    /// Ends a flow.
    pub fn remove(&mut self, token: Token) {
        if let Some(flow) = self.flows.remove(token)
            && self.by_guest.get(&flow.guest) == Some(&token)
        {
            self.by_guest.remove(&flow.guest);
        }
    }

    /// A socket has something to read.
    pub fn on_readable(&mut self, token: Token) {
        if let Some(flow) = self.flows.get_mut(token)
            && !flow.active
        {
            flow.active = true;
            self.active.push_back(token);
        }
    }

    /// Whether sockets may have datagrams.
    pub fn has_work(&self) -> bool {
        !self.active.is_empty()
    }

    /// Receives datagrams until `give` has had `enough` of them or there are no more.
    pub fn pump(&mut self, enough: usize, now: i64, mut give: impl FnMut(Datagram<'_>)) {
        let mut total = 0;
        while total < enough {
            let Some(token) = self.active.pop_front() else { return };
            let Some(flow) = self.flows.get_mut(token) else { continue };
            let mut turn = 0;
            loop {
                let most = (TURN - turn).min(enough - total);
                if most == 0 {
                    self.active.push_back(token);
                    break;
                }
                let received = self.inbox.receive(&flow.socket, most, |from, payload| {
                    let from_name_server = flow.name_server == Some(from);
                    if let Some(expires) = &mut flow.expires {
                        let idle = if from.port() == DNS_PORT { IDLE_DNS } else { IDLE };
                        *expires = now + idle;
                    }
                    give(Datagram { guest: flow.guest, from, from_name_server, payload });
                });
                let (count, more) = match received {
                    Ok(received) => received,
                    Err(Errno::EAGAIN) => (0, false),
                    // One that an earlier datagram has met; it counts as one, as there is no end to some of them.
                    Err(_) => (1, true),
                };
                turn += count;
                total += count;
                if !more {
                    // Less than was asked for is all there is, and more will be told (epoll(7)).
                    flow.active = false;
                    break;
                }
            }
        }
    }

    /// Ends what nobody uses.
    pub fn on_timer(&mut self, now: i64) {
        let expired: Vec<Token> = self
            .flows
            .iter()
            .filter(|(_, flow)| flow.expires.is_some_and(|at| at <= now))
            .map(|(token, _)| token)
            .collect();
        for token in expired {
            self.remove(token);
        }
    }

    /// When the next flow ends.
    pub fn next_expiry(&self) -> Option<i64> {
        self.flows.iter().filter_map(|(_, flow)| flow.expires).min()
    }
}
