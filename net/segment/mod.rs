//! Finishing frames in software: checksums, and the cutting of large frames, for receivers that
//! cannot do it themselves.
//!
//! Pieces refer to the payload of the original; only headers are copied.

use crate::checksum::{Sum, pseudo_header};
use crate::{Checksum, Frame, Gso, GsoKind, Offload, Part};

/// As many bytes of headers as any frame that can be cut has: Ethernet with two VLAN tags, IPv6 with
/// extensions or IPv4 with options, TCP with options.
const MAX_HEADERS: usize = 256;

/// Largest frame that has any use: the lengths of IP are 16 bits wide.
const MAX_FRAME: usize = 22 + 65535 + 40;

/// Pieces refer to no more parts than this; a frame in more is copied first.
const MAX_PARTS: usize = 32;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const VLAN_TAGS: [u16; 2] = [0x8100, 0x88a8];

const TCP: u8 = 6;
const UDP: u8 = 17;

const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;

/// Gives `each` the complete frames that `frame` stands for, in order, until it returns false. A frame
/// whose headers contradict its metadata is dropped: gives nothing.
pub fn finish(frame: &Frame<'_>, mut each: impl FnMut(&Frame<'_>) -> bool) {
    if frame.len() > MAX_FRAME {
        return;
    }
    match (frame.offload.gso, frame.offload.checksum) {
        (Some(gso), _) => {
            if let Some(plan) = Plan::new(frame, gso) {
                plan.cut(frame, each);
            }
        }
        (None, Checksum::Partial { start, offset }) => {
            let mut bytes = frame.to_vec();
            if complete(&mut bytes, start.into(), offset.into()).is_some() {
                each(&Frame::new(&[Part::from(&bytes[..])], Offload::default()));
            }
        }
        (None, _) => {
            each(&Frame::new(frame.parts(), Offload::default()));
        }
    }
}

/// Where the header of UDP has its checksum; that of TCP has it elsewhere.
const UDP_CHECKSUM: usize = 6;

