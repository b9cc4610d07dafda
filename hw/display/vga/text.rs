//! Drawing characters.

use base::memory::RamBlock;
use ui::{Damage, Rect, Surface, TextCell, TextScreen};

use super::picture::{Picture, Text};
use super::planes::PLANAR_SIZE;

/// Characters in a font, and bytes that each has room for.
const CHARACTERS: usize = 256;
const CHARACTER_LINES: usize = 32;
/// Where fonts lie.
const FONT_PLANE: usize = 2;
/// Attribute bits: the second font (and a bright colour); blinking.
const SECOND_FONT: u8 = 0x08;
const BLINKING: u8 = 0x80;
/// Characters that go on into the ninth column.
const LINE_GRAPHICS: std::ops::RangeInclusive<u8> = 0xb0..=0xdf;

type Font = [u8; CHARACTERS * CHARACTER_LINES];

/// A character as it is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cell {
    character: u8,
    attribute: u8,
    cursor: bool,
    hidden: bool,
}

/// What was drawn last.
pub struct TextPainter {
    cells: Vec<Option<Cell>>,
    fonts: [Box<Font>; 2],
}

impl Default for TextPainter {
    fn default() -> Self {
        let font = || Box::new([0; CHARACTERS * CHARACTER_LINES]);
        TextPainter { cells: Vec::new(), fonts: [font(), font()] }
    }
}

/// What blinks is shown now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// The cursor.
    pub cursor: bool,
    /// Characters.
    pub characters: bool,
}

impl Phase {
    /// Times that 70 Hz monitors had: the cursor changes every 16 frames, characters every 32.
    pub fn at(nanoseconds: i64) -> Self {
        let frames = nanoseconds / (base::clock::SECOND / 70);
        Phase { cursor: frames / 16 % 2 == 0, characters: frames / 32 % 2 == 0 }
    }
}

impl TextPainter {
    /// Forgets what was drawn.
    pub fn forget(&mut self) {
        self.cells.clear();
    }

    /// Draws what differs from what was drawn last.
    pub fn paint(
        &mut self,
        picture: &Picture,
        text: &Text,
        memory: &RamBlock,
        phase: Phase,
        surface: &mut Surface,
    ) -> Damage {
        let count = (text.columns * text.rows) as usize;
        if self.cells.len() != count {
            self.cells = vec![None; count];
        }
        for (font, &at) in self.fonts.iter_mut().zip(&text.fonts) {
            if read_font(font, memory, at) {
                self.cells.fill(None);
            }
        }
        let mut damage = Damage::default();
        let (width, height) = text.cell;
        let mut line = vec![0; text.columns as usize * 4];
        for row in 0..text.rows {
            read_row(memory, picture, row, &mut line);
            let first = row * text.columns;
            let mut changed: Option<(u32, u32)> = None;
            for (column, bytes) in (0..text.columns).zip(line.chunks_exact(4)) {
                let cell = Cell {
                    character: bytes[0],
                    attribute: bytes[1],
                    cursor: phase.cursor && text.cursor.is_some_and(|c| c.cell == first + column),
                    hidden: text.blink && bytes[1] & BLINKING != 0 && !phase.characters,
                };
                let Some(drawn) = self.cells.get_mut((first + column) as usize) else { continue };
                if *drawn != Some(cell) {
                    *drawn = Some(cell);
                    let font = &self.fonts[usize::from(cell.attribute & SECOND_FONT != 0)];
                    draw(surface, picture, text, font, cell, (column * width, row * height));
                    let from = changed.map_or(column, |(from, _)| from);
                    changed = Some((from, column + 1));
                }
            }
            if let Some((from, to)) = changed {
                let rect = Rect::new(from * width, row * height, (to - from) * width, height);
                damage.rects.push(rect);
            }
        }
        damage
    }
}

fn read_row(memory: &RamBlock, picture: &Picture, row: u32, line: &mut [u8]) {
    let at = picture.start.wrapping_add(row * picture.pitch) % PLANAR_SIZE;
    let until_wrap = ((PLANAR_SIZE - at) as usize).min(line.len());
    let (head, tail) = line.split_at_mut(until_wrap);
    memory.read(at.into(), head);
    memory.read(0, tail);
}

/// Reads a font; says whether it is another than before.
fn read_font(font: &mut Font, memory: &RamBlock, at: u32) -> bool {
    let mut planes = vec![0; font.len() * 4];
    memory.read(at.into(), &mut planes);
    let mut differs = false;
    for (line, bytes) in font.iter_mut().zip(planes.chunks_exact(4)) {
        differs |= *line != bytes[FONT_PLANE];
        *line = bytes[FONT_PLANE];
    }
    differs
}

fn colors(picture: &Picture, text: &Text, cell: Cell) -> (u32, u32) {
    let behind = match text.blink {
        true => cell.attribute >> 4 & 7,
        false => cell.attribute >> 4,
    };
    let behind = picture.palette[usize::from(behind)];
    let front = picture.palette[usize::from(cell.attribute & 15)];
    (if cell.hidden { behind } else { front }, behind)
}

fn draw(
    surface: &mut Surface,
    picture: &Picture,
    text: &Text,
    font: &Font,
    cell: Cell,
    (x, y): (u32, u32),
) {
    let (front, behind) = colors(picture, text, cell);
    let (width, height) = text.cell;
    let glyph = usize::from(cell.character) * CHARACTER_LINES;
    let continues = text.line_graphics && LINE_GRAPHICS.contains(&cell.character);
    let cursor = text.cursor.filter(|_| cell.cursor).map(|cursor| cursor.lines);
    let underlined = cell.attribute & 7 == 1;
    for line in 0..height {
        let bits = font.get(glyph + line as usize).copied().unwrap_or(0);
        let in_cursor =
            cursor.is_some_and(|(from, to)| (u32::from(from)..=u32::from(to)).contains(&line));
        let solid = in_cursor || underlined && line == u32::from(text.underline);
        // Nine dots, the leftmost in bit 8.
        let dots = match solid {
            true => 0x1ff,
            false => u32::from(bits) << 1 | u32::from(continues && bits & 1 != 0),
        };
        let row = surface.row_mut(y + line);
        let Some(to) = row.get_mut(x as usize..(x + width) as usize) else { return };
        let shift = u32::from(text.doubled);
        for (column, pixel) in (0..).zip(to) {
            let set = dots >> (8 - (column >> shift)) & 1 != 0;
            *pixel = if set { front } else { behind };
        }
    }
}

/// The characters of a text screen, for terminals.
pub fn characters(picture: &Picture, text: &Text, memory: &RamBlock) -> TextScreen {
    let mut screen = TextScreen { columns: text.columns, rows: text.rows, ..TextScreen::default() };
    let mut line = vec![0; text.columns as usize * 4];
    for row in 0..text.rows {
        read_row(memory, picture, row, &mut line);
        let cells = line.chunks_exact(4);
        screen.cells.extend(cells.map(|cell| TextCell { character: cell[0], attribute: cell[1] }));
    }
    screen.cursor = text
        .cursor
        .filter(|cursor| cursor.lines.0 <= cursor.lines.1)
        .map(|cursor| (cursor.cell % text.columns.max(1), cursor.cell / text.columns.max(1)))
        .filter(|(_, row)| *row < text.rows);
    screen
}
