//! Pixel formats of clients (RFC 6143, section 7.4), and how the surface's pixels are put into them.

/// Bytes of a pixel format on the wire.
pub const WIRE_SIZE: usize = 16;

/// How a client wants pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PixelFormat {
    pub bits_per_pixel: u8,
    pub depth: u8,
    pub big_endian: bool,
    pub true_colour: bool,
    /// Greatest values of red, green and blue.
    pub max: [u16; 3],
    /// How far red, green and blue are shifted to the left.
    pub shift: [u8; 3],
}

impl PixelFormat {
    /// The surface's own, which servers announce.
    pub const NATIVE: PixelFormat = PixelFormat {
        bits_per_pixel: 32,
        depth: 24,
        big_endian: false,
        true_colour: true,
        max: [255; 3],
        shift: [16, 8, 0],
    };

    /// What a client gets that wants a colour map: the map's indices are the colours themselves.
    pub const MAPPED: PixelFormat = PixelFormat {
        bits_per_pixel: 8,
        depth: 8,
        big_endian: false,
        true_colour: false,
        max: [7, 7, 3],
        shift: [0, 3, 6],
    };

    /// Reads a format; `None` if no pixel could have it.
    pub fn parse(bytes: &[u8; WIRE_SIZE]) -> Option<Self> {
        let [bits_per_pixel, depth, big_endian, true_colour, r1, r0, g1, g0, b1, b0, r, g, b, ..] =
            *bytes;
        if ![8, 16, 32].contains(&bits_per_pixel) {
            return None;
        }
        if true_colour == 0 {
            return Some(PixelFormat::MAPPED);
        }
        let max = [[r1, r0], [g1, g0], [b1, b0]].map(u16::from_be_bytes);
        let shift = [r, g, b];
        let fits = max.iter().zip(shift).all(|(&max, shift)| {
            let bits = 16 - max.leading_zeros();
            max != 0
                && max & max.wrapping_add(1) == 0
                && bits + u32::from(shift) <= bits_per_pixel.into()
        });
        let big_endian = big_endian != 0;
        let format =
            PixelFormat { bits_per_pixel, depth, big_endian, true_colour: true, max, shift };
        fits.then_some(format)
    }

    /// The format as a server announces it.
    pub fn to_wire(self) -> [u8; WIRE_SIZE] {
        let [r, g, b] = self.max.map(u16::to_be_bytes);
        let [red, green, blue] = self.shift;
        [
            self.bits_per_pixel,
            self.depth,
            self.big_endian.into(),
            self.true_colour.into(),
            r[0],
            r[1],
            g[0],
            g[1],
            b[0],
            b[1],
            red,
            green,
            blue,
            0,
            0,
            0,
        ]
    }

    /// Bytes of a pixel.
    pub fn bytes(&self) -> usize {
        usize::from(self.bits_per_pixel) / 8
    }

    /// The colours behind the indices of [`Self::MAPPED`], 16 bits for each component.
    pub fn colour_map() -> impl Iterator<Item = [u16; 3]> {
        let PixelFormat { max, shift, .. } = PixelFormat::MAPPED;
        (0..=255_u16).map(move |index| {
            std::array::from_fn(|i| {
                let value = u32::from(index >> shift[i] & max[i]);
                (value * 0xffff / u32::from(max[i])) as u16
            })
        })
    }
}

/// How pixels are laid out where an encoding may leave out what carries no colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// As the client's format says.
    Whole,
    /// Without the first byte of the four.
    LastThree,
    /// Without the last byte of the four.
    FirstThree,
    /// Red, green, blue, a byte each.
    Rgb,
}

/// Puts pixels of the surface into a client's format.
#[derive(Clone)]
pub struct Converter {
    layout: Layout,
    bytes: usize,
    /// Whether the surface's pixels are what is wanted.
    native: bool,
    big_endian: bool,
    /// What each value of each component amounts to.
    tables: Box<[[u32; 256]; 3]>,
}

impl Converter {
    /// For whole pixels.
    pub fn new(format: &PixelFormat) -> Self {
        Converter::with_layout(format, Layout::Whole)
    }

