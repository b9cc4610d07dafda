//! The blitter: copies, fills, patterns and colour expansion by raster operation (CL-GD5446 Technical
//! Reference Manual, "BitBLT Engine").
//!
//! A [`Blit`] is one operation, decoded from the registers. Bytes of its rows come from memory, from a
//! pattern in memory, from bits in memory, or from the processor, who writes them to any of the
//! adapter's windows.

use base::memory::RamBlock;

use super::registers::Effect;

/// Registers, among those of the graphics controller.
mod index {
    pub const WIDTH: usize = 0x20;
    pub const HEIGHT: usize = 0x22;
    pub const TO_PITCH: usize = 0x24;
    pub const FROM_PITCH: usize = 0x26;
    pub const TO: usize = 0x28;
    pub const FROM: usize = 0x2c;
    pub const LEFT: usize = 0x2f;
    pub const MODE: usize = 0x30;
    pub const START: usize = 0x31;
    pub const OPERATION: usize = 0x32;
    pub const EXTENSIONS: usize = 0x33;
    pub const KEY: usize = 0x34;
    /// Bytes of the background's colour, and the foreground's.
    pub const BACKGROUND: [usize; 4] = [0x00, 0x10, 0x12, 0x14];
    pub const FOREGROUND: [usize; 4] = [0x01, 0x11, 0x13, 0x15];
}

/// Mode.
mod mode {
    pub const BACKWARDS: u8 = 0x01;
    pub const TO_SYSTEM: u8 = 0x02;
    pub const FROM_SYSTEM: u8 = 0x04;
    pub const TRANSPARENT: u8 = 0x08;
    pub const PIXEL: u32 = 4;
    pub const PATTERN: u8 = 0x40;
    pub const EXPAND: u8 = 0x80;
}

/// Mode extensions.
mod extension {
    pub const DWORDS: u8 = 0x01;
    pub const INVERT: u8 = 0x02;
    pub const SOLID: u8 = 0x04;
}

/// Start and status.
mod start {
    pub const BUSY: u8 = 0x01;
    pub const START: u8 = 0x02;
    pub const RESET: u8 = 0x04;
    pub const BUFFERED: u8 = 0x10;
    pub const AUTOMATIC: u8 = 0x80;
}

/// Lines, and dots in a line, of a pattern.
const PATTERN: u32 = 8;

/// What the blitter is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Begin.
    Start,
    /// Stop.
    Reset,
}

/// A register of the blitter was written; `old` is what it was.
pub fn written(gfx: &[u8], at: usize, old: u8) -> Effect {
    let value = gfx[at];
    let started = match at {
        0x2a => gfx[index::START] & start::AUTOMATIC != 0,
        index::START => value & start::START & !old != 0,
        _ => false,
    };
    let reset = at == index::START && old & start::RESET & !value != 0;
    match (reset, started) {
        (true, _) => Effect::Blitter(Trigger::Reset),
        (false, true) => Effect::Blitter(Trigger::Start),
        (false, false) => Effect::None,
    }
}

/// Shows in the status register whether an operation is under way.
pub fn set_busy(gfx: &mut [u8], busy: bool) {
    match busy {
        true => gfx[index::START] |= start::BUSY,
        false => gfx[index::START] &= !(start::BUSY | start::START | start::BUFFERED),
    }
}

/// Raster operations by their codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raster(u8);

impl Raster {
    /// The operation of a code.
    pub fn of(code: u8) -> Self {
        Raster(code)
    }

    /// Of source and destination.
    pub fn apply(self, s: u8, d: u8) -> u8 {
        match self.0 {
            0x00 => 0,
            0x05 => s & d,
            0x06 => d,
            0x09 => s & !d,
            0x0b => !d,
            0x0d => s,
            0x0e => 0xff,
            0x50 => !s & d,
            0x59 => s ^ d,
            0x6d => s | d,
            0x90 => !s & !d,
            0x95 => !(s ^ d),
            0xad => s | !d,
            0xd0 => !s,
            0xd6 => !s | d,
            0xda => !s | !d,
            // Other codes do nothing.
            _ => d,
        }
    }

