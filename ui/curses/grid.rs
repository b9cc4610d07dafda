//! What a terminal shows, as characters with colours, and the bytes that make it show something else.

use std::fmt::Write;

use crate::text::cp437;
use crate::{Surface, TextScreen};

/// A colour of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// One of the PC's sixteen.
    Named(u8),
    /// `0x00RRGGBB`
    True(u32),
}

/// A character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    pub character: char,
    pub front: Color,
    pub behind: Color,
}

impl Cell {
    const BLANK: Cell = Cell { character: ' ', front: Color::Named(7), behind: Color::Named(0) };
}

/// A screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grid {
    pub columns: usize,
    pub rows: usize,
    cells: Vec<Cell>,
    /// Column and row of the cursor, if it is shown.
    cursor: Option<(usize, usize)>,
}

/// ECMA-48's colours in the order of the PC's.
const COLORS: [u8; 8] = [0, 4, 2, 6, 1, 5, 3, 7];
/// The upper half of a cell: with it a cell is two pixels.
const UPPER_HALF: char = '▀';

impl Grid {
    pub fn new(columns: usize, rows: usize) -> Self {
        Grid { columns, rows, cells: vec![Cell::BLANK; columns * rows], cursor: None }
    }

    /// A screen of characters, in the middle if there is more room, cut off if there is less: what is
    /// around the cursor stays.
    pub fn of_text(text: &TextScreen, columns: usize, rows: usize) -> Self {
        let mut grid = Grid::new(columns, rows);
        let (width, height) = (text.columns as usize, text.rows as usize);
        let cursor = text.cursor.map(|(x, y)| (x as usize, y as usize));
        let skip = |at: Option<usize>, size: usize, room: usize| {
            at.map_or(0, |at| (at + 1).saturating_sub(room)).min(size.saturating_sub(room))
        };
        let skipped = (
            skip(cursor.map(|(x, _)| x), width, columns),
            skip(cursor.map(|(_, y)| y), height, rows),
        );
        let margin = (columns.saturating_sub(width) / 2, rows.saturating_sub(height) / 2);
        for (y, line) in text.cells.chunks(width.max(1)).skip(skipped.1).take(rows).enumerate() {
            for (x, cell) in line.iter().skip(skipped.0).take(columns).enumerate() {
                grid.cells[(y + margin.1) * columns + x + margin.0] = Cell {
                    character: cp437::character(cell.character),
                    front: Color::Named(cell.attribute & 15),
                    behind: Color::Named(cell.attribute >> 4 & 7),
                };
            }
        }
        grid.cursor = cursor.and_then(|(x, y)| {
            let place =
                (x.checked_sub(skipped.0)? + margin.0, y.checked_sub(skipped.1)? + margin.1);
            (place.0 < columns && place.1 < rows).then_some(place)
        });
        grid
    }

    /// A picture, as large as there is room for; each cell is two pixels, one above the other.
    pub fn of_picture(surface: &Surface, columns: usize, rows: usize) -> Self {
        let mut grid = Grid::new(columns, rows);
        let (width, height) = (surface.width() as usize, surface.height() as usize);
        if width == 0 || height == 0 || columns == 0 || rows == 0 {
            return grid;
        }
        // The larger of both sides decides; nothing is drawn larger than it is.
        let (across, down) = match width * rows * 2 > height * columns {
            true => (columns.min(width), (columns.min(width) * height / width).max(1)),
            false => (((rows * 2).min(height) * width / height).max(1), (rows * 2).min(height)),
        };
        let (across, down) = (across.min(columns), down.min(rows * 2));
        let pixels = shrink(surface, across, down);
        let margin = ((columns - across) / 2, (rows - down.div_ceil(2)) / 2);
        for y in 0..down.div_ceil(2) {
            for x in 0..across {
                let pixel = |y: usize| pixels.get(y * across + x).copied().unwrap_or(0);
                grid.cells[(y + margin.1) * columns + x + margin.0] = Cell {
                    character: UPPER_HALF,
                    front: Color::True(pixel(2 * y)),
                    behind: Color::True(pixel(2 * y + 1)),
                };
            }
        }
        grid
    }

    /// A line in the middle.
    pub fn of_message(message: &str, columns: usize, rows: usize) -> Self {
        let mut grid = Grid::new(columns, rows);
        let start = rows / 2 * columns + columns.saturating_sub(message.chars().count()) / 2;
        for (cell, character) in grid.cells.iter_mut().skip(start).zip(message.chars()) {
            cell.character = character;
        }
        grid
    }

