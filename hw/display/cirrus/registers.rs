//! The registers beyond those of a VGA, and the ports that reach all of them (CL-GD5446 Technical
//! Reference Manual, "Extended Registers").

use base::state::State;

use crate::display::vga::picture::from_six_bits;
use crate::display::vga::registers::Registers as VgaRegisters;

use super::blitter::{self, Trigger};

/// Indexed registers by their names in the manual.
#[allow(missing_docs)]
pub mod index {
    pub mod seq {
        pub const UNLOCK: usize = 0x06;
        pub const EXTENDED_MODE: usize = 0x07;
        pub const CURSOR_X: u8 = 0x10;
        pub const CURSOR_Y: u8 = 0x11;
        pub const CURSOR_ATTRIBUTES: usize = 0x12;
        pub const CURSOR_PATTERN: usize = 0x13;
        pub const CONFIGURATION: usize = 0x17;
    }
    pub mod gfx {
        pub const SET_RESET: usize = 0x00;
        pub const ENABLE_SET_RESET: usize = 0x01;
        pub const MODE: usize = 0x05;
        pub const OFFSET_0: usize = 0x09;
        pub const OFFSET_1: usize = 0x0a;
        pub const MODE_EXTENSIONS: usize = 0x0b;
        pub const STATUS: usize = 0x18;
    }
    pub mod crtc {
        pub const INTERLACE: usize = 0x1a;
        pub const DISPLAY: usize = 0x1b;
        pub const OVERLAY: usize = 0x1d;
        pub const LATCH: u8 = 0x22;
        pub const ATTRIBUTE_TOGGLE: u8 = 0x24;
        pub const PART_STATUS: u8 = 0x25;
        pub const ATTRIBUTE_INDEX: u8 = 0x26;
        pub const ID: u8 = 0x27;
    }
}

use index::{crtc, gfx, seq};

/// What unlocks the extended registers, what tells that they are, and that they are not.
const KEY: u8 = 0x12;
const KEY_BITS: u8 = 0x17;
const LOCKED: u8 = 0x0f;
/// The first extended registers of each block.
const SEQ_FIRST: usize = 5;
const GFX_FIRST: usize = 9;
const CRTC_FIRST: u8 = 0x19;
/// How many registers of each block there are.
const SEQ_COUNT: usize = 0x20;
const GFX_COUNT: usize = 0x3a;
/// The part of a sequencer index that selects a register; of those of the pointer's place, the rest are
/// the lowest bits of it.
const SEQ_INDEX: u8 = 0x1f;
/// Reads of the DAC's mask after which the next access is to the hidden register.
const HIDDEN_READS: u8 = 4;
/// Pointer attributes: the DAC's port reaches colours of its own.
const OWN_COLORS: u8 = 0x02;
/// Configuration: what bus there is, which cannot be changed.
const BUS: u8 = 0x38;
const PCI: u8 = 0x20;
/// A CL-GD5446.
const CHIP: u8 = 0xb8;

/// The registers.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(reset)]
pub struct Registers {
    /// Those of a VGA.
    pub vga: VgaRegisters,
    seq_index: u8,
    /// Sequencer, from 5.
    #[state(reset = SEQ_RESET)]
    pub seq: [u8; SEQ_COUNT],
    gfx_index: u8,
    /// Graphics controller, from 9, and the first two with all their bits.
    #[state(reset = GFX_RESET)]
    pub gfx: [u8; GFX_COUNT],
    crtc_index: u8,
    /// The pointer's place.
    pub cursor: [u16; 2],
    /// Colours beyond the palette's: the pointer's are the first and the last.
    pub cursor_colors: [[u8; 3]; 16],
    /// The hidden register of the DAC.
    pub hidden_dac: u8,
    hidden_reads: u8,
}

/// After power-up: PCI, 4 MiB of memory.
const SEQ_RESET: [u8; SEQ_COUNT] = {
    let mut seq = [0; SEQ_COUNT];
    seq[seq::UNLOCK] = LOCKED;
    // 32 bits of DRAM; 4 MiB; PCI; the memory clock.
    seq[0x0f] = 0x98;
    seq[0x15] = 0x04;
    seq[seq::CONFIGURATION] = PCI;
    seq[0x1f] = 0x2d;
    seq
};

const GFX_RESET: [u8; GFX_COUNT] = {
    let mut gfx = [0; GFX_COUNT];
    gfx[gfx::STATUS] = 0x0f;
    gfx
};

/// Those of the graphics mode: there are more write modes than a VGA's.
const MODE_BITS: u8 = 0x7f;
/// Bits that hold what is written.
#[rustfmt::skip]
const GFX_BITS: [u8; GFX_COUNT] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0xff, 0x1f, 0xff, 0x1f, 0xff, 0x1f, 0xff, 0x1f, 0xff, 0xff, 0x3f, 0, 0xff, 0xff, 0x3f, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff,
];

/// What becomes of a write beyond the register itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The processor's windows to memory may be others.
    Window,
    /// The blitter is to do something.
    Blitter(Trigger),
}

impl Registers {
    /// The guest reads a port.
    pub fn read(&mut self, port: u16) -> u8 {
        if !self.vga.answers(port) {
            return 0xff;
        }
        match port {
            0x3c4 => self.seq_index,
            0x3c5 => self.read_seq(),
            0x3c6 => self.read_mask(),
            0x3c9 => {
                let (index, step) = self.vga.next_read();
                match self.has_own_colors() {
                    true => self.cursor_colors[usize::from(index & 15)][step],
                    false => self.vga.dac[usize::from(index)][step],
                }
            }
            0x3ce => self.gfx_index,
            0x3cf => self.read_gfx(self.gfx_index.into()),
            0x3b5 | 0x3d5 if self.crtc_index >= CRTC_FIRST => self.read_crtc(),
            _ => self.vga.read(port),
        }
    }

