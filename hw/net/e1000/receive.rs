//! Receiving: filters and the ring of descriptors (chapter 3.2).

use std::sync::atomic::{Ordering, fence};

use net::{Checksum, Delivery, Frame};

use super::E1000;
use super::registers::{CTRL_VME, RXCSUM_IP, RXCSUM_TCP, cause, rctl, reg};
use crate::net::frames::{
    ADDRESS, BROADCAST, FCS, KIND_AT, MIN_FRAME, TAG, check_sums, destination, is_group,
};

/// Bytes of a descriptor, and where its parts are.
const DESCRIPTOR: usize = 16;
const LENGTH: usize = 8;
const STATUS: usize = 12;
const ERRORS: usize = 13;
const SPECIAL: usize = 14;

mod status {
    pub const DONE: u8 = 1 << 0;
    pub const END_OF_PACKET: u8 = 1 << 1;
    pub const IGNORE_CHECKSUM: u8 = 1 << 2;
    pub const VLAN: u8 = 1 << 3;
    pub const TCP_CHECKED: u8 = 1 << 5;
    pub const IP_CHECKED: u8 = 1 << 6;
}

mod error {
    pub const TCP: u8 = 1 << 5;
    pub const IP: u8 = 1 << 6;
}

/// The longest frames without their checksum: usual ones with a tag, and any.
const USUAL_FRAME: usize = 1518;
const MAX_FRAME: usize = 16384 - FCS;

impl E1000 {
    /// Whether frames can be taken at all.
    pub(super) fn may_receive(&self) -> bool {
        self.get(reg::RCTL) & rctl::EN != 0
            && self.has_link()
            && self.wires.dma.is_enabled()
            && self.free_descriptors() > 0
    }

    fn ring_size(&self) -> u32 {
        self.get(reg::RDLEN) / DESCRIPTOR as u32
    }

    /// Descriptors that the guest has filled; a ring that is all filled looks empty.
    fn free_descriptors(&self) -> u32 {
        let (size, head, tail) = (self.ring_size(), self.get(reg::RDH), self.get(reg::RDT));
        if head < tail {
            tail - head
        } else if head > tail {
            (size + tail).saturating_sub(head)
        } else {
            0
        }
    }

    fn buffer_size(&self) -> usize {
        let control = self.get(reg::RCTL);
        let shift = control >> rctl::BSIZE_SHIFT & 3;
        if control & rctl::BSEX != 0 && shift != 0 { 32768 >> shift } else { 2048 >> shift }
    }

    /// A frame comes from the cable.
    pub(super) fn take_frame(&mut self, frame: &Frame<'_>) -> Delivery {
        if !self.may_receive() {
            return Delivery::Full;
        }
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        bytes.resize(frame.len().clamp(MIN_FRAME, MAX_FRAME + 1), 0);
        frame.copy(0, &mut bytes);
        let delivery = match self.wants(&bytes) {
            true => self.store(&mut bytes, frame.offload.checksum),
            false => Delivery::Taken,
        };
        self.scratch = bytes;
        delivery
    }

    /// Whether the filters let a frame through.
    fn wants(&mut self, frame: &[u8]) -> bool {
        let control = self.get(reg::RCTL);
        let oversized =
            frame.len() > MAX_FRAME || frame.len() > USUAL_FRAME && control & rctl::LPE == 0;
        if oversized && control & rctl::SBP == 0 {
            self.st.count(reg::ROC, 1);
            return false;
        }
        if frame.len() > MAX_FRAME {
            return false;
        }
        if control & rctl::VFE != 0
            && let Some(tag) = self.tag(frame)
        {
            let id = u32::from(tag & 0xfff);
            let word = self.get(reg::VFTA + 4 * (id >> 5));
            if word >> (id & 31) & 1 == 0 {
                return false;
            }
        }
        let address = destination(frame);
        let group = is_group(address);
        let promiscuous = if group { rctl::MPE } else { rctl::UPE };
        control & promiscuous != 0
            || address == BROADCAST && control & rctl::BAM != 0
            || self.addresses().any(|own| own == address)
            || group && self.hashes(address)
    }

    /// Whether the table of groups names an address.
    fn hashes(&self, address: [u8; ADDRESS]) -> bool {
        let shift = [4, 3, 2, 0][(self.get(reg::RCTL) >> rctl::MO_SHIFT & 3) as usize];
        let hash = u32::from(u16::from_le_bytes([address[4], address[5]])) >> shift & 0xfff;
        self.get(reg::MTA + 4 * (hash >> 5)) >> (hash & 31) & 1 != 0
    }

    /// The tag of a frame of a virtual network.
    fn tag(&self, frame: &[u8]) -> Option<u16> {
        let kind = u16::from_be_bytes([frame[12], frame[13]]);
        (u32::from(kind) == self.get(reg::VET) & 0xffff)
            .then(|| u16::from_be_bytes([frame[14], frame[15]]))
    }

