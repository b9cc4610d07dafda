//! Frames by rings of descriptors (RTL8139C+ datasheet, chapter 7): two to send from, of which that of
//! high priority goes first, and one to receive in.

use base::state::State;
use net::{Checksum, Delivery, Gso, Offload};

use super::registers::{cpcr, isr, poll, reg};
use super::{Match, Rtl8139};
use crate::net::adapter::Outgoing;
use crate::net::frames::{Headers, KIND_AT, TAG, TCP, UDP, check_sums, fcs, insert_tag, sum_ipv4};

/// Bytes of a descriptor, and how many there are in a ring at most.
const DESCRIPTOR: u64 = 16;
const RING: u16 = 64;
/// More than this is in no packet that can be sent.
const MAX_PACKET: usize = 0x1_0000 + 256;
/// The type that announces a tag.
const TAG_KIND: u16 = 0x8100;

/// First word of any descriptor: the chip owns it, the ring ends here, a frame begins and ends here.
const OWN: u32 = 1 << 31;
const END_OF_RING: u32 = 1 << 30;
const FIRST: u32 = 1 << 29;
const LAST: u32 = 1 << 28;

/// What is to be sent: cut into segments of so many bytes; or sums of IP, UDP and TCP to be filled in.
const SEGMENT: u32 = 1 << 27;
const SEGMENT_SHIFT: u32 = 16;
const SEGMENT_SIZE: u32 = 0x7ff;
const SUM_IP: u32 = 1 << 18;
const SUM_UDP: u32 = 1 << 17;
const SUM_TCP: u32 = 1 << 16;
const LENGTH: u32 = 0xffff;
/// Of the first word, what stays when it was sent: the rest tells of errors.
const SENT_MASK: u32 = END_OF_RING | FIRST | LAST | LENGTH;
/// Second word: a tag is to be put in.
const INSERT_TAG: u32 = 1 << 17;

/// What has come in: for whom, what protocol, what is wrong with its sums.
const GROUP: u32 = 1 << 26;
const OWN_ADDRESS: u32 = 1 << 25;
const BROADCAST: u32 = 1 << 24;
const PROTOCOL_SHIFT: u32 = 16;
const PROTOCOL_TCP: u32 = 1;
const PROTOCOL_UDP: u32 = 2;
const PROTOCOL_IP: u32 = 3;
const WRONG_IP: u32 = 1 << 15;
const WRONG_UDP: u32 = 1 << 14;
const WRONG_TCP: u32 = 1 << 13;
/// What there is room for, or how much has come.
const RECEIVE_LENGTH: u32 = 0x1fff;
/// Second word: a tag was taken out.
const TAG_AVAILABLE: u32 = 1 << 16;

/// A ring that is sent from.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
struct SendRing {
    next: u16,
    /// The driver has asked to look at it.
    polled: bool,
}

/// How far the chip is.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub(super) struct Rings {
    high: SendRing,
    normal: SendRing,
    receiving: u16,
    /// The begin of a frame that is not complete, and the two words that began it.
    data: Vec<u8>,
    wanted: u32,
    tag: u32,
}

impl Rings {
    /// The driver asks to look at rings.
    pub fn poll(&mut self, which: u8) {
        self.high.polled |= which & poll::HIGH != 0;
        self.normal.polled |= which & poll::NORMAL != 0;
    }

    /// The driver has put rings somewhere else: they begin at their begin.
    pub fn moved(&mut self, receive: bool) {
        match receive {
            true => self.begin_receiving(),
            false => self.begin_transmitting(),
        }
    }

    pub fn begin_receiving(&mut self) {
        self.receiving = 0;
    }

    pub fn begin_transmitting(&mut self) {
        (self.high.next, self.normal.next) = (0, 0);
        self.data.clear();
    }
}

/// Which descriptor follows.
fn after(n: u16, first_word: u32) -> u16 {
    if first_word & END_OF_RING != 0 || n + 1 >= RING { 0 } else { n + 1 }
}

impl Rtl8139 {
    fn descriptor(&self, at: u64) -> [u32; 4] {
        let mut words = [[0; 4]; 4];
        self.wires.dma.read(at, words.as_flattened_mut());
        words.map(u32::from_le_bytes)
    }

    /// The next frame of the rings.
    pub(super) fn next_of_rings(&mut self) -> Option<Outgoing> {
        // In one turn no more is looked at than there is in both.
        for _ in 0..2 * RING {
            let rings = &mut self.st.rings;
            let (high, ring) = match (rings.high.polled, rings.normal.polled) {
                (true, _) => (true, reg::THPDS),
                (false, true) => (false, reg::TNPDS),
                (false, false) => return None,
            };
            let next = if high { rings.high.next } else { rings.normal.next };
            let at = (self.st.u64(ring) & !0xff) + DESCRIPTOR * u64::from(next);
            let words = self.descriptor(at);
            let rings = &mut self.st.rings;
            let state = if high { &mut rings.high } else { &mut rings.normal };
            if words[0] & OWN == 0 {
                state.polled = false;
                self.unreported |= isr::TDU;
                continue;
            }
            state.next = after(next, words[0]);
            self.gather(words);
            self.wires.dma.write(at, &(words[0] & SENT_MASK).to_le_bytes());
            if words[0] & LAST != 0 {
                self.unreported |= isr::TOK;
                if let Some(frame) = self.finish() {
                    self.st.tally.sent += 1;
                    return Some(frame);
                }
                self.st.tally.send_errors += 1;
                self.unreported |= isr::TER;
            }
        }
        None
    }

