//! A guest made of frames: as much TCP and UDP over IPv4 as it takes to talk through a network that does not
//! reorder, at next to no cost.

use std::ops::Range;

/// The guest's addresses, and those of the user-mode network's gateway.
const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const GUEST: [u8; 4] = [10, 0, 2, 15];
const GATEWAY_MAC: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
const GATEWAY: [u8; 4] = [10, 0, 2, 2];

/// Where IP and what it carries begin.
const IP: usize = 14;
const CONTENT: usize = 34;
/// Ethernet, IPv4 and TCP without options.
pub const TCP_HEADERS: usize = 54;
/// Ethernet, IPv4 and UDP.
const UDP_HEADERS: usize = 42;
/// Where TCP and UDP have their checksums, behind [`CONTENT`].
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The sender has no more.
pub const FIN: u8 = 1;
/// A connection begins.
pub const SYN: u8 = 2;
/// An acknowledgement is in it.
pub const ACK: u8 = 16;

/// The number of a connection's SYN.
const FIRST: u32 = 1000;

/// As many repeated acknowledgements tell that a segment got lost (RFC 5681, 3.2).
const DUPLICATES: u8 = 3;

/// What the guest announces: 64 KiB, shifted by [`SHIFT`].
const WINDOW: u16 = 0x2000;
const SHIFT: u8 = 7;

/// Adds up words of two bytes (RFC 1071); an odd byte at the end counts as if a zero followed.
pub fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|word| [word[0], *word.get(1).unwrap_or(&0)]);
    fold(words.map(|word| u32::from(u16::from_be_bytes(word))).sum())
}

/// A sum of several sums, in 16 bits.
pub fn fold(mut sum: u32) -> u32 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from(half(bytes, at)) << 16 | u32::from(half(bytes, at + 2))
}

/// The headers of a frame of the guest, whose last one is `transport`, for `data` bytes: its checksum holds the
/// sum of the pseudo header, as a card with offloads expects it.
fn headers(protocol: u8, transport: &[u8], checksum: usize, data: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(CONTENT + transport.len());
    head.extend_from_slice(&GATEWAY_MAC);
    head.extend_from_slice(&GUEST_MAC);
    head.extend_from_slice(&[8, 0, 0x45, 0]);
    let len = (transport.len() + data) as u16;
    head.extend_from_slice(&(20 + len).to_be_bytes());
    head.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol, 0, 0]);
    head.extend_from_slice(&GUEST);
    head.extend_from_slice(&GATEWAY);
    let of_header = sum(&head[IP..]);
    put(&mut head, IP + 10, !of_header);
    head.extend_from_slice(transport);
    let pseudo = fold(sum(&head[IP + 12..CONTENT]) + u32::from(protocol) + u32::from(len));
    put(&mut head, CONTENT + checksum, pseudo);
    head
}

/// Completes the checksum of a frame of the guest's, of whose data the sum is known.
pub fn complete(head: &mut [u8], of_data: u32) {
    let checksum = if head[IP + 9] == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
    let sum = fold(sum(&head[CONTENT..]) + of_data);
    put(head, CONTENT + checksum, !sum);
}

/// The headers of a datagram to a port of the gateway.
pub fn datagram(from: u16, to: u16, len: usize) -> Vec<u8> {
    let mut udp = [from.to_be_bytes(), to.to_be_bytes(), (8 + len as u16).to_be_bytes()].concat();
    udp.extend_from_slice(&[0, 0]);
    headers(UDP, &udp, UDP_CHECKSUM, len)
}

/// The data of a datagram to the guest, if a frame is one.
pub fn read_datagram(frame: &[u8]) -> Option<&[u8]> {
    let is_datagram = frame.len() >= UDP_HEADERS && frame[12..14] == [8, 0] && frame[23] == UDP;
    is_datagram
        .then(|| frame.get(UDP_HEADERS..CONTENT + usize::from(half(frame, CONTENT + 4))))
        .flatten()
}

/// Asks for the hardware address of the gateway.
pub fn ask_arp() -> Vec<u8> {
    let start = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    [&[0xff; 6][..], &GUEST_MAC, &start, &GUEST_MAC, &GUEST, &[0; 6], &GATEWAY].concat()
}

/// Whether a frame answers that.
pub fn is_arp_answer(frame: &[u8]) -> bool {
    frame.len() >= 42 && frame[12..14] == [8, 6] && frame[21] == 2 && frame[28..32] == GATEWAY
}

/// The guest's answer, if a frame asks for its hardware address.
pub fn answer_arp(frame: &[u8]) -> Option<Vec<u8>> {
    let asks = frame.len() >= 42 && frame[12..14] == [8, 6] && frame[21] == 1;
    (asks && frame[38..42] == GUEST).then(|| {
        let start = [8, 6, 0, 1, 8, 0, 6, 4, 0, 2];
        [&frame[6..12], &GUEST_MAC, &start, &GUEST_MAC, &GUEST, &frame[22..32]].concat()
    })
}

/// A segment to the guest.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    /// By how much windows are to be shifted, if it says so.
    shift: Option<u8>,
    len: usize,
}

