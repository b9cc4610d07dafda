//! `ringbuf`: keeps the last bytes of output in memory, to be fetched by a monitor command.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::{Backend, ChardevError};

const DEFAULT_SIZE: u64 = 65_536;
/// Far more than any log needs, and small enough to be allocated.
const MAX_SIZE: u64 = 1 << 30;

/// The last bytes written.
pub(super) struct Ring {
    size: usize,
    bytes: Mutex<VecDeque<u8>>,
}

impl Ring {
    pub(super) fn new(size: Option<u64>) -> Result<Ring, ChardevError> {
        let size = size.unwrap_or(DEFAULT_SIZE);
        if !size.is_power_of_two() || size > MAX_SIZE {
            return Err(ChardevError::RingSize);
        }
        Ok(Ring { size: size as usize, bytes: Mutex::default() })
    }

    /// Appends; the oldest bytes make room.
    pub(super) fn write(&self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.size)..];
        let mut kept = self.bytes.lock();
        let surplus = (kept.len() + bytes.len()).saturating_sub(self.size);
        kept.drain(..surplus);
        kept.extend(bytes);
    }

    /// Takes out the oldest bytes, `size` at most.
    pub(super) fn read(&self, size: usize) -> Vec<u8> {
        let mut kept = self.bytes.lock();
        let size = size.min(kept.len());
        kept.drain(..size).collect()
    }
}

impl Backend for Ring {
    fn write(&self, bytes: &[u8]) -> usize {
        Ring::write(self, bytes);
        bytes.len()
    }

    fn filename(&self) -> String {
        "ringbuf".into()
    }

    fn ring(&self) -> Option<&Ring> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_the_last_bytes(
            steps in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), 0_usize..20), 0..30)
        ) {
            let ring = Ring::new(Some(16)).unwrap();
            let mut oracle: Vec<u8> = Vec::new();
            for (bytes, take) in steps {
                ring.write(&bytes);
                oracle.extend(bytes);
                oracle.drain(..oracle.len().saturating_sub(16));
                let take = take.min(oracle.len());
                let expected: Vec<u8> = oracle.drain(..take).collect();
                prop_assert_eq!(ring.read(take), expected);
            }
        }
    }

    #[test]
    fn sizes_that_are_no_power_of_two_are_refused() {
        for size in [0, 3, 1000, u64::MAX, 1 << 63] {
            assert!(Ring::new(Some(size)).is_err());
        }
    }
}
