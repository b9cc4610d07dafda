//! Echo requests to the world, by sockets that need no privilege where the host allows them
//! (`net.ipv4.ping_group_range`).

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use base::clock::SECOND;
use nix::errno::Errno;

use super::slots::{Slots, Token};
use super::socket;

/// As many programs may ping at a time.
const MAX_FLOWS: usize = 64;
/// How long an answer is waited for.
const IDLE: i64 = 60 * SECOND;
/// As many answers are taken at once.
const TURN: usize = 16;
/// Largest message.
const MAX_MESSAGE: usize = 65536;

/// Who pings: the kernel numbers the requests of each socket in its own way, so there is one for each
/// identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    guest: IpAddr,
    target: IpAddr,
    id: [u8; 2],
}

struct Flow {
    key: Key,
    socket: UdpSocket,
    expires: i64,
}

/// The pings under way.
pub struct Table {
    flows: Slots<Flow>,
    by_key: HashMap<Key, Token>,
    active: VecDeque<Token>,
}

/// An answer.
pub struct Reply {
    pub guest: IpAddr,
    pub from: IpAddr,
    /// The message, its checksum to be filled in.
    pub message: Vec<u8>,
}

impl Default for Table {
    fn default() -> Self {
        Table { flows: Slots::new(MAX_FLOWS), by_key: HashMap::new(), active: VecDeque::new() }
    }
}

impl Table {
    /// Sends a guest's request. `register` registers a new socket.
    pub fn send(
        &mut self,
        guest: IpAddr,
        target: IpAddr,
        message: &[u8],
        now: i64,
        register: impl FnOnce(&UdpSocket, Token) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let id = message.get(4..6).and_then(|id| id.try_into().ok()).ok_or(Errno::EINVAL)?;
        let key = Key { guest, target, id };
        let token = match self.by_key.get(&key) {
            Some(&token) => token,
            None => self.open(key, now, register)?,
        };
        let Some(flow) = self.flows.get_mut(token) else { return Ok(()) };
        flow.expires = now + IDLE;
        match flow.socket.send(message) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.raw_os_error().map_or(Errno::ENETUNREACH, Errno::from_raw)),
        }
    }

    fn open(
        &mut self,
        key: Key,
        now: i64,
        register: impl FnOnce(&UdpSocket, Token) -> Result<(), Errno>,
    ) -> Result<Token, Errno> {
        let mut failure = Errno::EAGAIN;
        let token = self.flows.insert_with(|token| {
            let socket = socket::ping(SocketAddr::new(key.target, 0));
            let socket = socket.map_err(|error| failure = error).ok()?;
            register(&socket, token).map_err(|error| failure = error).ok()?;
            Some(Flow { key, socket, expires: now + IDLE })
        });
        let token = token.ok_or(failure)?;
        self.by_key.insert(key, token);
        Ok(token)
    }

    /// A socket has something to read.
    pub fn on_readable(&mut self, token: Token) {
        if !self.active.contains(&token) {
            self.active.push_back(token);
        }
    }

    /// Whether there are answers.
    pub fn has_work(&self) -> bool {
        !self.active.is_empty()
    }

    /// Takes some answers.
    pub fn pump(&mut self) -> Vec<Reply> {
        let mut replies = Vec::new();
        while let Some(token) = self.active.pop_front() {
            let Some(flow) = self.flows.get(token) else { continue };
            let mut message = vec![0; MAX_MESSAGE];
            let Ok(len) = flow.socket.recv(&mut message) else { continue };
            self.active.push_back(token);
            message.truncate(len);
            if len >= 8 {
                // The kernel put its own identifier there.
                message[4..6].copy_from_slice(&flow.key.id);
                message[2..4].fill(0);
                replies.push(Reply { guest: flow.key.guest, from: flow.key.target, message });
            }
            if replies.len() == TURN {
                break;
            }
        }
        replies
    }

    /// Ends what nobody waits for any more.
    pub fn on_timer(&mut self, now: i64) {
        let expired: Vec<Token> = self
            .flows
            .iter()
            .filter(|(_, flow)| flow.expires <= now)
            .map(|(token, _)| token)
            .collect();
        for token in expired {
            if let Some(flow) = self.flows.remove(token) {
                self.by_key.remove(&flow.key);
            }
        }
    }

    /// When the next one ends.
    pub fn next_expiry(&self) -> Option<i64> {
        self.flows.iter().map(|(_, flow)| flow.expires).min()
    }
}
