//! A quick hash for addresses, which nobody gains by choosing badly.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// Mixes words by multiplication.
#[derive(Default)]
pub struct Mixer(u64);

/// A map by addresses.
pub type Map<K, V> = HashMap<K, V, BuildHasherDefault<Mixer>>;
/// A set of addresses.
pub type Set<K> = HashSet<K, BuildHasherDefault<Mixer>>;

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        // The product's upper half is the well mixed one; tables look at both ends.
        self.0.rotate_left(26)
    }

    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
}
