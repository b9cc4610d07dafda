//! One connection: the guest's segments on one side, a socket of the host on the other.
//!
//! There is no second TCP between them. What the guest sends goes into the socket as it comes, and is
//! acknowledged when the socket has it. What the socket has is read only as far as the guest's window
//! allows, and kept until the guest acknowledges it. The link to the guest neither delays nor
//! reorders, and loses only what the guest itself drops: retransmission is plain (RFC 6298's timer
//! with doubling, three duplicate acknowledgements, one more segment for each partial one).
//!
//! A little data is acknowledged a moment later (RFC 9293, 3.8.6.3): mostly its answer carries the
//! acknowledgement, and the guest is interrupted once instead of twice.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use base::clock::SECOND;

use super::Macs;
use super::segment::{ACK, FIN, HEADER, Header, PSH, RST, SYN, Segment, Seq, SynOptions};
use crate::frame::send_parts;
use crate::outbox::Outbox;
use crate::user::out::{CHUNK, Chunk, Chunks, OutFrame};
use crate::user::socket;
use crate::user::wire::{self, IpFields, Mac, Route};
use crate::{Checksum, Frame, Gso, GsoKind, Offload, Part};

/// What the guest may send ahead of what the socket has taken.
const WINDOW: usize = 512 * 1024;
/// The shift that such a window needs.
const SCALE: u8 = 4;
/// The window without scaling.
const PLAIN_WINDOW: usize = 65535;

/// As much may be on its way to the guest, unacknowledged.
const MAX_FLIGHT: usize = 512 * 1024;

/// What a flow may always have on its way, however little memory is left for all.
const SCARCE_FLIGHT: usize = 4096;

/// The segment size of a peer that does not name one (RFC 9293, 3.7.1).
const DEFAULT_MSS: u16 = 536;
/// Less is not honoured: a segment would be all header.
const MIN_MSS: u16 = 88;

/// Time until the first retransmission.
const FIRST_TIMEOUT: i64 = SECOND;
/// Doubling stops here.
const LONGEST_TIMEOUT: i64 = 60 * SECOND;
/// As many retransmissions in vain end a connection.
const MAX_RETRIES: u8 = 12;
/// As many of a SYN.
const MAX_SYN_RETRIES: u8 = 6;

/// As many parts of a frame are given to the kernel at once.
const MAX_PARTS: usize = 64;

/// What is shorter is gathered until the guest's burst is over: copying it costs less than a call.
const WORTH_A_CALL: usize = 16 * 1024;
/// As much of a burst is gathered.
const ENOUGH: usize = 64 * 1024;

/// Who talks to whom, as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The guest has sent a SYN, the host's `connect` is under way.
    Connecting,
    /// The guest has sent a SYN and got an answer.
    Answered,
    /// A SYN was sent to the guest.
    Offered,
    /// Both sides know.
    Established,
}

/// What is owed to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Acknowledgement {
    None,
    /// Within [`super::LATEST_ACK`].
    Soon,
    Due,
}

/// What is to become of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Fate {
    /// It goes on.
    Keep,
    /// It is over on both sides.
    Done,
}

/// What has become of a socket.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// There is something to read.
    pub readable: bool,
    /// The end, or urgent bytes, are there too: a read stops before them, and nothing tells of them again.
    pub more: bool,
    /// There is room.
    pub writable: bool,
    /// There is an error, which reading tells behind what there is.
    pub failed: bool,
}

/// What flows share.
#[derive(Default)]
pub struct Shared {
    /// Buffers.
    pub chunks: Chunks,
    /// Bytes read from sockets and not yet acknowledged by guests.
    pub in_flight: usize,
    /// Bytes taken from guests and not yet by sockets.
    pub backlog: usize,
    /// An empty backlog, whose memory serves the next flow that needs one.
    spare_backlog: Outbox,
    /// Answers.
    pub out: Vec<OutFrame>,
    /// Guests that are spoken to, but whose hardware addresses are unknown.
    pub wanted: Vec<IpAddr>,
    /// Number of the next IP packet.
    pub packet_id: u16,
    /// When it is, on the virtual clock.
    pub now: i64,
}

