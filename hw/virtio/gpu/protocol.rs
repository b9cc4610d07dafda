//! What driver and device say to each other (virtio 1.2, 5.7.6).

use crate::display::pixels::Order;

/// Types of requests.
pub mod request {
    #![allow(missing_docs)]
    pub const GET_DISPLAY_INFO: u32 = 0x0100;
    pub const RESOURCE_CREATE_2D: u32 = 0x0101;
    pub const RESOURCE_UNREF: u32 = 0x0102;
    pub const SET_SCANOUT: u32 = 0x0103;
    pub const RESOURCE_FLUSH: u32 = 0x0104;
    pub const TRANSFER_TO_HOST_2D: u32 = 0x0105;
    pub const ATTACH_BACKING: u32 = 0x0106;
    pub const DETACH_BACKING: u32 = 0x0107;
    pub const GET_EDID: u32 = 0x010a;
    pub const UPDATE_CURSOR: u32 = 0x0300;
    pub const MOVE_CURSOR: u32 = 0x0301;
}

/// Types of answers.
pub mod answer {
    #![allow(missing_docs)]
    pub const NO_DATA: u32 = 0x1100;
    pub const DISPLAY_INFO: u32 = 0x1101;
    pub const EDID: u32 = 0x1104;
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
#[repr(u32)]
pub enum Refusal {
    Unspecified = 0x1200,
    OutOfMemory = 0x1201,
    NoScanout = 0x1202,
    NoResource = 0x1203,
    Parameter = 0x1205,
}

/// Heads that the protocol has room for.
pub const MAX_SCANOUTS: usize = 16;
/// Bytes of an EDID in its answer.
pub const EDID_LEN: usize = 1024;
/// Bytes before a request's own.
pub const HEADER: usize = 24;
/// A cursor's side.
pub const CURSOR_SIDE: u32 = 64;
const FENCE: u32 = 1;

/// The start of every request and every answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which request, or which answer.
    pub kind: u32,
    flags: u32,
    fence: u64,
    context: u32,
}

impl Header {
    /// Reads one.
    pub fn read(bytes: &[u8; HEADER]) -> Self {
        let mut words = Words(bytes);
        Header { kind: words.u32(), flags: words.u32(), fence: words.u64(), context: words.u32() }
    }

    /// The start of an answer: who waits for the request's fence finds it there.
    pub fn answer(&self, kind: u32) -> Vec<u8> {
        let mut bytes = kind.to_le_bytes().to_vec();
        let fenced = self.flags & FENCE != 0;
        let (flags, fence, context) =
            if fenced { (FENCE, self.fence, self.context) } else { (0, 0, 0) };
        bytes.extend(flags.to_le_bytes());
        bytes.extend(fence.to_le_bytes());
        bytes.extend(context.to_le_bytes());
        bytes.resize(HEADER, 0);
        bytes
    }
}

/// Reads little-endian words; beyond the end there are zeroes.
pub struct Words<'a>(pub &'a [u8]);

impl Words<'_> {
    /// The next 32 bits.
    pub fn u32(&mut self) -> u32 {
        let (word, rest) = self.0.split_first_chunk().unwrap_or((&[0; 4], &[]));
        self.0 = rest;
        u32::from_le_bytes(*word)
    }

    /// The next 64 bits.
    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    /// A rectangle.
    pub fn rect(&mut self) -> ui::Rect {
        ui::Rect::new(self.u32(), self.u32(), self.u32(), self.u32())
    }
}

/// A resource's order of colours, by the protocol's number, and whether its fourth byte is alpha.
pub fn format(number: u32) -> Option<(Order, bool)> {
    match number {
        1 => Some((Order::Bgrx, true)),
        2 => Some((Order::Bgrx, false)),
        3 => Some((Order::Xrgb, true)),
        4 => Some((Order::Xrgb, false)),
        67 => Some((Order::Rgbx, true)),
        134 => Some((Order::Rgbx, false)),
        121 => Some((Order::Xbgr, true)),
        68 => Some((Order::Xbgr, false)),
        _ => None,
    }
}
