//! A terminal: what the bytes that a program writes make of a screen of characters. A subset of
//! ECMA-48 and of what DEC's VT100 added, as QEMU's text consoles have it.

use std::collections::VecDeque;

use super::cp437;
use crate::{TextCell, TextScreen};

/// Lines that are kept after they have left the screen.
const HISTORY: usize = 512;
/// Numbers of a control sequence that are looked at.
const MAX_PARAMETERS: usize = 16;
const TAB: u32 = 8;
/// Light grey on black.
const USUAL: u8 = 0x07;
/// For characters that the font has not.
const UNKNOWN: u8 = b'?';

/// Colours of ECMA-48 in the order of the PC's.
const COLORS: [u8; 8] = [0, 4, 2, 6, 1, 5, 3, 7];

/// How characters are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pen {
    front: u8,
    behind: u8,
    bold: bool,
    inverse: bool,
}

impl Default for Pen {
    fn default() -> Self {
        Pen { front: USUAL & 7, behind: USUAL >> 4, bold: false, inverse: false }
    }
}

impl Pen {
    fn attribute(self) -> u8 {
        let front = self.front | u8::from(self.bold) << 3;
        match self.inverse {
            true => self.behind | self.front << 4,
            false => front | self.behind << 4,
        }
    }

    fn blank(self) -> TextCell {
        TextCell { character: b' ', attribute: self.attribute() }
    }
}

/// What the last bytes have begun.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    /// After ESC.
    Escape,
    /// After ESC and a character that says which set another selects.
    Select,
    /// After ESC [.
    Sequence { parameters: Vec<u32>, private: bool },
    /// A string that means nothing here, until BEL or ESC \.
    String,
}

/// A terminal.
pub struct Terminal {
    columns: u32,
    rows: u32,
    /// All lines; the last ones are the screen.
    lines: VecDeque<Vec<TextCell>>,
    /// How many lines back somebody looks.
    back: usize,
    cursor: (u32, u32),
    saved: ((u32, u32), Pen),
    pen: Pen,
    hidden: bool,
    /// The next character goes to the next line.
    full: bool,
    state: State,
    /// The bytes of a character of UTF-8 that is not complete.
    partial: Vec<u8>,
    replies: Vec<u8>,
}

impl Terminal {
    /// An empty screen.
    pub fn new(columns: u32, rows: u32) -> Self {
        let pen = Pen::default();
        let lines = (0..rows).map(|_| vec![pen.blank(); columns as usize]).collect();
        Terminal {
            columns,
            rows,
            lines,
            back: 0,
            cursor: (0, 0),
            saved: ((0, 0), pen),
            pen,
            hidden: false,
            full: false,
            state: State::Ground,
            partial: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// What is seen.
    pub fn screen(&self) -> TextScreen {
        let first = self.lines.len() - self.rows as usize - self.back;
        let seen = self.lines.iter().skip(first).take(self.rows as usize);
        let row = self.cursor.1 + self.back as u32;
        TextScreen {
            columns: self.columns,
            rows: self.rows,
            cells: seen.flatten().copied().collect(),
            cursor: (!self.hidden && row < self.rows).then_some((self.cursor.0, row)),
        }
    }

    /// Looks further back, or less far.
    pub fn look_back(&mut self, lines: i32) {
        let most = self.lines.len() - self.rows as usize;
        self.back = self.back.saturating_add_signed(lines as isize).min(most);
    }

    /// Lines on the screen.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// What it has to say to the program.
    pub fn take_replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.replies)
    }

