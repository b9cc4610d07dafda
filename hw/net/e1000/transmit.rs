//! Transmitting: the ring of descriptors (chapter 3.3 and 3.4), and what they ask to be done to a frame.

use base::memory::Dma;
use base::state::{State, StateError};
use net::checksum::Sum;
use net::{Gso, Offload};

use super::E1000;
use super::registers::{CTRL_VME, TCTL_EN, cause, reg};
use crate::net::adapter::Outgoing;
use crate::net::frames::{FCS, Headers, KIND_AT, insert_tag};

/// Bytes of a descriptor, and where its status is.
const DESCRIPTOR: u32 = 16;
const STATUS: u64 = 12;
const DONE: u8 = 1 << 0;

/// Commands.
const END_OF_PACKET: u8 = 1 << 0;
const INSERT_CHECKSUM: u8 = 1 << 2;
/// Of contexts and what refers to them: the packet is to be cut.
const SEGMENT: u8 = 1 << 2;
const REPORT: u8 = 1 << 3;
const REPORT_SENT: u8 = 1 << 4;
const EXTENDED: u8 = 1 << 5;
const INSERT_TAG: u8 = 1 << 6;
/// Of contexts: the packet is of TCP, of IPv4.
const CONTEXT_TCP: u8 = 1 << 0;
const CONTEXT_IPV4: u8 = 1 << 1;
/// Kinds of extended descriptors.
const KIND_CONTEXT: u32 = 0;
const KIND_DATA: u32 = 1;
/// Options of data: sums of IP and of TCP or UDP are to be inserted.
const OPTION_IP: u8 = 1 << 0;
const OPTION_TCP: u8 = 1 << 1;

/// More than this is in no packet that can be sent.
const MAX_PACKET: usize = 0x1_0000 + 256;

/// What a context descriptor says about the sums of a packet, and how to cut it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
struct Context {
    ip_start: u8,
    ip_at: u8,
    ip_end: u16,
    start: u8,
    at: u8,
    end: u16,
    header: u8,
    segment: u16,
    tcp: bool,
    ipv4: bool,
}

impl Context {
    fn parse(low: u64, high: u64) -> Self {
        let [ip_start, ip_at, e0, e1, start, at, f0, f1] = low.to_le_bytes();
        let [_, _, _, command, _, header, s0, s1] = high.to_le_bytes();
        Context {
            ip_start,
            ip_at,
            ip_end: u16::from_le_bytes([e0, e1]),
            start,
            at,
            end: u16::from_le_bytes([f0, f1]),
            header,
            segment: u16::from_le_bytes([s0, s1]),
            tcp: command & CONTEXT_TCP != 0,
            ipv4: command & CONTEXT_IPV4 != 0,
        }
    }

    fn headers(&self) -> Headers {
        Headers {
            ip: self.ip_start.into(),
            ipv4: self.ipv4,
            l4: self.start.into(),
            tcp: self.tcp,
            sum_at: self.at.into(),
        }
    }
}

/// What was read of a packet so far, and the contexts.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(check)]
pub(super) struct Transmitter {
    /// That of packets that are not cut.
    plain: Context,
    /// That of those that are.
    segmented: Context,
    data: Vec<u8>,
    /// As the first descriptor of data said.
    options: u8,
    segments: bool,
    tag: Option<u16>,
    /// A legacy descriptor's own sum: where it starts and where it goes.
    sum: Option<(u8, u8)>,
    /// It is too long to be sent.
    overflow: bool,
}

impl Transmitter {
    fn check(&self) -> Result<(), StateError> {
        match self.data.len() > MAX_PACKET {
            true => Err(StateError::invalid("a packet is too long")),
            false => Ok(()),
        }
    }

