//! The processor's ways to memory: two banks in the first megabyte, all of it behind a BAR, and write
//! modes that make pixels of bits (CL-GD5446 Technical Reference Manual, "Extended Write Modes" and
//! GR9 to GRB).

use base::memory::RamBlock;

use super::registers::Registers;
use super::registers::index::{gfx, seq};
use crate::display::vga::Place;

/// Extended mode: pixels are bytes or more, and memory is as it lies.
const PACKED: u8 = 0x01;
/// Mode extensions: each bank has its own offset; an address is one of eight bytes; there are write
/// modes 4 and 5; eight bytes are written at once; such an address is one of eight pixels of two bytes;
/// offsets are in units of 16 KiB rather than 4.
const TWO_BANKS: u8 = 0x01;
const BY_8: u8 = 0x02;
const WRITE_MODES: u8 = 0x04;
const BY_16: u8 = 0x10;
const LARGE_UNITS: u8 = 0x20;
/// Configuration: the blitter's registers are in memory; at the end of it, rather than at B8000h.
const REGISTERS: u8 = 0x04;
const REGISTERS_AT_END: u8 = 0x40;

/// Both banks, and each.
const BANKS_SIZE: u64 = 0x1_0000;
const BANK_SIZE: u32 = 0x8000;
/// Where in the window the blitter's registers are, and how many.
const WINDOW_REGISTERS: std::ops::Range<u64> = 0x1_8000..0x1_8100;
const REGISTERS_SIZE: u32 = 0x100;

/// What an address stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nothing.
    None,
    /// The memory of a VGA.
    Planes,
    /// Memory as it lies.
    Memory(u32),
    /// A register of the blitter.
    Register(u32),
}

impl Registers {
    /// Whether memory is seen as it lies.
    pub fn is_packed(&self) -> bool {
        self.seq[seq::EXTENDED_MODE] & PACKED != 0
    }

    /// What there is in the window of the first megabyte.
    pub fn in_window(&self, offset: u64, size: u32) -> Target {
        if !self.is_packed() {
            return Target::Planes;
        }
        let registers = self.seq[seq::CONFIGURATION] & (REGISTERS | REGISTERS_AT_END);
        match offset {
            0..BANKS_SIZE => self.banked(offset as u32, size).map_or(Target::None, Target::Memory),
            _ if WINDOW_REGISTERS.contains(&offset) && registers == REGISTERS => {
                Target::Register((offset - WINDOW_REGISTERS.start) as u32)
            }
            _ => Target::None,
        }
    }

    /// What there is behind the BAR.
    pub fn in_aperture(&self, offset: u64, size: u32) -> Target {
        let at = offset as u32 & (size - 1);
        let both = REGISTERS | REGISTERS_AT_END;
        if self.seq[seq::CONFIGURATION] & both == both && at >= size - REGISTERS_SIZE {
            return Target::Register(at - (size - REGISTERS_SIZE));
        }
        Target::Memory(self.scaled(at, size))
    }

    /// Where a bank begins in memory, and how much of it there is.
    fn bank(&self, bank: u32, size: u32) -> (u32, u32) {
        let extensions = self.gfx[gfx::MODE_EXTENSIONS];
        let two = extensions & TWO_BANKS != 0;
        let offset = self.gfx[if two && bank == 1 { gfx::OFFSET_1 } else { gfx::OFFSET_0 }];
        let unit = if extensions & LARGE_UNITS != 0 { 14 } else { 12 };
        let start = (u32::from(offset) << unit) + if two { 0 } else { bank * BANK_SIZE };
        (start, size.saturating_sub(start).min(BANK_SIZE))
    }

    fn banked(&self, offset: u32, size: u32) -> Option<u32> {
        let (start, len) = self.bank(offset / BANK_SIZE, size);
        let inside = offset % BANK_SIZE;
        (inside < len).then(|| self.scaled(start + inside, size))
    }

    /// The place that an address stands for, where each is of several pixels.
    fn scaled(&self, at: u32, size: u32) -> u32 {
        let extensions = self.gfx[gfx::MODE_EXTENSIONS];
        let shift = match (extensions & BY_8 != 0, extensions & (BY_16 | WRITE_MODES)) {
            (_, both) if both == BY_16 | WRITE_MODES => 4,
            (true, _) => 3,
            (false, _) => 0,
        };
        (at << shift) & (size - 1)
    }

    /// Whether stores do more than to store.
    fn is_special(&self) -> bool {
        let extensions = self.gfx[gfx::MODE_EXTENSIONS];
        let by_16 = BY_16 | WRITE_MODES;
        extensions & BY_8 != 0
            || extensions & by_16 == by_16
            || extensions & WRITE_MODES != 0 && matches!(self.gfx[gfx::MODE] & 7, 4 | 5)
    }

    /// Where the window of the first megabyte shows memory as it lies.
    pub fn direct_window(&self, size: u32) -> Vec<Place> {
        if !self.is_packed() {
            return self.vga.direct_window().into_iter().collect();
        }
        if self.is_special() {
            return Vec::new();
        }
        let banks = [0, 1].map(|bank| {
            let (start, len) = self.bank(bank, size);
            (u64::from(bank * BANK_SIZE), u64::from(start), u64::from(len))
        });
        banks.into_iter().filter(|(_, _, len)| *len > 0).collect()
    }

    /// Where the aperture does.
    pub fn direct_aperture(&self, size: u32) -> Option<Place> {
        let both = REGISTERS | REGISTERS_AT_END;
        let registers = self.seq[seq::CONFIGURATION] & both == both;
        (!registers && !self.is_special()).then_some((0, 0, size.into()))
    }

    /// The processor stores a byte.
    pub fn store(&self, memory: &RamBlock, at: u32, value: u8) {
        let mode = self.gfx[gfx::MODE] & 7;
        let extensions = self.gfx[gfx::MODE_EXTENSIONS];
        if extensions & WRITE_MODES == 0 || !matches!(mode, 4 | 5) {
            return memory.write(at.into(), &[value]);
        }
        let wide = extensions & BY_16 != 0;
        let color = |low: usize, high: usize| [self.gfx[low], self.gfx[high]];
        let foreground = color(gfx::ENABLE_SET_RESET, 0x11);
        let background = color(gfx::SET_RESET, 0x10);
        let pixel = if wide { 2 } else { 1 };
        for bit in 0..8_u32 {
            let color = match (value >> (7 - bit) & 1 != 0, mode) {
                (true, _) => foreground,
                (false, 5) => background,
                (false, _) => continue,
            };
            let at = u64::from(at + bit * pixel) % memory.len();
            memory.write(at, &color[..pixel as usize]);
        }
    }
}
