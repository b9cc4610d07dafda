//! Text consoles: the screens of character devices of the kind `vc`, such as the monitor's.

pub mod cp437;
mod font;
mod notice;
mod terminal;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::chardev::{VcKeyboard, VcScreen, VcSize};
use parking_lot::Mutex;

use crate::{Adapter, Damage, Rect, Surface, TextCell, TextScreen};
use font::{HEIGHT, WIDTH};
use terminal::Terminal;

pub use notice::{NO_ADAPTER, NOT_ACTIVE, NOT_INITIALIZED, notice};

/// A console that is told no size.
const USUAL_SIZE: (u32, u32) = (80, 30);
/// Largest sides.
const MAX_SIZE: (u32, u32) = (Surface::MAX_SIDE / WIDTH, Surface::MAX_SIDE / HEIGHT);

/// The sixteen colours of a PC.
pub const PALETTE: [u32; 16] = [
    0x000000, 0x0000aa, 0x00aa00, 0x00aaaa, 0xaa0000, 0xaa00aa, 0xaa5500, 0xaaaaaa, 0x555555,
    0x5555ff, 0x55ff55, 0x55ffff, 0xff5555, 0xff55ff, 0xffff55, 0xffffff,
];

/// Keys that are no characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum EditKey {
    Up,
    Down,
    Right,
    Left,
    Home,
    End,
    Insert,
    Delete,
    PageUp,
    PageDown,
}

/// The screen and the keys of a character device.
pub struct VcTerminal {
    label: String,
    keyboard: VcKeyboard,
    terminal: Mutex<Terminal>,
    /// What is on the surface; in reverse at the cursor. Locked without the terminal, for which the guest
    /// may wait.
    drawn: Mutex<Vec<Option<(TextCell, bool)>>>,
    /// Something was written since the screen was last drawn.
    changed: AtomicBool,
    hurry: Box<dyn Fn() + Send + Sync>,
}

