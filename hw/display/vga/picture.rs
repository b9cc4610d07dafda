//! What the registers make of memory: the kind of picture, its size, and where it lies.

use super::planes::PLANAR_SIZE;
use super::registers::Registers;
use super::registers::index::{attr, crtc, gfx, seq};

/// Sequencer clocking: characters are 8 dots wide rather than 9; dots are twice as long.
const EIGHT_DOTS: u8 = 0x01;
const HALF_CLOCK: u8 = 0x08;
/// Graphics mode: two bits of each plane at a time; all eight.
const INTERLEAVED: u8 = 0x20;
const PACKED: u8 = 0x40;
/// Graphics miscellaneous: no text.
const GRAPHICS: u8 = 0x01;
/// Attribute mode: ninth dots of line graphics; blinking; panning stops at line compare; palette bits
/// from the colour select register.
const LINE_GRAPHICS: u8 = 0x04;
const BLINK: u8 = 0x08;
const PANNING_COMPARES: u8 = 0x20;
const PALETTE_SELECT: u8 = 0x80;
/// CRTC mode: address bits 13 and 14 come from the address counter, not from the scan counter;
/// addresses count bytes.
const ADDRESS_13: u8 = 0x01;
const ADDRESS_14: u8 = 0x02;
const BYTE_MODE: u8 = 0x40;
/// CRTC scan lines: each line is shown twice.
const DOUBLE_SCAN: u8 = 0x80;
/// CRTC cursor start: there is none.
const CURSOR_OFF: u8 = 0x20;
/// The vertical total by which programs that make text characters two lines high, for 160x100 dots
/// of sixteen colours, are known.
const TEXT_DOTS_TOTAL: u8 = 100;

/// The cursor of a text screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextCursor {
    /// Its cell, counted from the address that the screen starts at; outside of the screen for none.
    pub cell: u32,
    /// First and last line in the cell.
    pub lines: (u8, u8),
}

/// A text screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    /// Cells in a row.
    pub columns: u32,
    /// Rows of cells.
    pub rows: u32,
    /// Size of a cell.
    pub cell: (u32, u32),
    /// Dots of a character are drawn twice.
    pub doubled: bool,
    /// Where the two fonts lie: for characters whose attribute has bit 3 clear, and set.
    pub fonts: [u32; 2],
    /// Line graphics go on into the ninth column.
    pub line_graphics: bool,
    /// Attribute bit 7 means blinking rather than a bright background.
    pub blink: bool,
    /// The line of a cell that underlined characters have their line at.
    pub underline: u8,
    /// The cursor, if it is shown.
    pub cursor: Option<TextCursor>,
}

/// How pixels of a line lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pixels {
    /// A bit in each of the planes; `mask` says which planes count.
    Planar {
        /// Planes that count.
        mask: u8,
    },
    /// Two bits of each of two pairs of planes.
    Interleaved {
        /// Planes that count.
        mask: u8,
    },
    /// A byte.
    Indexed,
    /// Five bits a colour.
    Rgb15,
    /// Five, six and five bits.
    Rgb16,
    /// A byte a colour.
    Rgb24,
    /// As many, and an unused one.
    Rgb32,
}

impl Pixels {
    /// Bytes that so many pixels take.
    pub fn bytes(self, count: u32) -> u32 {
        match self {
            // Eight dots are a byte in each of four planes.
            Pixels::Planar { .. } | Pixels::Interleaved { .. } => count.div_ceil(8) * 4,
            Pixels::Indexed => count,
            Pixels::Rgb15 | Pixels::Rgb16 => count * 2,
            Pixels::Rgb24 => count * 3,
            Pixels::Rgb32 => count * 4,
        }
    }
}

/// Lines of dots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Graphics {
    /// Pixels in a line, before doubling.
    pub width: u32,
    /// Lines that are shown.
    pub height: u32,
    /// How pixels lie.
    pub pixels: Pixels,
    /// Each pixel is two dots wide.
    pub doubled: bool,
    /// Lines that share an address of the address counter.
    pub scans: u32,
    /// Each of them is shown twice.
    pub double_scan: bool,
    /// Bits of the address, in bytes of memory, that come from the number of a line among these: from
    /// its lowest bit, and from the next.
    pub from_scan: [u32; 2],
    /// The line after which address 0 follows, and whether panning ends there.
    pub compare: (u32, bool),
    /// Pixels that are left out at the start of a line.
    pub panning: u32,
    /// Sixteen and more bits have their bytes the other way round.
    pub big_endian: bool,
}