    fn is_copy(self) -> bool {
        self.0 == 0x0d
    }
}

/// Where the bytes of a row come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The foreground's colour.
    Solid,
    /// Bytes.
    Bytes,
    /// Bits that select between two colours.
    Bits,
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blit {
    /// Bytes of a row.
    width: u32,
    height: u32,
    to: u32,
    to_pitch: u32,
    from: u32,
    from_pitch: u32,
    /// Addresses fall.
    backwards: bool,
    /// The processor sends what is to be drawn.
    from_system: bool,
    /// It is eight lines that repeat.
    pattern: bool,
    source: Source,
    /// Bytes of a pixel.
    pixel: u32,
    raster: Raster,
    /// Pixels that are not to be changed: of this colour, or of bits that are clear.
    transparent: bool,
    key: [u8; 2],
    foreground: [u8; 4],
    background: [u8; 4],
    /// Of bits, those that are set mean what is not to be changed, and others the background.
    invert: bool,
    /// Lines of bits from the processor end at double words.
    dwords: bool,
    /// Bytes that are left out at the start of each row.
    skip: usize,
}

impl Blit {
    /// The operation that the registers describe, if it is one that there is.
    pub fn decode(gfx: &[u8]) -> Option<Self> {
        let word = |at: usize| u32::from(gfx[at]) | u32::from(gfx[at + 1]) << 8;
        let address = |at: usize| word(at) | u32::from(gfx[at + 2]) << 16;
        let (mode, extensions) = (gfx[index::MODE], gfx[index::EXTENSIONS]);
        let pattern = mode & mode::PATTERN != 0;
        let expand = mode & mode::EXPAND != 0;
        if mode & mode::TO_SYSTEM != 0 {
            return None;
        }
        let pixel = u32::from(mode >> mode::PIXEL & 3) + 1;
        let transparent = mode & mode::TRANSPARENT != 0;
        let solid = pattern && !transparent && extensions & extension::SOLID != 0;
        let source = match expand {
            true if solid => Source::Solid,
            true => Source::Bits,
            false => Source::Bytes,
        };
        let left = usize::from(gfx[index::LEFT]);
        Some(Blit {
            width: (word(index::WIDTH) & 0x1fff) + 1,
            height: (word(index::HEIGHT) & 0x7ff) + 1,
            to: address(index::TO),
            to_pitch: word(index::TO_PITCH) & 0x1fff,
            from: address(index::FROM),
            from_pitch: word(index::FROM_PITCH) & 0x1fff,
            backwards: mode & mode::BACKWARDS != 0,
            from_system: mode & mode::FROM_SYSTEM != 0,
            pattern,
            source,
            pixel,
            raster: Raster::of(gfx[index::OPERATION]),
            transparent,
            key: [gfx[index::KEY], gfx[index::KEY + 1]],
            foreground: index::FOREGROUND.map(|at| gfx[at]),
            background: index::BACKGROUND.map(|at| gfx[at]),
            invert: transparent && extensions & extension::INVERT != 0,
            dwords: extensions & extension::DWORDS != 0,
            skip: match (source, pattern) {
                (Source::Solid, _) | (Source::Bytes, false) => 0,
                _ if pixel == 3 => left & 0x1f,
                _ => (left & 7) * pixel as usize,
            },
        })
    }

    /// Bytes that the processor has to send, for one line and how often; `None` if all is in memory.
    pub fn expects(&self) -> Option<(usize, u32)> {
        if !self.from_system || self.source == Source::Solid {
            return None;
        }
        if self.pattern {
            return Some((self.pattern_size() as usize, 1));
        }
        let len = match self.source {
            Source::Bits => match self.dwords {
                true => self.bits().div_ceil(32) * 4,
                false => self.bits().div_ceil(8),
            },
            _ => self.width.next_multiple_of(4),
        };
        Some((len as usize, self.height))
    }

    /// Whether what the processor sends is a pattern.
    pub fn is_pattern(&self) -> bool {
        self.pattern
    }

    fn bits(&self) -> u32 {
        self.width.div_ceil(self.pixel)
    }

    /// Bytes of a pattern, and of each of its lines.
    fn pattern_size(&self) -> u32 {
        self.pattern_line() * PATTERN
    }

