//! A pointer that the adapter itself lays over the dots on their way to the monitor.

use std::ops::Range;

/// A square pointer of two bits a dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Column of its first dot.
    pub x: u32,
    /// Line of its first dot.
    pub y: u32,
    /// Dots across, at most 64.
    pub side: u32,
    /// Lines of dots, the leftmost in the highest bit. A dot whose first bit is clear is the picture's,
    /// inverted if the second is set; otherwise the second selects its colour.
    pub lines: Vec<[u64; 2]>,
    /// Its colours.
    pub colors: [u32; 2],
}

impl Overlay {
    /// The lines of the screen that it may cover.
    pub fn covers(&self) -> Range<u32> {
        self.y..self.y.saturating_add(self.lines.len() as u32)
    }

    /// Lays it over line `y`.
    pub fn draw(&self, y: u32, row: &mut [u32]) {
        let line = y.checked_sub(self.y).and_then(|line| self.lines.get(line as usize));
        let (Some([first, second]), Some(row)) = (line, row.get_mut(self.x as usize..)) else {
            return;
        };
        for (column, pixel) in (0..self.side.min(64)).zip(row) {
            let bit = |line: &u64| line >> (63 - column) & 1 != 0;
            match (bit(first), bit(second)) {
                (false, false) => {}
                (false, true) => *pixel ^= 0xff_ffff,
                (true, color) => *pixel = self.colors[usize::from(color)],
            }
        }
    }
}
