//! Encoders against a decoder that was written from the specification.

use std::collections::HashMap;

use flate2::{Decompress, FlushDecompress};
use proptest::prelude::*;

use super::*;
use crate::Surface;

/// A client's decoder.
#[derive(Default)]
struct Decoder {
    format: Option<PixelFormat>,
    streams: HashMap<&'static str, Decompress>,
    tight: [Option<Decompress>; 4],
}

/// Bytes that are read in order.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        head
    }

    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn u16(&mut self) -> u32 {
        u16::from_be_bytes(self.take(2).try_into().unwrap()).into()
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }
}

fn inflate(stream: &mut Decompress, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 20);
    let before = stream.total_in();
    stream.decompress_vec(data, &mut out, FlushDecompress::Sync).unwrap();
    assert_eq!(stream.total_in() - before, data.len() as u64);
    out
}

/// The pixels of a format back as the surface's: the high bits of each component.
fn colour(format: &PixelFormat, value: u32) -> u32 {
    (0..3).fold(0, |pixel, i| {
        let max = u32::from(format.max[i]);
        let component = value >> format.shift[i] & max;
        pixel << 8 | component * 256 / (max + 1)
    })
}

/// A pixel of the surface with what a format keeps of it.
fn reduced(format: &PixelFormat, pixel: u32) -> u32 {
    let [_, r, g, b] = pixel.to_be_bytes();
    [r, g, b].into_iter().zip(format.max).fold(0, |pixel, (component, max)| {
        let max = u32::from(max) + 1;
        pixel << 8 | (u32::from(component) * max / 256) * 256 / max
    })
}

impl Decoder {
    fn new(format: PixelFormat) -> Self {
        Decoder { format: Some(format), ..Decoder::default() }
    }

    fn format(&self) -> PixelFormat {
        self.format.unwrap()
    }

    fn pixel(&self, bytes: &mut Bytes<'_>) -> u32 {
        let format = self.format();
        let mut data = bytes.take(format.bytes()).to_vec();
        if format.big_endian {
            data.reverse();
        }
        data.resize(4, 0);
        colour(&format, u32::from_le_bytes(data.try_into().unwrap()))
    }

    /// A compressed pixel of ZRLE.
    fn cpixel(&self, bytes: &mut Bytes<'_>) -> u32 {
        let format = self.format();
        if format.bits_per_pixel != 32 || format.depth > 24 {
            return self.pixel(bytes);
        }
        let high = format.shift.iter().all(|&shift| shift >= 8);
        let mut data = bytes.take(3).to_vec();
        if format.big_endian {
            data.reverse();
        }
        data.insert(if high { 0 } else { 3 }, 0);
        colour(&format, u32::from_le_bytes(data.try_into().unwrap()))
    }

    /// A pixel of Tight.
    fn tpixel(&self, bytes: &mut Bytes<'_>) -> u32 {
        let format = self.format();
        if (format.bits_per_pixel, format.depth) == (32, 24) && format.max == [255; 3] {
            let [r, g, b] = bytes.take(3).try_into().unwrap();
            return u32::from_be_bytes([0, r, g, b]);
        }
        self.pixel(bytes)
    }

    /// Draws rectangles until there are no more bytes.
    fn draw(&mut self, data: &[u8], surface: &mut Surface) -> u32 {
        let mut bytes = Bytes(data);
        let mut count = 0;
        while !bytes.0.is_empty() {
            count += 1;
            let rect = Rect::new(bytes.u16(), bytes.u16(), bytes.u16(), bytes.u16());
            let pixels = match bytes.u32() as i32 {
                encoding::RAW => self.raw(&rect, &mut bytes),
                encoding::HEXTILE => self.hextile(&rect, &mut bytes),
                encoding::ZLIB => {
                    let length = bytes.u32() as usize;
                    let stream =
                        self.streams.entry("zlib").or_insert_with(|| Decompress::new(true));
                    let data = inflate(stream, bytes.take(length));
                    self.raw(&rect, &mut Bytes(&data))
                }
                encoding::ZRLE => {
                    let length = bytes.u32() as usize;
                    let stream =
                        self.streams.entry("zrle").or_insert_with(|| Decompress::new(true));
                    let data = inflate(stream, bytes.take(length));
                    self.zrle(&rect, &data)
                }
                encoding::TIGHT => self.tight(&rect, &mut bytes),
                number => panic!("encoding {number}"),
            };
            assert_eq!(pixels.len(), (rect.width * rect.height) as usize);
            for (row, y) in pixels.chunks(rect.width as usize).zip(rect.y..) {
                surface.row_mut(y)[rect.x as usize..rect.right() as usize].copy_from_slice(row);
            }
        }
        count
    }

