//! Tight (the community's description of the protocol, "Tight Encoding"): rectangles of one colour,
//! of few, or of many, compressed in separate streams; or, where losses are allowed, as JPEG.

use jpeg_encoder::{ColorType, SamplingFactor};

use super::deflate::Deflater;
use super::palette::Palette;
use super::view::View;
use crate::vnc::pixel::Converter;

/// Sides of what is sent as one rectangle. The protocol allows 2048 columns; smaller rectangles have
/// fewer colours.
const WIDTH: usize = 256;
const HEIGHT: usize = 128;
/// What is shorter is not worth compressing, by the protocol.
const MIN_COMPRESSED: usize = 12;

const FILL: u8 = 0x80;
const JPEG: u8 = 0x90;
/// A filter's number follows.
const EXPLICIT_FILTER: u8 = 0x40;
const PALETTE_FILTER: u8 = 1;

/// Which stream is for what.
#[derive(Clone, Copy)]
enum Stream {
    Full = 0,
    TwoColours = 1,
    Indexed = 2,
}

/// The streams of one client.
#[derive(Default)]
pub struct Tight {
    streams: [Option<Deflater>; 3],
    scratch: Vec<u8>,
}

/// How hard to try, and what may be lost.
#[derive(Clone, Copy)]
pub struct Effort {
    /// Of compression, 0 to 9.
    pub level: u8,
    /// Of JPEG, 1 to 100; without losses if `None`.
    pub quality: Option<u8>,
}

impl Tight {
    /// Calls `place` for each rectangle that is made of `view`, and appends its contents to what
    /// `place` has added its header to.
    pub fn encode(
        &mut self,
        view: View<'_>,
        palette: &mut Palette,
        converter: &Converter,
        effort: Effort,
        out: &mut Vec<u8>,
        mut place: impl FnMut(&mut Vec<u8>, usize, usize, View<'_>),
    ) {
        for (x, y, part) in view.tiles(WIDTH, HEIGHT) {
            place(out, x, y, part);
            self.rectangle(part, palette, converter, effort, out);
        }
    }

    fn rectangle(
        &mut self,
        view: View<'_>,
        palette: &mut Palette,
        converter: &Converter,
        effort: Effort,
        out: &mut Vec<u8>,
    ) {
        if let Some(colour) = view.solid() {
            out.push(FILL);
            return converter.push(colour, out);
        }
        // A palette has to be worth its bytes.
        let most = (view.area() / 8).clamp(2, super::palette::MAX_COLOURS);
        if palette.collect(&view, most) {
            return self.indexed(view, palette, converter, effort.level, out);
        }
        if let Some(quality) = effort.quality
            && self.jpeg(view, quality, out)
        {
            return;
        }
        self.scratch.clear();
        view.rows().for_each(|row| converter.append(row, &mut self.scratch));
        out.push((Stream::Full as u8) << 4);
        self.compress(Stream::Full, effort.level, out);
    }

    fn indexed(
        &mut self,
        view: View<'_>,
        palette: &Palette,
        converter: &Converter,
        level: u8,
        out: &mut Vec<u8>,
    ) {
        let colours = palette.colours();
        self.scratch.clear();
        let stream = if colours.len() == 2 {
            let second = colours[1];
            for pixels in view.rows().flat_map(|row| row.chunks(8)) {
                let bits = |byte, &pixel: &u32| byte << 1 | u8::from(pixel == second);
                self.scratch.push(pixels.iter().fold(0, bits) << (8 - pixels.len()));
            }
            Stream::TwoColours
        } else {
            let mut last = (view.first(), palette.number(view.first()));
            self.scratch.extend(view.pixels().map(|pixel| {
                if pixel != last.0 {
                    last = (pixel, palette.number(pixel));
                }
                last.1
            }));
            Stream::Indexed
        };
        out.extend([(stream as u8) << 4 | EXPLICIT_FILTER, PALETTE_FILTER]);
        out.push((colours.len() - 1) as u8);
        converter.append(colours, out);
        self.compress(stream, level, out);
    }

    /// Appends the scratch, compressed if that is worth it.
    fn compress(&mut self, stream: Stream, level: u8, out: &mut Vec<u8>) {
        if self.scratch.len() < MIN_COMPRESSED {
            return out.extend_from_slice(&self.scratch);
        }
        let deflater = self.streams[stream as usize].get_or_insert_with(|| Deflater::new(level));
        with_length(out, |out| deflater.append(&self.scratch, level, out));
    }

    /// Says false if there is no such picture.
    fn jpeg(&mut self, view: View<'_>, quality: u8, out: &mut Vec<u8>) -> bool {
        let (Ok(width), Ok(height)) = (view.width().try_into(), view.height().try_into()) else {
            return false;
        };
        self.scratch.clear();
        for pixel in view.pixels() {
            let [_, r, g, b] = pixel.to_be_bytes();
            self.scratch.extend([r, g, b]);
        }
        let start = out.len();
        out.push(JPEG);
        let mut failed = false;
        with_length(out, |out| {
            let mut encoder = jpeg_encoder::Encoder::new(out, quality);
            if quality < 80 {
                encoder.set_sampling_factor(SamplingFactor::F_2_2);
            }
            failed = encoder.encode(&self.scratch, width, height, ColorType::Rgb).is_err();
        });
        if failed {
            out.truncate(start);
        }
        !failed
    }
}

/// Puts the length of what `fill` appends in front of it: seven bits, seven bits, eight bits, of which
/// there are as many as needed.
fn with_length(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    fill(out);
    let length = out.len() - start;
    let low = length as u8 & 0x7f;
    let middle = (length >> 7) as u8 & 0x7f;
    let bytes: &[u8] = match length {
        0..0x80 => &[low],
        0x80..0x4000 => &[low | 0x80, middle],
        _ => &[low | 0x80, middle | 0x80, (length >> 14) as u8],
    };
    // What is compressed of a rectangle of this size is far below the greatest length, 4 MiB.
    out.splice(start..start, bytes.iter().copied());
}
