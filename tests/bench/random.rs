//! Numbers without a pattern, the same in each run.

/// Marsaglia's xorshift generator with a multiplied output.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Folds bytes into a checksum (FNV-1a).
pub fn fold(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum ^ 0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

const WORDS: [&str; 32] = [
    "the",
    "of",
    "guest",
    "page",
    "and",
    "table",
    "register",
    "to",
    "interrupt",
    "a",
    "memory",
    "in",
    "translation",
    "is",
    "processor",
    "that",
    "block",
    "for",
    "instruction",
    "with",
    "cache",
    "as",
    "exception",
    "by",
    "machine",
    "on",
    "address",
    "it",
    "virtual",
    "from",
    "segment",
    "at",
];

/// So many bytes of something that looks like prose to a compressor.
pub fn prose(length: usize) -> String {
    let mut random = Random::new(42);
    let mut text = String::with_capacity(length + 32);
    while text.len() < length {
        // Short words are the common ones, as in a language.
        let word = random.below(WORDS.len()).min(random.below(WORDS.len()));
        text.push_str(WORDS[word]);
        text.push(if random.below(12) == 0 { '\n' } else { ' ' });
    }
    text.truncate(length);
    text
}