    /// For the compressed pixels of ZRLE (RFC 6143, section 7.7.5).
    pub fn for_zrle(format: &PixelFormat) -> Self {
        let used = (0..3).fold(0, |used, i| used | u32::from(format.max[i]) << format.shift[i]);
        let small = format.bits_per_pixel == 32 && format.true_colour && format.depth <= 24;
        let layout = match (small, used & 0xff00_0000 == 0, used & 0xff == 0) {
            (true, true, _) if format.big_endian => Layout::LastThree,
            (true, true, _) => Layout::FirstThree,
            (true, _, true) if format.big_endian => Layout::FirstThree,
            (true, _, true) => Layout::LastThree,
            _ => Layout::Whole,
        };
        Converter::with_layout(format, layout)
    }

    /// For the pixels of Tight.
    pub fn for_tight(format: &PixelFormat) -> Self {
        let rgb = format.true_colour
            && (format.bits_per_pixel, format.depth) == (32, 24)
            && format.max == [255; 3];
        Converter::with_layout(format, if rgb { Layout::Rgb } else { Layout::Whole })
    }

    fn with_layout(format: &PixelFormat, layout: Layout) -> Self {
        let mut tables = Box::new([[0; 256]; 3]);
        for (table, (max, shift)) in tables.iter_mut().zip(format.max.into_iter().zip(format.shift))
        {
            let max = u32::from(max);
            for (value, entry) in (0..).zip(table.iter_mut()) {
                // Of a component with fewer bits than the surface's the high ones are taken.
                let scaled = if max <= 255 { value * (max + 1) >> 8 } else { value * max / 255 };
                *entry = scaled << shift;
            }
        }
        Converter {
            layout,
            bytes: if layout == Layout::Whole { format.bytes() } else { 3 },
            native: *format == PixelFormat::NATIVE,
            big_endian: format.big_endian,
            tables,
        }
    }

    /// Bytes of a pixel as it is written.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn value(&self, pixel: u32) -> u32 {
        let [_, r, g, b] = pixel.to_be_bytes();
        let [red, green, blue] = &*self.tables;
        red[usize::from(r)] | green[usize::from(g)] | blue[usize::from(b)]
    }

    /// Appends a pixel.
    pub fn push(&self, pixel: u32, out: &mut Vec<u8>) {
        self.append(&[pixel], out);
    }

    /// Appends pixels.
    pub fn append(&self, pixels: &[u32], out: &mut Vec<u8>) {
        match (self.layout, self.native) {
            (Layout::Rgb, _) => extend(pixels, out, |pixel| {
                let [_, r, g, b] = pixel.to_be_bytes();
                [r, g, b]
            }),
            (Layout::Whole, true) => {
                extend(pixels, out, |pixel| (pixel & 0x00ff_ffff).to_le_bytes())
            }
            (Layout::FirstThree, true) => extend(pixels, out, |pixel| {
                let [b, g, r, _] = pixel.to_le_bytes();
                [b, g, r]
            }),
            _ => self.append_converted(pixels, out),
        }
    }

    fn append_converted(&self, pixels: &[u32], out: &mut Vec<u8>) {
        match (self.layout, self.bytes, self.big_endian) {
            (Layout::Whole, 1, _) => extend(pixels, out, |pixel| [self.value(pixel) as u8]),
            (Layout::Whole, 2, false) => {
                extend(pixels, out, |pixel| (self.value(pixel) as u16).to_le_bytes());
            }
            (Layout::Whole, 2, true) => {
                extend(pixels, out, |pixel| (self.value(pixel) as u16).to_be_bytes());
            }
            (Layout::Whole, _, false) => {
                extend(pixels, out, |pixel| self.value(pixel).to_le_bytes())
            }
            (Layout::Whole, _, true) => {
                extend(pixels, out, |pixel| self.value(pixel).to_be_bytes())
            }
            (layout, _, big_endian) => extend(pixels, out, |pixel| {
                let value = self.value(pixel);
                let bytes = if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
                match (layout, bytes) {
                    (Layout::LastThree, [_, a, b, c]) | (_, [a, b, c, _]) => [a, b, c],
                }
            }),
        }
    }
}