/// Kinds of picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing is shown.
    Blank,
    /// Characters.
    Text(Text),
    /// Dots.
    Graphics(Graphics),
}

/// What is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// How.
    pub kind: Kind,
    /// Byte of memory that it starts at.
    pub start: u32,
    /// Bytes from line to line.
    pub pitch: u32,
    /// Memory repeats after so many bytes, a power of two.
    pub wrap: u32,
    /// Colours of the DAC.
    pub colors: Vec<u32>,
    /// Colours that the sixteen of planes and of text have.
    pub palette: [u32; 16],
}

impl Kind {
    fn without_cursor(self) -> Self {
        match self {
            Kind::Text(text) => Kind::Text(Text { cursor: None, ..text }),
            other => other,
        }
    }
}

impl Picture {
    /// Whether both show the same of the same memory, the text cursor aside.
    pub fn shows_as(&self, other: &Picture) -> bool {
        self.kind.without_cursor() == other.kind.without_cursor()
            && (self.start, self.pitch, self.wrap) == (other.start, other.pitch, other.wrap)
            && (self.palette, &self.colors) == (other.palette, &other.colors)
    }

    /// Size of the surface; `None` while there is nothing to be seen that has one.
    pub fn size(&self) -> Option<(u32, u32)> {
        match self.kind {
            Kind::Blank => None,
            Kind::Text(text) => Some((text.columns * text.cell.0, text.rows * text.cell.1)),
            Kind::Graphics(graphics) => {
                Some((graphics.width << u32::from(graphics.doubled), graphics.height))
            }
        }
    }
}

/// Where a picture lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Byte that it starts at.
    pub start: u32,
    /// Bytes from line to line.
    pub pitch: u32,
    /// Memory repeats after so many bytes, a power of two.
    pub wrap: u32,
}

impl Registers {
    /// What is shown of so much memory, if anything is: Bochs' extension has the first word.
    pub(super) fn vbe_picture(&self, memory: u32, on: bool, big_endian: bool) -> Picture {
        let memory = memory.next_power_of_two();
        let (vbe, start, pitch) = (&self.vbe, self.start_address() * 4, self.line_offset());
        if !on {
            self.picture(Kind::Blank, Layout { start, pitch, wrap: memory })
        } else if vbe.is_enabled() {
            let layout = Layout { start: vbe.start(), pitch: vbe.pitch(), wrap: memory };
            self.picture(Kind::Graphics(self.vbe_graphics(big_endian)), layout)
        } else {
            let wrap = PLANAR_SIZE.min(memory);
            self.picture(self.vga_kind(), Layout { start, pitch, wrap })
        }
    }

    /// A picture of this kind in the colours that there are.
    pub fn picture(&self, kind: Kind, Layout { start, pitch, wrap }: Layout) -> Picture {
        let colors = self.colors();
        let palette = self.palette(&colors);
        Picture { kind, start, pitch, wrap, colors, palette }
    }

    /// What a VGA without any extension shows.
    pub fn vga_kind(&self) -> Kind {
        match self.gfx[gfx::MISC] & GRAPHICS != 0 {
            true => Kind::Graphics(self.vga_graphics()),
            false => Kind::Text(self.text()),
        }
    }

    /// Bytes from line to line.
    fn line_offset(&self) -> u32 {
        u32::from(self.crtc[crtc::OFFSET]) << 3
    }

    fn colors(&self) -> Vec<u32> {
        let wide = self.vbe.has_wide_dac();
        let color = |index: u8| {
            let [red, green, blue] =
                self.dac[usize::from(index & self.dac_mask)].map(|level| match wide {
                    true => u32::from(level),
                    false => from_six_bits(level),
                });
            red << 16 | green << 8 | blue
        };
        (0..=255).map(color).collect()
    }

    /// The sixteen colours, through the palette of the attribute controller.
    fn palette(&self, colors: &[u32]) -> [u32; 16] {
        let select = self.attr[attr::COLOR_SELECT];
        std::array::from_fn(|index| {
            let color = self.attr[index];
            let number = if self.attr[attr::MODE] & PALETTE_SELECT != 0 {
                (select & 0x0f) << 4 | color & 0x0f
            } else {
                (select & 0x0c) << 4 | color & 0x3f
            };
            colors.get(usize::from(number)).copied().unwrap_or(0)
        })
    }

    /// Characters across.
    pub fn columns(&self) -> u32 {
        u32::from(self.crtc[crtc::DISPLAY_END]) + 1
    }

