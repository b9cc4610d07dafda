//! Packets in pieces (RFC 791, RFC 8200, 4.5): put together what guests send so, and cut what is too
//! large for them.

use std::net::IpAddr;

use base::clock::SECOND;

use super::out::OutFrame;
use super::wire::{ETHERNET, Fragment, IpFields, MTU, Packet, Route};

/// As many packets may be incomplete at a time.
const MAX_PACKETS: usize = 32;
/// As many pieces may one have: a full one in pieces of the smallest useful size.
const MAX_PIECES: usize = 128;
/// Largest content.
const MAX_CONTENT: usize = 65535 - 40;
/// How long the rest of a packet is waited for.
const LIFETIME: i64 = 30 * SECOND;

/// The protocol number of IPv6 fragments.
const FRAGMENT6: u8 = 44;

#[derive(Clone, Copy, PartialEq, Eq)]
struct PacketId {
    source: IpAddr,
    target: IpAddr,
    protocol: u8,
    id: u32,
}

struct Partial {
    id: PacketId,
    since: i64,
    pieces: Vec<(usize, Vec<u8>)>,
    /// The length, once the last piece is there.
    len: Option<usize>,
}

/// Packets of which not all pieces have come.
#[derive(Default)]
pub struct Assembly(Vec<Partial>);

impl Assembly {
    /// Takes a piece; returns the content if it was the last one.
    pub fn take(
        &mut self,
        packet: &Packet,
        part: Fragment,
        bytes: Vec<u8>,
        now: i64,
    ) -> Option<Vec<u8>> {
        self.0.retain(|partial| now - partial.since < LIFETIME);
        let (source, target, protocol) = (packet.source, packet.target, packet.protocol);
        let id = PacketId { source, target, protocol, id: part.id };
        let end = part.offset + bytes.len();
        if bytes.is_empty() || end > MAX_CONTENT || part.more && !bytes.len().is_multiple_of(8) {
            return None;
        }
        let at = match self.0.iter().position(|partial| partial.id == id) {
            Some(at) => at,
            None => {
                if self.0.len() >= MAX_PACKETS {
                    self.0.remove(0);
                }
                self.0.push(Partial { id, since: now, pieces: Vec::new(), len: None });
                self.0.len() - 1
            }
        };
        let partial = &mut self.0[at];
        if !part.more {
            partial.len = Some(end);
        }
        partial.pieces.push((part.offset, bytes));
        if partial.pieces.len() > MAX_PIECES {
            self.0.remove(at);
            return None;
        }
        let len = partial.len?;
        partial.pieces.sort_by_key(|(offset, _)| *offset);
        let reach = partial.pieces.iter().try_fold(0, |reach, (offset, bytes)| {
            // Pieces that overlap are an attack (RFC 5722) or repeated; neither is put together.
            (*offset == reach).then_some(offset + bytes.len())
        });
        let have: usize = partial.pieces.iter().map(|(_, bytes)| bytes.len()).sum();
        if reach != Some(len) {
            if have >= len {
                self.0.remove(at);
            }
            return None;
        }
        let partial = self.0.remove(at);
        Some(partial.pieces.into_iter().flat_map(|(_, bytes)| bytes).collect())
    }
}

/// The frames that carry `content`: one, or as many as the link makes necessary.
pub fn frames(route: &Route, fields: IpFields, id: u32, content: &[u8], out: &mut Vec<OutFrame>) {
    let headers = route.content_offset() - ETHERNET;
    if headers + content.len() <= MTU {
        let mut frame = Vec::with_capacity(ETHERNET + headers + content.len());
        route.write_headers(fields, content.len(), &mut frame);
        frame.extend_from_slice(content);
        out.push(frame.into());
        return;
    }
    let v6 = route.source.is_ipv6();
    let extension = if v6 { 8 } else { 0 };
    let size = (MTU - headers - extension) & !7;
    for (index, piece) in content.chunks(size).enumerate() {
        let offset = index * size;
        let more = offset + piece.len() < content.len();
        let mut frame = Vec::with_capacity(ETHERNET + MTU);
        if v6 {
            let outer = IpFields { protocol: FRAGMENT6, ..fields };
            route.write_headers(outer, extension + piece.len(), &mut frame);
            frame.extend_from_slice(&[fields.protocol, 0]);
            frame.extend_from_slice(&(offset as u16 | u16::from(more)).to_be_bytes());
            frame.extend_from_slice(&id.to_be_bytes());
        } else {
            route.write_headers(fields, piece.len(), &mut frame);
            let place = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
            set_place(&mut frame[ETHERNET..], place);
        }
        frame.extend_from_slice(piece);
        out.push(frame.into());
    }
}

