//! Headers of what guests send and receive: Ethernet, IPv4, IPv6, UDP, TCP.
//!
//! Incoming headers are copied out of the frame once and checked here; the payload stays where it
//! is. Outgoing ones are written in front of a payload that may lie elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;

use crate::Frame;
use crate::checksum::{Sum, pseudo_header};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// All stations.
pub const BROADCAST: Mac = [0xff; 6];

/// Largest IP packet on this link.
pub const MTU: usize = 1500;

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;

/// As many bytes as are looked at as headers: Ethernet, IPv4 with options or IPv6 with extensions, TCP
/// with options.
const HEADERS: usize = 192;

pub const ARP: u16 = 0x0806;
pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP6: u8 = 58;

const EXTENSIONS: [u8; 3] = [0, 43, 60];
const FRAGMENT6: u8 = 44;

/// A number of two bytes.
pub fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// A number of four bytes.
pub fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The headers of a frame up to where TCP, UDP or ICMP begin.
pub struct Incoming<'a> {
    /// The frame.
    pub frame: &'a Frame<'a>,
    /// Its first bytes.
    headers: [u8; HEADERS],
    copied: usize,
    /// Who it is for, and who sent it.
    pub target_mac: Mac,
    pub source_mac: Mac,
    /// What follows the Ethernet header.
    pub ethertype: u16,
}

/// An IP packet in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub target: IpAddr,
    pub protocol: u8,
    pub ttl: u8,
    /// Where the content begins, and where it ends.
    pub start: usize,
    pub end: usize,
    /// The place in a larger packet.
    pub fragment: Option<Fragment>,
}

/// A part of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub id: u32,
    pub offset: usize,
    pub more: bool,
}

impl<'a> Incoming<'a> {
    /// Reads the Ethernet header; `None` for a frame too short to have one.
    pub fn new(frame: &'a Frame<'a>) -> Option<Self> {
        let mut headers = [0; HEADERS];
        let copied = frame.copy(0, &mut headers);
        let bytes = &headers[..copied];
        let target_mac = bytes.get(..6)?.try_into().ok()?;
        let source_mac = bytes.get(6..12)?.try_into().ok()?;
        let ethertype = half(bytes, 12)?;
        Some(Incoming { frame, headers, copied, target_mac, source_mac, ethertype })
    }

    /// The copied headers.
    pub fn headers(&self) -> &[u8] {
        &self.headers[..self.copied]
    }

    /// Reads the IP header, whichever it is; `None` if there is none or it contradicts itself.
    pub fn packet(&self) -> Option<Packet> {
        match self.ethertype {
            IPV4 => self.packet4(),
            IPV6 => self.packet6(),
            _ => None,
        }
    }

    /// Where a packet of `len` bytes ends. Those that are still to be segmented may be longer than
    /// the field for it can say, and fill the frame.
    fn end_of(&self, len: usize) -> Option<usize> {
        let frame_end = self.frame.len();
        if self.frame.offload.gso.is_some() {
            return Some(frame_end);
        }
        let end = ETHERNET + len;
        (end <= frame_end).then_some(end)
    }

    fn packet4(&self) -> Option<Packet> {
        let bytes = self.headers().get(ETHERNET..)?;
        let header_len = usize::from(bytes.first()? & 0xf) * 4;
        if bytes[0] >> 4 != 4 || header_len < 20 {
            return None;
        }
        let header = bytes.get(..header_len)?;
        if Sum::default().bytes(header).finish() != 0 {
            return None;
        }
        let end = self.end_of(half(header, 2)?.into())?;
        let start = ETHERNET + header_len;
        let flags = half(header, 6)?;
        let (offset, more) = (usize::from(flags & 0x1fff) * 8, flags & 0x2000 != 0);
        let id = half(header, 4)?.into();
        let fragment = (offset > 0 || more).then_some(Fragment { id, offset, more });
        let address = |at: usize| Some(IpAddr::V4(Ipv4Addr::from(word(header, at)?)));
        let (source, target) = (address(12)?, address(16)?);
        let (ttl, protocol) = (header[8], header[9]);
        (start <= end).then_some(Packet { source, target, protocol, ttl, start, end, fragment })
    }