    fn pattern_line(&self) -> u32 {
        match self.source {
            Source::Bytes => PATTERN * if self.pixel == 3 { 4 } else { self.pixel },
            _ => 1,
        }
    }

    /// Does it, where all is in memory.
    pub fn run(&self, memory: &RamBlock) {
        if self.pattern || self.source == Source::Solid {
            let mut pattern = vec![0; self.pattern_size() as usize];
            let first = self.from & !(self.pattern_size() - 1);
            let base = Cells { memory, first, backwards: false };
            base.read(0, &mut pattern);
            return self.run_pattern(memory, &pattern);
        }
        let mut from = self.from;
        let mut line = Vec::new();
        for y in 0..self.height {
            match self.source {
                Source::Bits => {
                    line.resize(self.bits().div_ceil(8) as usize, 0);
                    Cells { memory, first: from, backwards: false }.read(0, &mut line);
                    from = from.wrapping_add(line.len() as u32);
                    self.draw_line(memory, y, &line);
                }
                _ => {
                    let first = self.row(self.from, self.from_pitch, y);
                    let source = Cells { memory, first, backwards: self.backwards };
                    self.copy(&source, &self.target(memory, y));
                }
            }
        }
    }

    /// Fills with a pattern that the processor has sent, or that was read from memory.
    pub fn run_pattern(&self, memory: &RamBlock, pattern: &[u8]) {
        let len = self.pattern_line() as usize;
        for y in 0..self.height {
            let line = ((self.from + y) % PATTERN) as usize * len;
            let line = pattern.get(line..line + len).unwrap_or_default();
            self.draw_line(memory, y, line);
        }
    }

    /// Draws row `y` of what a line in the processor's or the pattern's form says.
    pub fn draw_line(&self, memory: &RamBlock, y: u32, line: &[u8]) {
        let width = self.width as usize;
        let mut bytes = vec![0; width];
        let mut covered = vec![true; width];
        let pixel = self.pixel as usize;
        match self.source {
            Source::Solid => {
                for (byte, color) in bytes.iter_mut().zip(self.foreground[..pixel].iter().cycle()) {
                    *byte = *color;
                }
            }
            Source::Bits => {
                for (n, (byte, covered)) in bytes.iter_mut().zip(&mut covered).enumerate() {
                    let (dot, part) = (n / pixel, n % pixel);
                    let dot = if self.pattern { dot % PATTERN as usize } else { dot };
                    let bits = line.get(dot / 8).copied().unwrap_or(0);
                    let set = (bits >> (7 - dot % 8) & 1 != 0) != self.invert;
                    let front = set != self.invert;
                    *byte = if front { self.foreground[part] } else { self.background[part] };
                    *covered = set || !self.transparent;
                }
            }
            Source::Bytes => {
                let period = match self.pattern {
                    true => PATTERN as usize * pixel,
                    false => width,
                };
                for (n, byte) in bytes.iter_mut().enumerate() {
                    *byte = line.get(n % period).copied().unwrap_or(0);
                }
            }
        }
        covered.iter_mut().take(self.skip).for_each(|covered| *covered = false);
        let target = self.target(memory, y);
        let mut old = vec![0; width];
        target.read(0, &mut old);
        for (new, &old) in bytes.iter_mut().zip(&old) {
            *new = self.raster.apply(*new, old);
        }
        // Patterns are not compared.
        if self.source == Source::Bytes && self.transparent && !self.pattern {
            self.leave_key(&bytes, &mut covered);
        }
        for ((new, old), covered) in bytes.iter_mut().zip(&old).zip(&covered) {
            if !covered {
                *new = *old;
            }
        }
        target.write(0, &bytes);
    }

    /// Takes out pixels that have the colour that means nothing. Larger ones than of two bytes are not
    /// compared, nor drawn.
    fn leave_key(&self, bytes: &[u8], covered: &mut [bool]) {
        let [low, high] = self.key;
        let key = if self.backwards { [high, low] } else { [low, high] };
        for (pixel, covered) in bytes.chunks(2).zip(covered.chunks_mut(2)) {
            match self.pixel {
                1 => pixel.iter().zip(covered).for_each(|(byte, covered)| *covered &= *byte != low),
                2 if *pixel == key => covered.fill(false),
                2 => {}
                _ => covered.fill(false),
            }
        }
    }

