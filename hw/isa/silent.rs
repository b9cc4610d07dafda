//! Ports that only swallow: firmware writes progress codes to one and delays by it, and the other
//! once cleared the error line of a separate coprocessor.

use std::sync::Arc;

use base::memory::{AccessSizes, IoHandler, Region};

/// Port of power-on self-test codes.
pub const POST_PORT: u64 = 0x80;
/// Port that clears the coprocessor's error.
pub const COPROCESSOR_PORT: u64 = 0xf0;

struct Silent;

impl IoHandler for Silent {
    fn read(&self, _: u64, _: u8) -> u64 {
        u64::MAX
    }
    fn write(&self, _: u64, _: u8, _: u64) {}
    fn sizes(&self) -> AccessSizes {
        AccessSizes::BYTE
    }
}

/// The regions for [`POST_PORT`] and [`COPROCESSOR_PORT`].
pub fn regions() -> (Region, Region) {
    (Region::io("ioport80", 1, Arc::new(Silent)), Region::io("ioportF0", 1, Arc::new(Silent)))
}
