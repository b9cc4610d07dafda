//! The numbers of the protocol, and what clients say: RFC 6143 and the community's extensions to it.
//!
//! A message is read only once it is complete. None is longer than [`MAX_ENCODINGS`] numbers, so what
//! a client can make a server keep is bounded; texts of the clipboard are not kept.

use super::pixel::{PixelFormat, WIRE_SIZE};

/// Numbers of encodings and pseudo-encodings.
pub mod encoding {
    #![allow(missing_docs)]
    pub const RAW: i32 = 0;
    pub const COPY_RECT: i32 = 1;
    pub const HEXTILE: i32 = 5;
    pub const ZLIB: i32 = 6;
    pub const TIGHT: i32 = 7;
    pub const ZRLE: i32 = 16;
    /// Lowest and highest quality of JPEG.
    pub const QUALITY: std::ops::RangeInclusive<i32> = -32..=-23;
    pub const DESKTOP_SIZE: i32 = -223;
    pub const RICH_CURSOR: i32 = -239;
    /// Least and greatest effort of compression.
    pub const COMPRESSION: std::ops::RangeInclusive<i32> = -256..=-247;
    pub const POINTER_TYPE: i32 = -257;
    pub const EXTENDED_KEY: i32 = -258;
    pub const LED_STATE: i32 = -261;
    pub const DESKTOP_NAME: i32 = -307;
    pub const EXTENDED_DESKTOP_SIZE: i32 = -308;
    pub const XVP: i32 = -309;
    pub const ALPHA_CURSOR: i32 = -314;
}

/// Types of messages that a server sends.
pub mod server_message {
    #![allow(missing_docs)]
    pub const FRAMEBUFFER_UPDATE: u8 = 0;
    pub const SET_COLOUR_MAP: u8 = 1;
    pub const XVP: u8 = 250;
}

/// Encodings that a client may name; no client knows so many.
const MAX_ENCODINGS: usize = 1024;
/// Screens of a layout; there are no more than 255, as their number is a byte.
const SCREEN_SIZE: usize = 16;
/// Longest text of a clipboard; a longer one is a fault.
pub const MAX_CUT_TEXT: u32 = 1 << 20;

/// A request for a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct UpdateRequest {
    /// Only what has changed is wanted.
    pub incremental: bool,
    pub x: u16,
    pub y: u16,
    pub width: u16,
    pub height: u16,
}

/// What an operator may ask for (extension `xvp`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Power {
    Shutdown,
    Reset,
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Pixels are wanted so.
    SetPixelFormat(PixelFormat),
    /// These encodings are understood; earlier ones are preferred.
    SetEncodings(Vec<i32>),
    /// A picture is wanted.
    UpdateRequest(UpdateRequest),
    /// A key went down or up.
    Key {
        /// Down.
        down: bool,
        /// What it means.
        keysym: u32,
    },
    /// A key went down or up, and it is known which.
    ExtendedKey {
        /// Down.
        down: bool,
        /// What it means.
        keysym: u32,
        /// Its number, as a PC keyboard counts (`0xe0` in front is bit 7).
        scancode: u32,
    },
    /// The pointer.
    Pointer {
        /// Buttons that are down.
        buttons: u8,
        /// Column, or movement from 0x7fff.
        x: u16,
        /// Row, or movement from 0x7fff.
        y: u16,
    },
    /// A text of the clipboard follows, of so many bytes.
    CutText(u32),
    /// The client would like this size.
    SetDesktopSize {
        /// In pixels.
        width: u16,
        /// In pixels.
        height: u16,
    },
    /// Power buttons; `None` if it is one that machines do not have, such as a gentle reboot.
    Power(Option<Power>),
    /// The audio extension, which is not offered.
    Audio,
}

/// Why a client is not listened to any more.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A message type that is not known, so that it is not known where the next message starts.
    #[error("unknown message {0}")]
    UnknownMessage(u8),
    /// A message that says it is longer than is sensible.
    #[error("message {0} is too long")]
    TooLong(u8),
    /// A pixel format that no pixel could have.
    #[error("impossible pixel format")]
    PixelFormat,
    /// Something else that nobody says.
    #[error("{0}")]
    Nonsense(&'static str),
}

/// Reads what is there in order.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.0 = self.0.get(count..)?;
        Some(())
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }
}

/// Reads the first message of `bytes`: the message and its length, or `None` while it is not complete.
pub fn parse(bytes: &[u8]) -> Result<Option<(Message, usize)>, Fault> {
    let mut reader = Reader(bytes);
    let message = read(&mut reader).transpose()?;
    Ok(message.map(|message| (message, bytes.len() - reader.0.len())))
}

