//! Random operands for the tests that compare with silicon.

/// A small generator (SplitMix64) with a fixed seed per test.
pub(crate) struct Random(u64);

impl Random {
    /// Seeded by a name.
    pub(crate) fn new(name: &str) -> Self {
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        }))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// `bits` bits in one of the shapes that rounding cares about.
    pub(crate) fn pattern(&mut self, bits: u32) -> u64 {
        let mask = u64::MAX >> (64 - bits);
        let keep = self.below(bits.into()) as u32;
        mask & match self.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << keep,
            3 => u64::MAX << keep,
            4 => self.next() << keep,
            _ => self.next(),
        }
    }

    pub(crate) fn f32(&mut self) -> u32 {
        self.binary(8, 23) as u32
    }

    pub(crate) fn f64(&mut self) -> u64 {
        self.binary(11, 52)
    }

    fn binary(&mut self, exp_bits: u32, fraction_bits: u32) -> u64 {
        let max = (1 << exp_bits) - 1;
        let exp = match self.below(8) {
            0 => self.below(2),
            1 => max - self.below(2),
            2 => self.next() & max,
            3 => self.below(fraction_bits.into()),
            _ => (max >> 1) - 4 + self.below(8),
        };
        let sign = self.below(2) << (exp_bits + fraction_bits);
        let fraction = if self.below(6) == 0 { 0 } else { self.pattern(fraction_bits) };
        sign | exp << fraction_bits | fraction
    }
}
