//! Where RDRAND and RDSEED get their numbers.

use std::fs::File;
use std::io::Read;

/// Random numbers, or numbers that only look so.
pub enum Random {
    /// Those of the host.
    Host(HostRandom),
    /// Those that follow from a seed: SplitMix64, whose state counts in steps of the golden ratio.
    Seeded(u64),
}

/// Random numbers of the host, fetched in batches.
#[derive(Default)]
pub struct HostRandom {
    source: Option<File>,
    batch: Vec<u8>,
}

impl Default for Random {
    fn default() -> Self {
        Random::Host(HostRandom::default())
    }
}

impl Random {
    /// The next number; `None` if the host has no source of them.
    pub fn next(&mut self) -> Option<u64> {
        match self {
            Random::Host(host) => host.next(),
            Random::Seeded(state) => {
                *state = state.wrapping_add(STEP);
                Some(mix(*state))
            }
        }
    }

    /// Numbers that follow from `seed`, others for each `processor`.
    pub fn seeded(seed: u64, processor: u32) -> Self {
        // Mixed, or processor 1 would have with one seed what processor 0 has with the next.
        Random::Seeded(mix(seed).wrapping_add(processor.into()))
    }
}

/// How far two states of a seeded generator are apart.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's function from states to numbers.
fn mix(state: u64) -> u64 {
    let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

impl HostRandom {
    const BATCH: usize = 512;

    fn next(&mut self) -> Option<u64> {
        if self.batch.len() < 8 {
            self.refill()?;
        }
        let rest = self.batch.len() - 8;
        let tail = self.batch.split_off(rest);
        tail.try_into().ok().map(u64::from_le_bytes)
    }

    fn refill(&mut self) -> Option<()> {
        if self.source.is_none() {
            self.source = File::open("/dev/urandom").ok();
        }
        self.batch.resize(Self::BATCH, 0);
        let done = self.source.as_mut()?.read_exact(&mut self.batch);
        if done.is_err() {
            self.batch.clear();
        }
        done.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_the_numbers_of_each_processor() {
        // By reference: where a closure takes it by value, rustc 1.95 may take a second generator that is made
        // in the same way for the first one, which has been moved and used.
        let four = |random: &mut Random| [(); 4].map(|()| random.next().unwrap());
        let numbers = |seed, processor| four(&mut Random::seeded(seed, processor));
        assert_eq!(numbers(7, 0), numbers(7, 0));
        assert_ne!(numbers(7, 0), numbers(7, 1));
        assert_ne!(numbers(7, 0), numbers(8, 0));
        assert_ne!(numbers(7, 1), numbers(8, 0));
        assert_ne!(four(&mut Random::default()), four(&mut Random::default()));
        // The first number that Steele, Lea and Flood's generator gives for the seed 0.
        assert_eq!(Random::Seeded(0).next(), Some(0xe220_a839_7b1d_cdaf));
    }
}
