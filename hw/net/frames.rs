//! What cards know of frames: addresses, sums, tags of virtual networks, and the headers of a segment
//! that is to be cut.

use net::checksum::{Sum, pseudo_header};
use net::{Checksum, GsoKind};

/// Bytes of an address.
pub(super) const ADDRESS: usize = 6;
/// The address of everybody.
pub(super) const BROADCAST: [u8; ADDRESS] = [0xff; ADDRESS];
/// Where the type is in a frame; a tag goes before it.
pub(super) const KIND_AT: usize = 2 * ADDRESS;
/// Bytes of a tag: the type that announces it, and its number.
pub(super) const TAG: usize = 4;
/// The shortest frame, to which others are filled up, and the checksum that follows.
pub(super) const MIN_FRAME: usize = 60;
pub(super) const FCS: usize = 4;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const IPV4: [u8; 2] = [8, 0];
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// More fragments, or not the first.
const IPV4_FRAGMENT: u16 = 0x3fff;

/// The address that a frame goes to.
pub(super) fn destination(frame: &[u8]) -> [u8; ADDRESS] {
    frame.first_chunk().copied().unwrap_or_default()
}

/// Whether an address is that of a group, or everybody's.
pub(super) fn is_group(address: [u8; ADDRESS]) -> bool {
    address[0] & 1 != 0
}

/// The checksum behind a frame.
pub(super) fn fcs(frame: &[u8]) -> [u8; FCS] {
    crc32fast::hash(frame).to_le_bytes()
}

/// The register of a CRC that was shifted towards its least significant bit through an address.
fn crc(address: [u8; ADDRESS]) -> u32 {
    !crc32fast::hash(&address)
}

/// The bit of a table of 64 that stands for a group, as National's and Realtek's controllers have it: the
/// first six bits of the CRC that a wire would carry.
pub(super) fn group_hash(address: [u8; ADDRESS]) -> u32 {
    crc(address).reverse_bits() >> 26
}

/// The bit as the LANCE and its descendants have it: the last six, the other way round.
pub(super) fn lance_hash(address: [u8; ADDRESS]) -> u32 {
    crc(address) >> 26
}

/// What the sums in a packet of IPv4 are found to be.
pub(super) struct Sums {
    /// That of the header is right.
    pub header: bool,
    /// What follows the header.
    pub protocol: u8,
    /// The sum of TCP or UDP, where there is a whole packet with one, is right.
    pub payload: Option<bool>,
}

/// Checks sums of a frame whose type is at `kind_at`; nothing if it does not hold IPv4. What is `known`
/// of the sum of TCP or UDP need not be found out.
pub(super) fn check_sums(frame: &[u8], kind_at: usize, known: Checksum) -> Option<Sums> {
    let packet = frame.get(kind_at..)?.strip_prefix(&IPV4)?;
    let header = match packet.first() {
        Some(version) if version >> 4 == 4 => usize::from(version & 0xf) * 4,
        _ => return None,
    };
    let len = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    if header < IPV4_HEADER || len < header || len > packet.len() {
        return None;
    }
    let (header, payload) = packet[..len].split_at(header);
    let (protocol, sum_at) = (header[9], if header[9] == UDP { 6 } else { 16 });
    let fragment = u16::from_be_bytes([header[6], header[7]]) & IPV4_FRAGMENT != 0;
    let checkable = matches!(protocol, TCP | UDP)
        && !fragment
        && payload.len() >= sum_at + 2
        // UDP may go without.
        && !(protocol == UDP && payload[sum_at..sum_at + 2] == [0; 2]);
    let right = || {
        let pseudo = pseudo_header(&header[12..16], &header[16..20], protocol, payload.len());
        pseudo.bytes(payload).finish() == 0
    };
    Some(Sums {
        header: Sum::default().bytes(header).finish() == 0,
        protocol,
        payload: checkable.then(|| known == Checksum::Valid || right()),
    })
}

/// Puts a tag into a frame, whose type `kind` announces.
pub(super) fn insert_tag(frame: &mut Vec<u8>, kind: u16, tag: u16, checksum: &mut Checksum) {
    frame.splice(KIND_AT..KIND_AT, [kind, tag].map(u16::to_be_bytes).concat());
    if let Checksum::Partial { start, .. } = checksum {
        *start += TAG as u16;
    }
}

