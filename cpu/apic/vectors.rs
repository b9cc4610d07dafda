//! 256 bits: which interrupts wait (IRR), are being served (ISR), or are level-triggered (TMR).

use base::state::State;

/// A set of vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
#[state(version = 1)]
pub struct Vectors {
    words: [u32; 8],
}

impl Vectors {
    pub(super) fn contains(&self, vector: u8) -> bool {
        self.words[usize::from(vector >> 5)] & 1 << (vector & 31) != 0
    }

    pub(super) fn insert(&mut self, vector: u8) {
        self.words[usize::from(vector >> 5)] |= 1 << (vector & 31);
    }

    pub(super) fn remove(&mut self, vector: u8) {
        self.words[usize::from(vector >> 5)] &= !(1 << (vector & 31));
    }

    pub(super) fn set(&mut self, vector: u8, present: bool) {
        if present {
            self.insert(vector);
        } else {
            self.remove(vector);
        }
    }

    pub(super) fn highest(&self) -> Option<u8> {
        let (word, bits) = self.words.iter().enumerate().rev().find(|(_, bits)| **bits != 0)?;
        Some((word as u32 * 32 + bits.ilog2()) as u8)
    }

    /// The 32 vectors that one register shows.
    pub(super) fn word(&self, index: u32) -> u32 {
        self.words[(index & 7) as usize]
    }
}