/// Fills in a checksum; `None` if its place is outside.
fn complete(bytes: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let sum = Sum::default().bytes(bytes.get(start..)?).finish();
    // A UDP checksum of zero would mean that there is none; with TCP the other zero is wrong (RFC 1624).
    let sum = if sum == 0 && offset == UDP_CHECKSUM { 0xffff } else { sum };
    let at = start + offset;
    bytes.get_mut(at..at + 2)?.copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// Where the headers of a large frame are.
struct Plan {
    headers: [u8; MAX_HEADERS],
    gso: Gso,
    v6: bool,
    /// Where the IP header begins.
    ip: usize,
    /// Where the TCP or UDP header begins.
    l4: usize,
    /// Where what is cut begins.
    payload: usize,
}

impl Plan {
    fn new(frame: &Frame<'_>, gso: Gso) -> Option<Plan> {
        let mut headers = [0; MAX_HEADERS];
        let copied = frame.copy(0, &mut headers);
        let bytes = &headers[..copied];
        let mut ip = 14;
        let mut kind = half(bytes, 12)?;
        while VLAN_TAGS.contains(&kind) && ip < 22 {
            kind = half(bytes, ip + 2)?;
            ip += 4;
        }
        let (v6, l4, protocol) = match kind {
            ETHERTYPE_IPV4 => {
                let header = usize::from(bytes.get(ip)? & 0xf) * 4;
                (false, ip + header.max(20), *bytes.get(ip + 9)?)
            }
            ETHERTYPE_IPV6 => {
                let (l4, protocol) = skip_extensions(bytes, ip)?;
                (true, l4, protocol)
            }
            _ => return None,
        };
        let payload = match (gso.kind, protocol, v6) {
            (GsoKind::Tcp4, TCP, false) | (GsoKind::Tcp6, TCP, true) => {
                l4 + usize::from(*bytes.get(l4 + 12)? >> 4).max(5) * 4
            }
            (GsoKind::Udp, UDP, _) => l4 + 8,
            (GsoKind::UdpFragments, UDP, false) => l4,
            _ => return None,
        };
        (payload <= copied && gso.size > 0).then_some(Plan { headers, gso, v6, ip, l4, payload })
    }

    fn cut(&self, frame: &Frame<'_>, mut each: impl FnMut(&Frame<'_>) -> bool) {
        let total = frame.len() - self.payload;
        let mut whole = Vec::new();
        if self.gso.kind == GsoKind::UdpFragments {
            // The checksum is one for all fragments.
            whole = frame.to_vec();
            let Some(()) = self.finish_datagram(&mut whole) else { return };
        } else if frame.parts().len() >= MAX_PARTS {
            whole = frame.to_vec();
        }
        // Fragments end at multiples of eight (RFC 791).
        let size = match self.gso.kind {
            GsoKind::UdpFragments => usize::from(self.gso.size & !7).max(8),
            _ => self.gso.size.into(),
        };
        let mut at = 0;
        let mut index = 0u16;
        let mut headers = self.headers;
        loop {
            let len = size.min(total - at);
            let last = at + len == total;
            // The first place is for the headers.
            let mut parts = [Part::from(&[][..]); MAX_PARTS];
            let count = if whole.is_empty() {
                1 + frame.gather(self.payload + at, len, &mut parts[1..])
            } else {
                parts[1] = Part::from(&whole[self.payload + at..][..len]);
                2
            };
            self.change(&mut headers, &parts[1..count], at, len, index, last);
            parts[0] = Part::from(&headers[..self.payload]);
            if !each(&Frame::new(&parts[..count], Offload::default())) || last {
                return;
            }
            at += len;
            index = index.wrapping_add(1);
        }
    }

    /// The checksum of a datagram that is to be fragmented.
    fn finish_datagram(&self, bytes: &mut [u8]) -> Option<()> {
        let len = bytes.len().checked_sub(self.l4)?;
        bytes.get_mut(self.l4 + 6..self.l4 + 8)?.fill(0);
        let (source, target) = self.addresses(&self.headers);
        let pseudo = pseudo_header(source, target, UDP, len).folded();
        bytes[self.l4 + 6..self.l4 + 8].copy_from_slice(&pseudo.to_be_bytes());
        complete(bytes, self.l4, UDP_CHECKSUM)
    }

    fn addresses<'b>(&self, bytes: &'b [u8]) -> (&'b [u8], &'b [u8]) {
        let (at, len) = if self.v6 { (self.ip + 8, 16) } else { (self.ip + 12, 4) };
        (&bytes[at..at + len], &bytes[at + len..at + 2 * len])
    }

    /// Makes the headers of another piece those of this one.
    fn change(
        &self,
        bytes: &mut [u8; MAX_HEADERS],
        payload: &[Part<'_>],
        at: usize,
        len: usize,
        index: u16,
        last: bool,
    ) {
        let l4_len = self.payload - self.l4 + len;
        if self.v6 {
            put(bytes, self.ip + 4, self.payload - self.ip - 40 + len);
        } else {
            put(bytes, self.ip + 2, self.payload - self.ip + len);
            if self.gso.kind == GsoKind::UdpFragments {
                put(bytes, self.ip + 6, at / 8 | if last { 0 } else { 0x2000 });
            } else {
                let id = &self.headers[self.ip + 4..];
                let id = u16::from_be_bytes([id[0], id[1]]);
                put(bytes, self.ip + 4, id.wrapping_add(index).into());
            }
            put(bytes, self.ip + 10, 0);
            let sum = Sum::default().bytes(&bytes[self.ip..self.l4]).finish();
            put(bytes, self.ip + 10, sum.into());
        }
        let (field, protocol) = match self.gso.kind {
            GsoKind::UdpFragments => return,
            GsoKind::Udp => {
                put(bytes, self.l4 + 4, l4_len);
                (self.l4 + 6, UDP)
            }
            GsoKind::Tcp4 | GsoKind::Tcp6 => {
                let first = &self.headers[self.l4 + 4..];
                let first = u32::from_be_bytes([first[0], first[1], first[2], first[3]]);
                let sequence = first.wrapping_add(at as u32).to_be_bytes();
                bytes[self.l4 + 4..self.l4 + 8].copy_from_slice(&sequence);
                let mut flags = self.headers[self.l4 + 13];
                if !last {
                    flags &= !TCP_FIN_PSH;
                }
                if index > 0 {
                    flags &= !TCP_CWR;
                }
                bytes[self.l4 + 13] = flags;
                (self.l4 + 16, TCP)
            }
        };
        put(bytes, field, 0);
        let (source, target) = self.addresses(bytes);
        let mut sum = pseudo_header(source, target, protocol, l4_len);
        sum = sum.bytes(&bytes[self.l4..self.payload]);
        sum = sum_parts(sum, payload);
        let sum = match sum.finish() {
            0 if protocol == UDP => 0xffff,
            sum => sum,
        };
        put(bytes, field, sum.into());
    }
}

/// Adds what is in the parts, which begin at an even offset.
fn sum_parts(mut sum: Sum, parts: &[Part<'_>]) -> Sum {
    let mut chunk = [0; 512];
    let frame = Frame::new(parts, Offload::default());
    let mut at = 0;
    loop {
        let len = frame.copy(at, &mut chunk);
        sum = sum.bytes(&chunk[..len]);
        if len < chunk.len() {
            return sum;
        }
        at += len;
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn put(bytes: &mut [u8], at: usize, value: usize) {
    bytes[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
}

/// Where the TCP or UDP header of an IPv6 packet is, and which it is (RFC 8200, 4).
fn skip_extensions(bytes: &[u8], ip: usize) -> Option<(usize, u8)> {
    const SKIPPED: [u8; 3] = [0, 43, 60];
    let mut next = *bytes.get(ip + 6)?;
    let mut at = ip + 40;
    while SKIPPED.contains(&next) {
        next = *bytes.get(at)?;
        at += (usize::from(*bytes.get(at + 1)?) + 1) * 8;
    }
    Some((at, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_udp_has_another_zero() {
        for (offset, zero) in [(UDP_CHECKSUM, [0xff, 0xff]), (16, [0, 0])] {
            let mut bytes = [0; 20];
            bytes[..2].fill(0xff);
            bytes[offset] = 1;
            bytes[2] = 0xfe;
            bytes[3] = 0xff;
            complete(&mut bytes, 0, offset).unwrap();
            assert_eq!(bytes[offset..offset + 2], zero);
        }
    }
}