    fn packet6(&self) -> Option<Packet> {
        let bytes = self.headers();
        let header = bytes.get(ETHERNET..ETHERNET + 40)?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let end = self.end_of(40 + usize::from(half(header, 4)?))?;
        let address = |at: usize| {
            let octets: [u8; 16] = header.get(at..at + 16)?.try_into().ok()?;
            Some(IpAddr::V6(Ipv6Addr::from(octets)))
        };
        let (source, target) = (address(8)?, address(24)?);
        let mut protocol = header[6];
        let mut start = ETHERNET + 40;
        let mut fragment = None;
        loop {
            if EXTENSIONS.contains(&protocol) {
                protocol = *bytes.get(start)?;
                start += (usize::from(*bytes.get(start + 1)?) + 1) * 8;
            } else if protocol == FRAGMENT6 && fragment.is_none() {
                protocol = *bytes.get(start)?;
                let place = half(bytes, start + 2)?;
                let (offset, more) = (usize::from(place & !7), place & 1 != 0);
                fragment = Some(Fragment { id: word(bytes, start + 4)?, offset, more });
                start += 8;
                if offset > 0 {
                    break;
                }
            } else {
                break;
            }
        }
        // A fragment that is the whole needs no assembly (RFC 6946).
        let fragment = fragment.filter(|part| part.offset > 0 || part.more);
        let ttl = header[7];
        (start <= end).then_some(Packet { source, target, protocol, ttl, start, end, fragment })
    }

    /// Copies the content of a packet.
    pub fn content(&self, packet: &Packet) -> Vec<u8> {
        let mut bytes = vec![0; packet.end - packet.start];
        let copied = self.frame.copy(packet.start, &mut bytes);
        bytes.truncate(copied);
        bytes
    }
}

/// The addresses of an outgoing packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub source_mac: Mac,
    pub target_mac: Mac,
    pub source: IpAddr,
    pub target: IpAddr,
}

/// What varies in an outgoing IP header.
#[derive(Clone, Copy, Debug)]
pub struct IpFields {
    pub protocol: u8,
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// Number of the packet (IPv4).
    pub id: u16,
}

/// TOS of what wants little delay (RFC 1349).
pub const LOW_DELAY: u8 = 0x10;

impl Route {
    /// Writes Ethernet and IP headers for `len` bytes of content.
    pub fn write_headers(&self, fields: IpFields, len: usize, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.target_mac);
        into.extend_from_slice(&self.source_mac);
        match (self.source, self.target) {
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                into.extend_from_slice(&IPV6.to_be_bytes());
                into.extend_from_slice(&[0x60 | fields.tos >> 4, fields.tos << 4, 0, 0]);
                into.extend_from_slice(&(len as u16).to_be_bytes());
                into.extend_from_slice(&[fields.protocol, fields.ttl]);
                into.extend_from_slice(&source.octets());
                into.extend_from_slice(&target.octets());
            }
            (source, target) => {
                into.extend_from_slice(&IPV4.to_be_bytes());
                let start = into.len();
                into.extend_from_slice(&[0x45, fields.tos]);
                into.extend_from_slice(&((20 + len) as u16).to_be_bytes());
                into.extend_from_slice(&fields.id.to_be_bytes());
                into.extend_from_slice(&[0, 0, fields.ttl, fields.protocol, 0, 0]);
                into.extend_from_slice(&octets(&source));
                into.extend_from_slice(&octets(&target));
                let sum = Sum::default().bytes(&into[start..]).finish();
                into[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
            }
        }
    }

    /// Where the content begins.
    pub fn content_offset(&self) -> usize {
        ETHERNET + if self.source.is_ipv6() { 40 } else { 20 }
    }

    /// The sum that starts the checksum of TCP and UDP, and of ICMP in IPv6.
    pub fn pseudo_sum(&self, protocol: u8, len: usize) -> Sum {
        pseudo_header(&octets(&self.source), &octets(&self.target), protocol, len)
    }

    /// A frame with `content`, whose checksum, over the content and the pseudo header (unless it is
    /// ICMP in IPv4), is filled in at offset `field`.
    pub fn frame(&self, fields: IpFields, mut content: Vec<u8>, field: usize) -> Vec<u8> {
        let pseudo = match fields.protocol {
            ICMP => Sum::default(),
            protocol => self.pseudo_sum(protocol, content.len()),
        };
        let sum = pseudo.bytes(&content).finish();
        let sum = if fields.protocol == UDP && sum == 0 { 0xffff } else { sum };
        if let Some(field) = content.get_mut(field..field + 2) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
        let mut frame = Vec::with_capacity(self.content_offset() + content.len());
        self.write_headers(fields, content.len(), &mut frame);
        frame.append(&mut content);
        frame
    }

    /// A frame with a UDP datagram.
    pub fn udp_frame(&self, fields: IpFields, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        self.frame(fields, udp_datagram(from, to, payload), 6)
    }
}

