//! Where RDRAND and RDSEED get their numbers.

use std::fs::File;
use std::io::Read;

/// Random numbers of the host, fetched in batches.
#[derive(Default)]
pub struct Random {
    source: Option<File>,
    batch: Vec<u8>,
}

impl Random {
    const BATCH: usize = 512;

    /// The next number; `None` if the host has no source of them.
    pub fn next(&mut self) -> Option<u64> {
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
