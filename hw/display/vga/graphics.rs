//! Drawing lines of dots.

use std::ops::Range;

use base::memory::{Client, PAGE_SIZE, RamBlock};
use ui::{Damage, Surface};

use super::overlay::Overlay;
use super::picture::{Graphics, Picture, Pixels};
use crate::display::pixels::{Order, rgb15, rgb16, rgb24, rgb32};

/// Scratch space of drawing.
#[derive(Default)]
pub struct LinePainter {
    /// Which pages of memory changed, from the first that is shown.
    dirty: Vec<bool>,
    bytes: Vec<u8>,
    pixels: Vec<u32>,
}

/// What is to be drawn although its memory has not changed.
pub struct Extent {
    /// Everything.
    pub full: bool,
    /// Lines.
    pub lines: Vec<Range<u32>>,
}

impl LinePainter {
    /// Draws the lines whose memory has changed, and others, with what is laid over them.
    pub fn paint(
        &mut self,
        picture: &Picture,
        graphics: &Graphics,
        memory: &RamBlock,
        extent: &Extent,
        over: Option<&Overlay>,
        surface: &mut Surface,
    ) -> Damage {
        let changed = self.find_dirty(picture, graphics, memory);
        let mut damage = Damage::default();
        if !changed && !extent.full && extent.lines.is_empty() {
            return damage;
        }
        let width = graphics.width << u32::from(graphics.doubled);
        let mut drawn: Option<(u32, u32, u32)> = None;
        for (y, line) in (0..).zip(lines(picture, graphics)) {
            let len = graphics.pixels.bytes(graphics.width + line.panning);
            let wanted = extent.full || extent.lines.iter().any(|lines| lines.contains(&y));
            if !wanted && !self.is_dirty(picture, line.address, len) {
                continue;
            }
            match drawn {
                Some((at, panning, from)) if (at, panning) == (line.address, line.panning) => {
                    copy_row(surface, from, y);
                }
                _ => {
                    self.bytes.resize(len as usize, 0);
                    read_wrapped(memory, line.address, picture.wrap, &mut self.bytes);
                    self.draw(picture, graphics, line.panning, surface.row_mut(y));
                    drawn = Some((line.address, line.panning, y));
                }
            }
            if let Some(over) = over.filter(|over| over.covers().contains(&y)) {
                over.draw(y, surface.row_mut(y));
                drawn = None;
            }
            damage.add_rows(y, 1, width);
        }
        damage
    }

    /// Learns which pages have changed; says whether any has.
    fn find_dirty(&mut self, picture: &Picture, graphics: &Graphics, memory: &RamBlock) -> bool {
        let (from, len) = if graphics.from_scan == [0, 0] && graphics.compare.0 >= graphics.height {
            let len = picture.pitch * (graphics.height - 1)
                + graphics.pixels.bytes(graphics.width + graphics.panning);
            if picture.start.saturating_add(len) > picture.wrap {
                (0, picture.wrap)
            } else {
                (picture.start, len)
            }
        } else {
            (0, picture.wrap)
        };
        let first = u64::from(from) / PAGE_SIZE;
        self.dirty.clear();
        self.dirty.resize((u64::from(picture.wrap) / PAGE_SIZE) as usize, false);
        let mut any = false;
        memory.tracking().take_dirty(
            Client::Display,
            first * PAGE_SIZE,
            u64::from(from) + u64::from(len) - first * PAGE_SIZE,
            |at| {
                any = true;
                if let Some(page) = self.dirty.get_mut((at / PAGE_SIZE) as usize) {
                    *page = true;
                }
            },
        );
        any
    }

    fn is_dirty(&self, picture: &Picture, address: u32, len: u32) -> bool {
        let page = |at: u32| u64::from(at % picture.wrap) / PAGE_SIZE;
        let (first, last) = (page(address) as usize, page(address + len.max(1) - 1) as usize);
        let is = |range| self.dirty.get(range).is_some_and(|pages: &[bool]| pages.contains(&true));
        match first <= last {
            true => is(first..last + 1),
            false => is(first..self.dirty.len()) || is(0..last + 1),
        }
    }

    /// Makes pixels of the bytes that were read.
    fn draw(&mut self, picture: &Picture, graphics: &Graphics, panning: u32, row: &mut [u32]) {
        if panning == 0 && !graphics.doubled {
            return convert(&self.bytes, picture, graphics, row);
        }
        self.pixels.resize((graphics.width + panning).next_multiple_of(8) as usize, 0);
        convert(&self.bytes, picture, graphics, &mut self.pixels);
        let pixels = self.pixels.get(panning as usize..).unwrap_or_default();
        if graphics.doubled {
            for (pair, pixel) in row.chunks_mut(2).zip(pixels) {
                pair.fill(*pixel);
            }
        } else {
            row.iter_mut().zip(pixels).for_each(|(to, from)| *to = *from);
        }
    }
}

