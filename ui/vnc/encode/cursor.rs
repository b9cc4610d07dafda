//! The shape of the pointer, which the client draws: with a mask (RFC 6143, section 7.8.1) or with
//! alpha (the community's description, "Cursor With Alpha Pseudo-encoding").

use crate::CursorShape;
use crate::vnc::pixel::Converter;
use crate::vnc::protocol::encoding;

/// From which alpha on a pixel is there, where there is nothing in between.
const OPAQUE: u32 = 0x80;

/// Pixels in the client's format, then a bit for each that is there.
pub fn rich(shape: &CursorShape, converter: &Converter, out: &mut Vec<u8>) {
    converter.append(&shape.pixels, out);
    for row in shape.pixels.chunks(shape.width.max(1) as usize) {
        for pixels in row.chunks(8) {
            let bits = |byte, &pixel: &u32| byte << 1 | u8::from(pixel >> 24 >= OPAQUE);
            out.push(pixels.iter().fold(0, bits) << (8 - pixels.len()));
        }
    }
}

/// Red, green, blue, each multiplied with alpha, and alpha, whatever the client's format.
pub fn alpha(shape: &CursorShape, out: &mut Vec<u8>) {
    out.extend(encoding::RAW.to_be_bytes());
    for pixel in &shape.pixels {
        let [alpha, red, green, blue] = pixel.to_be_bytes();
        let multiplied = [red, green, blue].map(|c| (u16::from(c) * u16::from(alpha) / 255) as u8);
        out.extend(multiplied);
        out.push(alpha);
    }
}