    /// The bytes that turn what `shown` is into this.
    pub fn update(&self, shown: Option<&Grid>) -> String {
        let shown = shown.filter(|old| (old.columns, old.rows) == (self.columns, self.rows));
        let mut bytes = String::new();
        if shown.is_none() {
            bytes += "\x1b[0m\x1b[2J";
        }
        let mut pen: Option<(Color, Color)> = None;
        let mut at: Option<usize> = None;
        for (n, cell) in self.cells.iter().enumerate() {
            let old = shown.map_or(&Cell::BLANK, |shown| &shown.cells[n]);
            if old == cell {
                continue;
            }
            if at != Some(n) || n % self.columns == 0 {
                let (x, y) = (n % self.columns + 1, n / self.columns + 1);
                // Writing to a string does not fail.
                let _ = write!(bytes, "\x1b[{y};{x}H");
            }
            let colors = (cell.front, cell.behind);
            if pen != Some(colors) {
                push_colors(colors, &mut bytes);
                pen = Some(colors);
            }
            bytes.push(cell.character);
            at = Some(n + 1);
        }
        if self.cursor != shown.and_then(|shown| shown.cursor) || !bytes.is_empty() {
            match self.cursor {
                Some((x, y)) => {
                    let _ = write!(bytes, "\x1b[{};{}H\x1b[?25h", y + 1, x + 1);
                }
                None => bytes += "\x1b[?25l",
            }
        }
        bytes
    }
}

fn push_colors((front, behind): (Color, Color), bytes: &mut String) {
    let named = |color: u8| COLORS[usize::from(color & 7)];
    let bright = |color: u8| color & 8 != 0;
    *bytes += "\x1b[0";
    let _ = match front {
        Color::Named(color) => {
            write!(bytes, ";{}", if bright(color) { 90 } else { 30 } + named(color))
        }
        Color::True(color) => push_levels(38, color, bytes),
    };
    let _ = match behind {
        Color::Named(color) => {
            write!(bytes, ";{}", if bright(color) { 100 } else { 40 } + named(color))
        }
        Color::True(color) => push_levels(48, color, bytes),
    };
    bytes.push('m');
}

fn push_levels(what: u8, color: u32, bytes: &mut String) -> std::fmt::Result {
    let [_, red, green, blue] = color.to_be_bytes();
    write!(bytes, ";{what};2;{red};{green};{blue}")
}

/// A picture of fewer pixels, each the mean of those in its place.
fn shrink(surface: &Surface, width: usize, height: usize) -> Vec<u32> {
    let size = (surface.width() as usize, surface.height() as usize);
    let bounds = |n: usize, of: usize, all: usize| {
        let from = n * all / of;
        from..((n + 1) * all / of).max(from + 1)
    };
    let mut pixels = Vec::with_capacity(width * height);
    let mut sums = vec![[0_u64; 3]; width];
    for y in 0..height {
        sums.fill([0; 3]);
        let lines = bounds(y, height, size.1);
        let count = lines.len();
        for line in lines {
            let row = surface.row(line as u32);
            for (x, sum) in sums.iter_mut().enumerate() {
                for pixel in row.get(bounds(x, width, size.0)).unwrap_or_default() {
                    let [_, levels @ ..] = pixel.to_be_bytes();
                    sum.iter_mut().zip(levels).for_each(|(sum, level)| *sum += u64::from(level));
                }
            }
        }
        for (x, sum) in sums.iter().enumerate() {
            let count = (count * bounds(x, width, size.0).len()) as u64;
            pixels.push(sum.iter().fold(0, |pixel, level| pixel << 8 | (level / count) as u32));
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TextCell;

    #[test]
    fn only_what_differs_is_sent() {
        let mut old = Grid::new(4, 2);
        let mut new = old.clone();
        new.cells[5].character = 'x';
        new.cells[6].character = 'y';
        assert_eq!(new.update(Some(&old)), "\x1b[2;2H\x1b[0;37;40mxy\x1b[?25l");
        assert_eq!(new.update(Some(&new.clone())), "");
        old.cursor = Some((1, 0));
        assert_eq!(old.update(Some(&Grid::new(4, 2))), "\x1b[1;2H\x1b[?25h");
        assert!(new.update(None).starts_with("\x1b[0m\x1b[2J"));
        assert!(new.update(Some(&Grid::new(3, 2))).starts_with("\x1b[0m\x1b[2J"));
    }

    #[test]
    fn a_screen_that_is_too_large_shows_the_cursor() {
        let cells =
            (0..80 * 25).map(|n| TextCell { character: (n / 80) as u8 + b'a', attribute: 7 });
        let text =
            TextScreen { columns: 80, rows: 25, cells: cells.collect(), cursor: Some((0, 24)) };
        let grid = Grid::of_text(&text, 60, 20);
        assert_eq!(grid.cursor, Some((0, 19)));
        assert_eq!(grid.cells[0].character, 'f');
        let grid = Grid::of_text(&text, 100, 31);
        assert_eq!((grid.cells[3 * 100 + 10].character, grid.cursor), ('a', Some((10, 27))));
    }

    #[test]
    fn pictures_keep_their_shape() {
        let mut surface = Surface::new(64, 64);
        surface.pixels_mut()[..64 * 32].fill(0xff0000);
        let grid = Grid::of_picture(&surface, 80, 8);
        let painted = grid.cells.iter().filter(|cell| cell.character == UPPER_HALF).count();
        assert_eq!(painted, 16 * 8);
        assert_eq!(grid.cells[32].front, Color::True(0xff0000));
        assert_eq!(grid.cells[7 * 80 + 32].behind, Color::True(0));
        for (columns, rows) in [(1, 1), (0, 0), (200, 1), (1, 200)] {
            Grid::of_picture(&surface, columns, rows);
        }
    }
}
