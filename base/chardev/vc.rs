//! What shows a text console, and has keys for it: made by a display ([`VcScreens`]).

use std::sync::{Arc, Weak};

use super::text_console::TextConsole;

/// How large a text console is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcSize {
    /// Characters in a line.
    pub columns: Option<u32>,
    /// Lines.
    pub rows: Option<u32>,
}

impl VcSize {
    /// From what was said of each side, in characters or else in pixels of a font of eight by sixteen.
    /// Zero is nothing.
    pub fn new(across: (Option<u64>, Option<u64>), down: (Option<u64>, Option<u64>)) -> Self {
        let side = |(characters, pixels): (Option<u64>, Option<u64>), size: u64| {
            let given = characters.filter(|count| *count > 0);
            let count = given.or(pixels.map(|pixels| pixels / size)).filter(|count| *count > 0);
            count.map(|count| count.min(u32::MAX.into()) as u32)
        };
        VcSize { columns: side(across, 8), rows: side(down, 16) }
    }
}

/// Shows what is written to a `vc`.
pub trait VcScreen: Send + Sync {
    /// The front end writes.
    fn write(&self, bytes: &[u8]);
}

/// Who has screens for `vc`.
pub trait VcScreens: Send + Sync {
    /// A screen for the device `label`, whose keys go to `keyboard`.
    fn open(&self, label: &str, size: VcSize, keyboard: VcKeyboard) -> Arc<dyn VcScreen>;
}

/// The way from a text console's keys to the front end.
#[derive(Clone, Default)]
pub struct VcKeyboard(Weak<TextConsole>);

impl VcKeyboard {
    pub(super) fn new(console: &Arc<TextConsole>) -> Self {
        VcKeyboard(Arc::downgrade(console))
    }

    /// Somebody types; from any thread. What there is no room for is lost.
    pub fn send(&self, bytes: &[u8]) {
        if let Some(console) = self.0.upgrade() {
            console.type_in(bytes);
        }
    }
}
