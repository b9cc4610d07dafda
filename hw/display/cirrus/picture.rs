//! What the registers make of memory: pixels of up to four bytes, and a pointer over them.

use base::memory::RamBlock;

use super::registers::Registers;
use super::registers::index::{crtc, gfx, seq};
use crate::display::vga::picture::{Kind, Layout, Picture, Pixels};
use crate::display::vga::{Overlay, PLANAR_SIZE};

/// Extended mode: how many bytes a pixel has.
const PIXEL: u8 = 0x0e;
/// Graphics mode: pixels are bytes.
const BYTES: u8 = 0x40;
/// Hidden register of the DAC: the format of pixels of two bytes.
const FORMAT: u8 = 0x0f;
const FORMAT_565: u8 = 1;
/// Interlace control: the CRT controller counts the lines of a half picture.
const INTERLACED: u8 = 0x01;
/// Pointer attributes.
const CURSOR_ON: u8 = 0x01;
const CURSOR_LARGE: u8 = 0x04;
/// The pointers at the end of memory.
const CURSORS: u32 = 16 << 10;

impl Registers {
    /// What is shown of so much memory.
    pub fn picture(&self, memory: u32) -> Picture {
        let packed = self.is_packed() && self.vga.gfx[gfx::MODE] & BYTES != 0;
        let kind = match self.vga.screen_on() {
            false => Kind::Blank,
            true => match self.vga.vga_kind() {
                Kind::Graphics(vga) => {
                    let width = self.vga.columns() * 8;
                    let mut graphics = match packed {
                        true => self.vga.graphics(self.pixels(), width, false),
                        false => vga,
                    };
                    if self.vga.crtc[crtc::INTERLACE] & INTERLACED != 0 {
                        graphics.height *= 2;
                    }
                    Kind::Graphics(graphics)
                }
                text => text,
            },
        };
        let wrap = if packed { memory } else { memory.min(PLANAR_SIZE) };
        self.vga.picture(kind, Layout { start: self.start(), pitch: self.pitch(), wrap })
    }

    fn pixels(&self) -> Pixels {
        match self.seq[seq::EXTENDED_MODE] & PIXEL {
            2 | 6 if self.hidden_dac & FORMAT == FORMAT_565 => Pixels::Rgb16,
            2 | 6 => Pixels::Rgb15,
            4 => Pixels::Rgb24,
            8 => Pixels::Rgb32,
            _ => Pixels::Indexed,
        }
    }

    fn start(&self) -> u32 {
        let display = u32::from(self.vga.crtc[crtc::DISPLAY]);
        let overlay = u32::from(self.vga.crtc[crtc::OVERLAY]);
        let high = (display & 0x01) << 16 | (display & 0x0c) << 15 | (overlay & 0x80) << 12;
        (self.vga.start_address() | high) * 4
    }

    fn pitch(&self) -> u32 {
        let high = u32::from(self.vga.crtc[crtc::DISPLAY] & 0x10) << 4;
        (u32::from(self.vga.crtc[crate::display::vga::registers::index::crtc::OFFSET]) | high) << 3
    }

    /// The pointer, if there is one.
    pub fn overlay(&self, memory: &RamBlock) -> Option<Overlay> {
        let attributes = self.seq[seq::CURSOR_ATTRIBUTES];
        if attributes & CURSOR_ON == 0 {
            return None;
        }
        let pattern = u32::from(self.seq[seq::CURSOR_PATTERN]);
        let first = memory.len() as u32 - CURSORS;
        let (side, at) = match attributes & CURSOR_LARGE != 0 {
            true => (64, first + (pattern & 0x3c) * 256),
            false => (32, first + (pattern & 0x3f) * 256),
        };
        let mut bytes = vec![0; if side == 64 { 1024 } else { 256 }];
        memory.read(at.into(), &mut bytes);
        let word = |bytes: &[u8]| {
            bytes
                .iter()
                .enumerate()
                .fold(0, |word, (n, byte)| word | u64::from(*byte) << (56 - 8 * n))
        };
        // The large one has both bits of a line side by side, the small one one after the other.
        let lines = (0..side).map(|y| match side {
            64 => [word(&bytes[y * 16 + 8..][..8]), word(&bytes[y * 16..][..8])],
            _ => [word(&bytes[128 + y * 4..][..4]), word(&bytes[y * 4..][..4])],
        });
        Some(Overlay {
            x: self.cursor[0].into(),
            y: self.cursor[1].into(),
            side: side as u32,
            lines: lines.collect(),
            colors: [self.own_color(0), self.own_color(15)],
        })
    }
}