impl Segment {
    /// Reads it; nothing if the frame carries none.
    pub fn read(frame: &[u8]) -> Option<Self> {
        if frame.len() < TCP_HEADERS || frame[12..14] != [8, 0] || frame[23] != TCP {
            return None;
        }
        let header = usize::from(frame[46] >> 4) * 4;
        let options = frame.get(TCP_HEADERS..CONTENT + header)?;
        let scale = options.windows(3).find(|option| option[..2] == [3, 3]);
        Some(Self {
            seq: word(frame, 38),
            ack: word(frame, 42),
            flags: frame[47],
            window: half(frame, 48),
            shift: scale.map(|option| option[2]),
            len: usize::from(half(frame, 16)).checked_sub(20 + header)?,
        })
    }
}

/// A connection of the guest to a port of the gateway.
pub struct Connection {
    source: u16,
    target: u16,
    mss: u16,
    /// The next number of the guest, how far the other end has acknowledged, and how far it takes.
    seq: u32,
    acked: u32,
    edge: u32,
    shift: u8,
    duplicates: u8,
    /// What is expected next.
    ack: u32,
    established: bool,
    closed: bool,
}

impl Connection {
    /// One that is to begin with a SYN.
    pub fn new(source: u16, target: u16, mss: usize) -> Self {
        Self {
            source,
            target,
            mss: mss as u16,
            seq: FIRST,
            acked: FIRST,
            edge: FIRST,
            shift: 0,
            duplicates: 0,
            ack: 0,
            established: false,
            closed: false,
        }
    }

    /// The headers of the next segment, which has `len` bytes of data.
    pub fn head(&mut self, flags: u8, len: usize) -> Vec<u8> {
        let [high, low] = self.mss.to_be_bytes();
        let options = [2, 4, high, low, 1, 3, 3, SHIFT];
        let options = if flags & SYN != 0 { &options[..] } else { &[] };
        let mut tcp = Vec::with_capacity(28);
        tcp.extend_from_slice(&self.source.to_be_bytes());
        tcp.extend_from_slice(&self.target.to_be_bytes());
        tcp.extend_from_slice(&self.seq.to_be_bytes());
        tcp.extend_from_slice(&self.ack.to_be_bytes());
        let [high, low] = WINDOW.to_be_bytes();
        let header = ((20 + options.len()) / 4 << 4) as u8;
        tcp.extend_from_slice(&[header, flags, high, low, 0, 0, 0, 0]);
        tcp.extend_from_slice(options);
        self.seq = self.seq.wrapping_add(len as u32 + u32::from(flags & (SYN | FIN) != 0));
        headers(TCP, &tcp, TCP_CHECKSUM, len)
    }

    /// Takes a segment, if it is the next one; returns how many bytes it brings. It is to be acknowledged if they are
    /// some, or if the connection is [`closed`](Self::is_closed) now.
    pub fn take(&mut self, segment: &Segment) -> usize {
        let again = segment.ack == self.acked && segment.len == 0 && !self.is_acknowledged();
        self.duplicates = if again { self.duplicates + 1 } else { 0 };
        self.acked = segment.ack;
        if self.duplicates == DUPLICATES {
            self.rewind();
        }
        if segment.flags & SYN != 0 {
            self.established = true;
            self.ack = segment.seq.wrapping_add(1);
            self.edge = segment.ack.wrapping_add(segment.window.into());
            self.shift = segment.shift.unwrap_or(0);
            return 0;
        }
        self.edge = segment.ack.wrapping_add(u32::from(segment.window) << self.shift);
        if segment.seq != self.ack {
            return 0;
        }
        let fin = u32::from(segment.flags & FIN != 0);
        self.closed |= fin != 0;
        self.ack = self.ack.wrapping_add(segment.len as u32 + fin);
        segment.len
    }

    /// Whether the other end has answered.
    pub fn is_established(&self) -> bool {
        self.established
    }

    /// Whether the other end has closed its direction.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the other end has all that was sent.
    pub fn is_acknowledged(&self) -> bool {
        self.acked == self.seq
    }

    /// Whatever is not acknowledged is sent anew.
    pub fn rewind(&mut self) {
        self.seq = self.acked;
        self.duplicates = 0;
    }

    /// How many bytes were sent.
    pub fn sent(&self) -> usize {
        self.seq.wrapping_sub(FIRST + 1) as usize
    }

    /// How many bytes the other end takes now.
    pub fn room(&self) -> usize {
        (self.edge.wrapping_sub(self.seq) as i32).max(0) as usize
    }
}

/// Frames in a stream, each behind its length.
#[derive(Default)]
pub struct Stream {
    bytes: Vec<u8>,
    seen: usize,
}

impl Stream {
    /// Adds a frame of headers and data.
    pub fn put(&mut self, head: &[u8], data: &[u8]) {
        self.bytes.extend_from_slice(&((head.len() + data.len()) as u32).to_be_bytes());
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(data);
    }

    /// Takes out all of it, to be sent.
    pub fn drain(&mut self) -> std::vec::Drain<'_, u8> {
        self.bytes.drain(..)
    }

    /// Adds what has come.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.seen);
        self.seen = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next frame that is whole.
    pub fn next(&mut self) -> Option<&[u8]> {
        let begin = self.seen + 4;
        let length = self.bytes.get(self.seen..begin)?;
        let frame: Range<usize> = begin..begin + word(length, 0) as usize;
        let bytes = self.bytes.get(frame.clone())?;
        self.seen = frame.end;
        Some(bytes)
    }
}