fn read(reader: &mut Reader<'_>) -> Option<Result<Message, Fault>> {
    let kind = reader.u8()?;
    Some(Ok(match kind {
        0 => {
            reader.skip(3)?;
            match PixelFormat::parse(&reader.take::<WIRE_SIZE>()?) {
                Some(format) => Message::SetPixelFormat(format),
                None => return Some(Err(Fault::PixelFormat)),
            }
        }
        2 => {
            reader.skip(1)?;
            let count = reader.u16()?.into();
            if count > MAX_ENCODINGS {
                return Some(Err(Fault::TooLong(kind)));
            }
            let encodings = (0..count).map(|_| reader.u32().map(u32::cast_signed));
            Message::SetEncodings(encodings.collect::<Option<_>>()?)
        }
        3 => Message::UpdateRequest(UpdateRequest {
            incremental: reader.u8()? != 0,
            x: reader.u16()?,
            y: reader.u16()?,
            width: reader.u16()?,
            height: reader.u16()?,
        }),
        4 => {
            let down = reader.u8()? != 0;
            reader.skip(2)?;
            Message::Key { down, keysym: reader.u32()? }
        }
        5 => Message::Pointer { buttons: reader.u8()?, x: reader.u16()?, y: reader.u16()? },
        6 => {
            reader.skip(3)?;
            // Of the extended clipboard the length is negative.
            let length = reader.u32()?.cast_signed().unsigned_abs();
            if length > MAX_CUT_TEXT {
                return Some(Err(Fault::TooLong(kind)));
            }
            Message::CutText(length)
        }
        250 => {
            reader.skip(1)?;
            let (version, code) = (reader.u8()?, reader.u8()?);
            Message::Power(match (version, code) {
                (1, 2) => Some(Power::Shutdown),
                (1, 4) => Some(Power::Reset),
                _ => None,
            })
        }
        251 => {
            reader.skip(1)?;
            let (width, height) = (reader.u16()?, reader.u16()?);
            let screens: usize = reader.u8()?.into();
            reader.skip(1 + screens * SCREEN_SIZE)?;
            Message::SetDesktopSize { width, height }
        }
        255 => return qemu_message(reader),
        kind => return Some(Err(Fault::UnknownMessage(kind))),
    }))
}

/// Messages of the extensions whose type is 255.
fn qemu_message(reader: &mut Reader<'_>) -> Option<Result<Message, Fault>> {
    Some(match reader.u8()? {
        0 => {
            let down = reader.u16()? != 0;
            Ok(Message::ExtendedKey { down, keysym: reader.u32()?, scancode: reader.u32()? })
        }
        1 => match reader.u16()? {
            0 | 1 => Ok(Message::Audio),
            2 => {
                // Sample format, channels, frequency.
                reader.skip(6)?;
                Ok(Message::Audio)
            }
            _ => Err(Fault::Nonsense("unknown audio operation")),
        },
        _ => Err(Fault::UnknownMessage(255)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// More than any message.
    const MAX_MESSAGE: usize = 8 + 255 * SCREEN_SIZE + 4 * MAX_ENCODINGS;

    fn all(bytes: &[u8]) -> Message {
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length]), Ok(None), "{length} bytes of {bytes:?}");
        }
        let (message, length) = parse(&[bytes, &[9, 9, 9]].concat()).unwrap().unwrap();
        assert_eq!(length, bytes.len());
        message
    }

    #[test]
    fn every_message_is_read_once_it_is_complete() {
        let format = [&[0, 1, 2, 3][..], &PixelFormat::NATIVE.to_wire()].concat();
        assert_eq!(all(&format), Message::SetPixelFormat(PixelFormat::NATIVE));
        let encodings = [2, 0, 0, 2, 0, 0, 0, 7, 0xff, 0xff, 0xff, 0x21];
        assert_eq!(all(&encodings), Message::SetEncodings(vec![7, -223]));
        let request = UpdateRequest { incremental: true, x: 1, y: 2, width: 0x304, height: 5 };
        assert_eq!(all(&[3, 1, 0, 1, 0, 2, 3, 4, 0, 5]), Message::UpdateRequest(request));
        assert_eq!(
            all(&[4, 1, 0, 0, 0, 0, 0xff, 0x0d]),
            Message::Key { down: true, keysym: 0xff0d }
        );
        assert_eq!(all(&[5, 3, 0, 9, 1, 0]), Message::Pointer { buttons: 3, x: 9, y: 256 });
        assert_eq!(all(&[6, 0, 0, 0, 0, 0, 0, 5]), Message::CutText(5));
        assert_eq!(all(&[6, 0, 0, 0, 0xff, 0xff, 0xff, 0xf0]), Message::CutText(16));
        assert_eq!(
            all(&[255, 0, 0, 1, 0, 0, 0, 0x61, 0, 0, 0, 0x1e]),
            Message::ExtendedKey { down: true, keysym: 0x61, scancode: 0x1e }
        );
        assert_eq!(all(&[255, 1, 0, 2, 3, 2, 0, 0, 0xac, 0x44]), Message::Audio);
        assert_eq!(all(&[250, 0, 1, 4]), Message::Power(Some(Power::Reset)));
        assert_eq!(all(&[250, 0, 1, 3]), Message::Power(None));
        let size = [&[251, 0, 3, 0, 2, 0, 1, 0][..], &[0; 16]].concat();
        assert_eq!(all(&size), Message::SetDesktopSize { width: 768, height: 512 });
    }

    #[test]
    fn nonsense_is_a_fault() {
        assert_eq!(parse(&[7]), Err(Fault::UnknownMessage(7)));
        assert_eq!(parse(&[2, 0, 0xff, 0xff]), Err(Fault::TooLong(2)));
        assert_eq!(parse(&[6, 0, 0, 0, 0x7f, 0, 0, 0]), Err(Fault::TooLong(6)));
        assert_eq!(parse(&[6, 0, 0, 0, 0x80, 0, 0, 0]), Err(Fault::TooLong(6)));
        assert_eq!(parse(&[255, 2]), Err(Fault::UnknownMessage(255)));
        assert_eq!(parse(&[0; 20]), Err(Fault::PixelFormat));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_bounded(bytes in proptest::collection::vec(any::<u8>(), MAX_MESSAGE)) {
            // Either it is complete within what is kept, or it is a fault.
            if let Ok(parsed) = parse(&bytes) {
                let (_, length) = parsed.expect("incomplete");
                prop_assert!(length <= MAX_MESSAGE);
            }
        }
    }
}