    fn text(&self) -> Text {
        let clocking = self.seq[seq::CLOCKING];
        let doubled = clocking & HALF_CLOCK != 0;
        let width = match (doubled, clocking & EIGHT_DOTS != 0) {
            (true, _) => 16,
            (false, true) => 8,
            (false, false) => 9,
        };
        let height = u32::from(self.crtc[crtc::SCAN_LINES] & 0x1f) + 1;
        let rows = if self.crtc[crtc::VERTICAL_TOTAL] == TEXT_DOTS_TOTAL {
            TEXT_DOTS_TOTAL.into()
        } else {
            (self.vertical_display_end() + 1) / height
        };
        let fonts = self.seq[seq::FONTS];
        // The bits of a font's number are not next to each other.
        let font =
            |low: u8, high: u32| u32::from(fonts >> low & 3) << 1 | u32::from(fonts) >> high & 1;
        let (start, end) = (self.crtc[crtc::CURSOR_START], self.crtc[crtc::CURSOR_END]);
        let cursor = TextCursor {
            cell: self.cursor_address().wrapping_sub(self.start_address()),
            lines: (start & 0x1f, end & 0x1f),
        };
        Text {
            columns: self.columns(),
            rows,
            cell: (width, height),
            doubled,
            fonts: [font(0, 4), font(2, 5)].map(|number| number * FONT_DISTANCE),
            line_graphics: self.attr[attr::MODE] & LINE_GRAPHICS != 0,
            blink: self.attr[attr::MODE] & BLINK != 0,
            underline: self.crtc[crtc::UNDERLINE] & 0x1f,
            cursor: (start & CURSOR_OFF == 0).then_some(cursor),
        }
    }

    fn vga_graphics(&self) -> Graphics {
        let dots = self.columns() * 8;
        let mask = self.attr[attr::PLANES] & 0x0f;
        let mode = self.gfx[gfx::MODE];
        let half = self.seq[seq::CLOCKING] & HALF_CLOCK != 0;
        let (pixels, width, doubled) = if mode & PACKED != 0 {
            (Pixels::Indexed, dots / 2, true)
        } else if mode & INTERLEAVED != 0 {
            (Pixels::Interleaved { mask }, dots, half)
        } else {
            (Pixels::Planar { mask }, dots, half)
        };
        self.graphics(pixels, width, doubled)
    }

    /// Lines of so many pixels, as the CRT controller sends them to the monitor.
    pub fn graphics(&self, pixels: Pixels, width: u32, doubled: bool) -> Graphics {
        let scan = self.crtc[crtc::SCAN_LINES];
        let addressing = self.crtc[crtc::MODE];
        // Output bits 13 and 14 of the address counter: the counter counts words unless told to count
        // bytes, and memory has four bytes at each address.
        let scan_bit = 1 << (14 + u32::from(addressing & BYTE_MODE != 0));
        let from_scan = [
            if addressing & ADDRESS_13 == 0 { scan_bit } else { 0 },
            if addressing & ADDRESS_14 == 0 { scan_bit << 1 } else { 0 },
        ];
        let panning = u32::from(self.attr[attr::PANNING] & 7);
        Graphics {
            width,
            height: self.vertical_display_end() + 1,
            pixels,
            doubled,
            scans: u32::from(scan & 0x1f) + 1,
            double_scan: scan & DOUBLE_SCAN != 0,
            from_scan,
            compare: (self.line_compare(), self.attr[attr::MODE] & PANNING_COMPARES != 0),
            panning: if matches!(pixels, Pixels::Indexed) { panning / 2 } else { panning },
            big_endian: false,
        }
    }

    fn vbe_graphics(&self, big_endian: bool) -> Graphics {
        let pixels = match self.vbe.depth {
            4 => Pixels::Planar { mask: self.attr[attr::PLANES] & 0x0f },
            15 => Pixels::Rgb15,
            16 => Pixels::Rgb16,
            24 => Pixels::Rgb24,
            32 => Pixels::Rgb32,
            _ => Pixels::Indexed,
        };
        Graphics {
            width: self.vbe.width.into(),
            height: self.vbe.height.into(),
            pixels,
            doubled: false,
            scans: 1,
            double_scan: false,
            from_scan: [0, 0],
            compare: (u32::MAX, false),
            panning: 0,
            big_endian,
        }
    }
}

/// Bytes of memory from one font to the next: 8 KiB of plane 2.
const FONT_DISTANCE: u32 = 0x8000;

/// A level of six bits: the lowest fills up the eight.
pub fn from_six_bits(level: u8) -> u32 {
    let level = u32::from(level & 0x3f);
    level << 2 | (level & 1) * 3
}