    /// The guest writes a port.
    pub fn write(&mut self, port: u16, value: u8) -> Effect {
        if !self.vga.answers(port) {
            return Effect::None;
        }
        match port {
            0x3c4 => {
                self.seq_index = value;
                self.vga.write(port, value);
            }
            0x3c5 => return self.write_seq(value),
            0x3c6 => self.write_mask(value),
            0x3c9 => {
                if let Some((index, color)) = self.vga.next_written(value) {
                    match self.has_own_colors() {
                        true => self.cursor_colors[usize::from(index & 15)] = color,
                        false => self.vga.dac[usize::from(index)] = color,
                    }
                }
            }
            0x3ce => {
                self.gfx_index = value;
                self.vga.write(port, value);
            }
            0x3cf => return self.write_gfx(self.gfx_index.into(), value),
            0x3b4 | 0x3d4 => {
                self.crtc_index = value;
                self.vga.write(port, value);
            }
            0x3b5 | 0x3d5 if self.crtc_index >= CRTC_FIRST => self.write_crtc(value),
            _ => {
                self.vga.write(port, value);
            }
        }
        Effect::None
    }

    fn read_seq(&mut self) -> u8 {
        match usize::from(self.seq_index & SEQ_INDEX) {
            index @ ..SEQ_FIRST => self.vga.seq[index],
            index => self.seq[index],
        }
    }

    fn write_seq(&mut self, value: u8) -> Effect {
        let index = self.seq_index & SEQ_INDEX;
        match usize::from(index) {
            ..SEQ_FIRST => {
                self.vga.write(0x3c5, value);
            }
            seq::UNLOCK => {
                let unlocked = value & KEY_BITS == KEY;
                self.seq[seq::UNLOCK] = if unlocked { KEY } else { LOCKED };
            }
            SEQ_FIRST => {}
            seq::CONFIGURATION => {
                let fixed = self.seq[seq::CONFIGURATION] & BUS;
                self.seq[seq::CONFIGURATION] = value & !BUS | fixed;
            }
            at => match index {
                seq::CURSOR_X | seq::CURSOR_Y => {
                    let place = u16::from(value) << 3 | u16::from(self.seq_index >> 5);
                    self.cursor[usize::from(index - seq::CURSOR_X)] = place;
                    self.seq[at] = value;
                }
                _ => self.seq[at] = value,
            },
        }
        Effect::Window
    }

    fn has_own_colors(&self) -> bool {
        self.seq[seq::CURSOR_ATTRIBUTES] & OWN_COLORS != 0
    }

    /// A colour beyond the palette's.
    pub fn own_color(&self, index: usize) -> u32 {
        let levels = self.cursor_colors[index & 15].map(from_six_bits);
        levels.into_iter().fold(0, |color, level| color << 8 | level)
    }

    /// The register behind the DAC's mask shows after the mask was read four times.
    fn read_mask(&mut self) -> u8 {
        if self.hidden_reads == HIDDEN_READS {
            self.hidden_reads = 0;
            return self.hidden_dac;
        }
        self.hidden_reads += 1;
        self.vga.dac_mask
    }

    fn write_mask(&mut self, value: u8) {
        if std::mem::take(&mut self.hidden_reads) == HIDDEN_READS {
            self.hidden_dac = value;
        } else {
            self.vga.dac_mask = value;
        }
    }

    /// A register of the graphics controller.
    pub fn read_gfx(&self, index: usize) -> u8 {
        match index {
            gfx::SET_RESET | gfx::ENABLE_SET_RESET | gfx::MODE | GFX_FIRST..GFX_COUNT => {
                self.gfx[index]
            }
            ..GFX_FIRST => self.vga.gfx[index],
            _ => 0xff,
        }
    }

    /// Sets a register of the graphics controller.
    pub fn write_gfx(&mut self, index: usize, value: u8) -> Effect {
        match index {
            ..GFX_FIRST => {
                self.gfx[index] = value & if index == gfx::MODE { MODE_BITS } else { 0xff };
                self.vga.write(0x3ce, index as u8);
                self.vga.write(0x3cf, value);
                self.vga.write(0x3ce, self.gfx_index);
                Effect::Window
            }
            GFX_FIRST..GFX_COUNT => {
                let old = self.gfx[index];
                self.gfx[index] = value & GFX_BITS[index];
                match index {
                    gfx::STATUS => {
                        self.gfx[index] = old;
                        Effect::None
                    }
                    gfx::OFFSET_0 | gfx::OFFSET_1 | gfx::MODE_EXTENSIONS => Effect::Window,
                    _ => blitter::written(&self.gfx, index, old),
                }
            }
            _ => Effect::None,
        }
    }

    fn read_crtc(&mut self) -> u8 {
        match self.crtc_index {
            crtc::ATTRIBUTE_TOGGLE => u8::from(self.vga.expects_attribute()) << 7,
            crtc::ATTRIBUTE_INDEX => self.vga.attribute_index(),
            crtc::ID => CHIP,
            index @ (CRTC_FIRST..=0x1d | crtc::LATCH | crtc::PART_STATUS) => {
                self.vga.crtc[usize::from(index)]
            }
            _ => 0xff,
        }
    }

    fn write_crtc(&mut self, value: u8) {
        if let CRTC_FIRST..=0x1d = self.crtc_index {
            self.vga.crtc[usize::from(self.crtc_index)] = value;
        }
    }
}
