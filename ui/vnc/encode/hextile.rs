//! Hextile (RFC 6143, section 7.7.4): tiles of 16 by 16 pixels, each a background with rectangles on
//! it, or raw.

use super::raw::raw;
use super::view::View;
use crate::vnc::pixel::Converter;

const SIDE: usize = 16;

const RAW: u8 = 1;
const BACKGROUND: u8 = 2;
const FOREGROUND: u8 = 4;
const RECTANGLES: u8 = 8;
const COLOURED: u8 = 16;

/// What the tile before left behind, which the next need not repeat.
#[derive(Default)]
struct Colours {
    background: Option<u32>,
    foreground: Option<u32>,
}

/// A rectangle of one colour within a tile.
struct Spot {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
    colour: u32,
}

impl Spot {
    fn place(&self) -> [u8; 2] {
        [(self.x << 4 | self.y) as u8, ((self.width - 1) << 4 | (self.height - 1)) as u8]
    }
}

pub fn hextile(view: View<'_>, converter: &Converter, out: &mut Vec<u8>) {
    let mut known = Colours::default();
    for (_, _, tile) in view.tiles(SIDE, SIDE) {
        encode(tile, &mut known, converter, out);
    }
}

fn encode(tile: View<'_>, known: &mut Colours, converter: &Converter, out: &mut Vec<u8>) {
    let background = background(tile);
    let raw_size = tile.area() * converter.bytes();
    let Some(spots) = spots(tile, background, raw_size / 2) else {
        return encode_raw(tile, known, converter, out);
    };
    let foreground = spots.first().map(|spot| spot.colour);
    let single = spots.iter().all(|spot| Some(spot.colour) == foreground);
    let start = out.len();
    out.push(0);
    let mut kind = 0;
    if known.background != Some(background) {
        kind |= BACKGROUND;
        converter.push(background, out);
    }
    if let Some(foreground) = foreground {
        kind |= RECTANGLES;
        if !single {
            kind |= COLOURED;
        } else if known.foreground != Some(foreground) {
            kind |= FOREGROUND;
            converter.push(foreground, out);
        }
        out.push(spots.len() as u8);
        for spot in &spots {
            if !single {
                converter.push(spot.colour, out);
            }
            out.extend(spot.place());
        }
    }
    if out.len() - start > raw_size {
        out.truncate(start);
        return encode_raw(tile, known, converter, out);
    }
    out[start] = kind;
    known.background = Some(background);
    // After a tile with colours of its own the foreground has to be said again, as after a raw one.
    known.foreground = match (foreground, single) {
        (Some(_), false) => None,
        (Some(foreground), true) => Some(foreground),
        (None, _) => known.foreground,
    };
}

fn encode_raw(tile: View<'_>, known: &mut Colours, converter: &Converter, out: &mut Vec<u8>) {
    *known = Colours::default();
    out.push(RAW);
    raw(tile, converter, out);
}

/// The more frequent of the first two colours.
fn background(tile: View<'_>) -> u32 {
    let first = tile.first();
    let mut other = None;
    let mut balance = 0;
    for pixel in tile.pixels() {
        if pixel == first {
            balance += 1;
        } else if *other.get_or_insert(pixel) == pixel {
            balance -= 1;
        }
    }
    other.filter(|_| balance < 0).unwrap_or(first)
}

/// Rectangles that cover what is not background; `None` if there are too many to say so, or more
/// bytes than `most` would be needed.
fn spots(tile: View<'_>, background: u32, most: usize) -> Option<Vec<Spot>> {
    let most = most.min(255);
    let rows: Vec<&[u32]> = tile.rows().collect();
    // Columns of each row that need no more rectangle.
    let mut covered = [0_u16; SIDE];
    let mut spots = Vec::new();
    for y in 0..tile.height() {
        for x in 0..tile.width() {
            let colour = rows[y][x];
            if colour == background || covered[y] >> x & 1 != 0 {
                continue;
            }
            let width = rows[y][x..].iter().take_while(|&&pixel| pixel == colour).count();
            let same = |row: &&[u32]| row[x..x + width].iter().all(|&pixel| pixel == colour);
            let height = 1 + rows[y + 1..].iter().take_while(|row| same(row)).count();
            if spots.len() == most {
                return None;
            }
            let columns = ((1_u32 << width) - 1 << x) as u16;
            covered[y..y + height].iter_mut().for_each(|row| *row |= columns);
            spots.push(Spot { x, y, width, height, colour });
        }
    }
    Some(spots)
}
