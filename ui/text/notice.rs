//! What is on a screen that nobody has drawn on.

use super::font::{HEIGHT, WIDTH};
use super::{PALETTE, draw};
use crate::{Damage, Surface};

/// An adapter that nothing has been given to show yet.
pub const NOT_INITIALIZED: &str = "Guest has not initialized the display (yet).";
/// A head of several that is switched off.
pub const NOT_ACTIVE: &str = "Display output is not active.";
/// A machine that has no adapter.
pub const NO_ADAPTER: &str = "This VM has no graphic display device.";

/// Size of such a screen.
const SIZE: (u32, u32) = (640, 480);

/// Shows a line of text, in the middle of a screen that is otherwise black.
pub fn notice(surface: &mut Surface, words: &str) -> Damage {
    let resized = surface.resize(SIZE.0, SIZE.1);
    surface.pixels_mut().fill(PALETTE[0]);
    let (columns, rows) = (SIZE.0 / WIDTH, SIZE.1 / HEIGHT);
    let column = columns.saturating_sub(words.len() as u32) / 2;
    for (x, character) in (column..columns).zip(words.bytes()) {
        draw(surface, x, (rows - 1) / 2, character, [PALETTE[0], PALETTE[7]]);
    }
    Damage { resized, ..Damage::all(surface) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_in_the_middle() {
        let mut surface = Surface::default();
        assert!(notice(&mut surface, NOT_ACTIVE).resized);
        assert_eq!((surface.width(), surface.height()), SIZE);
        let is_lit = |y: u32| surface.row(y).iter().any(|pixel| *pixel != 0);
        let lit: Vec<u32> = (0..SIZE.1).filter(|y| is_lit(*y)).collect();
        assert!(lit.first() >= Some(&224) && lit.last() < Some(&240), "{lit:?}");
        // From the stem of the D to the full stop.
        let column = |x: u32| lit.iter().any(|y| surface.row(*y)[x as usize] != 0);
        let columns: Vec<u32> = (0..SIZE.0).filter(|x| column(*x)).collect();
        assert!(columns.first() >= Some(&200) && columns.last() < Some(&432), "{columns:?}");
    }
}
