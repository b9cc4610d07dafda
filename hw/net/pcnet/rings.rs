//! The rings of descriptors, in all software styles (chapter "Software Access").

use std::sync::atomic::{Ordering, fence};

use net::Delivery;

use super::Pcnet;
use super::registers::{STYLE_32, STYLE_NUMBER, csr, extended, features, mode, status};
use crate::net::frames::{
    ADDRESS, BROADCAST, KIND_AT, MIN_FRAME, destination, fcs, is_group, lance_hash,
};

/// A frame from more pieces than any ring has is none.
const MAX_PACKET: usize = 0x1_0000;
const MAX_DESCRIPTORS: usize = 512;

/// Flags, as they are in the second word of 32-bit styles: the controller owns it, an error, a frame
/// begins and ends here.
const OWN: u32 = 1 << 31;
const ERROR: u32 = 1 << 30;
const BEGIN: u32 = 1 << 25;
const END: u32 = 1 << 24;
/// Of what has come: for the address, for a group, for everybody.
const MATCH_ADDRESS: u32 = 1 << 22;
const MATCH_GROUP: u32 = 1 << 21;
const MATCH_BROADCAST: u32 = 1 << 20;
/// Of what is to be sent: an interrupt is wanted.
const INTERRUPT: u32 = 1 << 28;
/// Of what is to be sent, all but these two tell how it went.
const KEPT: u32 = BEGIN | END | 0xffff;

/// A buffer and what is said of it.
struct Descriptor {
    at: u64,
    /// Where the buffer is, and its size.
    buffer: u32,
    size: usize,
    flags: u32,
}

/// The size of a buffer, a negative number of twelve bits.
fn size(count: u32) -> usize {
    match count.wrapping_neg() & 0xfff {
        0 => 0x1000,
        size => size as usize,
    }
}

impl Pcnet {
    fn style(&self) -> u16 {
        self.st.csr[csr::STYLE] & STYLE_NUMBER
    }

    fn is_wide(&self) -> bool {
        self.st.csr[csr::STYLE] & STYLE_32 != 0
    }

    /// Reads descriptor `n` of a ring.
    fn descriptor(&self, ring: usize, n: u16) -> Descriptor {
        let begin = u64::from(self.st.pointer(ring));
        if !self.is_wide() {
            let at = begin + 8 * u64::from(n);
            let mut words = [[0; 2]; 4];
            self.wires.dma.read(at, words.as_flattened_mut());
            let [low, high, count, _] = words.map(u16::from_le_bytes).map(u32::from);
            let top = u32::from(self.st.csr[csr::INIT_HIGH] & 0xff00) << 16;
            let buffer = top | (high & 0xff) << 16 | low;
            return Descriptor { at, buffer, size: size(count), flags: (high & 0xff00) << 16 };
        }
        let at = begin + 16 * u64::from(n);
        let mut words = [[0; 4]; 4];
        self.wires.dma.read(at, words.as_flattened_mut());
        let [first, flags, third, _] = words.map(u32::from_le_bytes);
        let buffer = if self.style() == 3 { third } else { first };
        Descriptor { at, buffer, size: size(flags), flags }
    }

    /// Gives a descriptor back to the driver: what became of it, and how long a frame is that ends here.
    fn give_back(&self, descriptor: &Descriptor, flags: u32, message: Option<u16>) {
        let at = descriptor.at;
        let (flags_at, message_at) = match (self.is_wide(), self.style()) {
            (false, _) => (at + 2, at + 6),
            (_, 3) => (at + 4, at),
            _ => (at + 4, at + 8),
        };
        let dma = &self.wires.dma;
        if let Some(message) = message {
            match self.is_wide() {
                true => dma.write(message_at, &u32::from(message).to_le_bytes()),
                false => dma.write(message_at, &message.to_le_bytes()),
            };
        }
        // What gives it back comes last.
        fence(Ordering::Release);
        match self.is_wide() {
            true => dma.write(flags_at, &flags.to_le_bytes()),
            false => dma.write(flags_at + 1, &[(flags >> 24) as u8]),
        };
    }

    fn ring_length(&self, register: usize) -> u16 {
        self.st.csr[register].max(1)
    }

    /// Whether the next descriptor has something to be sent.
    pub(super) fn has_work(&self) -> bool {
        let next = self.descriptor(csr::TRANSMIT_RING, self.st.transmitting);
        self.st.is(status::TXON) && !self.suspended() && next.flags & OWN != 0
    }

