//! What is left to be done to a frame, and what an end can do itself.
//!
//! The fields are those of virtio's header (virtio 1.2, 5.1.6), which is also that of Linux' taps:
//! [`Offload::to_vnet`] and [`Offload::from_vnet`] translate.

/// How far the checksum of the frame's TCP or UDP is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// It is complete; a receiver checks it if it cares.
    #[default]
    Complete,
    /// It is complete, and was found right.
    Valid,
    /// Its field holds the sum of the pseudo header; the sum from `start` to the frame's end is to
    /// be stored `offset` bytes behind `start`.
    Partial {
        /// Where to start, from the frame's begin.
        start: u16,
        /// Where the field is, from `start`.
        offset: u16,
    },
}

/// What a frame is to be cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP segments over IPv4.
    Tcp4,
    /// TCP segments over IPv6.
    Tcp6,
    /// UDP datagrams over either.
    Udp,
    /// One UDP datagram in IPv4 fragments.
    UdpFragments,
}

/// A frame that is larger than the link allows, to be cut by whoever puts it on a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// How.
    pub kind: GsoKind,
    /// Bytes of payload in each piece.
    pub size: u16,
    /// Only the first segment has CWR set (TCP with ECN).
    pub ecn: bool,
    /// Bytes of all headers, as the sender says. Only a hint.
    pub header_len: u16,
}

/// The state of a frame. The default: nothing is left to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The checksum.
    pub checksum: Checksum,
    /// The cutting. Implies a partial checksum.
    pub gso: Option<Gso>,
}

/// What an end takes as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Partial checksums. Without it, nothing else counts.
    pub checksum: bool,
    /// Large TCP segments over IPv4.
    pub tso4: bool,
    /// Large TCP segments over IPv6.
    pub tso6: bool,
    /// Such with ECN.
    pub ecn: bool,
    /// Several UDP datagrams in one.
    pub uso: bool,
    /// Large UDP datagrams.
    pub ufo: bool,
}

impl Offloads {
    /// Everything.
    pub const ALL: Offloads =
        Offloads { checksum: true, tso4: true, tso6: true, ecn: true, uso: true, ufo: true };

    /// Whether a frame of this state can be taken as it is.
    pub fn take(&self, offload: &Offload) -> bool {
        let partial = matches!(offload.checksum, Checksum::Partial { .. });
        if !partial && offload.gso.is_none() {
            return true;
        }
        let Some(gso) = offload.gso else { return self.checksum };
        let kind = match gso.kind {
            GsoKind::Tcp4 => self.tso4,
            GsoKind::Tcp6 => self.tso6,
            GsoKind::Udp => self.uso,
            GsoKind::UdpFragments => self.ufo,
        };
        self.checksum && kind && (self.ecn || !gso.ecn)
    }
}

/// Length of the header without the number of buffers.
pub const VNET_HEADER: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_UDP: u8 = 3;
const GSO_TCP6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

impl Offload {
    /// As a virtio header, little-endian.
    pub fn to_vnet(&self) -> [u8; VNET_HEADER] {
        let mut header = [0; VNET_HEADER];
        match self.checksum {
            Checksum::Complete => {}
            Checksum::Valid => header[0] = DATA_VALID,
            Checksum::Partial { start, offset } => {
                header[0] = NEEDS_CSUM;
                header[6..8].copy_from_slice(&start.to_le_bytes());
                header[8..10].copy_from_slice(&offset.to_le_bytes());
            }
        }
        if let Some(gso) = self.gso {
            let kind = match gso.kind {
                GsoKind::Tcp4 => GSO_TCP4,
                GsoKind::Tcp6 => GSO_TCP6,
                GsoKind::Udp => GSO_UDP_L4,
                GsoKind::UdpFragments => GSO_UDP,
            };
            header[1] = kind | if gso.ecn { GSO_ECN } else { 0 };
            header[2..4].copy_from_slice(&gso.header_len.to_le_bytes());
            header[4..6].copy_from_slice(&gso.size.to_le_bytes());
        }
        header
    }

    /// From a little-endian virtio header; `None` if it makes no sense.
    pub fn from_vnet(header: &[u8; VNET_HEADER]) -> Option<Offload> {
        let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let checksum = match header[0] {
            flags if flags & NEEDS_CSUM != 0 => {
                Checksum::Partial { start: half(6), offset: half(8) }
            }
            flags if flags & DATA_VALID != 0 => Checksum::Valid,
            _ => Checksum::Complete,
        };
        let kind = match header[1] & !GSO_ECN {
            GSO_NONE => return Some(Offload { checksum, gso: None }),
            GSO_TCP4 => GsoKind::Tcp4,
            GSO_TCP6 => GsoKind::Tcp6,
            GSO_UDP_L4 => GsoKind::Udp,
            GSO_UDP => GsoKind::UdpFragments,
            _ => return None,
        };
        let ecn = header[1] & GSO_ECN != 0;
        let gso = Gso { kind, ecn, header_len: half(2), size: half(4) };
        (gso.size > 0).then_some(Offload { checksum, gso: Some(gso) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_both_translations() {
        let partial = Checksum::Partial { start: 34, offset: 16 };
        for checksum in [Checksum::Complete, Checksum::Valid, partial] {
            let plain = Offload { checksum, gso: None };
            assert_eq!(Offload::from_vnet(&plain.to_vnet()), Some(plain));
        }
        for kind in [GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp, GsoKind::UdpFragments] {
            for ecn in [false, true] {
                let gso = Some(Gso { kind, size: 1448, ecn, header_len: 66 });
                let large = Offload { checksum: partial, gso };
                assert_eq!(Offload::from_vnet(&large.to_vnet()), Some(large));
            }
        }
    }

    #[test]
    fn headers_without_sense_are_refused() {
        assert_eq!(Offload::from_vnet(&[1, 9, 0, 0, 1, 0, 0, 0, 0, 0]), None);
        assert_eq!(Offload::from_vnet(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0]), None, "pieces of nothing");
    }

    #[test]
    fn an_end_takes_what_it_knows() {
        let partial = Checksum::Partial { start: 34, offset: 16 };
        let gso = Gso { kind: GsoKind::Tcp4, size: 1448, ecn: false, header_len: 54 };
        let large = Offload { checksum: partial, gso: Some(gso) };
        let marked = Offload { checksum: partial, gso: Some(Gso { ecn: true, ..gso }) };
        assert!(Offloads::default().take(&Offload::default()));
        assert!(!Offloads::default().take(&Offload { checksum: partial, gso: None }));
        let tso = Offloads { checksum: true, tso4: true, ..Offloads::default() };
        assert!(tso.take(&large) && !tso.take(&marked));
        assert!(!Offloads { tso6: true, tso4: false, ..tso }.take(&large));
        assert!(!Offloads { checksum: false, ..tso }.take(&large));
        assert!(Offloads::ALL.take(&marked));
    }
}
