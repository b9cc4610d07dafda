//! All TCP connections.

mod flow;
pub mod segment;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use nix::errno::Errno;

pub use flow::{Flow, FlowKey, Phase, Ready, Shared};

use super::out::OutFrame;
use super::slots::{Slots, Token};
use super::wire::{self, IpFields, Mac, Packet, Route};
use super::{icmp, socket};
use crate::Frame;
use flow::Fate;
use segment::{ACK, Header, RST, SYN, Segment, Seq};

/// As many connections there may be.
const MAX_FLOWS: usize = 16384;

/// As much one flow may send before the next one gets its turn.
const TURN: usize = 128 * 1024;

/// The acknowledgement of a little data waits as long for something that carries it: longer than a
/// program takes to answer, and not long enough to hold up a guest that waits for it before it sends
/// more (RFC 896).
const LATEST_ACK: i64 = 500_000;

/// The connections.
pub struct Table {
    flows: Slots<Entry>,
    by_key: HashMap<FlowKey, Token>,
    /// The flow of the last segment, which is mostly that of the next one.
    recent: Option<(FlowKey, Token)>,
    /// Flows that may have something for the guest.
    active: VecDeque<Token>,
    /// Flows that have gathered what the guest sends.
    in_burst: Vec<Token>,
    /// Flows that owe the guest an acknowledgement, and by when.
    acknowledging: Vec<Token>,
    acknowledge_at: Option<i64>,
    first_numbers: RandomState,
    opened: u64,
    /// No flow has anything to do before.
    next_deadline: Option<i64>,
}

struct Entry {
    flow: Flow,
    /// It is in the list of the active.
    active: bool,
    /// It is in the list of those that gather.
    in_burst: bool,
    /// It is in the list of those that owe an acknowledgement.
    acknowledging: bool,
}

impl Entry {
    fn new(flow: Flow) -> Entry {
        Entry { flow, active: false, in_burst: false, acknowledging: false }
    }
}

impl Default for Table {
    fn default() -> Self {
        Table {
            flows: Slots::new(MAX_FLOWS),
            by_key: HashMap::new(),
            recent: None,
            active: VecDeque::new(),
            in_burst: Vec::new(),
            acknowledging: Vec::new(),
            acknowledge_at: None,
            first_numbers: RandomState::new(),
            opened: 0,
            next_deadline: None,
        }
    }
}

/// The Ethernet addresses of a connection.
#[derive(Clone, Copy)]
pub struct Macs {
    /// Ours.
    pub ours: Mac,
    /// The guest's.
    pub guest: Mac,
}

