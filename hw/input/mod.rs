//! Input devices.

pub mod i8042;
mod ps2_keyboard;
mod ps2_mouse;
mod scancodes;
pub mod vmmouse;

pub use i8042::I8042;