    fn raw(&self, rect: &Rect, bytes: &mut Bytes<'_>) -> Vec<u32> {
        (0..rect.width * rect.height).map(|_| self.pixel(bytes)).collect()
    }

    fn hextile(&self, rect: &Rect, bytes: &mut Bytes<'_>) -> Vec<u32> {
        let mut pixels = vec![0; (rect.width * rect.height) as usize];
        let (mut background, mut foreground) = (None, None);
        for top in (0..rect.height).step_by(16) {
            for left in (0..rect.width).step_by(16) {
                let tile = Rect::new(left, top, 16, 16).intersection(&Rect::new(
                    0,
                    0,
                    rect.width,
                    rect.height,
                ));
                let mut set = |x: u32, y: u32, colour| {
                    pixels[((top + y) * rect.width + left + x) as usize] = colour;
                };
                let kind = bytes.u8();
                if kind & 1 != 0 {
                    assert_eq!(kind, 1);
                    for y in 0..tile.height {
                        (0..tile.width).for_each(|x| set(x, y, self.pixel(bytes)));
                    }
                    // What the next tile inherits is not defined.
                    (background, foreground) = (None, None);
                    continue;
                }
                if kind & 2 != 0 {
                    background = Some(self.pixel(bytes));
                }
                if kind & 4 != 0 {
                    foreground = Some(self.pixel(bytes));
                }
                for y in 0..tile.height {
                    (0..tile.width).for_each(|x| set(x, y, background.expect("background")));
                }
                if kind & 8 != 0 {
                    for _ in 0..bytes.u8() {
                        let colour = match kind & 16 != 0 {
                            true => self.pixel(bytes),
                            false => foreground.expect("foreground"),
                        };
                        let [place, size] = bytes.take(2).try_into().unwrap();
                        let (x, y) = (u32::from(place >> 4), u32::from(place & 15));
                        for y in y..=y + u32::from(size & 15) {
                            for x in x..=x + u32::from(size >> 4) {
                                assert!(x < tile.width && y < tile.height);
                                set(x, y, colour);
                            }
                        }
                    }
                }
                if kind & 16 != 0 {
                    foreground = None;
                }
            }
        }
        pixels
    }

    fn zrle(&self, rect: &Rect, data: &[u8]) -> Vec<u32> {
        let mut bytes = Bytes(data);
        let mut pixels = vec![0; (rect.width * rect.height) as usize];
        for top in (0..rect.height).step_by(64) {
            for left in (0..rect.width).step_by(64) {
                let width = (rect.width - left).min(64);
                let height = (rect.height - top).min(64);
                let tile = self.zrle_tile((width * height) as usize, width as usize, &mut bytes);
                for (row, y) in tile.chunks(width as usize).zip(top..) {
                    let at = (y * rect.width + left) as usize;
                    pixels[at..at + row.len()].copy_from_slice(row);
                }
            }
        }
        assert!(bytes.0.is_empty());
        pixels
    }