/// The bounds of all flows together.
const MAX_TOTAL_FLIGHT: usize = 24 << 20;
const MAX_TOTAL_BACKLOG: usize = 16 << 20;

/// Data that the guest has not acknowledged.
struct Sent {
    seq: Seq,
    chunk: Chunk,
    len: usize,
}

/// A connection.
pub struct Flow {
    key: FlowKey,
    our_mac: Mac,
    /// Unknown for a guest that has not spoken yet.
    guest_mac: Option<Mac>,
    socket: OwnedFd,
    phase: Phase,
    mss: u16,

    /// The next byte that is expected from the guest.
    rcv_next: Seq,
    /// The right edge of the window that the guest knows of.
    rcv_edge: Seq,
    /// Shift of the windows that we announce.
    our_scale: u8,
    /// What the socket has not got yet.
    backlog: Outbox,
    guest_closed: bool,
    shut_down: bool,
    ack: Acknowledgement,
    /// How far the guest has been told that its data has come.
    acked: Seq,

    /// The oldest byte that the guest has not acknowledged, the next one to send.
    snd_una: Seq,
    snd_next: Seq,
    /// The guest's window.
    snd_wnd: usize,
    guest_scale: u8,
    sent: VecDeque<Sent>,
    host_closed: bool,
    fin_sent: bool,

    duplicates: u8,
    /// While lost segments are repeated: where that ends.
    recover: Option<Seq>,
    retries: u8,
    deadline: Option<i64>,

    /// What the socket is known to be ready for.
    readable: bool,
    writable: bool,
    /// Reading has to go on until there is nothing.
    read_on: bool,
}

impl Flow {
    /// A connection that the guest's SYN asks for; `socket` is being connected.
    pub fn from_guest(
        key: FlowKey,
        our_mac: Mac,
        guest_mac: Mac,
        socket: OwnedFd,
        syn: &Segment,
        first: Seq,
    ) -> Flow {
        let mut flow = Flow::new(key, our_mac, Some(guest_mac), socket, Phase::Connecting, first);
        flow.take_syn(syn);
        flow
    }

    /// A connection that somebody made to a forwarded port of the host.
    pub fn to_guest(
        key: FlowKey,
        our_mac: Mac,
        guest_mac: Option<Mac>,
        socket: OwnedFd,
        first: Seq,
    ) -> Flow {
        let mut flow = Flow::new(key, our_mac, guest_mac, socket, Phase::Offered, first);
        flow.writable = true;
        flow
    }

    fn new(
        key: FlowKey,
        our_mac: Mac,
        guest_mac: Option<Mac>,
        socket: OwnedFd,
        phase: Phase,
        first: Seq,
    ) -> Flow {
        Flow {
            key,
            our_mac,
            guest_mac,
            socket,
            phase,
            mss: DEFAULT_MSS,
            rcv_next: Seq(0),
            rcv_edge: Seq(0),
            our_scale: 0,
            backlog: Outbox::default(),
            guest_closed: false,
            shut_down: false,
            ack: Acknowledgement::None,
            acked: Seq(0),
            snd_una: first,
            snd_next: first,
            snd_wnd: 0,
            guest_scale: 0,
            sent: VecDeque::new(),
            host_closed: false,
            fin_sent: false,
            duplicates: 0,
            recover: None,
            retries: 0,
            deadline: None,
            readable: false,
            writable: false,
            read_on: false,
        }
    }

    /// Who talks to whom.
    pub fn key(&self) -> &FlowKey {
        &self.key
    }

