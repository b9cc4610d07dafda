//! The Internet checksum (RFC 1071).

/// A sum under way. Pieces may be added in any order as long as each begins at an even offset.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Starts from a sum of 16 bits, as the field of a partial checksum holds.
    pub fn from_folded(sum: u16) -> Sum {
        Sum(u64::from(sum))
    }

    /// Adds bytes; an odd one at the end counts as if a zero followed.
    pub fn bytes(mut self, bytes: &[u8]) -> Sum {
        // One's-complement sums do not care about the width in which they are taken: words of four
        // bytes, folded in the end, give the same as words of two.
        let mut words = bytes.chunks_exact(4);
        let mut sum: u64 = 0;
        for word in &mut words {
            sum += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
        }
        let mut tail = [0; 4];
        let rest = words.remainder();
        tail[..rest.len()].copy_from_slice(rest);
        sum += u64::from(u32::from_be_bytes(tail));
        self.0 += (sum & 0xffff_ffff) + (sum >> 32);
        self
    }

    /// Adds a number of 16 bits.
    pub fn number(mut self, number: u16) -> Sum {
        self.0 += u64::from(number);
        self
    }

    /// Adds the sum of bytes that begin at an odd offset.
    pub fn odd_bytes(self, bytes: &[u8]) -> Sum {
        self.number(Sum::default().bytes(bytes).folded().swap_bytes())
    }

    /// The sum in 16 bits.
    pub fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// The checksum: the complement of the sum.
    pub fn finish(self) -> u16 {
        !self.folded()
    }
}

/// The sum of the pseudo header of TCP, UDP or ICMPv6: addresses (4 or 16 bytes each), protocol,
/// and length of the segment.
pub fn pseudo_header(source: &[u8], target: &[u8], protocol: u8, len: usize) -> Sum {
    let sum = Sum::default().bytes(source).bytes(target).number(u16::from(protocol));
    sum.bytes(&(len as u32).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(bytes: &[u8]) -> u16 {
        let mut sum: u32 = 0;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let sum = Sum::default().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0usize..300) {
            prop_assert_eq!(Sum::default().bytes(&bytes).finish(), plain(&bytes));
            let at = at.min(bytes.len());
            let (head, tail) = bytes.split_at(at);
            let sum = Sum::default().bytes(head);
            let whole = if at % 2 == 0 { sum.bytes(tail) } else { sum.odd_bytes(tail) };
            prop_assert_eq!(whole.finish(), plain(&bytes));
        }
    }
}