impl VcTerminal {
    /// An empty screen; `hurry` is called when something is written to it.
    pub fn new(
        label: &str,
        size: VcSize,
        keyboard: VcKeyboard,
        hurry: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Self> {
        let columns = size.columns.unwrap_or(USUAL_SIZE.0).clamp(1, MAX_SIZE.0);
        let rows = size.rows.unwrap_or(USUAL_SIZE.1).clamp(1, MAX_SIZE.1);
        let terminal = Terminal::new(columns, rows);
        Arc::new(VcTerminal {
            label: label.into(),
            keyboard,
            terminal: Mutex::new(terminal),
            drawn: Mutex::default(),
            changed: AtomicBool::new(true),
            hurry: Box::new(hurry),
        })
    }

    /// Id of the character device.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Somebody types, in the form in which terminals send it.
    pub fn send(&self, bytes: &[u8]) {
        self.keyboard.send(bytes);
    }

    /// Somebody presses a key that is no character. With Ctrl, some look at what has left the screen.
    pub fn press(&self, key: EditKey, ctrl: bool) {
        let rows = self.terminal.lock().rows() as i32;
        match (key, ctrl) {
            (EditKey::Up, true) => self.look_back(1),
            (EditKey::Down, true) => self.look_back(-1),
            (EditKey::PageUp, true) => self.look_back(rows),
            (EditKey::PageDown, true) => self.look_back(-rows),
            (EditKey::Up, false) => self.send(b"\x1b[A"),
            (EditKey::Down, false) => self.send(b"\x1b[B"),
            (EditKey::Right, _) => self.send(b"\x1b[C"),
            (EditKey::Left, _) => self.send(b"\x1b[D"),
            (EditKey::Home, _) => self.send(b"\x1b[1~"),
            (EditKey::Insert, _) => self.send(b"\x1b[2~"),
            (EditKey::Delete, _) => self.send(b"\x1b[3~"),
            (EditKey::End, _) => self.send(b"\x1b[4~"),
            (EditKey::PageUp, false) => self.send(b"\x1b[5~"),
            (EditKey::PageDown, false) => self.send(b"\x1b[6~"),
        }
    }

    fn look_back(&self, lines: i32) {
        self.terminal.lock().look_back(lines);
        self.note();
    }

    fn note(&self) {
        if !self.changed.swap(true, Ordering::AcqRel) {
            (self.hurry)();
        }
    }
}

impl VcScreen for VcTerminal {
    fn write(&self, bytes: &[u8]) {
        let mut terminal = self.terminal.lock();
        terminal.write(bytes);
        let replies = terminal.take_replies();
        drop(terminal);
        if !replies.is_empty() {
            self.keyboard.send(&replies);
        }
        self.note();
    }
}

impl Adapter for VcTerminal {
    fn refresh(&self, surface: &mut Surface, full: bool) -> Damage {
        let mut damage = Damage::default();
        if !self.changed.swap(false, Ordering::AcqRel) && !full && surface.width() > 0 {
            return damage;
        }
        let drawn = &mut *self.drawn.lock();
        let screen = self.terminal.lock().screen();
        damage.resized = surface.resize(screen.columns * WIDTH, screen.rows * HEIGHT);
        if full || damage.resized {
            drawn.clear();
        }
        drawn.resize(screen.cells.len(), None);
        let places = (0..screen.rows).flat_map(|y| (0..screen.columns).map(move |x| (x, y)));
        for (((x, y), cell), drawn) in places.zip(&screen.cells).zip(drawn) {
            let now = (*cell, screen.cursor == Some((x, y)));
            if drawn.replace(now) == Some(now) {
                continue;
            }
            let (front, behind) = (cell.attribute & 15, cell.attribute >> 4);
            let (front, behind) = if now.1 { (behind, front) } else { (front, behind) };
            let colors = [behind, front].map(|color| PALETTE[usize::from(color)]);
            draw(surface, x, y, cell.character, colors);
            let rect = Rect::new(x * WIDTH, y * HEIGHT, WIDTH, HEIGHT);
            match damage.rects.last_mut() {
                Some(last) if last.y == rect.y && last.right() == rect.x => last.width += WIDTH,
                _ => damage.rects.push(rect),
            }
        }
        damage
    }

    fn text(&self) -> Option<TextScreen> {
        Some(self.terminal.lock().screen())
    }
}

fn draw(surface: &mut Surface, x: u32, y: u32, character: u8, colors: [u32; 2]) {
    for (line, bits) in (0..).zip(font::glyph(character)) {
        let row = surface.row_mut(y * HEIGHT + line);
        let Some(pixels) = row.get_mut((x * WIDTH) as usize..) else { return };
        for (column, pixel) in (0..WIDTH).zip(pixels) {
            *pixel = colors[usize::from(bits >> (7 - column) & 1)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_drawn() {
        let size = VcSize { columns: Some(4), rows: Some(2) };
        let console = VcTerminal::new("x", size, VcKeyboard::default(), || {});
        let mut surface = Surface::default();
        assert!(console.refresh(&mut surface, false).resized);
        assert_eq!((surface.width(), surface.height()), (32, 32));
        assert!(console.refresh(&mut surface, false).is_empty());
        // The cursor is a block.
        assert_eq!(surface.row(0)[..9], [[PALETTE[7]; 8].as_slice(), &[0]].concat());
        console.write("\x1b[31m█".as_bytes());
        let damage = console.refresh(&mut surface, false);
        assert_eq!(damage.rects, [Rect::new(0, 0, 16, 16)]);
        assert_eq!(surface.row(15)[..8], [PALETTE[4]; 8]);
        let mut anew = Surface::default();
        console.refresh(&mut anew, true);
        assert!(anew == surface);
        console.write(b"\r\n\n\n");
        console.press(EditKey::PageUp, true);
        assert_eq!(console.text().unwrap().cells[0].character, 0xdb);
    }
}
