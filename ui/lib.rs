//! What a person sees: the heads of display adapters as pictures, and who looks at them.
//!
//! An [`Adapter`] is what a device shows of itself: it brings a [`Surface`] up to date when it is
//! asked to. A [`Console`] keeps the surface of one head and those who look at it, each a
//! [`Viewer`]. [`Consoles`] has all of them and the thread that asks: often while somebody looks
//! and something changes, rarely while nothing does, never while nobody looks.
//!
//! Order of locks: a console's surface, then what the adapter locks, which may be its device. A
//! device never calls a console.

mod adapter;
mod console;
mod consoles;
pub mod curses;
mod cursor;
mod http;
pub mod keymap;
mod picture;
mod surface;
#[cfg(test)]
mod testing;
pub mod text;
mod viewer;
pub mod vnc;
pub mod web;
pub mod websocket;
mod wire;

pub use adapter::{Adapter, SizeWish, TextCell, TextScreen};
pub use console::{Attachment, Console, Place};
pub use consoles::Consoles;
pub use cursor::{Cursor, CursorShape};
pub use picture::{PictureError, PictureFormat};
pub use surface::{Damage, Rect, Surface};
pub use viewer::Viewer;