fn copy_row(surface: &mut Surface, from: u32, to: u32) {
    let width = surface.width() as usize;
    let (from, to) = (from as usize * width, to as usize * width);
    let pixels = surface.pixels_mut();
    if from + width <= pixels.len() && to + width <= pixels.len() {
        pixels.copy_within(from..from + width, to);
    }
}

/// A line of the screen.
struct Line {
    address: u32,
    panning: u32,
}

/// Where each line of the screen has its dots.
fn lines<'a>(picture: &'a Picture, graphics: &'a Graphics) -> impl Iterator<Item = Line> + 'a {
    let (compare, panning_ends) = graphics.compare;
    let (mut base, mut scan, mut again) = (picture.start, 0_u32, graphics.double_scan);
    let mut panning = graphics.panning;
    (0..graphics.height).map(move |y| {
        let mut address = base;
        for (n, mask) in graphics.from_scan.into_iter().enumerate() {
            address = address & !mask | mask * (scan >> n & 1);
        }
        let line = Line { address: address % picture.wrap, panning };
        if again {
            again = false;
        } else {
            again = graphics.double_scan;
            scan += 1;
        }
        if scan == graphics.scans {
            scan = 0;
            base = base.wrapping_add(picture.pitch);
        }
        if y == compare {
            (base, scan, again) = (0, 0, graphics.double_scan);
            if panning_ends {
                panning = 0;
            }
        }
        line
    })
}

/// Reads memory that repeats after `wrap` bytes.
fn read_wrapped(memory: &RamBlock, at: u32, wrap: u32, bytes: &mut [u8]) {
    let at = at % wrap.max(1);
    let until = ((wrap - at) as usize).min(bytes.len());
    let (head, tail) = bytes.split_at_mut(until);
    memory.read(at.into(), head);
    memory.read(0, tail);
}

fn convert(bytes: &[u8], picture: &Picture, graphics: &Graphics, pixels: &mut [u32]) {
    match graphics.pixels {
        Pixels::Planar { mask } => planar(bytes, &masked(picture, mask), pixels),
        Pixels::Interleaved { mask } => interleaved(bytes, &masked(picture, mask), pixels),
        Pixels::Indexed => indexed(bytes, &picture.colors, pixels),
        Pixels::Rgb15 => rgb15(bytes, graphics.big_endian, pixels),
        Pixels::Rgb16 => rgb16(bytes, graphics.big_endian, pixels),
        Pixels::Rgb24 => rgb24(bytes, graphics.big_endian, pixels),
        Pixels::Rgb32 => {
            let order = if graphics.big_endian { Order::Xrgb } else { Order::Bgrx };
            rgb32(bytes, order, pixels);
        }
    }
}

/// The palette behind planes of which some do not count.
fn masked(picture: &Picture, mask: u8) -> [u32; 16] {
    std::array::from_fn(|index| picture.palette[index & usize::from(mask)])
}

/// The bits of a byte, the highest first, each in a byte of its own.
const BITS: [[u8; 8]; 256] = {
    let mut table = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut bit = 0;
        while bit < 8 {
            table[byte][bit] = (byte >> (7 - bit)) as u8 & 1;
            bit += 1;
        }
        byte += 1;
    }
    table
};

fn planar(bytes: &[u8], palette: &[u32; 16], pixels: &mut [u32]) {
    for (eight, planes) in pixels.chunks_mut(8).zip(bytes.chunks_exact(4)) {
        let bits = |plane: usize| u64::from_le_bytes(BITS[usize::from(planes[plane])]);
        let indices = (bits(0) | bits(1) << 1 | bits(2) << 2 | bits(3) << 3).to_le_bytes();
        for (pixel, index) in eight.iter_mut().zip(indices) {
            *pixel = palette[usize::from(index & 15)];
        }
    }
}

/// Four pixels of planes 0 and 2, then four of planes 1 and 3; the even plane has the low bits.
fn interleaved(bytes: &[u8], palette: &[u32; 16], pixels: &mut [u32]) {
    for (eight, planes) in pixels.chunks_mut(8).zip(bytes.chunks_exact(4)) {
        for (n, pixel) in eight.iter_mut().enumerate() {
            let (half, shift) = (n / 4, 6 - n % 4 * 2);
            let (low, high) = (planes[half] >> shift & 3, planes[half + 2] >> shift & 3);
            *pixel = palette[usize::from(high << 2 | low)];
        }
    }
}

fn indexed(bytes: &[u8], colors: &[u32], pixels: &mut [u32]) {
    let Some(colors) = colors.first_chunk::<256>() else { return };
    for (pixel, &index) in pixels.iter_mut().zip(bytes) {
        *pixel = colors[usize::from(index)];
    }
}