/// Sets the fragment field of an IPv4 header, whose checksum covers a zero there.
fn set_place(header: &mut [u8], place: u16) {
    header[6..8].copy_from_slice(&place.to_be_bytes());
    header[10..12].fill(0);
    let sum = crate::checksum::Sum::default().bytes(&header[..20]).finish();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::user::wire::{Incoming, UDP};
    use crate::{Frame, Offload, Part};

    fn route(v6: bool) -> Route {
        let (source, target) = match v6 {
            true => (IpAddr::from([1u16; 8]), IpAddr::from([2u16; 8])),
            false => (IpAddr::from([10, 0, 2, 2]), IpAddr::from([10, 0, 2, 15])),
        };
        Route { source_mac: [2; 6], target_mac: [4; 6], source, target }
    }

    proptest! {
        #[test]
        fn what_is_cut_can_be_put_together(
            v6: bool, len in 1usize..65000, order in any::<u64>(), lost in 0usize..80,
        ) {
            let content: Vec<u8> = (0..len).map(|at| (at * 7 + at / 251) as u8).collect();
            let mut out = Vec::new();
            let fields = IpFields { protocol: UDP, ttl: 64, tos: 0, id: 9 };
            frames(&route(v6), fields, 9, &content, &mut out);
            let count = out.len();
            if count > 1 {
                out.rotate_left(order as usize % count);
                out.swap(0, (order >> 32) as usize % count);
            }
            let mut assembly = Assembly::default();
            let mut whole = None;
            for (index, frame) in out.iter().enumerate() {
                if index == lost && count > 1 {
                    continue;
                }
                let parts = [Part::from(&frame.head[..])];
                let frame = Frame::new(&parts, Offload::default());
                prop_assert!(frame.len() <= ETHERNET + MTU);
                let incoming = Incoming::new(&frame).unwrap();
                let packet = incoming.packet().unwrap();
                prop_assert!(whole.is_none());
                whole = match packet.fragment {
                    Some(part) => assembly.take(&packet, part, incoming.content(&packet), 0),
                    None => Some(incoming.content(&packet)),
                };
            }
            if lost < count && count > 1 {
                prop_assert_eq!(whole, None);
            } else {
                prop_assert_eq!(whole, Some(content));
            }
        }
    }

    #[test]
    fn incomplete_packets_are_bounded() {
        let packet = Packet {
            source: [10, 0, 2, 15].into(),
            target: [10, 0, 2, 2].into(),
            protocol: UDP,
            ttl: 64,
            start: 0,
            end: 0,
            fragment: None,
        };
        let mut assembly = Assembly::default();
        for id in 0..1000 {
            let part = Fragment { id, offset: 8, more: true };
            assert_eq!(assembly.take(&packet, part, vec![0; 8], 0), None);
            assert!(assembly.0.len() <= MAX_PACKETS);
        }
        for _ in 0..1000 {
            let part = Fragment { id: 999, offset: 8, more: true };
            assert_eq!(assembly.take(&packet, part, vec![0; 8], 0), None);
            assert!(assembly.0.iter().all(|partial| partial.pieces.len() <= MAX_PIECES));
        }
        let part = Fragment { id: 5, offset: 16, more: false };
        assert_eq!(assembly.take(&packet, part, vec![0; 8], LIFETIME), None);
        assert_eq!(assembly.0.len(), 1, "the others are too old");
    }
}
