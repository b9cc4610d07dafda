//! The Internet checksum (RFC 1071).
//!
//! Unsafe: one call of a function for processors with AVX2, on those.
#![allow(unsafe_code)]

/// A sum under way. Pieces may be added in any order as long as each begins at an even offset.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Starts from a sum of 16 bits, as the field of a partial checksum holds.
    pub fn from_folded(sum: u16) -> Sum {
        Sum(u64::from(sum))
    }

    /// Adds bytes; an odd one at the end counts as if a zero followed.
    pub fn bytes(self, bytes: &[u8]) -> Sum {
        let mut tail = [0; 4];
        let rest = bytes.as_chunks::<4>().1;
        tail[..rest.len()].copy_from_slice(rest);
        let words = sum_words(bytes) + u64::from(u32::from_ne_bytes(tail));
        self.number(u16::from_be(fold(words)))
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
        fold(self.0)
    }

    /// The checksum: the complement of the sum.
    pub fn finish(self) -> u16 {
        !self.folded()
    }
}

/// Sums whole words of four bytes, as fast as the processor can.
fn sum_words(bytes: &[u8]) -> u64 {
    /// What is longer is worth a look at what the processor has.
    #[cfg(target_arch = "x86_64")]
    const LONG: usize = 64;
    #[cfg(target_arch = "x86_64")]
    if bytes.len() > LONG && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { sum_words_avx2(bytes) };
    }
    sum_words_anywhere(bytes)
}

/// Sums whole words of four bytes. One's-complement sums care neither about the width in which they are taken nor
/// about the order of the bytes in a word, if the result is turned round in the end (RFC 1071, 2). 64 bits
/// have room for the words of 16 GiB.
#[inline(always)]
fn sum_words_anywhere(bytes: &[u8]) -> u64 {
    let words = bytes.as_chunks().0;
    words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum()
}

/// The same, made for processors that have it.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_words_avx2(bytes: &[u8]) -> u64 {
    sum_words_anywhere(bytes)
}

fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
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