impl Table {
    /// All flows, for the lists.
    pub fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.flows.iter().map(|(_, entry)| &entry.flow)
    }

    /// A segment of the guest: for a connection, or to be answered by `open`, which gives the socket
    /// (and registers it under the token) for a wanted address.
    pub fn on_segment(
        &mut self,
        packet: &Packet,
        header: &[u8],
        frame: &Frame<'_>,
        macs: Macs,
        shared: &mut Shared,
        open: impl FnOnce(SocketAddr, Token) -> Result<OwnedFd, Errno>,
    ) {
        let Some(segment) = Segment::read(packet, header) else { return };
        let key = FlowKey {
            guest: SocketAddr::new(packet.source, segment.source_port),
            remote: SocketAddr::new(packet.target, segment.target_port),
        };
        if let Some(token) = self.find(&key) {
            if let Some(entry) = self.flows.get_mut(token) {
                let fate = entry.flow.on_segment(&segment, frame, shared);
                if !entry.in_burst && entry.flow.is_in_burst() {
                    entry.in_burst = true;
                    self.in_burst.push(token);
                }
                self.settle(token, fate, shared);
            }
            return;
        }
        if segment.flags & (SYN | ACK | RST) == SYN {
            self.open(key, &segment, macs, shared, open);
        } else {
            refuse(&key, &segment, macs, shared);
        }
    }

    fn find(&mut self, key: &FlowKey) -> Option<Token> {
        if let Some((_, token)) = self.recent.as_ref().filter(|(recent, _)| recent == key) {
            return Some(*token);
        }
        let token = *self.by_key.get(key)?;
        self.recent = Some((*key, token));
        Some(token)
    }

    fn open(
        &mut self,
        key: FlowKey,
        segment: &Segment,
        macs: Macs,
        shared: &mut Shared,
        open: impl FnOnce(SocketAddr, Token) -> Result<OwnedFd, Errno>,
    ) {
        let first = self.first_number(&key);
        let mut failure = None;
        let token = self.flows.insert_with(|token| {
            let socket = open(key.remote, token).map_err(|error| failure = Some(error)).ok()?;
            let flow = Flow::from_guest(key, macs.ours, macs.guest, socket, segment, first);
            Some(Entry::new(flow))
        });
        match (token, failure) {
            (Some(token), _) => {
                self.by_key.insert(key, token);
            }
            (None, Some(error)) if unreachable(error) => {
                let error = icmp::tcp_unreachable(&key, segment.seq.0, error, macs, shared);
                shared.out.push(error);
            }
            (None, _) => refuse(&key, segment, macs, shared),
        }
    }

    /// Offers a connection from the host to the guest. `register` registers the socket.
    pub fn offer(
        &mut self,
        key: FlowKey,
        our_mac: Mac,
        guest_mac: Option<Mac>,
        socket: OwnedFd,
        shared: &mut Shared,
        register: impl FnOnce(&OwnedFd, Token) -> bool,
    ) {
        if self.by_key.contains_key(&key) {
            socket::reset_on_close(&socket);
            return;
        }
        let first = self.first_number(&key);
        let token = self.flows.insert_with(|token| {
            if !register(&socket, token) {
                socket::reset_on_close(&socket);
                return None;
            }
            let mut flow = Flow::to_guest(key, our_mac, guest_mac, socket, first);
            flow.offer(shared);
            Some(Entry::new(flow))
        });
        if let Some(token) = token {
            self.by_key.insert(key, token);
            self.settle(token, Fate::Keep, shared);
        }
    }

    /// The first sequence number of a connection: none that an outsider could guess.
    fn first_number(&mut self, key: &FlowKey) -> Seq {
        self.opened += 1;
        Seq(self.first_numbers.hash_one((key, self.opened)) as u32)
    }

    /// A socket is ready, or has failed.
    pub fn on_ready(&mut self, token: Token, ready: Ready, shared: &mut Shared) {
        let Some(entry) = self.flows.get_mut(token) else { return };
        // Later errors are told by reading, behind what there is to read; asking would clear them.
        let refused = ready.failed && entry.flow.phase() == Phase::Connecting;
        let error = if refused { socket::take_error(entry.flow.socket()) } else { None };
        let fate = match error {
            Some(error) if unreachable(error) => {
                let key = *entry.flow.key();
                if let (Some(macs), seq) = entry.flow.origin() {
                    let error = icmp::tcp_unreachable(&key, seq, error, macs, shared);
                    shared.out.push(error);
                }
                Fate::Done
            }
            Some(_) => entry.flow.abort(shared),
            None => entry.flow.on_ready(ready, shared),
        };
        if fate == Fate::Keep && !entry.active {
            entry.active = true;
            self.active.push_back(token);
        }
        self.settle(token, fate, shared);
    }

    fn settle(&mut self, token: Token, fate: Fate, shared: &mut Shared) {
        if fate == Fate::Done {
            if let Some(mut entry) = self.flows.remove(token) {
                self.by_key.remove(entry.flow.key());
                self.recent = None;
                entry.flow.release(shared);
            }
            return;
        }
        let Some(entry) = self.flows.get_mut(token) else { return };
        if let Some(deadline) = entry.flow.deadline() {
            self.next_deadline = Some(self.next_deadline.map_or(deadline, |at| at.min(deadline)));
        }
        if !entry.acknowledging && entry.flow.acknowledges_soon() {
            entry.acknowledging = true;
            self.acknowledging.push(token);
            self.acknowledge_at.get_or_insert(shared.now + LATEST_ACK);
        }
        if !entry.active && entry.flow.has_work(shared) {
            entry.active = true;
            self.active.push_back(token);
        }
    }

    /// The guest has sent what it had.
    pub fn end_burst(&mut self, shared: &mut Shared) {
        let mut tokens = std::mem::take(&mut self.in_burst);
        for token in tokens.drain(..) {
            let Some(entry) = self.flows.get_mut(token) else { continue };
            entry.in_burst = false;
            let fate = entry.flow.end_burst(shared);
            self.settle(token, fate, shared);
        }
        self.in_burst = tokens;
    }

    /// Whether flows may have something for the guest, or for sockets.
    pub fn has_work(&self) -> bool {
        !self.active.is_empty() || !self.in_burst.is_empty()
    }

    /// Lets flows send, in turn, until `enough` bytes are on their way or nobody has more.
    pub fn pump(&mut self, enough: usize, shared: &mut Shared) {
        let mut total = 0;
        while total < enough {
            let Some(token) = self.active.pop_front() else { return };
            let Some(entry) = self.flows.get_mut(token) else { continue };
            let (sent, fate) = entry.flow.pump(TURN.min(enough - total), shared);
            entry.active = false;
            total += sent;
            self.settle(token, fate, shared);
        }
    }

    /// A guest's hardware address has become known.
    pub fn on_neighbour(&mut self, address: IpAddr, mac: Mac, shared: &mut Shared) {
        let concerned = |entry: &Entry| entry.flow.key().guest.ip() == address;
        let tokens: Vec<Token> = self
            .flows
            .iter()
            .filter(|(_, entry)| concerned(entry))
            .map(|(token, _)| token)
            .collect();
        for token in tokens {
            if let Some(entry) = self.flows.get_mut(token) {
                entry.flow.on_neighbour(mac, shared);
            }
        }
    }

    /// A time before which [`Self::on_timer`] has nothing to do.
    pub fn next_deadline(&self) -> Option<i64> {
        [self.next_deadline, self.acknowledge_at].into_iter().flatten().min()
    }

    /// Runs the timers that have expired.
    pub fn on_timer(&mut self, shared: &mut Shared) {
        if self.acknowledge_at.is_some_and(|at| at <= shared.now) {
            self.acknowledge_at = None;
            for token in std::mem::take(&mut self.acknowledging) {
                let Some(entry) = self.flows.get_mut(token) else { continue };
                entry.acknowledging = false;
                entry.flow.acknowledge();
                self.settle(token, Fate::Keep, shared);
            }
        }
        if self.next_deadline.is_none_or(|at| at > shared.now) {
            return;
        }
        let expired: Vec<Token> = self
            .flows
            .iter()
            .filter(|(_, entry)| entry.flow.deadline().is_some_and(|at| at <= shared.now))
            .map(|(token, _)| token)
            .collect();
        for token in expired {
            if let Some(entry) = self.flows.get_mut(token) {
                let fate = entry.flow.on_timer(shared);
                self.settle(token, fate, shared);
            }
        }
        let deadlines = self.flows.iter().filter_map(|(_, entry)| entry.flow.deadline());
        self.next_deadline = deadlines.min();
    }
}