/// Where the headers of a packet are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Headers {
    pub ip: usize,
    pub ipv4: bool,
    /// That of TCP, or else of UDP.
    pub l4: usize,
    pub tcp: bool,
    /// The field of its sum, from the begin of the frame.
    pub sum_at: usize,
}

impl Headers {
    /// Those of a frame of IPv4 with TCP or UDP in it.
    pub fn find(frame: &[u8]) -> Option<Headers> {
        let ip = KIND_AT + 2;
        let header = frame.get(KIND_AT..)?.strip_prefix(&IPV4)?;
        let version = *header.first()?;
        let l4 = ip + usize::from(version & 0xf) * 4;
        let tcp = match *header.get(9)? {
            TCP => true,
            UDP => false,
            _ => return None,
        };
        let sum_at = l4 + if tcp { 16 } else { 6 };
        let whole = version >> 4 == 4 && l4 >= ip + IPV4_HEADER && sum_at + 2 <= frame.len();
        whole.then_some(Headers { ip, ipv4: true, l4, tcp, sum_at })
    }

    /// How a segment with such headers is cut.
    pub fn gso_kind(&self) -> GsoKind {
        match (self.tcp, self.ipv4) {
            (true, true) => GsoKind::Tcp4,
            (true, false) => GsoKind::Tcp6,
            (false, _) => GsoKind::Udp,
        }
    }

    /// What is left to be done to the sum.
    pub fn partial(&self) -> Checksum {
        let offset = self.sum_at.saturating_sub(self.l4);
        Checksum::Partial { start: self.l4 as u16, offset: offset as u16 }
    }

    /// Stores the sum of the pseudo header in the field of the sum. Nothing if the headers are not all
    /// there.
    pub fn begin_sum(&self, frame: &mut [u8]) -> Option<()> {
        let (l4_len, protocol) = (frame.len().checked_sub(self.l4)?, self.protocol());
        let header = frame.get(self.ip..self.l4)?;
        let pseudo = match self.ipv4 {
            true => pseudo_header(header.get(12..16)?, header.get(16..20)?, protocol, l4_len),
            false => pseudo_header(header.get(8..24)?, header.get(24..40)?, protocol, l4_len),
        };
        let field = frame.get_mut(self.sum_at..self.sum_at + 2)?;
        field.copy_from_slice(&pseudo.folded().to_be_bytes());
        Some(())
    }

    fn protocol(&self) -> u8 {
        if self.tcp { TCP } else { UDP }
    }

    /// Fills in what drivers leave open in the headers of a packet that is to be cut: its lengths, and
    /// the sum of the pseudo header with it. Nothing if the headers are not all there.
    pub fn complete(&self, frame: &mut [u8]) -> Option<()> {
        let total = frame.len();
        let l4_len = total.checked_sub(self.l4)?;
        let header = frame.get_mut(self.ip..self.l4)?;
        if self.ipv4 {
            let len = (total - self.ip) as u16;
            header.get_mut(2..4)?.copy_from_slice(&len.to_be_bytes());
            sum_ipv4(header)?;
        } else {
            let len = (total - self.ip).checked_sub(IPV6_HEADER)? as u16;
            header.get_mut(4..6)?.copy_from_slice(&len.to_be_bytes());
        }
        if !self.tcp {
            let len = frame.get_mut(self.l4 + 4..self.l4 + 6)?;
            len.copy_from_slice(&(l4_len as u16).to_be_bytes());
        }
        self.begin_sum(frame)
    }
}

/// Stores the sum of a header of IPv4 in it.
pub(super) fn sum_ipv4(header: &mut [u8]) -> Option<()> {
    header.get_mut(10..IPV4_HEADER)?[..2].fill(0);
    let sum = Sum::default().bytes(header).finish();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the shift register of the datasheets, bit by bit.
    #[test]
    fn groups_have_their_bits() {
        assert_eq!(fcs(b"123456789"), 0xcbf4_3926_u32.to_le_bytes());
        for last in 0..=255 {
            let address = [0x01, 0x00, 0x5e, 0, 0, last];
            let mut register = !0u32;
            for byte in address {
                for bit in 0..8 {
                    let carry = register >> 31 ^ u32::from(byte >> bit & 1);
                    register = register << 1 ^ if carry == 1 { 0x04c1_1db7 } else { 0 };
                }
            }
            assert_eq!(group_hash(address), register >> 26);
            assert_eq!(lance_hash(address), register.reverse_bits() >> 26);
        }
    }
}