    /// Copies a row of memory. Each byte is read when those before it have been written.
    fn copy(&self, from: &Cells<'_>, to: &Cells<'_>) {
        let step = match from.distance(to) {
            0 => self.width,
            distance => self.width.min(distance),
        };
        // Pixels that are compared are read and written as a whole.
        let step = match self.pixel {
            2 if self.transparent => (step & !1).max(2),
            _ => step,
        };
        let (mut bytes, mut old) = (Vec::new(), Vec::new());
        let mut covered = Vec::new();
        let mut at = 0;
        while at < self.width {
            let len = step.min(self.width - at) as usize;
            bytes.resize(len, 0);
            from.read(at, &mut bytes);
            if !self.raster.is_copy() || self.transparent {
                old.resize(len, 0);
                to.read(at, &mut old);
                for (new, &old) in bytes.iter_mut().zip(&old) {
                    *new = self.raster.apply(*new, old);
                }
            }
            if self.transparent {
                covered.clear();
                covered.resize(len, true);
                self.leave_key(&bytes, &mut covered);
                for ((new, old), covered) in bytes.iter_mut().zip(&old).zip(&covered) {
                    if !covered {
                        *new = *old;
                    }
                }
            }
            to.write(at, &bytes);
            at += len as u32;
        }
    }

    fn row(&self, start: u32, pitch: u32, y: u32) -> u32 {
        let offset = pitch.wrapping_mul(y);
        match self.backwards {
            true => start.wrapping_sub(offset),
            false => start.wrapping_add(offset),
        }
    }

    /// Where row `y` goes. What is drawn rather than copied begins at a pixel.
    fn target<'a>(&self, memory: &'a RamBlock, y: u32) -> Cells<'a> {
        let first = self.row(self.to, self.to_pitch, y);
        let is_drawn = self.pattern || self.source != Source::Bytes;
        let first = match self.pixel {
            2 | 4 if is_drawn => first & !(self.pixel - 1),
            _ => first,
        };
        Cells { memory, first, backwards: self.backwards }
    }
}

/// Bytes of memory in the order in which they are drawn. Addresses beyond the end go on at the start.
struct Cells<'a> {
    memory: &'a RamBlock,
    first: u32,
    backwards: bool,
}

impl Cells<'_> {
    fn mask(&self) -> u32 {
        (self.memory.len().next_power_of_two() - 1) as u32
    }

    /// How far the first of these is written after it was read, if it is: bytes that may be read at a
    /// time without reading what is yet to be written. Zero if there is no such limit.
    fn distance(&self, to: &Cells<'_>) -> u32 {
        match self.backwards {
            true => self.first.wrapping_sub(to.first) & self.mask(),
            false => to.first.wrapping_sub(self.first) & self.mask(),
        }
    }

    /// The pieces of memory that `len` bytes from the `at`th on are in: address, and place in the
    /// buffer as it lies in memory.
    fn pieces(&self, at: u32, len: u32) -> [(u64, usize, usize); 2] {
        let mask = self.mask();
        let first = match self.backwards {
            true => self.first.wrapping_sub(at).wrapping_sub(len - 1),
            false => self.first.wrapping_add(at),
        } & mask;
        let until = (mask - first + 1).min(len) as usize;
        [(first.into(), 0, until), (0, until, len as usize)]
    }

    fn read(&self, at: u32, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        for (address, from, to) in self.pieces(at, bytes.len() as u32) {
            self.memory.read(address, &mut bytes[from..to]);
        }
        if self.backwards {
            bytes.reverse();
        }
    }

    fn write(&self, at: u32, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let turned: Vec<u8>;
        let bytes = match self.backwards {
            true => {
                turned = bytes.iter().rev().copied().collect();
                &turned
            }
            false => bytes,
        };
        for (address, from, to) in self.pieces(at, bytes.len() as u32) {
            self.memory.write(address, &bytes[from..to]);
        }
    }
}