/// Whether an error of `connect` says that there is no way.
fn unreachable(error: Errno) -> bool {
    matches!(error, Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EADDRNOTAVAIL)
}

/// Answers a segment that has no connection by a reset (RFC 9293, 3.10.7.1).
fn refuse(key: &FlowKey, segment: &Segment, macs: Macs, shared: &mut Shared) {
    if segment.has(RST) {
        return;
    }
    let (seq, ack, flags) = match segment.has(ACK) {
        true => (segment.ack, Seq(0), RST),
        false => (Seq(0), segment.seq.plus(segment.sequence_len()), RST | ACK),
    };
    let header = Header {
        source_port: key.remote.port(),
        target_port: key.guest.port(),
        seq,
        ack,
        flags,
        window: 0,
        options: None,
    };
    let route = Route {
        source_mac: macs.ours,
        target_mac: macs.guest,
        source: key.remote.ip(),
        target: key.guest.ip(),
    };
    let mut head = Vec::new();
    shared.packet_id = shared.packet_id.wrapping_add(1);
    let fields = IpFields { protocol: wire::TCP, ttl: 64, tos: 0, id: shared.packet_id };
    route.write_headers(fields, header.len(), &mut head);
    header.write(&route, 0, false, &mut head);
    shared.out.push(OutFrame::from(head));
}
