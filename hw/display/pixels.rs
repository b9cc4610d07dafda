//! Packed pixels of all kinds, as `0x00RRGGBB`. Plain loops over pairs, which compilers turn into
//! vector code.

fn halfword(bytes: [u8; 2], big_endian: bool) -> u32 {
    let value = if big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) };
    value.into()
}

/// Five bits as eight: the highest fill up.
fn five(value: u32) -> u32 {
    let value = value & 0x1f;
    value << 3 | value >> 2
}

/// Five bits a colour, red in the highest.
pub fn rgb15(bytes: &[u8], big_endian: bool, pixels: &mut [u32]) {
    for (pixel, bytes) in pixels.iter_mut().zip(bytes.as_chunks().0) {
        let value = halfword(*bytes, big_endian);
        *pixel = five(value >> 10) << 16 | five(value >> 5) << 8 | five(value);
    }
}

/// Five, six and five bits, red in the highest.
pub fn rgb16(bytes: &[u8], big_endian: bool, pixels: &mut [u32]) {
    for (pixel, bytes) in pixels.iter_mut().zip(bytes.as_chunks().0) {
        let value = halfword(*bytes, big_endian);
        let green = value >> 5 & 0x3f;
        *pixel = five(value >> 11) << 16 | (green << 2 | green >> 4) << 8 | five(value);
    }
}

/// Three bytes, of which the first is blue unless the order is turned round.
pub fn rgb24(bytes: &[u8], big_endian: bool, pixels: &mut [u32]) {
    for (pixel, bytes) in pixels.iter_mut().zip(bytes.as_chunks::<3>().0) {
        let [a, b, c] = bytes.map(u32::from);
        *pixel = if big_endian { a << 16 | b << 8 | c } else { c << 16 | b << 8 | a };
    }
}

/// Where the colours are in a pixel of four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Blue, green, red, unused.
    Bgrx,
    /// Unused, red, green, blue.
    Xrgb,
    /// Red, green, blue, unused.
    Rgbx,
    /// Unused, blue, green, red.
    Xbgr,
}

/// Four bytes a pixel.
pub fn rgb32(bytes: &[u8], order: Order, pixels: &mut [u32]) {
    match order {
        Order::Bgrx => each(bytes, pixels, |bytes| u32::from_le_bytes(bytes) & 0xff_ffff),
        Order::Xrgb => each(bytes, pixels, |bytes| u32::from_be_bytes(bytes) & 0xff_ffff),
        Order::Rgbx => each(bytes, pixels, |bytes| u32::from_be_bytes(bytes) >> 8),
        Order::Xbgr => each(bytes, pixels, |bytes| u32::from_le_bytes(bytes) >> 8),
    }
}

fn each(bytes: &[u8], pixels: &mut [u32], convert: impl Fn([u8; 4]) -> u32) {
    for (pixel, bytes) in pixels.iter_mut().zip(bytes.as_chunks().0) {
        *pixel = convert(*bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(convert: impl Fn(&mut [u32])) -> u32 {
        let mut pixel = [0];
        convert(&mut pixel);
        pixel[0]
    }

    #[test]
    fn every_kind_shows_the_same_colours() {
        assert_eq!(one(|p| rgb15(&[0x1f, 0x7c], false, p)), 0xff00ff);
        assert_eq!(one(|p| rgb15(&[0x02, 0x00], true, p)), 0x008400);
        assert_eq!(one(|p| rgb16(&[0xe0, 0x07], false, p)), 0x00ff00);
        assert_eq!(one(|p| rgb24(&[1, 2, 3], false, p)), 0x030201);
        assert_eq!(one(|p| rgb24(&[1, 2, 3], true, p)), 0x010203);
        let orders = [Order::Bgrx, Order::Xrgb, Order::Rgbx, Order::Xbgr];
        let seen = orders.map(|order| one(|p| rgb32(&[1, 2, 3, 4], order, p)));
        assert_eq!(seen, [0x030201, 0x020304, 0x010203, 0x040302]);
        // What does not fit is left out.
        rgb32(&[1, 2, 3], Order::Bgrx, &mut [0; 4]);
    }
}
