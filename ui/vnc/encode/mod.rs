//! From pixels to rectangles of a framebuffer update (RFC 6143, section 7.6.1).

mod cursor;
mod deflate;
mod hextile;
mod palette;
mod raw;
#[cfg(test)]
mod tests;
mod tight;
mod view;
mod zrle;

use deflate::Deflater;
use palette::Palette;
use tight::{Effort, Tight};
pub use view::View;

use super::pixel::{Converter, PixelFormat};
use super::protocol::encoding;
use crate::{CursorShape, Rect};

/// Effort where the client names none: little, as most viewers are near.
const DEFAULT_LEVEL: u8 = 1;

/// How pixels are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Encoding {
    #[default]
    Raw,
    Hextile,
    Zlib,
    Tight,
    Zrle,
}

impl Encoding {
    /// The encoding of this number, if it is one for pixels.
    pub fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            encoding::RAW => Encoding::Raw,
            encoding::HEXTILE => Encoding::Hextile,
            encoding::ZLIB => Encoding::Zlib,
            encoding::TIGHT => Encoding::Tight,
            encoding::ZRLE => Encoding::Zrle,
            _ => return None,
        })
    }

    fn number(self) -> i32 {
        match self {
            Encoding::Raw => encoding::RAW,
            Encoding::Hextile => encoding::HEXTILE,
            Encoding::Zlib => encoding::ZLIB,
            Encoding::Tight => encoding::TIGHT,
            Encoding::Zrle => encoding::ZRLE,
        }
    }
}

/// What one client gets its pixels from.
pub struct Encoder {
    encoding: Encoding,
    /// Effort of compression, 0 to 9.
    level: u8,
    /// Quality of JPEG, 1 to 100, if losses are allowed.
    quality: Option<u8>,
    format: PixelFormat,
    whole: Converter,
    for_zrle: Converter,
    for_tight: Converter,
    palette: Palette,
    // Streams live as long as the client, whatever it asks for in between.
    zlib: Option<Deflater>,
    zrle: Option<Deflater>,
    tight: Tight,
    scratch: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        let format = PixelFormat::NATIVE;
        Encoder {
            encoding: Encoding::default(),
            level: DEFAULT_LEVEL,
            quality: None,
            format,
            whole: Converter::new(&format),
            for_zrle: Converter::for_zrle(&format),
            for_tight: Converter::for_tight(&format),
            palette: Palette::default(),
            zlib: None,
            zrle: None,
            tight: Tight::default(),
            scratch: Vec::new(),
        }
    }
}

impl Encoder {
    /// From now on pixels have this format.
    pub fn set_format(&mut self, format: PixelFormat) {
        self.format = format;
        self.whole = Converter::new(&format);
        self.for_zrle = Converter::for_zrle(&format);
        self.for_tight = Converter::for_tight(&format);
    }

    /// From now on pixels are sent so.
    pub fn choose(&mut self, encoding: Encoding, level: Option<u8>, quality: Option<u8>) {
        self.encoding = encoding;
        self.level = level.unwrap_or(DEFAULT_LEVEL).min(9);
        self.quality = quality;
    }

    /// Whether something of the picture is lost on the way.
    pub fn loses(&self) -> bool {
        self.encoding == Encoding::Tight && self.allowed_loss().is_some()
    }

    fn allowed_loss(&self) -> Option<u8> {
        // With pixels of one byte there is no JPEG.
        self.quality.filter(|_| self.format.bits_per_pixel > 8)
    }

    /// Appends rectangles that show `view` with its upper left corner at `x`, `y`; says how many.
    /// With `exact` nothing is lost on the way.
    pub fn append(
        &mut self,
        x: u32,
        y: u32,
        view: View<'_>,
        exact: bool,
        out: &mut Vec<u8>,
    ) -> u32 {
        let number = self.encoding.number();
        if self.encoding == Encoding::Tight {
            let quality = self.allowed_loss().filter(|_| !exact);
            let effort = Effort { level: self.level, quality };
            let mut count = 0;
            let place = |out: &mut Vec<u8>, left: usize, top: usize, part: View<'_>| {
                count += 1;
                let size = (part.width() as u32, part.height() as u32);
                let rect = Rect::new(x + left as u32, y + top as u32, size.0, size.1);
                push_header(&rect, number, out);
            };
            let (palette, converter) = (&mut self.palette, &self.for_tight);
            self.tight.encode(view, palette, converter, effort, out, place);
            return count;
        }
        push_header(&Rect::new(x, y, view.width() as u32, view.height() as u32), number, out);
        self.scratch.clear();
        match self.encoding {
            Encoding::Raw => raw::raw(view, &self.whole, out),
            Encoding::Hextile => hextile::hextile(view, &self.whole, out),
            Encoding::Zlib => {
                raw::raw(view, &self.whole, &mut self.scratch);
                raw::compressed(&self.scratch, &mut self.zlib, self.level, out);
            }
            Encoding::Zrle => {
                zrle::zrle(view, &mut self.palette, &self.for_zrle, &mut self.scratch);
                raw::compressed(&self.scratch, &mut self.zrle, self.level, out);
            }
            Encoding::Tight => {}
        }
        1
    }

    /// Appends a rectangle that has the client copy what it has.
    pub fn append_copy(&self, from: (u32, u32), to: &Rect, out: &mut Vec<u8>) {
        push_header(to, encoding::COPY_RECT, out);
        out.extend((from.0 as u16).to_be_bytes());
        out.extend((from.1 as u16).to_be_bytes());
    }

    /// Appends a pseudo-rectangle with the shape of the pointer; with alpha or a mask.
    pub fn append_cursor(&self, shape: &CursorShape, with_alpha: bool, out: &mut Vec<u8>) {
        let rect = Rect::new(shape.hot_x, shape.hot_y, shape.width, shape.height);
        if with_alpha {
            push_header(&rect, encoding::ALPHA_CURSOR, out);
            cursor::alpha(shape, out);
        } else {
            push_header(&rect, encoding::RICH_CURSOR, out);
            cursor::rich(shape, &self.whole, out);
        }
    }
}

/// Appends the header of a rectangle; sides are 16 bits wide.
pub fn push_header(rect: &Rect, encoding: i32, out: &mut Vec<u8>) {
    for number in [rect.x, rect.y, rect.width, rect.height] {
        out.extend((number as u16).to_be_bytes());
    }
    out.extend(encoding.to_be_bytes());
}