    /// A buffer that is to be used again.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.data.capacity() == 0 {
            buffer.clear();
            self.data = buffer;
        }
    }

    /// Stores the sum of bytes in the frame.
    fn insert(&mut self, start: usize, at: usize, end: u16) {
        let end = match usize::from(end) {
            0 => self.data.len(),
            end => self.data.len().min(end + 1),
        };
        if start < end && at + 2 <= self.data.len() {
            let sum = Sum::default().bytes(&self.data[start..end]).finish();
            self.data[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
    }

    /// Ends a packet: does what was asked for, or says what is left to be done. `kind` is the type that
    /// announces a tag.
    fn finish(&mut self, kind: u16) -> Option<Outgoing> {
        let context = if self.segments { self.segmented } else { self.plain };
        let mut offload = Offload::default();
        if let Some((start, at)) = self.sum.take() {
            self.insert(start.into(), at.into(), 0);
        }
        let sound = !std::mem::take(&mut self.overflow)
            && self.data.len() >= KIND_AT + 2
            && (!self.segments || self.complete_headers(&context).is_some());
        if !sound {
            self.data.clear();
            return None;
        }
        if self.segments {
            offload.checksum = context.headers().partial();
            offload.gso = self.gso(&context);
        } else {
            if self.options & OPTION_TCP != 0 {
                let whole = context.end == 0 && context.at >= context.start;
                match whole && usize::from(context.at) + 2 <= self.data.len() {
                    true => offload.checksum = context.headers().partial(),
                    false => self.insert(context.start.into(), context.at.into(), context.end),
                }
            }
            if self.options & OPTION_IP != 0 {
                self.insert(context.ip_start.into(), context.ip_at.into(), context.ip_end);
            }
        }
        let mut bytes = std::mem::take(&mut self.data);
        if let Some(tag) = self.tag.take() {
            insert_tag(&mut bytes, kind, tag, &mut offload.checksum);
        }
        Some(Outgoing { bytes, offload })
    }

    /// How a packet is to be cut, if it is longer than a segment.
    fn gso(&self, context: &Context) -> Option<Gso> {
        let header = usize::from(context.header);
        (self.data.len() > header + usize::from(context.segment)).then_some(Gso {
            kind: context.headers().gso_kind(),
            size: context.segment,
            ecn: false,
            header_len: context.header.into(),
        })
    }

    /// Fills in what drivers leave open in the headers of a packet that is to be cut. Nothing if they are
    /// not where the context says.
    fn complete_headers(&mut self, context: &Context) -> Option<()> {
        let sound = context.segment > 0
            && usize::from(context.header) <= self.data.len()
            && context.at >= context.start;
        if sound { context.headers().complete(&mut self.data) } else { None }
    }

    /// Appends a piece of a packet from guest memory.
    fn append(&mut self, dma: &Dma, at: u64, len: usize) {
        let old = self.data.len();
        if old + len > MAX_PACKET {
            self.overflow = true;
            return;
        }
        self.data.resize(old + len, 0);
        dma.read(at, &mut self.data[old..]);
    }
}

impl E1000 {
    /// Whether frames can be sent.
    pub(super) fn may_transmit(&self) -> bool {
        self.get(reg::TCTL) & TCTL_EN != 0 && self.wires.dma.is_enabled()
    }

    /// Goes on through the ring until a frame is complete.
    pub(super) fn walk_ring(&mut self) -> Option<Outgoing> {
        let size = self.get(reg::TDLEN) / DESCRIPTOR;
        if !self.may_transmit() {
            return None;
        }
        for _ in 0..size {
            let head = self.get(reg::TDH);
            if head == self.get(reg::TDT) {
                return None;
            }
            let frame = self.take_descriptor(head);
            self.st.set(reg::TDH, if head + 1 >= size { 0 } else { head + 1 });
            if self.get(reg::TDH) == self.get(reg::TDT) {
                self.unreported |= cause::TXQE;
            }
            if let Some(frame) = frame {
                self.count_sent(&frame);
                return Some(frame);
            }
        }
        // More of the ring is said to be filled than there is.
        None
    }

    fn take_descriptor(&mut self, head: u32) -> Option<Outgoing> {
        let ring = u64::from(self.get(reg::TDBAH)) << 32 | u64::from(self.get(reg::TDBAL));
        let here = ring.wrapping_add(u64::from(head) * u64::from(DESCRIPTOR));
        let mut bytes = [0; DESCRIPTOR as usize];
        self.wires.dma.read(here, &mut bytes);
        let [low, high] = [0, 8].map(|at: usize| {
            let mut half = [0; 8];
            half.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(half)
        });
        let [l0, l1, s0, command, st, options, t0, t1] = high.to_le_bytes();
        let frame = if command & EXTENDED == 0 {
            self.legacy(low, u16::from_le_bytes([l0, l1]), s0, options, command, [t0, t1])
        } else {
            match high as u32 >> 20 & 0xf {
                KIND_CONTEXT => {
                    let context = Context::parse(low, high);
                    match command & SEGMENT != 0 {
                        true => self.st.transmitter.segmented = context,
                        false => self.st.transmitter.plain = context,
                    }
                    None
                }
                KIND_DATA => {
                    let len = (high & 0xf_ffff) as usize;
                    self.data(low, len, options, command, [t0, t1])
                }
                other => {
                    base::guest_error!("e1000: a descriptor of kind {other}");
                    None
                }
            }
        };
        if command & (REPORT | REPORT_SENT) != 0 {
            self.wires.dma.write(here.wrapping_add(STATUS), &[st & 0xf0 | DONE]);
            self.unreported |= cause::TXDW;
        }
        frame
    }

    fn legacy(
        &mut self,
        at: u64,
        len: u16,
        sum_at: u8,
        sum_start: u8,
        command: u8,
        tag: [u8; 2],
    ) -> Option<Outgoing> {
        let tag = self.wanted_tag(command, tag);
        let transmitter = &mut self.st.transmitter;
        if transmitter.data.is_empty() {
            (transmitter.options, transmitter.segments) = (0, false);
        }
        if command & INSERT_CHECKSUM != 0 {
            transmitter.sum = Some((sum_start, sum_at));
        }
        transmitter.append(&self.wires.dma, at, len.into());
        self.end_packet(command, tag)
    }

    fn data(
        &mut self,
        at: u64,
        len: usize,
        options: u8,
        command: u8,
        tag: [u8; 2],
    ) -> Option<Outgoing> {
        let tag = self.wanted_tag(command, tag);
        let transmitter = &mut self.st.transmitter;
        if transmitter.data.is_empty() {
            transmitter.options = options;
            transmitter.segments = command & SEGMENT != 0;
        }
        transmitter.append(&self.wires.dma, at, len);
        self.end_packet(command, tag)
    }

    fn wanted_tag(&self, command: u8, tag: [u8; 2]) -> Option<u16> {
        let wanted = command & INSERT_TAG != 0 && self.get(reg::CTRL) & CTRL_VME != 0;
        wanted.then(|| u16::from_le_bytes(tag))
    }

    fn end_packet(&mut self, command: u8, tag: Option<u16>) -> Option<Outgoing> {
        if command & END_OF_PACKET == 0 {
            return None;
        }
        self.st.transmitter.tag = tag;
        let kind = self.get(reg::VET) as u16;
        self.st.transmitter.finish(kind)
    }

    fn count_sent(&mut self, frame: &Outgoing) {
        let total = frame.bytes.len();
        let group = frame.bytes[0] & 1 != 0;
        let broadcast = frame.bytes[..6] == [0xff; 6];
        let (header, mut left, size) = match frame.offload.gso {
            Some(gso) => {
                let header = usize::from(gso.header_len).min(total);
                self.st.count(reg::TSCTC, 1);
                (header, total - header, usize::from(gso.size))
            }
            None => (0, total, total),
        };
        while left > 0 {
            let payload = left.min(size);
            let len = header + payload + FCS;
            left -= payload;
            let st = &mut self.st;
            st.count_size(reg::PTC64, len);
            st.count(reg::TPT, 1);
            st.count(reg::GPTC, 1);
            st.count_wide(reg::TOTL, len);
            st.count_wide(reg::GOTCL, len);
            if broadcast {
                st.count(reg::BPTC, 1);
            } else if group {
                st.count(reg::MPTC, 1);
            }
        }
    }
}
