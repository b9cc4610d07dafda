//! ZRLE (RFC 6143, section 7.7.6): tiles of 64 by 64 pixels, by palettes or runs or both, then
//! compressed.

use super::palette::Palette;
use super::view::View;
use crate::vnc::pixel::Converter;

const SIDE: usize = 64;
/// Most colours of a palette whose numbers are packed into bytes.
const MAX_PACKED: usize = 16;
/// Most colours of a palette with runs.
const MAX_COLOURS: usize = 127;

const RAW: u8 = 0;
const SOLID: u8 = 1;
const RUNS: u8 = 128;

/// Appends what is to be compressed.
pub fn zrle(view: View<'_>, palette: &mut Palette, converter: &Converter, out: &mut Vec<u8>) {
    for (_, _, tile) in view.tiles(SIDE, SIDE) {
        if let Some(colour) = tile.solid() {
            out.push(SOLID);
            converter.push(colour, out);
        } else {
            encode(tile, palette, converter, out);
        }
    }
}

fn encode(tile: View<'_>, palette: &mut Palette, converter: &Converter, out: &mut Vec<u8>) {
    let pixel_size = converter.bytes();
    let runs = Runs::of(tile);
    let run_size = runs.count * (pixel_size + 1) + runs.extra_bytes;
    let mut best = tile.area() * pixel_size;
    let mut kind = RAW;
    if run_size < best {
        (best, kind) = (run_size, RUNS);
    }
    if palette.collect(&tile, MAX_COLOURS) {
        let colours = palette.colours().len();
        let palette_size = colours * pixel_size;
        // A run of one pixel is one byte, one of several has its length behind it.
        let size = palette_size + runs.count + runs.long_count + runs.extra_bytes;
        if size < best {
            (best, kind) = (size, RUNS | colours as u8);
        }
        if colours <= MAX_PACKED {
            let size =
                palette_size + (tile.width() * packed_bits(colours)).div_ceil(8) * tile.height();
            if size < best {
                kind = colours as u8;
            }
        }
    }
    out.push(kind);
    match kind {
        RAW => tile.rows().for_each(|row| converter.append(row, out)),
        RUNS => for_each_run(tile, |colour, length| {
            converter.push(colour, out);
            push_length(length, out);
        }),
        kind if kind & RUNS != 0 => {
            converter.append(palette.colours(), out);
            for_each_run(tile, |colour, length| {
                let number = palette.number(colour);
                if length == 1 {
                    out.push(number);
                } else {
                    out.push(number | 0x80);
                    push_length(length, out);
                }
            });
        }
        _ => {
            converter.append(palette.colours(), out);
            pack(tile, palette, out);
        }
    }
}

/// Bits of a colour's number.
fn packed_bits(colours: usize) -> usize {
    match colours {
        0..=2 => 1,
        3..=4 => 2,
        _ => 4,
    }
}

/// Appends the numbers of the colours, packed so that every row begins with a byte.
fn pack(tile: View<'_>, palette: &Palette, out: &mut Vec<u8>) {
    let bits = packed_bits(palette.colours().len());
    for row in tile.rows() {
        for pixels in row.chunks(8 / bits) {
            let byte = pixels.iter().fold(0, |byte, &pixel| byte << bits | palette.number(pixel));
            out.push(byte << (8 - bits * pixels.len()));
        }
    }
}

/// What runs of a tile amount to.
#[derive(Default)]
struct Runs {
    count: usize,
    /// Those of more than one pixel.
    long_count: usize,
    /// Bytes of lengths beyond the first.
    extra_bytes: usize,
}

impl Runs {
    fn of(tile: View<'_>) -> Self {
        let mut runs = Runs::default();
        for_each_run(tile, |_, length| {
            runs.count += 1;
            runs.long_count += usize::from(length > 1);
            runs.extra_bytes += (length - 1) / 255;
        });
        runs
    }
}

/// Calls `each` with the colour and length of every run, which go on from row to row.
fn for_each_run(tile: View<'_>, mut each: impl FnMut(u32, usize)) {
    let (mut colour, mut length) = (tile.first(), 0);
    for row in tile.rows() {
        for &pixel in row {
            if pixel != colour {
                each(colour, length);
                (colour, length) = (pixel, 0);
            }
            length += 1;
        }
    }
    each(colour, length);
}

/// Lengths are sums of bytes, less one.
fn push_length(length: usize, out: &mut Vec<u8>) {
    let rest = length - 1;
    out.resize(out.len() + rest / 255, 255);
    out.push((rest % 255) as u8);
}
