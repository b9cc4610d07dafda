//! Where things go below 640 KiB: above the BIOS data area; the top is left to the kernel's trampolines.

use std::ops::Range;

use super::pvh::Parts;
use super::{BootError, PAGE};

/// Global descriptor table.
pub const GDT: u64 = 0x500;
/// Linux boot parameters, or the information structure of PVH and Multiboot.
pub const PARAMETERS: u64 = 0x7000;
/// Page tables.
pub const PAGE_TABLES: u64 = 0x9000;
/// Linux real-mode code.
pub const REAL_MODE: u64 = 0x1_0000;
/// Command line and other text.
pub const TEXT: u64 = 0x2_0000;
/// End of what we use.
pub const END: u64 = 0x9_0000;

/// Low memory that a kernel leaves free. Most have none of themselves there, but one that runs in real mode has.
pub struct Free {
    taken: Vec<Range<u64>>,
}

impl Free {
    /// What is free beside an image.
    pub fn beside(parts: &Parts) -> Free {
        let written = parts.writes.iter().map(|(at, data)| *at..*at + data.len() as u64);
        let cleared = parts.clears.iter().map(|&(at, length)| at..at + length);
        Free { taken: written.chain(cleared).collect() }
    }

    /// A place for `length` bytes: the usual one, or else the first page from which on there is room.
    pub fn take(&mut self, usual: u64, length: u64) -> Result<u64, BootError> {
        let pages = (PAGE..END).step_by(PAGE as usize);
        let place = std::iter::once(usual).chain(pages).find(|&at| {
            let wanted = at..at.saturating_add(length);
            let meets = |taken: &Range<u64>| taken.start < wanted.end && wanted.start < taken.end;
            wanted.end <= END && !self.taken.iter().any(meets)
        });
        let at = place.ok_or(BootError::NoLowMemory { need: length })?;
        self.taken.push(at..at + length);
        Ok(at)
    }
}