    fn zrle_tile(&self, area: usize, width: usize, bytes: &mut Bytes<'_>) -> Vec<u32> {
        let length = |bytes: &mut Bytes<'_>| {
            let mut length = 1;
            loop {
                let byte = bytes.u8();
                length += usize::from(byte);
                if byte != 255 {
                    return length;
                }
            }
        };
        let kind = bytes.u8();
        let palette: Vec<u32> = match kind {
            1..=16 => (0..kind).map(|_| self.cpixel(bytes)).collect(),
            130.. => (0..kind - 128).map(|_| self.cpixel(bytes)).collect(),
            _ => Vec::new(),
        };
        let mut pixels = Vec::new();
        match kind {
            0 => pixels.extend((0..area).map(|_| self.cpixel(bytes))),
            1 => pixels.resize(area, palette[0]),
            2..=16 => {
                let bits = match kind {
                    2 => 1,
                    3..=4 => 2,
                    _ => 4,
                };
                for _ in 0..area / width {
                    let row = bytes.take((width * bits).div_ceil(8));
                    for x in 0..width {
                        let shift = 8 - bits - x * bits % 8;
                        let number = usize::from(row[x * bits / 8] >> shift) & ((1 << bits) - 1);
                        pixels.push(palette[number]);
                    }
                }
            }
            128 => {
                while pixels.len() < area {
                    let colour = self.cpixel(bytes);
                    let length = length(bytes);
                    pixels.resize(pixels.len() + length, colour);
                }
            }
            130.. => {
                while pixels.len() < area {
                    let number = bytes.u8();
                    let length = if number & 0x80 != 0 { length(bytes) } else { 1 };
                    let colour = palette[usize::from(number & 0x7f)];
                    pixels.resize(pixels.len() + length, colour);
                }
            }
            kind => panic!("tile of kind {kind}"),
        }
        assert_eq!(pixels.len(), area);
        pixels
    }

    fn tight_data(&mut self, stream: u8, size: usize, bytes: &mut Bytes<'_>) -> Vec<u8> {
        if size < 12 {
            return bytes.take(size).to_vec();
        }
        let mut length = 0;
        for shift in [0, 7, 14] {
            let byte = bytes.u8();
            length |= usize::from(if shift < 14 { byte & 0x7f } else { byte }) << shift;
            if shift < 14 && byte & 0x80 == 0 {
                break;
            }
        }
        let stream = self.tight[usize::from(stream)].get_or_insert_with(|| Decompress::new(true));
        let data = inflate(stream, bytes.take(length));
        assert_eq!(data.len(), size);
        data
    }

    fn tight(&mut self, rect: &Rect, bytes: &mut Bytes<'_>) -> Vec<u32> {
        let area = (rect.width * rect.height) as usize;
        assert!(rect.width <= 2048);
        let kind = bytes.u8();
        if kind == 0x80 {
            return vec![self.tpixel(bytes); area];
        }
        assert_eq!(kind & 0x8f, 0, "a stream of a rectangle without losses");
        let stream = kind >> 4 & 3;
        let filter = if kind & 0x40 != 0 { bytes.u8() } else { 0 };
        if filter == 0 {
            let pixel_size = Converter::for_tight(&self.format()).bytes();
            let data = self.tight_data(stream, area * pixel_size, bytes);
            let mut data = Bytes(&data);
            return (0..area).map(|_| self.tpixel(&mut data)).collect();
        }
        assert_eq!(filter, 1);
        let colours = usize::from(bytes.u8()) + 1;
        let palette: Vec<u32> = (0..colours).map(|_| self.tpixel(bytes)).collect();
        if colours == 2 {
            let row_size = rect.width.div_ceil(8) as usize;
            let data = self.tight_data(stream, row_size * rect.height as usize, bytes);
            let row = |row: &[u8]| -> Vec<u32> {
                let bit = |x: u32| usize::from(row[x as usize / 8] >> (7 - x % 8) & 1);
                (0..rect.width).map(|x| palette[bit(x)]).collect()
            };
            return data.chunks(row_size).flat_map(row).collect();
        }
        let data = self.tight_data(stream, area, bytes);
        data.into_iter().map(|number| palette[usize::from(number)]).collect()
    }
}

const ENCODINGS: [Encoding; 5] =
    [Encoding::Raw, Encoding::Hextile, Encoding::Zlib, Encoding::Tight, Encoding::Zrle];

fn formats() -> [PixelFormat; 6] {
    let native = PixelFormat::NATIVE;
    let rgb565 = PixelFormat {
        bits_per_pixel: 16,
        depth: 16,
        max: [31, 63, 31],
        shift: [11, 5, 0],
        ..native
    };
    let bgr233 =
        PixelFormat { bits_per_pixel: 8, depth: 8, max: [7, 7, 3], shift: [0, 3, 6], ..native };
    [
        native,
        PixelFormat { big_endian: true, shift: [24, 16, 8], ..native },
        PixelFormat { depth: 32, shift: [0, 8, 16], ..native },
        rgb565,
        PixelFormat { big_endian: true, ..rgb565 },
        bgr233,
    ]
}

