//! Raw: the pixels (RFC 6143, section 7.7.1); and Zlib: the same, compressed.

use super::deflate::Deflater;
use super::view::View;
use crate::vnc::pixel::Converter;

pub fn raw(view: View<'_>, converter: &Converter, out: &mut Vec<u8>) {
    for row in view.rows() {
        converter.append(row, out);
    }
}

/// Appends compressed data with its length in front.
pub fn compressed(data: &[u8], stream: &mut Option<Deflater>, level: u8, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend([0; 4]);
    stream.get_or_insert_with(|| Deflater::new(level)).append(data, level, out);
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}