    /// Stores a frame.
    fn store(&mut self, frame: &mut Vec<u8>, known: Checksum) -> Delivery {
        let address = destination(frame);
        let (mut last, errors) = self.check(frame, known);
        last |= status::END_OF_PACKET;
        let mut special = 0;
        if self.get(reg::CTRL) & CTRL_VME != 0
            && let Some(tag) = self.tag(frame)
        {
            frame.drain(KIND_AT..KIND_AT + TAG);
            last |= status::VLAN;
            special = tag;
        }
        let with_fcs = self.get(reg::RCTL) & rctl::SECRC == 0;
        let total = frame.len() + if with_fcs { FCS } else { 0 };
        let room = self.buffer_size();
        if total.div_ceil(room) > self.free_descriptors() as usize {
            self.unreported |= cause::RXO;
            return Delivery::Full;
        }
        let mut at = 0;
        while at < total {
            let len = room.min(total - at);
            let here = self.get(reg::RDBAL) as u64 | u64::from(self.get(reg::RDBAH)) << 32;
            let here = here.wrapping_add(u64::from(self.get(reg::RDH)) * DESCRIPTOR as u64);
            let mut descriptor = [0; DESCRIPTOR];
            self.wires.dma.read(here, &mut descriptor);
            let [a0, a1, a2, a3, a4, a5, a6, a7, ..] = descriptor;
            let buffer = u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
            // The checksum behind the frame is left as it is.
            let piece = &frame[at.min(frame.len())..(at + len).min(frame.len())];
            if buffer != 0 && !piece.is_empty() {
                self.wires.dma.write(buffer, piece);
            }
            at += len;
            descriptor[LENGTH..LENGTH + 2].copy_from_slice(&(len as u16).to_le_bytes());
            descriptor[LENGTH + 2..].fill(0);
            descriptor[STATUS] = status::DONE;
            if at == total {
                descriptor[STATUS] |= last;
                descriptor[ERRORS] = errors;
                descriptor[SPECIAL..].copy_from_slice(&special.to_le_bytes());
            }
            // What says that it is done comes last.
            let dma = &self.wires.dma;
            let field = |at: usize| here.wrapping_add(at as u64);
            dma.write(field(LENGTH), &descriptor[LENGTH..STATUS]);
            dma.write(field(ERRORS), &descriptor[ERRORS..]);
            fence(Ordering::Release);
            dma.write(field(STATUS), &descriptor[STATUS..ERRORS]);
            let next = self.get(reg::RDH) + 1;
            self.st.set(reg::RDH, if next >= self.ring_size() { 0 } else { next });
        }
        self.count_received(total, address == BROADCAST, is_group(address));
        self.unreported |= cause::RXT0;
        let low = self.ring_size() >> ((self.get(reg::RCTL) >> rctl::RDMTS_SHIFT & 3) + 1);
        if self.free_descriptors() <= low {
            self.unreported |= cause::RXDMT0;
        }
        Delivery::Taken
    }

    fn count_received(&mut self, total: usize, broadcast: bool, group: bool) {
        let st = &mut self.st;
        st.count_size(reg::PRC64, total);
        st.count(reg::TPR, 1);
        st.count(reg::GPRC, 1);
        st.count_wide(reg::TORL, total);
        st.count_wide(reg::GORCL, total);
        if broadcast {
            st.count(reg::BPRC, 1);
        } else if group {
            st.count(reg::MPRC, 1);
        }
    }

    /// Checks sums as far as the guest wants that and the controller knows how: those of IPv4 headers
    /// and of TCP and UDP behind them. Returns status and errors.
    fn check(&self, frame: &[u8], known: Checksum) -> (u8, u8) {
        let wanted = self.get(reg::RXCSUM);
        let kind_at = KIND_AT + if self.tag(frame).is_some() { TAG } else { 0 };
        let wants_any = wanted & (RXCSUM_IP | RXCSUM_TCP) != 0;
        let sums = wants_any.then(|| check_sums(frame, kind_at, known)).flatten();
        let (mut checked, mut wrong) = (0, 0);
        if let Some(sums) = sums {
            if wanted & RXCSUM_IP != 0 {
                checked |= status::IP_CHECKED;
                wrong |= if sums.header { 0 } else { error::IP };
            }
            if wanted & RXCSUM_TCP != 0
                && let Some(right) = sums.payload
            {
                checked |= status::TCP_CHECKED;
                wrong |= if right { 0 } else { error::TCP };
            }
        }
        match checked {
            0 => (status::IGNORE_CHECKSUM, 0),
            _ => (checked, wrong),
        }
    }
}
