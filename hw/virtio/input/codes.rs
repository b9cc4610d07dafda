//! Types and codes of events, which are those of Linux's evdev interface (linux/input-event-codes.h).

use base::input::{Button, KeyCode};

/// Types of events.
pub mod kind {
    #![allow(missing_docs)]
    pub const SYNC: u16 = 0;
    pub const KEY: u16 = 1;
    pub const REL: u16 = 2;
    pub const ABS: u16 = 3;
    pub const LED: u16 = 0x11;
    pub const REPEAT: u16 = 0x14;
}

/// Directions, by their numbers for both relative and absolute movements.
pub mod axis {
    #![allow(missing_docs)]
    pub const X: u16 = 0;
    pub const Y: u16 = 1;
    /// Relative only.
    pub const WHEEL: u16 = 8;
}

/// Lights.
pub mod led {
    #![allow(missing_docs)]
    pub const NUM: u16 = 0;
    pub const CAPS: u16 = 1;
    pub const SCROLL: u16 = 2;
}

/// The code of each key in order of [`KeyCode::ALL`]; zero if it has none.
#[rustfmt::skip]
const KEYS: [u16; KeyCode::ALL.len()] = [
    0, 42, 54, 56, 100, 29, 97, 139, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18,
    19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 43, 44,
    45, 46, 47, 48, 49, 50, 51, 52, 53, 55, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70,
    98, 55, 74, 78, 96, 83, 99, 82, 79, 80, 81, 75, 76, 77, 71, 72, 73, 86, 87, 88, 99, 102, 104,
    109, 107, 105, 103, 108, 106, 110, 111, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 101,
    138, 125, 126, 127, 119, 89, 91, 92, 124, 94, 93, 121, 117, 116, 142, 143, 163, 165, 166, 164,
    113, 115, 114, 226, 155, 140, 157, 172, 158, 159, 173, 156, 122, 123, 183, 184, 185, 186, 187,
    188, 189, 190, 191, 192, 193, 194,
];

/// The code of a key, if it has one.
pub fn key(key: KeyCode) -> Option<u16> {
    KEYS.get(key as usize).copied().filter(|&code| code != 0)
}

/// The code of a button, if it has one.
pub fn button(button: Button) -> Option<u16> {
    Some(match button {
        Button::Left => 0x110,
        Button::Right => 0x111,
        Button::Middle => 0x112,
        Button::Side => 0x113,
        Button::Extra => 0x114,
        Button::Touch => 0x14a,
        // Where wheels are buttons.
        Button::WheelDown => 0x150,
        Button::WheelUp => 0x151,
        Button::WheelLeft | Button::WheelRight => return None,
    })
}
