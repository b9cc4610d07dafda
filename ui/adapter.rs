//! What a display adapter is to its console.

use crate::{Cursor, Damage, Surface};

/// A cell of a text screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextCell {
    /// The character's number, in the font that the guest has loaded: mostly code page 437.
    pub character: u8,
    /// Colours of the text, from the palette of sixteen: bits 0 to 3 are the character's (blue, green,
    /// red, bright), bits 4 to 7 those behind it.
    pub attribute: u8,
}

/// A screen that consists of characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextScreen {
    /// Characters in a row.
    pub columns: u32,
    /// Rows.
    pub rows: u32,
    /// Row by row.
    pub cells: Vec<TextCell>,
    /// Column and row of the cursor, if it is shown.
    pub cursor: Option<(u32, u32)>,
}

/// The size that a viewer would like a head to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SizeWish {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// The size of the viewer's window in millimetres, if it is known.
    pub millimetres: Option<(u32, u32)>,
    /// In thousandths of a Hertz, if the viewer has one.
    pub refresh_rate: Option<u32>,
}

/// A head of a display adapter.
///
/// Called by the thread that refreshes consoles, and by whoever wants a picture; never by a vCPU.
pub trait Adapter: Send + Sync {
    /// Brings the surface up to date with what the guest shows, and says what changed. With `full`
    /// all of it is drawn anew; otherwise nothing that is known to be the same. While nothing has been
    /// drawn at all, the console says so.
    fn refresh(&self, surface: &mut Surface, full: bool) -> Damage;

    /// The pointer that the adapter lays over its picture.
    fn cursor(&self) -> Cursor {
        Cursor::default()
    }

    /// The screen as characters, while it consists of them.
    fn text(&self) -> Option<TextScreen> {
        None
    }

    /// Whether [`Self::wish_size`] may have an effect.
    fn takes_wishes(&self) -> bool {
        false
    }

    /// Somebody would like this size; the guest is told if the adapter can tell it.
    fn wish_size(&self, wish: SizeWish) {
        let _ = wish;
    }
}