    /// Goes on through what is to be sent until a frame is complete.
    pub(super) fn walk_ring(&mut self) -> Option<Vec<u8>> {
        if !self.st.demanded || !self.st.is(status::TXON) || self.suspended() {
            return None;
        }
        let length = self.ring_length(csr::TRANSMIT_LENGTH);
        for _ in 0..length {
            let descriptor = self.descriptor(csr::TRANSMIT_RING, self.st.transmitting % length);
            let flags = descriptor.flags;
            if flags & OWN == 0 {
                break;
            }
            let data = &mut self.st.data;
            if flags & BEGIN != 0 {
                data.clear();
            }
            let old = data.len();
            if old + descriptor.size <= MAX_PACKET {
                data.resize(old + descriptor.size, 0);
                self.wires.dma.read(descriptor.buffer.into(), &mut data[old..]);
            }
            self.give_back(&descriptor, flags & KEPT, Some(0));
            self.st.transmitting = (self.st.transmitting % length + 1) % length;
            if flags & END == 0 {
                continue;
            }
            let extended = self.st.csr[csr::EXTENDED];
            let asked = extended & extended::LTINTEN != 0 && flags & INTERRUPT != 0;
            if extended & extended::TOKINTD == 0 || asked {
                self.unreported |= status::TINT;
            }
            let mut bytes = std::mem::take(&mut self.st.data);
            if self.st.csr[csr::FEATURES] & features::PAD != 0 && bytes.len() < MIN_FRAME {
                bytes.resize(MIN_FRAME, 0);
            }
            if bytes.len() >= KIND_AT + 2 {
                return Some(bytes);
            }
        }
        // The driver asks again when there is more.
        self.st.demanded = false;
        None
    }

    /// Whom a frame is for, in bits of a descriptor, if the filter lets it through.
    fn matches(&self, address: [u8; ADDRESS]) -> Option<u32> {
        let csr = &self.st.csr;
        let own = csr[csr::ADDRESS..csr::ADDRESS + 3].iter().flat_map(|word| word.to_le_bytes());
        if address == BROADCAST {
            if !self.st.mode(mode::NO_BROADCAST) {
                return Some(MATCH_BROADCAST);
            }
        } else if is_group(address) {
            let bit = lance_hash(address);
            if csr[csr::GROUPS + (bit / 16) as usize] >> (bit % 16) & 1 != 0 {
                return Some(MATCH_GROUP);
            }
        } else if own.eq(address) && !self.st.mode(mode::NO_ADDRESS) {
            return Some(MATCH_ADDRESS);
        }
        self.st.mode(mode::PROMISCUOUS).then_some(0)
    }

    pub(super) fn take_frame(&mut self, frame: &mut Vec<u8>) -> Delivery {
        let Some(whom) = self.matches(destination(frame)) else { return Delivery::Taken };
        let kind = usize::from(u16::from_be_bytes([frame[KIND_AT], frame[KIND_AT + 1]]));
        let strips = self.st.csr[csr::FEATURES] & features::STRIP != 0;
        match strips && KIND_AT + 2 + kind < MIN_FRAME {
            // Its length, which says where filling begins.
            true => frame.truncate(KIND_AT + 2 + kind),
            false => {
                let sum = fcs(frame);
                frame.extend(sum);
            }
        }
        let length = self.ring_length(csr::RECEIVE_LENGTH);
        let mut descriptors = Vec::new();
        let mut room = 0;
        let mut next = self.st.receiving % length;
        while room < frame.len() {
            if descriptors.len() >= usize::from(length).min(MAX_DESCRIPTORS) {
                // There will never be room for it.
                self.unreported |= status::MISS;
                return Delivery::Taken;
            }
            let descriptor = self.descriptor(csr::RECEIVE_RING, next);
            if descriptor.flags & OWN == 0 {
                return self.starve();
            }
            room += descriptor.size;
            next = (next + 1) % length;
            descriptors.push(descriptor);
        }
        let mut rest = &frame[..];
        for descriptor in &descriptors {
            let (piece, behind) = rest.split_at(descriptor.size.min(rest.len()));
            self.wires.dma.write(descriptor.buffer.into(), piece);
            rest = behind;
        }
        // The first comes last: when the driver finds it, all of the frame is there.
        for (n, descriptor) in descriptors.iter().enumerate().rev() {
            let mut flags = descriptor.flags & 0xffff;
            if n == 0 {
                flags |= BEGIN;
            }
            let last = n + 1 == descriptors.len();
            if last {
                flags |= END | whom;
            }
            self.give_back(descriptor, flags & !ERROR, last.then_some(frame.len() as u16));
        }
        self.st.receiving = next;
        self.unreported |= status::RINT;
        Delivery::Taken
    }
}
