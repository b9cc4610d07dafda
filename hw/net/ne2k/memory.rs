//! The card's own memory: what tells its address, and RAM.

use base::props::MacAddr;
use base::state::{State, StateError};

/// The unit of the ring.
pub(super) const PAGE: usize = 256;
const PROM: usize = 32;
const RAM: usize = 16 << 10;
const END: usize = 48 << 10;
/// What says that the data port is 16 bits wide.
const WORDS: u8 = 0x57;
const SIGNATURE: usize = 14;

/// By the controller's addresses.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(check)]
pub(super) struct Memory {
    bytes: Vec<u8>,
}

impl Default for Memory {
    fn default() -> Self {
        Memory { bytes: vec![0; END] }
    }
}

impl Memory {
    /// Of a card with this address; each byte is there twice, as memory is 16 bits wide.
    pub fn new(mac: MacAddr) -> Self {
        let mut memory = Memory::default();
        let mut prom = [0; PROM / 2];
        prom[..mac.0.len()].copy_from_slice(&mac.0);
        prom[SIGNATURE..].fill(WORDS);
        for (pair, byte) in memory.bytes.chunks_exact_mut(2).zip(prom) {
            pair.fill(byte);
        }
        memory
    }

    fn check(&self) -> Result<(), StateError> {
        match self.bytes.len() {
            END => Ok(()),
            _ => Err(StateError::invalid("the memory has another size")),
        }
    }

    pub fn read(&self, at: usize) -> u8 {
        match at {
            0..PROM | RAM..END => self.bytes[at],
            _ => 0xff,
        }
    }

    pub fn write(&mut self, at: usize, byte: u8) {
        if (RAM..END).contains(&at) {
            self.bytes[at] = byte;
        }
    }
}
