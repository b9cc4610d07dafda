//! TCP segments (RFC 9293).

use std::cmp::Ordering;

use crate::user::wire::{Packet, Route, half, word};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

/// Length of a header without options.
pub const HEADER: usize = 20;

/// Where the checksum is.
pub const CHECKSUM: usize = 16;

const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
const WINDOW_SCALE: u8 = 3;

/// Largest shift that means anything (RFC 7323, 2.3).
const MAX_SCALE: u8 = 14;

/// A sequence number; they compare around the circle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seq(pub u32);

impl Seq {
    /// The number `len` bytes on.
    pub fn plus(self, len: usize) -> Seq {
        Seq(self.0.wrapping_add(len as u32))
    }

    /// How far it is from `other` to here.
    pub fn since(self, other: Seq) -> u32 {
        self.0.wrapping_sub(other.0)
    }
}

impl PartialOrd for Seq {
    fn partial_cmp(&self, other: &Seq) -> Option<Ordering> {
        Some((self.0.wrapping_sub(other.0) as i32).cmp(&0))
    }
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub source_port: u16,
    pub target_port: u16,
    pub seq: Seq,
    pub ack: Seq,
    pub flags: u8,
    pub window: u16,
    /// Options of a SYN.
    pub mss: Option<u16>,
    pub scale: Option<u8>,
    /// Where the data is in the frame.
    pub data: usize,
    pub len: usize,
}

impl Segment {
    /// Reads a header; `None` if its length contradicts the packet's.
    pub fn read(packet: &Packet, bytes: &[u8]) -> Option<Segment> {
        let header_len = usize::from(*bytes.get(12)? >> 4) * 4;
        let header = bytes.get(..header_len).filter(|_| header_len >= HEADER)?;
        let data = packet.start + header_len;
        let mut segment = Segment {
            source_port: half(header, 0)?,
            target_port: half(header, 2)?,
            seq: Seq(word(header, 4)?),
            ack: Seq(word(header, 8)?),
            flags: header[13],
            window: half(header, 14)?,
            mss: None,
            scale: None,
            data,
            len: packet.end.checked_sub(data)?,
        };
        if segment.has(SYN) {
            segment.read_options(&header[HEADER..]);
        }
        Some(segment)
    }

    fn read_options(&mut self, mut options: &[u8]) {
        while let [kind, rest @ ..] = options {
            match *kind {
                END_OF_OPTIONS => return,
                NO_OPERATION => {
                    options = rest;
                    continue;
                }
                _ => {}
            }
            let Some(&len) = rest.first() else { return };
            let (Some(value), Some(next)) = (options.get(2..len.into()), options.get(len.into()..))
            else {
                return;
            };
            match (*kind, value) {
                (MAXIMUM_SEGMENT_SIZE, &[high, low]) => {
                    self.mss = Some(u16::from_be_bytes([high, low]));
                }
                (WINDOW_SCALE, &[shift]) => self.scale = Some(shift.min(MAX_SCALE)),
                _ => {}
            }
            options = next;
        }
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// How much of the sequence it takes: its data, SYN and FIN.
    pub fn sequence_len(&self) -> usize {
        self.len + usize::from(self.has(SYN)) + usize::from(self.has(FIN))
    }

    /// Whether a flag of one of the given is set.
    pub fn any(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }
}

/// The header of an outgoing segment.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub source_port: u16,
    pub target_port: u16,
    pub seq: Seq,
    pub ack: Seq,
    pub flags: u8,
    pub window: u16,
    /// Options of a SYN.
    pub options: Option<SynOptions>,
}

/// Options of a SYN.
#[derive(Clone, Copy, Debug)]
pub struct SynOptions {
    pub mss: u16,
    pub scale: Option<u8>,
}

impl Header {
    /// Its length.
    pub fn len(&self) -> usize {
        HEADER
            + match self.options {
                None => 0,
                Some(SynOptions { scale: None, .. }) => 4,
                Some(SynOptions { scale: Some(_), .. }) => 8,
            }
    }

    /// Writes it, with the checksum of the pseudo header alone (`partial`, for `data_len` bytes of
    /// data that follow) or a complete one (there is no data).
    pub fn write(&self, route: &Route, data_len: usize, partial: bool, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend_from_slice(&self.source_port.to_be_bytes());
        into.extend_from_slice(&self.target_port.to_be_bytes());
        into.extend_from_slice(&self.seq.0.to_be_bytes());
        into.extend_from_slice(&self.ack.0.to_be_bytes());
        into.extend_from_slice(&[(self.len() as u8 / 4) << 4, self.flags]);
        into.extend_from_slice(&self.window.to_be_bytes());
        into.extend_from_slice(&[0, 0, 0, 0]);
        if let Some(options) = self.options {
            into.extend_from_slice(&[MAXIMUM_SEGMENT_SIZE, 4]);
            into.extend_from_slice(&options.mss.to_be_bytes());
            if let Some(shift) = options.scale {
                into.extend_from_slice(&[NO_OPERATION, WINDOW_SCALE, 3, shift]);
            }
        }
        let pseudo = route.pseudo_sum(crate::user::wire::TCP, self.len() + data_len);
        let sum = match partial {
            true => pseudo.folded(),
            false => pseudo.bytes(&into[start..]).finish(),
        };
        into[start + CHECKSUM..start + CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::user::wire::TCP;

    fn packet(len: usize) -> Packet {
        let address = IpAddr::from([10, 0, 2, 2]);
        let (source, target) = (address, address);
        Packet { source, target, protocol: TCP, ttl: 64, start: 0, end: len, fragment: None }
    }

    #[test]
    fn what_is_written_reads_back() {
        let address = IpAddr::from([10, 0, 2, 2]);
        let route =
            Route { source_mac: [0; 6], target_mac: [0; 6], source: address, target: address };
        for (mss, scale) in [(1460, None), (1200, Some(7))] {
            let header = Header {
                source_port: 80,
                target_port: 40000,
                seq: Seq(u32::MAX),
                ack: Seq(5),
                flags: SYN | ACK,
                window: 65535,
                options: Some(SynOptions { mss, scale }),
            };
            let mut bytes = Vec::new();
            header.write(&route, 0, false, &mut bytes);
            assert_eq!(route.pseudo_sum(TCP, bytes.len()).bytes(&bytes).finish(), 0);
            let segment = Segment::read(&packet(bytes.len()), &bytes).unwrap();
            assert_eq!((segment.mss, segment.scale, segment.len), (Some(mss), scale, 0));
            assert_eq!((segment.seq, segment.ack), (Seq(u32::MAX), Seq(5)));
            assert_eq!(segment.sequence_len(), 1);
        }
    }

    #[test]
    fn sequence_numbers_go_around() {
        assert!(Seq(5) > Seq(u32::MAX));
        assert!(Seq(u32::MAX) < Seq(0));
        assert_eq!(Seq(5).since(Seq(u32::MAX)), 6);
    }

    proptest! {
        #[test]
        fn any_bytes_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(segment) = Segment::read(&packet(bytes.len()), &bytes) {
                prop_assert!(segment.data + segment.len == bytes.len());
            }
        }
    }
}