/// A UDP datagram without its checksum.
pub fn udp_datagram(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(8 + payload.len());
    datagram.extend_from_slice(&from.to_be_bytes());
    datagram.extend_from_slice(&to.to_be_bytes());
    datagram.extend_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(payload);
    datagram
}

/// The bytes of an address: four or sixteen.
struct Octets {
    bytes: [u8; 16],
    len: usize,
}

impl Deref for Octets {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn octets(address: &IpAddr) -> Octets {
    match address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            Octets { bytes, len: 4 }
        }
        IpAddr::V6(address) => Octets { bytes: address.octets(), len: 16 },
    }
}

/// A UDP header: ports, and the payload's range in the frame.
pub struct UdpHeader {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub start: usize,
    pub end: usize,
}

impl UdpHeader {
    /// Reads it; `None` if the length contradicts the packet's.
    pub fn read(packet: &Packet, header: &[u8]) -> Option<UdpHeader> {
        let len = usize::from(half(header, 4)?);
        let end = packet.start + len;
        Some(UdpHeader {
            from: SocketAddr::new(packet.source, half(header, 0)?),
            to: SocketAddr::new(packet.target, half(header, 2)?),
            start: packet.start + 8,
            end,
        })
        .filter(|_| len >= 8 && end <= packet.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Offload, Part};

    fn route(v6: bool) -> Route {
        let (source, target) = if v6 {
            (IpAddr::from([0xfec0, 0, 0, 0, 0, 0, 0, 2]), IpAddr::from([1u16; 8]))
        } else {
            (IpAddr::from([10, 0, 2, 2]), IpAddr::from([10, 0, 2, 15]))
        };
        Route { source_mac: [2; 6], target_mac: [4; 6], source, target }
    }

    const FIELDS: IpFields = IpFields { protocol: UDP, ttl: 64, tos: 0, id: 7 };

    #[test]
    fn what_is_written_reads_back() {
        for v6 in [false, true] {
            let route = route(v6);
            let bytes = route.udp_frame(FIELDS, 68, 67, b"hello");
            let parts = [Part::from(&bytes[..])];
            let frame = Frame::new(&parts, Offload::default());
            let incoming = Incoming::new(&frame).unwrap();
            assert_eq!((incoming.target_mac, incoming.source_mac), ([4; 6], [2; 6]));
            let packet = incoming.packet().unwrap();
            assert_eq!((packet.source, packet.target), (route.source, route.target));
            assert_eq!((packet.protocol, packet.ttl), (UDP, 64));
            let udp = UdpHeader::read(&packet, &incoming.headers()[packet.start..]).unwrap();
            assert_eq!((udp.from.port(), udp.to.port()), (68, 67));
            assert_eq!(&bytes[udp.start..udp.end], b"hello");
            let content = incoming.content(&packet);
            assert_eq!(route.pseudo_sum(UDP, content.len()).bytes(&content).finish(), 0);
        }
    }

    proptest! {
        #[test]
        fn damaged_headers_are_refused_or_stay_inside(
            v6: bool, at in 0usize..60, value: u8, cut in 0usize..80,
        ) {
            let mut bytes = route(v6).udp_frame(FIELDS, 68, 67, b"hello");
            let at = at.min(bytes.len() - 1);
            bytes[at] = value;
            bytes.truncate(cut);
            let parts = [Part::from(&bytes[..])];
            let frame = Frame::new(&parts, Offload::default());
            if let Some(incoming) = Incoming::new(&frame) && let Some(packet) = incoming.packet() {
                prop_assert!(packet.start <= packet.end && packet.end <= bytes.len());
                prop_assert_eq!(incoming.content(&packet), &bytes[packet.start..packet.end]);
            }
        }
    }
}
