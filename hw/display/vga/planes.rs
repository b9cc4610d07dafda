//! Access to the four planes of memory through the window of the first megabyte.
//!
//! Byte `n` of plane `p` is byte `4 * n + p` of the adapter's memory, so that chained access, which
//! takes the plane from the lowest bits of the address, reaches memory as it lies.

use base::memory::RamBlock;

use super::registers::Registers;
use super::registers::index::gfx;

/// What planes reach: 64 KiB each.
pub const PLANAR_SIZE: u32 = 0x4_0000;
/// What the window covers at most, and where it begins.
pub const WINDOW_SIZE: u64 = 0x2_0000;
/// Where the window begins.
pub const WINDOW_START: u64 = 0xa_0000;

/// Sequencer memory mode: planes are chained; even addresses are not the even planes'.
const CHAIN_4: u8 = 0x08;
const SEQUENTIAL: u8 = 0x04;
/// Graphics mode: reads compare colours; reads alternate between planes.
const READ_COMPARE: u8 = 0x08;
const READ_ODD_EVEN: u8 = 0x10;
/// Graphics miscellaneous: the lowest address bit selects the plane.
const CHAIN_ODD_EVEN: u8 = 0x02;

/// The part of the window that answers: offset from its start, and size.
pub fn decoded(misc: u8) -> (u64, u64) {
    match misc >> 2 & 3 {
        0 => (0, 0x2_0000),
        1 => (0, 0x1_0000),
        2 => (0x1_0000, 0x8000),
        _ => (0x1_8000, 0x8000),
    }
}

/// All bits of the planes in a mask.
fn spread(mask: u8) -> u32 {
    const SPREAD: [u32; 16] = {
        let mut table = [0; 16];
        let mut mask = 0;
        while mask < 16 {
            let m = mask as u32;
            let low = (m & 1) * 0xff | (m >> 1 & 1) * 0xff00;
            table[mask] = low | (m >> 2 & 1) * 0xff_0000 | (m >> 3 & 1) * 0xff00_0000;
            mask += 1;
        }
        table
    };
    SPREAD[usize::from(mask & 15)]
}

/// A byte for each plane.
fn repeat(byte: u8) -> u32 {
    u32::from_ne_bytes([byte; 4])
}

impl Registers {
    /// The part of memory that the window shows as it lies, if it does: offset in the window, offset in
    /// memory, size.
    pub fn direct_window(&self) -> Option<(u64, u64, u64)> {
        let (mask, mode) = self.memory_access();
        let (at, size) = decoded(self.gfx[gfx::MISC]);
        let direct = mode & CHAIN_4 != 0 && mask == 0x0f;
        direct.then_some((at, self.vbe.bank_start.into(), size))
    }

    fn offset(&self, window: u64) -> Option<u32> {
        let (at, size) = decoded(self.gfx[gfx::MISC]);
        let offset = window.checked_sub(at).filter(|&offset| offset < size)?;
        Some(offset as u32 + self.vbe.bank_start)
    }

    /// The guest reads a byte of the window.
    pub fn read_memory(&mut self, memory: &RamBlock, window: u64) -> u8 {
        let Some(mut offset) = self.offset(window) else { return 0xff };
        if self.memory_access().1 & CHAIN_4 != 0 {
            return memory.read_uint(offset.into(), 1) as u8;
        }
        let mut plane = self.gfx[gfx::READ_MAP];
        if self.gfx[gfx::MODE] & READ_ODD_EVEN != 0 {
            plane = plane & 2 | offset as u8 & 1;
            offset >>= 1;
        } else if self.gfx[gfx::MISC] & CHAIN_ODD_EVEN != 0 {
            offset &= !1;
        }
        self.latch = memory.read_uint((offset * 4 % PLANAR_SIZE).into(), 4) as u32;
        if self.gfx[gfx::MODE] & READ_COMPARE == 0 {
            return (self.latch >> (8 * (plane & 3))) as u8;
        }
        let color = spread(self.gfx[gfx::COLOR_COMPARE]);
        let differs = (self.latch ^ color) & spread(self.gfx[gfx::COLOR_DONT_CARE]);
        !differs.to_ne_bytes().into_iter().fold(0, |all, plane| all | plane)
    }

    /// The guest writes a byte of the window.
    pub fn write_memory(&mut self, memory: &RamBlock, window: u64, value: u8) {
        let Some(mut offset) = self.offset(window) else { return };
        let (mut mask, mode) = self.memory_access();
        if mode & CHAIN_4 != 0 {
            if mask >> (offset & 3) & 1 != 0 {
                memory.write_uint(offset.into(), 1, value.into());
            }
            return;
        }
        if mode & SEQUENTIAL == 0 {
            mask &= if offset & 1 == 0 { 0b0101 } else { 0b1010 };
            offset >>= 1;
        } else if self.gfx[gfx::MISC] & CHAIN_ODD_EVEN != 0 {
            offset &= !1;
        }
        let at = u64::from(offset * 4 % PLANAR_SIZE);
        let planes = spread(mask);
        let new = self.combine(value);
        if planes == u32::MAX {
            memory.write_uint(at, 4, new.into());
        } else {
            let old = memory.read_uint(at, 4) as u32;
            memory.write_uint(at, 4, (old & !planes | new & planes).into());
        }
    }

    /// What the write mode makes of a byte, for all planes.
    fn combine(&self, value: u8) -> u32 {
        let gfx = &self.gfx;
        let bit_mask = repeat(gfx[gfx::BIT_MASK]);
        let rotated = value.rotate_right((gfx[gfx::ROTATE] & 7).into());
        let (data, bit_mask) = match gfx[gfx::MODE] & 3 {
            0 => {
                let fixed = spread(gfx[gfx::ENABLE_SET_RESET]);
                (repeat(rotated) & !fixed | spread(gfx[gfx::SET_RESET]) & fixed, bit_mask)
            }
            1 => return self.latch,
            2 => (spread(value), bit_mask),
            _ => (spread(gfx[gfx::SET_RESET]), bit_mask & repeat(rotated)),
        };
        let data = match gfx[gfx::ROTATE] >> 3 & 3 {
            0 => data,
            1 => data & self.latch,
            2 => data | self.latch,
            _ => data ^ self.latch,
        };
        data & bit_mask | self.latch & !bit_mask
    }
}