    /// The program writes.
    pub fn write(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.back = 0;
        }
        bytes.iter().for_each(|byte| self.take(*byte));
    }

    fn take(&mut self, byte: u8) {
        match std::mem::take(&mut self.state) {
            State::Ground => self.plain(byte),
            State::Escape => self.escaped(byte),
            State::Select => {}
            State::Sequence { parameters, private } => self.in_sequence(byte, parameters, private),
            State::String => match byte {
                0x07 => {}
                0x1b => self.state = State::Escape,
                _ => self.state = State::String,
            },
        }
    }

    fn plain(&mut self, byte: u8) {
        match byte {
            0x08 => {
                self.cursor.0 = self.cursor.0.saturating_sub(1);
                self.full = false;
            }
            b'\t' => {
                self.cursor.0 = ((self.cursor.0 / TAB + 1) * TAB).min(self.columns - 1);
            }
            b'\n' | 0x0b | 0x0c => self.line_feed(),
            b'\r' => {
                self.cursor.0 = 0;
                self.full = false;
            }
            0x1b => self.state = State::Escape,
            0x00..0x20 | 0x7f => {}
            0x20..0x7f => {
                self.partial.clear();
                self.print(byte);
            }
            _ => self.byte_of_character(byte),
        }
    }

    /// A byte of a character of UTF-8; bytes that can not be of one are of the font's own numbers.
    fn byte_of_character(&mut self, byte: u8) {
        self.partial.push(byte);
        match std::str::from_utf8(&self.partial) {
            Ok(text) => {
                let number = text.chars().next().and_then(cp437::number);
                self.partial.clear();
                self.print(number.unwrap_or(UNKNOWN));
            }
            Err(error) if error.error_len().is_none() => {}
            Err(_) => {
                for byte in std::mem::take(&mut self.partial) {
                    self.print(byte);
                }
            }
        }
    }

    fn print(&mut self, character: u8) {
        if std::mem::take(&mut self.full) {
            self.cursor.0 = 0;
            self.line_feed();
        }
        let (x, y) = self.cursor;
        let cell = TextCell { character, attribute: self.pen.attribute() };
        if let Some(place) = self.line(y).get_mut(x as usize) {
            *place = cell;
        }
        if x + 1 < self.columns {
            self.cursor.0 += 1;
        } else {
            self.full = true;
        }
    }

    /// A line of the screen.
    fn line(&mut self, y: u32) -> &mut Vec<TextCell> {
        let at = self.lines.len() - self.rows as usize + y.min(self.rows - 1) as usize;
        &mut self.lines[at]
    }

    fn line_feed(&mut self) {
        self.full = false;
        if self.cursor.1 + 1 < self.rows {
            self.cursor.1 += 1;
            return;
        }
        if self.lines.len() == HISTORY + self.rows as usize {
            self.lines.pop_front();
        }
        self.lines.push_back(vec![self.pen.blank(); self.columns as usize]);
    }

    fn escaped(&mut self, byte: u8) {
        match byte {
            b'[' => self.state = State::Sequence { parameters: vec![0], private: false },
            b']' | b'P' | b'^' | b'_' => self.state = State::String,
            b'(' | b')' | b'#' => self.state = State::Select,
            b'7' => self.save(),
            b'8' => self.restore(),
            b'D' => self.line_feed(),
            b'E' => {
                self.cursor.0 = 0;
                self.line_feed();
            }
            b'M' => {
                self.full = false;
                match self.cursor.1 {
                    0 => self.insert_lines(0, 1),
                    y => self.cursor.1 = y - 1,
                }
            }
            b'c' => *self = Terminal::new(self.columns, self.rows),
            _ => {}
        }
    }

    fn in_sequence(&mut self, byte: u8, mut parameters: Vec<u32>, mut private: bool) {
        match byte {
            b'0'..=b'9' => {
                if let Some(last) = parameters.last_mut() {
                    *last = last.saturating_mul(10).saturating_add((byte - b'0').into()).min(9999);
                }
            }
            b';' | b':' => {
                if parameters.len() < MAX_PARAMETERS {
                    parameters.push(0);
                }
            }
            b'<'..=b'?' => private = true,
            0x20..=0x2f => {}
            0x40..=0x7e => return self.sequence(byte, &parameters, private),
            // A new sequence, or the end of this one.
            0x1b => {
                self.state = State::Escape;
                return;
            }
            0x18 | 0x1a => return,
            // Others count as if they came before.
            _ => self.plain(byte),
        }
        self.state = State::Sequence { parameters, private };
    }

    fn sequence(&mut self, last: u8, parameters: &[u32], private: bool) {
        let first = parameters.first().copied().unwrap_or(0);
        let second = parameters.get(1).copied().unwrap_or(0);
        let count = first.max(1);
        let (x, y) = self.cursor;
        match (last, private) {
            (b'A', false) => self.go(x, y.saturating_sub(count)),
            (b'B' | b'e', false) => self.go(x, y.saturating_add(count)),
            (b'C' | b'a', false) => self.go(x.saturating_add(count), y),
            (b'D', false) => self.go(x.saturating_sub(count), y),
            (b'E', false) => self.go(0, y.saturating_add(count)),
            (b'F', false) => self.go(0, y.saturating_sub(count)),
            (b'G' | b'`', false) => self.go(count - 1, y),
            (b'd', false) => self.go(x, count - 1),
            (b'H' | b'f', false) => self.go(second.max(1) - 1, count - 1),
            (b'J', false) => self.erase_screen(first),
            (b'K', false) => {
                let (from, to) = match first {
                    0 => (x, self.columns),
                    1 => (0, x + 1),
                    _ => (0, self.columns),
                };
                self.erase(y, from, to);
            }
            (b'L', false) => self.insert_lines(y, count),
            (b'M', false) => self.delete_lines(y, count),
            (b'@', false) => self.shift(count, true),
            (b'P', false) => self.shift(count, false),
            (b'X', false) => self.erase(y, x, x.saturating_add(count)),
            (b'm', false) => self.set_pen(parameters),
            (b'n', false) if first == 5 => self.replies.extend(b"\x1b[0n"),
            (b'n', false) if first == 6 => {
                self.replies.extend(format!("\x1b[{};{}R", y + 1, x + 1).bytes());
            }
            (b'c', false) => self.replies.extend(b"\x1b[?6c"),
            (b's', false) => self.save(),
            (b'u', false) => self.restore(),
            (b'h' | b'l', true) if first == 25 => self.hidden = last == b'l',
            _ => {}
        }
    }

    fn go(&mut self, x: u32, y: u32) {
        self.cursor = (x.min(self.columns - 1), y.min(self.rows - 1));
        self.full = false;
    }

    fn save(&mut self) {
        self.saved = (self.cursor, self.pen);
    }

    fn restore(&mut self) {
        (self.cursor, self.pen) = self.saved;
        self.full = false;
    }

    fn erase(&mut self, y: u32, from: u32, to: u32) {
        let (blank, to) = (self.pen.blank(), to.min(self.columns) as usize);
        if let Some(cells) = self.line(y).get_mut(from as usize..to) {
            cells.fill(blank);
        }
        self.full = false;
    }

    fn erase_screen(&mut self, what: u32) {
        let ((x, y), columns, rows) = (self.cursor, self.columns, self.rows);
        match what {
            0 => {
                self.erase(y, x, columns);
                (y + 1..rows).for_each(|row| self.erase(row, 0, columns));
            }
            1 => {
                (0..y).for_each(|row| self.erase(row, 0, columns));
                self.erase(y, 0, x + 1);
            }
            _ => (0..rows).for_each(|row| self.erase(row, 0, columns)),
        }
    }

    /// Inserts empty lines; the last ones leave the screen.
    fn insert_lines(&mut self, y: u32, count: u32) {
        for _ in 0..count.min(self.rows - y) {
            self.lines.pop_back();
            let at = self.lines.len() + 1 - (self.rows - y) as usize;
            self.lines.insert(at, vec![self.pen.blank(); self.columns as usize]);
        }
    }

    fn delete_lines(&mut self, y: u32, count: u32) {
        for _ in 0..count.min(self.rows - y) {
            let at = self.lines.len() - (self.rows - y) as usize;
            self.lines.remove(at);
            self.lines.push_back(vec![self.pen.blank(); self.columns as usize]);
        }
    }

    /// Moves the rest of the line away from the cursor, or towards it.
    fn shift(&mut self, count: u32, away: bool) {
        let (x, y) = self.cursor;
        let (blank, count) = (self.pen.blank(), count.min(self.columns - x) as usize);
        if let Some(rest) = self.line(y).get_mut(x as usize..) {
            if away {
                rest.rotate_right(count);
                rest[..count].fill(blank);
            } else {
                rest.rotate_left(count);
                let from = rest.len() - count;
                rest[from..].fill(blank);
            }
        }
        self.full = false;
    }

    fn set_pen(&mut self, parameters: &[u32]) {
        let mut parameters = parameters.iter().copied();
        while let Some(parameter) = parameters.next() {
            let pen = &mut self.pen;
            let color = |base: u32| COLORS[(parameter - base) as usize & 7];
            match parameter {
                0 => *pen = Pen::default(),
                1 => pen.bold = true,
                7 => pen.inverse = true,
                22 => pen.bold = false,
                27 => pen.inverse = false,
                30..=37 => pen.front = color(30),
                39 => pen.front = Pen::default().front,
                40..=47 => pen.behind = color(40),
                49 => pen.behind = Pen::default().behind,
                90..=97 => (pen.front, pen.bold) = (color(90), true),
                100..=107 => pen.behind = color(100),
                // A colour out of more than there are: its number or its levels are no parameters.
                38 | 48 => match parameters.next() {
                    Some(5) => drop(parameters.next()),
                    Some(2) => drop(parameters.nth(2)),
                    _ => {}
                },
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(terminal: &Terminal) -> Vec<String> {
        let screen = terminal.screen();
        let line = |cells: &[TextCell]| {
            let text: String = cells.iter().map(|cell| cp437::character(cell.character)).collect();
            text.trim_end().to_owned()
        };
        screen.cells.chunks(screen.columns as usize).map(line).collect()
    }

    fn written(bytes: &str) -> Terminal {
        let mut terminal = Terminal::new(10, 4);
        terminal.write(bytes.as_bytes());
        terminal
    }

    #[test]
    fn text_wraps_and_scrolls() {
        let mut terminal = written("0123456789abc\r\nd\r\ne\r\nf");
        assert_eq!(text(&terminal), ["abc", "d", "e", "f"]);
        terminal.look_back(1);
        assert_eq!(text(&terminal), ["0123456789", "abc", "d", "e"]);
        assert_eq!(terminal.screen().cursor, None);
        terminal.look_back(100);
        terminal.look_back(-100);
        assert_eq!(terminal.screen().cursor, Some((1, 3)));
        // A full line waits for the next character.
        assert_eq!(text(&written("0123456789\r\nx")), ["0123456789", "x", "", ""]);
    }

    #[test]
    fn sequences_move_and_erase() {
        assert_eq!(
            text(&written("abcdef\x1b[3D\x1b[K\x1b[2;3Hx\x1b[A\x1b[Dy")),
            ["aby", "  x", "", ""]
        );
        assert_eq!(text(&written("a\r\nb\r\nc\x1b[2;1H\x1b[L")), ["a", "", "b", "c"]);
        assert_eq!(text(&written("a\r\nb\r\nc\x1b[1;1H\x1b[M")), ["b", "c", "", ""]);
        assert_eq!(text(&written("abc\x1b[1G\x1b[2@")), ["  abc", "", "", ""]);
        assert_eq!(text(&written("abc\x1b[1G\x1b[2P")), ["c", "", "", ""]);
        assert_eq!(text(&written("\x1b]0;title\x07\x1b(Bx\x1b[2J\x1b[Hy")), ["y", "", "", ""]);
        assert_eq!(written("ab\x1b[6n\x1b[5n").take_replies(), b"\x1b[1;3R\x1b[0n");
        assert_eq!(text(&written("ü─\u{7f}漢\x1b[999C\x1b[999Bz")), ["ü─?", "", "", "         z"]);
    }

    #[test]
    fn colours_are_the_pcs() {
        let terminal = written("a\x1b[1;31mb\x1b[44mc\x1b[0;7md\x1b[38;5;200;32me");
        let attributes: Vec<_> =
            terminal.screen().cells[..5].iter().map(|cell| cell.attribute).collect();
        assert_eq!(attributes, [0x07, 0x0c, 0x1c, 0x70, 0x20]);
    }

    proptest! {
        #[test]
        fn anything_can_be_written(
            pieces in prop::collection::vec(prop_oneof![
                "\x1b\\[[0-9;?]{0,8}[@-~]",
                "\x1b[ -~]",
                "[ -~\r\n\t]{0,12}",
                any::<String>(),
            ], 0..60),
            raw in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut terminal = Terminal::new(7, 3);
            for piece in pieces {
                terminal.write(piece.as_bytes());
                let screen = terminal.screen();
                prop_assert_eq!(screen.cells.len(), 21);
                prop_assert!(screen.cursor.is_none_or(|(x, y)| x < 7 && y < 3));
                prop_assert!(terminal.lines.len() <= HISTORY + 3);
            }
            terminal.write(&raw);
            terminal.look_back(3);
            prop_assert_eq!(terminal.screen().cells.len(), 21);
        }
    }
}