/// Appends what becomes of each pixel; written so that the compiler makes vectors of it.
fn extend<const N: usize>(pixels: &[u32], out: &mut Vec<u8>, bytes: impl Fn(u32) -> [u8; N]) {
    let start = out.len();
    out.resize(start + pixels.len() * N, 0);
    for (to, &pixel) in out[start..].chunks_exact_mut(N).zip(pixels) {
        to.copy_from_slice(&bytes(pixel));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn true_colour(bits: u8, big_endian: bool, max: [u16; 3], shift: [u8; 3]) -> PixelFormat {
        let depth = if bits == 32 { 24 } else { bits };
        PixelFormat { bits_per_pixel: bits, depth, big_endian, true_colour: true, max, shift }
    }

    fn converted(converter: &Converter, pixel: u32) -> Vec<u8> {
        let mut out = Vec::new();
        converter.push(pixel, &mut out);
        assert_eq!(out.len(), converter.bytes());
        out
    }

    #[test]
    fn formats_survive_the_wire_and_impossible_ones_are_refused() {
        let formats = [
            PixelFormat::NATIVE,
            true_colour(16, true, [31, 63, 31], [11, 5, 0]),
            true_colour(32, false, [1023; 3], [20, 10, 0]),
        ];
        for format in formats {
            assert_eq!(PixelFormat::parse(&format.to_wire()), Some(format));
        }
        let refused = [
            true_colour(24, false, [255; 3], [16, 8, 0]),
            true_colour(16, false, [255; 3], [16, 8, 0]),
            true_colour(32, false, [255, 0, 255], [16, 8, 0]),
            true_colour(32, false, [255, 200, 255], [16, 8, 0]),
            true_colour(32, false, [255; 3], [255, 8, 0]),
            true_colour(8, false, [u16::MAX; 3], [0, 0, 0]),
        ];
        for format in refused {
            assert_eq!(PixelFormat::parse(&format.to_wire()), None, "{format:?}");
        }
        let mapped = PixelFormat { true_colour: false, ..PixelFormat::NATIVE };
        assert_eq!(PixelFormat::parse(&mapped.to_wire()), Some(PixelFormat::MAPPED));
    }

    #[test]
    fn pixels_are_written_in_every_layout() {
        let native = Converter::new(&PixelFormat::NATIVE);
        assert_eq!(converted(&native, 0x0012_3456), [0x56, 0x34, 0x12, 0]);
        let rgb565 = true_colour(16, false, [31, 63, 31], [11, 5, 0]);
        assert_eq!(converted(&Converter::new(&rgb565), 0x00ff_8000), [0x00, 0xfc]);
        let swapped = PixelFormat { big_endian: true, ..rgb565 };
        assert_eq!(converted(&Converter::new(&swapped), 0x00ff_8000), [0xfc, 0x00]);
        let bgr233 = true_colour(8, false, [7, 7, 3], [0, 3, 6]);
        assert_eq!(converted(&Converter::new(&bgr233), 0x00ff_ffff), [0xff]);
        let bgrx = true_colour(32, true, [255; 3], [16, 8, 0]);
        assert_eq!(converted(&Converter::new(&bgrx), 0x0012_3456), [0, 0x12, 0x34, 0x56]);
        let deep = PixelFormat { depth: 30, ..true_colour(32, false, [1023; 3], [20, 10, 0]) };
        assert_eq!(converted(&Converter::new(&deep), 0x00ff_0000), 0x3ff0_0000_u32.to_le_bytes());
    }

    #[test]
    fn bytes_without_colour_are_left_out_where_the_encoding_says_so() {
        let zrle = |format| converted(&Converter::for_zrle(&format), 0x0012_3456);
        let low = [16, 8, 0];
        let high = [24, 16, 8];
        assert_eq!(zrle(PixelFormat::NATIVE), [0x56, 0x34, 0x12]);
        assert_eq!(zrle(true_colour(32, true, [255; 3], low)), [0x12, 0x34, 0x56]);
        assert_eq!(zrle(true_colour(32, false, [255; 3], high)), [0x56, 0x34, 0x12]);
        assert_eq!(zrle(true_colour(32, true, [255; 3], high)), [0x12, 0x34, 0x56]);
        assert_eq!(zrle(true_colour(16, false, [31, 63, 31], [11, 5, 0])).len(), 2);
        let tight = |format| converted(&Converter::for_tight(&format), 0x0012_3456);
        assert_eq!(tight(true_colour(32, true, [255; 3], [0, 8, 16])), [0x12, 0x34, 0x56]);
        assert_eq!(tight(PixelFormat { depth: 32, ..PixelFormat::NATIVE }).len(), 4);
    }

    #[test]
    fn the_colour_map_spans_all_colours() {
        let map: Vec<_> = PixelFormat::colour_map().collect();
        assert_eq!(map.len(), 256);
        assert_eq!((map[0], map[255], map[7]), ([0; 3], [0xffff; 3], [0xffff, 0, 0]));
    }
}
