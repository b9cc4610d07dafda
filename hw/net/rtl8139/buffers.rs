//! Frames the older way: four registers to send from, in turn, and one buffer to receive in, through
//! which the chip goes round and round (RTL8139C datasheet, 6.1 to 6.9).

use net::Delivery;

use super::registers::{isr, rcr, reg, tsd};
use super::{Match, Rtl8139, Write};
use crate::net::frames::{FCS, fcs};

/// The driver's pointer is this far behind what it has read.
pub(super) const CAPR_BEHIND: u16 = 16;
const REGISTERS: usize = 4;
/// The smallest buffer; others are twice, four and eight times as large.
const SMALLEST: u32 = 8 << 10;
/// The size whose frames always begin anew at the end of the buffer.
const LARGEST: u32 = 64 << 10;
/// Before a frame: status and length.
const HEADER: usize = 4;

mod status {
    pub const OK: u16 = 1 << 0;
    pub const BROADCAST: u16 = 1 << 13;
    pub const OWN: u16 = 1 << 14;
    pub const GROUP: u16 = 1 << 15;
}

impl Rtl8139 {
    fn buffer_size(&self) -> u32 {
        SMALLEST << (self.st.u32(reg::RCR) >> rcr::LENGTH_SHIFT & 3)
    }

    /// Bytes of the buffer that the driver has not read yet.
    fn unread(&self) -> u32 {
        let read = self.st.u16(reg::CAPR).wrapping_add(CAPR_BEHIND);
        let filled = self.st.u16(reg::CBR);
        u32::from(filled).wrapping_sub(read.into()) & (self.buffer_size() - 1)
    }

    pub(super) fn buffer_is_empty(&self) -> bool {
        self.unread() == 0
    }

    /// The receiver is turned on: it begins at the begin.
    pub(super) fn begin_buffer(&mut self) {
        self.st.set_u16(reg::CBR, 0);
        self.st.set_u16(reg::CAPR, CAPR_BEHIND.wrapping_neg());
    }

    pub(super) fn store_in_buffer(&mut self, frame: &[u8], whom: Match) -> Delivery {
        let size = self.buffer_size();
        let total = (HEADER + frame.len() + FCS).next_multiple_of(4) as u32;
        // A buffer that is all filled would look empty.
        if total >= size - self.unread() {
            return Delivery::Full;
        }
        let status = status::OK
            | match whom {
                Match::Own => status::OWN,
                Match::Group => status::GROUP,
                Match::Broadcast => status::BROADCAST,
                Match::Other => 0,
            };
        let len = (frame.len() + FCS) as u16;
        let header = [status.to_le_bytes(), len.to_le_bytes()].concat();
        let begin = u32::from(self.st.u16(reg::CBR)) & (size - 1);
        let goes_on = self.st.u32(reg::RCR) & rcr::WRAP != 0 && size < LARGEST;
        let mut at = begin;
        for piece in [&header[..], frame, &fcs(frame)] {
            self.put(at, piece, if goes_on { None } else { Some(size) });
            at += piece.len() as u32;
        }
        self.st.set_u16(reg::CBR, ((begin + total) & (size - 1)) as u16);
        self.count_received(whom);
        Delivery::Taken
    }

    /// Stores bytes in the buffer; at its end they go on at its begin if `size` says where that is.
    fn put(&self, at: u32, bytes: &[u8], size: Option<u32>) {
        let start = u64::from(self.st.u32(reg::RBSTART));
        let at = size.map_or(at, |size| at & (size - 1));
        let room = size.map_or(bytes.len(), |size| bytes.len().min((size - at) as usize));
        let (first, rest) = bytes.split_at(room);
        self.wires.dma.write(start + u64::from(at), first);
        self.wires.dma.write(start, rest);
    }

    /// The driver writes registers of status: what it no longer owns is to be sent.
    pub(super) fn send_requested(&mut self, write: Write) {
        for at in (0..REGISTERS).map(|n| reg::TSD + 4 * n) {
            if write.touches(at, 4) {
                let kept = !(tsd::TOK | tsd::TUN | tsd::TABT | tsd::READ_ONLY);
                self.st.set_u32(at, self.st.u32(at) & kept);
            }
        }
        self.end.schedule();
    }

    /// The next frame of the four registers, which are used in turn.
    pub(super) fn next_of_registers(&mut self) -> Option<Vec<u8>> {
        for _ in 0..REGISTERS {
            let n = usize::from(self.st.next_sent) % REGISTERS;
            let (at, from) = (reg::TSD + 4 * n, self.st.u32(reg::TSAD + 4 * n));
            let status = self.st.u32(at);
            if status & tsd::OWN != 0 {
                return None;
            }
            let mut bytes = vec![0; (status & tsd::SIZE) as usize];
            self.wires.dma.read(from.into(), &mut bytes);
            self.st.set_u32(at, status | tsd::OWN | tsd::TOK);
            self.st.next_sent = ((n + 1) % REGISTERS) as u8;
            self.st.tally.sent += 1;
            self.unreported |= isr::TOK;
            if !bytes.is_empty() {
                return Some(bytes);
            }
        }
        None
    }

    /// The status of all four registers, in one.
    pub(super) fn sent_summary(&self) -> u16 {
        const BITS: [(u32, u32); 4] =
            [(tsd::OWN, 0), (tsd::TABT, 4), (tsd::TUN, 8), (tsd::TOK, 12)];
        let mut summary = 0;
        for n in 0..REGISTERS {
            let status = self.st.u32(reg::TSD + 4 * n);
            for (bit, shift) in BITS {
                summary |= u16::from(status & bit != 0) << (shift + n as u32);
            }
        }
        summary
    }
}