/// Pictures of all kinds: few colours and many, runs and noise, odd sizes.
fn pictures() -> impl Strategy<Value = (usize, usize, Vec<u32>)> {
    let colours = prop_oneof![Just(1_u32), Just(2), 3..20_u32, 20..300_u32, Just(1 << 24)];
    let run = prop_oneof![Just(1_usize), 2..40_usize, 500..3000_usize];
    (1_usize..300, 1_usize..150, colours, run, any::<u64>()).prop_map(
        |(w, h, colours, run, seed)| {
            let mut state = seed | 1;
            let mut random = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u32 >> 3
            };
            let mut pixels = Vec::with_capacity(w * h);
            while pixels.len() < w * h {
                let colour = (random() % colours).wrapping_mul(0x0001_f3a7) & 0x00ff_ffff;
                let length = 1 + random() as usize % run;
                pixels.resize((pixels.len() + length).min(w * h), colour);
            }
            (w, h, pixels)
        },
    )
}

fn check(
    encoder: &mut Encoder,
    decoder: &mut Decoder,
    width: usize,
    height: usize,
    pixels: &[u32],
) {
    let format = decoder.format();
    let view = View::new(pixels, width, width, height).unwrap();
    let mut out = Vec::new();
    let count = encoder.append(3, 2, view, false, &mut out);
    let mut surface = Surface::new(width as u32 + 3, height as u32 + 2);
    assert_eq!(decoder.draw(&out, &mut surface), count);
    let shown: Vec<u32> =
        surface.rows(&Rect::new(3, 2, width as u32, height as u32)).flatten().copied().collect();
    let expected: Vec<u32> = pixels.iter().map(|&pixel| reduced(&format, pixel)).collect();
    assert!(shown == expected, "{width}x{height} {format:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_is_decoded_is_what_was_encoded(
        pictures in proptest::collection::vec(pictures(), 1..3),
        level in proptest::option::of(0_u8..10),
    ) {
        for encoding in ENCODINGS {
            for format in formats() {
                let mut encoder = Encoder::default();
                encoder.set_format(format);
                encoder.choose(encoding, level, None);
                let mut decoder = Decoder::new(format);
                for (width, height, pixels) in &pictures {
                    check(&mut encoder, &mut decoder, *width, *height, pixels);
                }
            }
        }
    }
}

#[test]
fn streams_go_on_when_a_client_changes_its_mind() {
    let pixels: Vec<u32> = (0..4000).map(|i| i * 77 & 0x00ff_ffff).collect();
    let mut encoder = Encoder::default();
    let mut decoder = Decoder::new(PixelFormat::NATIVE);
    for encoding in ENCODINGS.into_iter().chain(ENCODINGS) {
        for level in [None, Some(9), Some(0)] {
            encoder.choose(encoding, level, None);
            check(&mut encoder, &mut decoder, 80, 50, &pixels);
        }
    }
}

/// The bytes of a rectangle behind its header.
fn encoded(encoding: Encoding, width: usize, pixels: &[u32]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    encoder.choose(encoding, None, None);
    let view = View::new(pixels, width, width, pixels.len() / width).unwrap();
    let mut out = Vec::new();
    encoder.append(1, 2, view, false, &mut out);
    assert_eq!(out[..4], [0, 1, 0, 2]);
    assert_eq!(out[8..12], encoding.number().to_be_bytes());
    out.split_off(12)
}