    /// The hardware addresses, and the number of the SYN that the guest began with.
    pub fn origin(&self) -> (Option<Macs>, u32) {
        let macs = self.guest_mac.map(|guest| Macs { ours: self.our_mac, guest });
        (macs, self.rcv_next.0.wrapping_sub(1))
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the guest has closed its direction, and whether the host has.
    pub fn closed(&self) -> (bool, bool) {
        (self.guest_closed, self.host_closed)
    }

    /// The socket.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Bytes that wait for the socket, and for the guest.
    pub fn queued(&self) -> (usize, usize) {
        (self.backlog.len(), self.flight())
    }

    /// When [`Self::on_timer`] is to be called.
    pub fn deadline(&self) -> Option<i64> {
        self.deadline
    }

    /// The guest's hardware address has become known, or is another one now.
    pub fn on_neighbour(&mut self, mac: Mac, shared: &mut Shared) {
        let missing = self.guest_mac.replace(mac).is_none();
        if missing && self.phase == Phase::Offered {
            self.offer(shared);
        }
    }

    fn take_syn(&mut self, syn: &Segment) {
        self.rcv_next = syn.seq.plus(1);
        self.mss = syn.mss.unwrap_or(DEFAULT_MSS).clamp(MIN_MSS, self.our_mss());
        self.snd_wnd = syn.window.into();
        (self.guest_scale, self.our_scale) = match syn.scale {
            Some(scale) => (scale, SCALE),
            None => (0, 0),
        };
    }

    fn our_mss(&self) -> u16 {
        let ip = if self.key.guest.is_ipv6() { 40 } else { 20 };
        (wire::MTU - ip - HEADER) as u16
    }

    fn flight(&self) -> usize {
        self.snd_next.since(self.snd_una) as usize
    }

    // What comes from the guest.

    /// Takes a segment of the guest.
    pub fn on_segment(
        &mut self,
        segment: &Segment,
        frame: &Frame<'_>,
        shared: &mut Shared,
    ) -> Fate {
        if segment.has(RST) {
            return self.on_reset(segment);
        }
        match self.phase {
            // A repeated SYN: the answer comes when the host's peer has given one.
            Phase::Connecting => return Fate::Keep,
            Phase::Offered => return self.on_answer(segment, frame, shared),
            Phase::Answered if segment.has(SYN) => {
                // Our answer was lost.
                if segment.seq.plus(1) == self.rcv_next {
                    self.snd_next = self.snd_una;
                    self.send_syn(shared);
                }
                return Fate::Keep;
            }
            Phase::Answered if segment.has(ACK) && segment.ack == self.snd_next => {
                self.phase = Phase::Established;
            }
            Phase::Answered => return Fate::Keep,
            Phase::Established if segment.has(SYN) => {
                // RFC 9293, 3.10.7.4: tell the guest where we are; if it has forgotten this
                // connection it says so.
                self.ack = Acknowledgement::Due;
                return Fate::Keep;
            }
            Phase::Established => {}
        }
        if !segment.has(ACK) {
            return Fate::Keep;
        }
        if segment.ack > self.snd_next {
            self.ack = Acknowledgement::Due;
            return Fate::Keep;
        }
        self.on_ack(segment, shared);
        if self.take_data(segment, frame, shared) == Fate::Done {
            return self.abort(shared);
        }
        self.fate()
    }

    fn on_reset(&mut self, segment: &Segment) -> Fate {
        let expected = match self.phase {
            Phase::Offered => segment.has(ACK) && segment.ack == self.snd_next,
            _ => segment.seq == self.rcv_next,
        };
        if expected {
            // Whoever has the socket's other end is to see a reset too.
            socket::reset_on_close(&self.socket);
            return Fate::Done;
        }
        // RFC 5961, 3.2: one inside the window might be forged, or come from a guest whose earlier
        // segments were lost; the answer makes it say it again.
        if segment.seq > self.rcv_next && segment.seq < self.rcv_edge {
            self.ack = Acknowledgement::Due;
        }
        Fate::Keep
    }

    /// The guest's answer to our SYN.
    fn on_answer(&mut self, segment: &Segment, frame: &Frame<'_>, shared: &mut Shared) -> Fate {
        if !(segment.has(SYN) && segment.has(ACK) && segment.ack == self.snd_next) {
            return Fate::Keep;
        }
        self.take_syn(segment);
        self.phase = Phase::Established;
        self.snd_una = self.snd_next;
        self.retries = 0;
        self.deadline = None;
        self.rcv_edge = self.rcv_next;
        self.ack = Acknowledgement::Due;
        if self.take_data(&Segment { seq: self.rcv_next, ..*segment }, frame, shared) == Fate::Done
        {
            return self.abort(shared);
        }
        Fate::Keep
    }

    fn on_ack(&mut self, segment: &Segment, shared: &mut Shared) {
        let window = usize::from(segment.window) << self.guest_scale;
        if segment.ack > self.snd_una {
            self.acknowledged(segment.ack, shared);
        } else if segment.ack == self.snd_una
            && segment.len == 0
            && !segment.any(SYN | FIN)
            && window == self.snd_wnd
            && self.flight() > 0
        {
            self.duplicates = self.duplicates.saturating_add(1);
            if self.duplicates == 3 && self.recover.is_none() {
                self.recover = Some(self.snd_next);
                self.retransmit(shared);
            }
        }
        if segment.ack >= self.snd_una {
            self.snd_wnd = window;
        }
    }

    fn acknowledged(&mut self, ack: Seq, shared: &mut Shared) {
        self.snd_una = ack;
        self.duplicates = 0;
        self.retries = 0;
        while let Some(first) = self.sent.front() {
            if first.seq.plus(first.len) > ack {
                break;
            }
            shared.in_flight -= first.len;
            if let Some(first) = self.sent.pop_front() {
                shared.chunks.give_back(first.chunk);
            }
        }
        match self.recover {
            Some(end) if ack < end => self.retransmit(shared),
            _ => self.recover = None,
        }
        self.deadline = (self.flight() > 0).then_some(shared.now + FIRST_TIMEOUT);
    }

    /// Gives the socket what is new. `Done`: the socket refuses it.
    fn take_data(&mut self, segment: &Segment, frame: &Frame<'_>, shared: &mut Shared) -> Fate {
        if segment.len == 0 && !segment.has(FIN) {
            // A probe of a guest that wants to know whether we are there (or how our window is)
            // comes from before the window.
            if segment.seq < self.rcv_next {
                self.ack = Acknowledgement::Due;
            }
            return Fate::Keep;
        }
        let known = self.rcv_next.since(segment.seq) as usize;
        if segment.seq > self.rcv_next || known > segment.len || self.guest_closed {
            self.ack = Acknowledgement::Due;
            return Fate::Keep;
        }
        let offered = segment.len - known;
        let accepted = match self.give(frame, segment.data + known, offered, shared) {
            Ok(accepted) => accepted,
            Err(_) => return Fate::Done,
        };
        self.rcv_next = self.rcv_next.plus(accepted);
        if accepted == offered && segment.has(FIN) {
            self.rcv_next = self.rcv_next.plus(1);
            self.guest_closed = true;
            self.shut_down_if_drained();
        }
        let little = self.rcv_next.since(self.acked) < 2 * u32::from(self.mss);
        let owed = match little && known == 0 && !self.guest_closed && self.writable {
            true => Acknowledgement::Soon,
            false => Acknowledgement::Due,
        };
        self.ack = self.ack.max(owed);
        Fate::Keep
    }

    /// Takes data of the guest for the socket; returns how much. A lot goes there at once, a little when the burst is
    /// [over](Self::end_burst).
    fn give(
        &mut self,
        frame: &Frame<'_>,
        at: usize,
        len: usize,
        shared: &mut Shared,
    ) -> io::Result<usize> {
        let worth = len >= WORTH_A_CALL;
        if worth || self.backlog.len() + len > ENOUGH {
            self.drain(shared)?;
        }
        let mut done = if worth { self.give_at_once(frame, at, len)? } else { 0 };
        let room = self.window_size().saturating_sub(self.backlog.len());
        let left = (len - done).min(room).min(MAX_TOTAL_BACKLOG.saturating_sub(shared.backlog));
        if left > 0 {
            if !self.backlog.has_memory() {
                self.backlog = std::mem::take(&mut shared.spare_backlog);
            }
            let copied = self.backlog.append(frame, at + done, left);
            shared.backlog += copied;
            done += copied;
        }
        Ok(done)
    }

    /// Writes to the socket what it takes, if nothing waits before it; returns how much.
    fn give_at_once(&mut self, frame: &Frame<'_>, at: usize, len: usize) -> io::Result<usize> {
        let mut done = 0;
        while done < len && self.writable && self.backlog.is_empty() {
            let mut parts = [Part::from(&[][..]); MAX_PARTS];
            let count = frame.gather(at + done, len - done, &mut parts);
            match send_parts(&self.socket, &parts[..count], socket::SEND_FLAGS) {
                Ok(sent) => done += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Whether [`Self::end_burst`] has something to do.
    pub fn is_in_burst(&self) -> bool {
        self.writable && !self.backlog.is_empty()
    }

    /// The guest has sent what it had: the socket gets what was gathered.
    pub fn end_burst(&mut self, shared: &mut Shared) -> Fate {
        if self.drain(shared).is_err() {
            return self.abort(shared);
        }
        if !self.backlog.is_empty() {
            // The window has become smaller.
            self.ack = Acknowledgement::Due;
        }
        self.shut_down_if_drained();
        self.fate()
    }

    /// Gives the socket what it takes of the backlog; whether that was anything.
    fn drain(&mut self, shared: &mut Shared) -> io::Result<bool> {
        if !self.is_in_burst() {
            return Ok(false);
        }
        let sent = self.backlog.send(&self.socket)?;
        shared.backlog -= sent;
        self.writable = self.backlog.is_empty();
        if self.writable {
            shared.spare_backlog = std::mem::take(&mut self.backlog);
        }
        Ok(sent > 0)
    }

    fn shut_down_if_drained(&mut self) {
        if self.guest_closed && !self.shut_down && self.backlog.is_empty() {
            // Fails only if the peer has gone, which the next read tells.
            let _ = socket::shut_down_writing(&self.socket);
            self.shut_down = true;
        }
    }

    fn window_size(&self) -> usize {
        if self.our_scale > 0 { WINDOW } else { PLAIN_WINDOW }
    }

    // What comes from the host.

    /// The socket is ready for something.
    pub fn on_ready(&mut self, ready: Ready, shared: &mut Shared) -> Fate {
        self.read_on |= ready.more || ready.failed;
        self.readable |= ready.readable || self.read_on;
        if !ready.writable {
            return Fate::Keep;
        }
        self.writable = true;
        if self.phase == Phase::Connecting {
            self.phase = Phase::Answered;
            self.send_syn(shared);
            return Fate::Keep;
        }
        match self.drain(shared) {
            // The window has become larger.
            Ok(true) => self.ack = Acknowledgement::Due,
            Ok(false) => {}
            Err(_) => return self.abort(shared),
        }
        self.shut_down_if_drained();
        self.fate()
    }

    /// Sends to the guest what there is and what it has room for, up to `budget` bytes: data, or the
    /// acknowledgement that is due. Returns how many bytes of data, and whether the flow goes on.
    pub fn pump(&mut self, budget: usize, shared: &mut Shared) -> (usize, Fate) {
        let mut total = 0;
        if self.phase == Phase::Established {
            while total < budget && self.readable && !self.host_closed {
                match self.read_once(shared) {
                    Ok(0) => break,
                    Ok(sent) => total += sent,
                    Err(_) => return (total, self.abort(shared)),
                }
            }
            if self.host_closed && !self.fin_sent {
                self.send(FIN | ACK, self.snd_next, None, shared);
                self.fin_sent = true;
                self.snd_next = self.snd_next.plus(1);
                self.arm(shared);
            }
        }
        if self.ack == Acknowledgement::Due {
            self.send(ACK, self.snd_next, None, shared);
        }
        (total, self.fate())
    }

    /// Whether [`Self::pump`] would send something.
    pub fn has_work(&self, shared: &Shared) -> bool {
        self.ack == Acknowledgement::Due
            || self.phase == Phase::Established
                && !self.fin_sent
                && (self.host_closed || self.readable && self.room(shared) > 0)
    }

    /// Whether [`Self::acknowledge`] is to be called within [`super::LATEST_ACK`].
    pub fn acknowledges_soon(&self) -> bool {
        self.ack == Acknowledgement::Soon
    }

    /// The acknowledgement that nothing has carried becomes due.
    pub fn acknowledge(&mut self) {
        if self.acknowledges_soon() {
            self.ack = Acknowledgement::Due;
        }
    }

    /// How much may be read for the guest now.
    fn room(&self, shared: &Shared) -> usize {
        let flight = self.flight();
        let window = self.snd_wnd.saturating_sub(flight);
        // Not in small pieces while more is on its way (RFC 1122, 4.2.3.4).
        if window < usize::from(self.mss) && flight > 0 {
            return 0;
        }
        let most = match shared.in_flight {
            total if total < MAX_TOTAL_FLIGHT => MAX_FLIGHT,
            _ => SCARCE_FLIGHT,
        };
        window.min(most.saturating_sub(flight))
    }

    fn read_once(&mut self, shared: &mut Shared) -> io::Result<usize> {
        let room = self.room(shared);
        if room == 0 {
            if self.flight() == 0 && self.deadline.is_none() {
                // The window is closed: ask now and then whether it still is.
                self.arm(shared);
            }
            return Ok(0);
        }
        let mss = usize::from(self.mss);
        let most = (CHUNK - 1 - 40 - HEADER) / mss * mss;
        let limit = room.min(most);
        let socket = &self.socket;
        match shared.chunks.fill(limit, |buffer| socket::receive(socket, buffer)) {
            Ok(Some((chunk, len))) => {
                let flags = if len < limit { ACK | PSH } else { ACK };
                self.send(flags, self.snd_next, Some((chunk.clone(), 0..len)), shared);
                self.sent.push_back(Sent { seq: self.snd_next, chunk, len });
                self.snd_next = self.snd_next.plus(len);
                shared.in_flight += len;
                self.arm(shared);
                // Less than was asked for is all there is, and more will be told (epoll(7)).
                self.readable = len == limit || self.read_on;
                Ok(len)
            }
            Ok(None) => {
                self.host_closed = true;
                self.readable = false;
                Ok(0)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    // Time.

    fn arm(&mut self, shared: &Shared) {
        if self.deadline.is_none() {
            self.deadline = Some(shared.now + self.timeout());
        }
    }

    fn timeout(&self) -> i64 {
        (FIRST_TIMEOUT << self.retries.min(6)).min(LONGEST_TIMEOUT)
    }

    /// Offers the connection to the guest (again).
    pub fn offer(&mut self, shared: &mut Shared) {
        self.snd_next = self.snd_una;
        self.send_syn(shared);
    }

    /// The deadline may have come.
    pub fn on_timer(&mut self, shared: &mut Shared) -> Fate {
        if self.deadline.is_none_or(|deadline| deadline > shared.now) {
            return Fate::Keep;
        }
        self.deadline = None;
        self.retries += 1;
        let limit = match self.phase {
            Phase::Established => MAX_RETRIES,
            _ => MAX_SYN_RETRIES,
        };
        if self.retries > limit {
            return self.abort(shared);
        }
        match self.phase {
            Phase::Connecting => {}
            Phase::Answered | Phase::Offered => self.offer(shared),
            Phase::Established if self.flight() > 0 => {
                self.recover = Some(self.snd_next);
                self.retransmit(shared);
                self.arm(shared);
            }
            Phase::Established if self.snd_wnd == 0 && (self.readable || self.host_closed) => {
                // A segment from before the window: the answer shows how the window is now. A guest
                // that answers is alive, however long it takes.
                self.send(ACK, Seq(self.snd_next.0.wrapping_sub(1)), None, shared);
                self.retries = self.retries.min(6);
                self.arm(shared);
            }
            Phase::Established => self.retries = 0,
        }
        Fate::Keep
    }

    /// Sends the oldest unacknowledged segment again.
    fn retransmit(&mut self, shared: &mut Shared) {
        if self.flight() == 0 {
            return;
        }
        let Some(first) = self.sent.front() else {
            if self.fin_sent {
                self.send(FIN | ACK, self.snd_una, None, shared);
            }
            return;
        };
        let done = self.snd_una.since(first.seq) as usize;
        let (chunk, len) = (first.chunk.clone(), first.len);
        self.send(ACK | PSH, self.snd_una, Some((chunk, done..len)), shared);
    }

    // Endings.

    fn fate(&self) -> Fate {
        let over = self.fin_sent && self.flight() == 0 && self.shut_down;
        let over = over && self.ack != Acknowledgement::Due;
        if over { Fate::Done } else { Fate::Keep }
    }

    /// The socket has failed: the guest sees a reset.
    pub fn abort(&mut self, shared: &mut Shared) -> Fate {
        match self.phase {
            Phase::Connecting => self.send(RST | ACK, Seq(0), None, shared),
            Phase::Offered => {}
            Phase::Answered | Phase::Established => {
                self.send(RST | ACK, self.snd_next, None, shared)
            }
        }
        socket::reset_on_close(&self.socket);
        Fate::Done
    }

    /// Gives back what the flow holds.
    pub fn release(&mut self, shared: &mut Shared) {
        for sent in self.sent.drain(..) {
            shared.in_flight -= sent.len;
            shared.chunks.give_back(sent.chunk);
        }
        shared.backlog -= self.backlog.len();
        self.backlog = Outbox::default();
    }

    // Segments to the guest.

    fn send_syn(&mut self, shared: &mut Shared) {
        let flags = if self.phase == Phase::Offered { SYN } else { SYN | ACK };
        self.send(flags, self.snd_una, None, shared);
        self.snd_next = self.snd_una.plus(1);
        self.arm(shared);
    }

    fn send(
        &mut self,
        flags: u8,
        seq: Seq,
        data: Option<(Chunk, std::ops::Range<usize>)>,
        shared: &mut Shared,
    ) {
        let Some(target_mac) = self.guest_mac else {
            shared.wanted.push(self.key.guest.ip());
            return;
        };
        let syn = flags & SYN != 0;
        let options = syn.then(|| SynOptions {
            mss: self.our_mss(),
            scale: (self.phase == Phase::Offered || self.our_scale > 0).then_some(SCALE),
        });
        let window = self.announce(syn);
        let (guest, remote) = (self.key.guest, self.key.remote);
        let route =
            Route { source_mac: self.our_mac, target_mac, source: remote.ip(), target: guest.ip() };
        let header = Header {
            source_port: remote.port(),
            target_port: guest.port(),
            seq,
            ack: self.rcv_next,
            flags,
            window,
            options,
        };
        let len = data.as_ref().map_or(0, |(_, range)| range.len());
        let mut head = Vec::with_capacity(route.content_offset() + header.len());
        shared.packet_id = shared.packet_id.wrapping_add(1);
        let fields = IpFields { protocol: wire::TCP, ttl: 64, tos: 0, id: shared.packet_id };
        route.write_headers(fields, header.len() + len, &mut head);
        header.write(&route, len, len > 0, &mut head);
        let offload = self.offload(route.content_offset(), len);
        shared.out.push(OutFrame { head, body: data, offload });
        self.ack = Acknowledgement::None;
        self.acked = self.rcv_next;
    }

    fn offload(&self, start: usize, len: usize) -> Offload {
        if len == 0 {
            return Offload::default();
        }
        let checksum =
            Checksum::Partial { start: start as u16, offset: super::segment::CHECKSUM as u16 };
        let kind = if self.key.guest.is_ipv6() { GsoKind::Tcp6 } else { GsoKind::Tcp4 };
        let gso = (len > self.mss.into()).then_some(Gso {
            kind,
            size: self.mss,
            ecn: false,
            header_len: (start + HEADER) as u16,
        });
        Offload { checksum, gso }
    }

    /// The window to announce now. Its right edge never moves back.
    fn announce(&mut self, syn: bool) -> u16 {
        if syn {
            // Never scaled (RFC 7323, 2.2).
            self.rcv_edge = self.rcv_next.plus(PLAIN_WINDOW);
            return PLAIN_WINDOW as u16;
        }
        let window = self.window_size().saturating_sub(self.backlog.len());
        let edge = self.rcv_next.plus(window);
        if edge > self.rcv_edge {
            self.rcv_edge = edge;
        }
        let window = self.rcv_edge.since(self.rcv_next) as usize >> self.our_scale;
        window.min(PLAIN_WINDOW) as u16
    }
}
