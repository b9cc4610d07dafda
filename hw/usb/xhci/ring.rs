//! Rings of transfer request blocks, which drivers fill (xHCI 1.2, 4.9, 6.4).

use base::memory::Dma;
use base::state::State;

/// Bytes of a block.
pub const TRB: u64 = 16;
/// Links in a row that are followed, at most.
const LINKS: usize = 32;

/// Types of blocks.
#[allow(missing_docs)]
pub mod kind {
    pub const NORMAL: u8 = 1;
    pub const SETUP: u8 = 2;
    pub const DATA: u8 = 3;
    pub const STATUS: u8 = 4;
    pub const ISOCH: u8 = 5;
    pub const LINK: u8 = 6;
    pub const EVENT_DATA: u8 = 7;
    pub const NO_OP: u8 = 8;
    pub const ENABLE_SLOT: u8 = 9;
    pub const DISABLE_SLOT: u8 = 10;
    pub const ADDRESS_DEVICE: u8 = 11;
    pub const CONFIGURE_ENDPOINT: u8 = 12;
    pub const EVALUATE_CONTEXT: u8 = 13;
    pub const RESET_ENDPOINT: u8 = 14;
    pub const STOP_ENDPOINT: u8 = 15;
    pub const SET_DEQUEUE: u8 = 16;
    pub const RESET_DEVICE: u8 = 17;
    pub const NO_OP_COMMAND: u8 = 23;
    pub const TRANSFER_EVENT: u8 = 32;
    pub const COMMAND_COMPLETION: u8 = 33;
    pub const PORT_CHANGE: u8 = 34;
    pub const HOST_EVENT: u8 = 37;
    /// NEC's own.
    pub const NEC_COMPLETION: u8 = 48;
    pub const NEC_FIRMWARE: u8 = 49;
}

/// Bits of a block's control word.
pub mod flag {
    #![allow(missing_docs)]
    pub const CYCLE: u32 = 1;
    /// Of a link.
    pub const TOGGLE: u32 = 1 << 1;
    /// Of an event: its parameter is the driver's.
    pub const EVENT_DATA: u32 = 1 << 2;
    pub const INTERRUPT_ON_SHORT: u32 = 1 << 2;
    pub const CHAIN: u32 = 1 << 4;
    pub const INTERRUPT_ON_COMPLETION: u32 = 1 << 5;
    pub const IMMEDIATE: u32 = 1 << 6;
    /// Of a command: what it usually does is left out.
    pub const SPECIAL: u32 = 1 << 9;
    /// Of the stages of a control transfer: towards the host.
    pub const IN: u32 = 1 << 16;
}

/// A block, and where it was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trb {
    /// Its place.
    pub at: u64,
    /// A pointer, mostly.
    pub parameter: u64,
    /// Lengths and codes.
    pub status: u32,
    /// Type and flags.
    pub control: u32,
}

impl Trb {
    /// Its type.
    pub fn kind(&self) -> u8 {
        (self.control >> 10) as u8 & 0x3f
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: u32) -> bool {
        self.control & flag != 0
    }

    /// Bytes that it is about.
    pub fn len(&self) -> usize {
        (self.status & 0x1_ffff) as usize
    }

    /// The interrupter that is told.
    pub fn interrupter(&self) -> usize {
        (self.status >> 22) as usize
    }

    /// The slot that a command is about.
    pub fn slot(&self) -> usize {
        (self.control >> 24) as usize
    }

    /// The endpoint that a command is about.
    pub fn endpoint(&self) -> usize {
        (self.control >> 16) as usize & 0x1f
    }

    /// As it lies in memory.
    pub fn bytes(&self) -> [u8; TRB as usize] {
        let mut bytes = [0; TRB as usize];
        bytes[..8].copy_from_slice(&self.parameter.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.status.to_le_bytes());
        bytes[12..].copy_from_slice(&self.control.to_le_bytes());
        bytes
    }

    fn parse(at: u64, bytes: [u8; TRB as usize]) -> Self {
        let [a, b, c, d, e, f, g, h, s0, s1, s2, s3, c0, c1, c2, c3] = bytes;
        Trb {
            at,
            parameter: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            status: u32::from_le_bytes([s0, s1, s2, s3]),
            control: u32::from_le_bytes([c0, c1, c2, c3]),
        }
    }
}

/// A ring leads out of memory, or nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// How far a ring has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
pub struct Ring {
    /// Where the next block is.
    pub at: u64,
    /// What the cycle bit of blocks is that have been filled.
    pub cycle: bool,
}

impl Ring {
    /// A ring by a pointer that has the cycle state in its lowest bit.
    pub fn new(pointer: u64) -> Self {
        Ring { at: pointer & !0xf, cycle: pointer & 1 != 0 }
    }

    /// The pointer with the cycle state.
    pub fn pointer(&self) -> u64 {
        self.at | u64::from(self.cycle)
    }

    /// The next block that has been filled, past links.
    pub fn take(&mut self, memory: &Dma) -> Result<Option<Trb>, Broken> {
        for _ in 0..LINKS {
            let mut bytes = [0; TRB as usize];
            if !memory.read(self.at, &mut bytes) {
                return Err(Broken);
            }
            let trb = Trb::parse(self.at, bytes);
            if trb.has(flag::CYCLE) != self.cycle {
                return Ok(None);
            }
            if trb.kind() != kind::LINK {
                self.at = self.at.wrapping_add(TRB);
                return Ok(Some(trb));
            }
            self.at = trb.parameter & !0xf;
            self.cycle ^= trb.has(flag::TOGGLE);
        }
        Err(Broken)
    }
}