    /// Takes in what a descriptor points to.
    fn gather(&mut self, [first, second, low, high]: [u32; 4]) {
        let rings = &mut self.st.rings;
        if first & FIRST != 0 {
            rings.data.clear();
            (rings.wanted, rings.tag) = (first, second);
        }
        let (old, len) = (rings.data.len(), (first & LENGTH) as usize);
        // What is too long is not sent: it does not hold what its headers say.
        if old + len <= MAX_PACKET {
            rings.data.resize(old + len, 0);
            let from = u64::from(high) << 32 | u64::from(low);
            self.wires.dma.read(from, &mut rings.data[old..]);
        }
    }

    /// A frame is complete: does what was asked for, or says what is left to be done.
    fn finish(&mut self) -> Option<Outgoing> {
        let rings = &mut self.st.rings;
        let (wanted, tag) = (rings.wanted, rings.tag);
        let mut bytes = std::mem::take(&mut rings.data);
        if bytes.len() < KIND_AT + 2 {
            return None;
        }
        let headers = Headers::find(&bytes);
        let mut offload = Offload::default();
        if wanted & SEGMENT != 0 {
            let headers = headers.filter(|headers| headers.tcp)?;
            let size = (wanted >> SEGMENT_SHIFT & SEGMENT_SIZE) as u16;
            headers.complete(&mut bytes)?;
            let offset = usize::from(bytes.get(headers.l4 + 12)? >> 4) * 4;
            let header_len = headers.l4 + offset;
            offload.checksum = headers.partial();
            if size > 0 && bytes.len() > header_len + usize::from(size) {
                let kind = headers.gso_kind();
                offload.gso = Some(Gso { kind, size, ecn: false, header_len: header_len as u16 });
            }
        } else if let Some(headers) = headers {
            if wanted & SUM_IP != 0 {
                sum_ipv4(&mut bytes[headers.ip..headers.l4])?;
            }
            if wanted & if headers.tcp { SUM_TCP } else { SUM_UDP } != 0 {
                headers.begin_sum(&mut bytes)?;
                offload.checksum = headers.partial();
            }
        }
        if tag & INSERT_TAG != 0 {
            insert_tag(&mut bytes, TAG_KIND, (tag as u16).swap_bytes(), &mut offload.checksum);
        }
        Some(Outgoing { bytes, offload })
    }

    pub(super) fn store_in_ring(
        &mut self,
        frame: &mut Vec<u8>,
        whom: Match,
        known: Checksum,
    ) -> Delivery {
        let next = self.st.rings.receiving;
        let at = (self.st.u64(reg::RDSAR) & !0xff) + DESCRIPTOR * u64::from(next);
        let [first, _, low, high] = self.descriptor(at);
        if first & OWN == 0 {
            // The driver hears of it, makes room, and writes to a register in doing so.
            self.unreported |= isr::RDU;
            return Delivery::Full;
        }
        let mut status = FIRST | LAST | first & END_OF_RING;
        status |= match whom {
            Match::Own => OWN_ADDRESS,
            Match::Group => GROUP,
            Match::Broadcast => BROADCAST,
            Match::Other => 0,
        };
        if self.configured(cpcr::CHECKSUM) {
            status |= judge(frame, known);
        }
        let mut tag = 0;
        if self.configured(cpcr::UNTAG) && frame[KIND_AT..KIND_AT + 2] == TAG_KIND.to_be_bytes() {
            tag = TAG_AVAILABLE
                | u32::from(u16::from_le_bytes([frame[KIND_AT + 2], frame[KIND_AT + 3]]));
            frame.drain(KIND_AT..KIND_AT + TAG);
        }
        let sum = fcs(frame);
        frame.extend(sum);
        if frame.len() > (first & RECEIVE_LENGTH) as usize {
            self.st.tally.receive_errors = self.st.tally.receive_errors.wrapping_add(1);
            self.unreported |= isr::RER;
            return Delivery::Taken;
        }
        let to = u64::from(high) << 32 | u64::from(low);
        self.wires.dma.write(to, frame);
        self.wires.dma.write(at + 4, &tag.to_le_bytes());
        // What gives the descriptor back comes last.
        std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
        self.wires.dma.write(at, &(status | frame.len() as u32).to_le_bytes());
        self.st.rings.receiving = after(next, first);
        self.count_received(whom);
        Delivery::Taken
    }
}

/// What protocol a frame is of, and what is wrong with it, in bits of a descriptor.
fn judge(frame: &[u8], known: Checksum) -> u32 {
    let tagged = frame[KIND_AT..KIND_AT + 2] == TAG_KIND.to_be_bytes();
    let kind_at = KIND_AT + if tagged { TAG } else { 0 };
    let Some(sums) = check_sums(frame, kind_at, known) else { return 0 };
    let (protocol, wrong) = match sums.protocol {
        TCP => (PROTOCOL_TCP, WRONG_TCP),
        UDP => (PROTOCOL_UDP, WRONG_UDP),
        _ => (PROTOCOL_IP, 0),
    };
    let protocol = if sums.payload.is_some() { protocol } else { PROTOCOL_IP };
    let header = if sums.header { 0 } else { WRONG_IP };
    protocol << PROTOCOL_SHIFT | header | if sums.payload == Some(false) { wrong } else { 0 }
}