#[test]
fn small_pictures_are_encoded_as_the_specification_has_it() {
    let dot = [0x0001_0203, 0x0001_0203, 0x00ff_0000, 0x0001_0203];
    assert_eq!(
        encoded(Encoding::Raw, 2, &dot),
        [3, 2, 1, 0, 3, 2, 1, 0, 0, 0, 0xff, 0, 3, 2, 1, 0]
    );
    // Background, foreground and one rectangle at (0, 1) of one pixel.
    assert_eq!(
        encoded(Encoding::Hextile, 2, &dot),
        [2 | 4 | 8, 3, 2, 1, 0, 0, 0, 0xff, 0, 1, 0x01, 0x00]
    );
    // Of two tiles with the same background the second need not name it.
    assert_eq!(encoded(Encoding::Hextile, 17, &[7; 17]), [2, 7, 0, 0, 0, 0]);
    // One colour: filled.
    assert_eq!(encoded(Encoding::Tight, 2, &[0x0001_0203; 4]), [0x80, 1, 2, 3]);
    // Two colours in stream 1, by the palette filter, too short to compress.
    assert_eq!(
        encoded(Encoding::Tight, 2, &dot),
        [0x50, 1, 1, 1, 2, 3, 0xff, 0, 0, 0b0000_0000, 0b1000_0000]
    );
}

#[test]
fn tiles_of_zrle_take_the_shortest_form() {
    let tile = |width: usize, pixels: &[u32]| {
        let data = encoded(Encoding::Zrle, width, pixels);
        let length = u32::from_be_bytes(data[..4].try_into().unwrap()) as usize;
        assert_eq!(length, data.len() - 4);
        inflate(&mut Decompress::new(true), &data[4..])
    };
    let (a, b) = (0x0001_0203, 0x00ff_0000);
    assert_eq!(tile(2, &[a; 4]), [1, 3, 2, 1]);
    assert_eq!(tile(2, &[a, a, b, a]), [2, 3, 2, 1, 0, 0, 0xff, 0, 0x80]);
    // A long run, then short ones of the same colours.
    let long: Vec<u32> = [a; 300].into_iter().chain([b, a, b, a, b]).collect();
    let expected = [130, 3, 2, 1, 0, 0, 0xff, 0x80, 255, 44, 1, 0, 1, 0, 1];
    assert_eq!(tile(61, &long), expected);
    // Many colours, nothing repeats.
    let noise: Vec<u32> = (1..5).collect();
    assert_eq!(tile(4, &noise), [0, 1, 0, 0, 2, 0, 0, 3, 0, 0, 4, 0, 0]);
}

#[test]
fn pictures_with_losses_are_jpeg_and_exact_ones_are_not() {
    let mut pixels = Vec::new();
    for y in 0..64_u32 {
        pixels.extend((0..64_u32).map(|x| (x * 4) << 16 | (y * 4) << 8 | (x + y)));
    }
    let view = View::new(&pixels, 64, 64, 64).unwrap();
    let mut encoder = Encoder::default();
    encoder.choose(Encoding::Tight, None, Some(75));
    assert!(encoder.loses());
    let mut out = Vec::new();
    encoder.append(0, 0, view, false, &mut out);
    assert_eq!(out[12], 0x90);
    let length = usize::from(out[13] & 0x7f) | usize::from(out[14]) << 7;
    assert_eq!((out[13] >> 7, out.len()), (1, 15 + length));
    assert_eq!((&out[15..17], &out[out.len() - 2..]), (&[0xff, 0xd8][..], &[0xff, 0xd9][..]));
    out.clear();
    encoder.append(0, 0, view, true, &mut out);
    assert_eq!(out[12], 0x00);
    encoder.set_format(PixelFormat::MAPPED);
    assert!(!encoder.loses());
}

#[test]
fn pointers_have_masks_or_alpha() {
    let shape = CursorShape {
        width: 2,
        height: 1,
        hot_x: 1,
        hot_y: 0,
        pixels: vec![0xffff_8000, 0x4080_8080],
    };
    let encoder = Encoder::default();
    let mut out = Vec::new();
    encoder.append_cursor(&shape, false, &mut out);
    let header = [0, 1, 0, 0, 0, 2, 0, 1, 0xff, 0xff, 0xff, 0x11];
    assert_eq!(out, [&header[..], &[0, 0x80, 0xff, 0, 0x80, 0x80, 0x80, 0, 0x80]].concat());
    out.clear();
    encoder.append_cursor(&shape, true, &mut out);
    let header = [0, 1, 0, 0, 0, 2, 0, 1, 0xff, 0xff, 0xfe, 0xc6, 0, 0, 0, 0];
    assert_eq!(out, [&header[..], &[0xff, 0x80, 0, 0xff, 0x20, 0x20, 0x20, 0x40]].concat());
}
