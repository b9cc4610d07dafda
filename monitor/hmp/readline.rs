//! A line of input being edited at a terminal: keys go in, what the terminal shows comes out.

/// How many lines are remembered.
const HISTORY: usize = 64;
/// Longest line.
const MAX_LINE: usize = 4095;
const ERASE_TO_END: &str = "\x1b[K";
const LEFT: &str = "\x1b[D";
const RIGHT: &str = "\x1b[C";
const CLEAR_SCREEN: &str = "\x1b[2J\x1b[1;1H";
const WIDTH: usize = 80;

/// What has been seen of an escape sequence.
#[derive(Clone, Copy, Default, PartialEq)]
enum Escape {
    #[default]
    None,
    /// ESC
    Started,
    /// ESC [ and a number
    Csi(u8),
    /// ESC O
    Ss3,
}

/// A line editor. Lines are ASCII: the commands are.
pub(super) struct Readline {
    prompt: &'static str,
    line: Vec<u8>,
    cursor: usize,
    escape: Escape,
    history: Vec<Vec<u8>>,
    /// Which remembered line is shown; the number of lines if none is.
    recalled: usize,
    /// What was last typed when an older line was recalled.
    unsent: Vec<u8>,
}

/// A key that does something to the line.
enum Key {
    Home,
    End,
    Left,
    Right,
    Up,
    Down,
    Delete,
}

impl Readline {
    pub fn new(prompt: &'static str) -> Self {
        Readline {
            prompt,
            line: Vec::new(),
            cursor: 0,
            escape: Escape::None,
            history: Vec::new(),
            recalled: 0,
            unsent: Vec::new(),
        }
    }

    /// The prompt and the line so far.
    pub fn show(&self) -> String {
        let mut shown = self.prompt.to_owned();
        if !self.line.is_empty() {
            self.show_line(&mut shown);
        }
        shown
    }

    /// The line, from its start on, and the cursor at its place.
    fn show_line(&self, echo: &mut String) {
        echo.push_str(&String::from_utf8_lossy(&self.line));
        echo.push_str(ERASE_TO_END);
        echo.push_str(&LEFT.repeat(self.line.len() - self.cursor));
    }

    /// Takes a byte from the terminal; appends what it is to show to `echo`. `complete` tells what
    /// the word at the end of a text may become. Returns a line that was entered.
    pub fn push(
        &mut self,
        byte: u8,
        echo: &mut String,
        complete: impl Fn(&str) -> Vec<String>,
    ) -> Option<String> {
        match self.escape {
            Escape::None => {}
            Escape::Started => {
                self.escape = match byte {
                    b'[' => Escape::Csi(0),
                    b'O' => Escape::Ss3,
                    _ => Escape::None,
                };
                return None;
            }
            Escape::Csi(number) if byte.is_ascii_digit() => {
                self.escape = Escape::Csi(number.wrapping_mul(10).wrapping_add(byte - b'0'));
                return None;
            }
            Escape::Csi(number) => {
                self.escape = Escape::None;
                self.key(control_key(byte, number), echo);
                return None;
            }
            Escape::Ss3 => {
                self.escape = Escape::None;
                self.key(control_key(byte, 0), echo);
                return None;
            }
        }
        match byte {
            b'\r' | b'\n' => return Some(self.enter(echo)),
            0x01 => self.key(Some(Key::Home), echo),
            0x02 => self.key(Some(Key::Left), echo),
            0x04 => self.key(Some(Key::Delete), echo),
            0x05 => self.key(Some(Key::End), echo),
            0x06 => self.key(Some(Key::Right), echo),
            0x08 | 0x7f => self.replace(self.cursor.saturating_sub(1), self.cursor, &[], echo),
            b'\t' => self.complete(echo, complete),
            0x0c => {
                echo.push_str(CLEAR_SCREEN);
                echo.push_str(&self.show());
            }
            0x0b => self.replace(self.cursor, self.line.len(), &[], echo),
            0x0e => self.key(Some(Key::Down), echo),
            0x10 => self.key(Some(Key::Up), echo),
            0x15 => self.replace(0, self.cursor, &[], echo),
            0x17 => {
                let before = &self.line[..self.cursor];
                let word = before.trim_ascii_end();
                let start = word.iter().rposition(|&b| b == b' ').map_or(0, |at| at + 1);
                self.replace(start, self.cursor, &[], echo);
            }
            0x1b => self.escape = Escape::Started,
            b' '..=b'~' if self.line.len() < MAX_LINE => {
                self.replace(self.cursor, self.cursor, &[byte], echo);
            }
            _ => {}
        }
        None
    }

    fn enter(&mut self, echo: &mut String) -> String {
        echo.push_str("\r\n");
        let line = std::mem::take(&mut self.line);
        self.cursor = 0;
        if !line.is_empty() && self.history.last() != Some(&line) {
            self.history.push(line.clone());
            if self.history.len() > HISTORY {
                self.history.remove(0);
            }
        }
        self.recalled = self.history.len();
        self.unsent.clear();
        String::from_utf8_lossy(&line).into_owned()
    }

    fn key(&mut self, key: Option<Key>, echo: &mut String) {
        match key {
            Some(Key::Home) => self.move_to(0, echo),
            Some(Key::End) => self.move_to(self.line.len(), echo),
            Some(Key::Left) => self.move_to(self.cursor.saturating_sub(1), echo),
            Some(Key::Right) => self.move_to((self.cursor + 1).min(self.line.len()), echo),
            Some(Key::Delete) => {
                let end = (self.cursor + 1).min(self.line.len());
                self.replace(self.cursor, end, &[], echo);
            }
            Some(Key::Up) => self.recall(self.recalled.checked_sub(1), echo),
            Some(Key::Down) => self.recall(Some(self.recalled + 1), echo),
            None => {}
        }
    }

    fn recall(&mut self, which: Option<usize>, echo: &mut String) {
        let Some(which) = which.filter(|&which| which <= self.history.len()) else { return };
        if self.recalled == self.history.len() {
            self.unsent = self.line.clone();
        }
        self.recalled = which;
        let line = self.history.get(which).unwrap_or(&self.unsent).clone();
        self.replace(0, self.line.len(), &line, echo);
    }

    fn move_to(&mut self, cursor: usize, echo: &mut String) {
        match cursor.checked_sub(self.cursor) {
            Some(cells) => echo.push_str(&RIGHT.repeat(cells)),
            None => echo.push_str(&LEFT.repeat(self.cursor - cursor)),
        }
        self.cursor = cursor;
    }

    /// Replaces a part of the line and leaves the cursor after what is new. The line is shown as a
    /// whole, as QEMU shows it: programs that read a prompt find it in one piece before its end.
    fn replace(&mut self, start: usize, end: usize, new: &[u8], echo: &mut String) {
        if start == end && new.is_empty() {
            return;
        }
        self.move_to(0, echo);
        self.line.splice(start..end, new.iter().copied());
        self.cursor = start + new.len();
        self.show_line(echo);
    }

    fn complete(&mut self, echo: &mut String, complete: impl Fn(&str) -> Vec<String>) {
        let before = String::from_utf8_lossy(&self.line[..self.cursor]).into_owned();
        let word = before.rsplit(' ').next().unwrap_or_default().to_owned();
        let candidates = complete(&before);
        let Some(first) = candidates.first() else { return };
        let common = candidates.iter().fold(first.len(), |length, other| {
            let same = first.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
            length.min(same)
        });
        let mut new = first.as_bytes()[word.len().min(common)..common].to_vec();
        if candidates.len() == 1 {
            new.push(b' ');
        }
        if new.is_empty() {
            let width = candidates.iter().map(String::len).max().unwrap_or(0) + 2;
            let cells: Vec<String> = candidates.iter().map(|c| format!("{c:width$}")).collect();
            echo.push_str("\r\n");
            for row in cells.chunks((WIDTH / width).max(1)) {
                echo.push_str(&(row.concat() + "\r\n"));
            }
            echo.push_str(&self.show());
        }
        self.replace(self.cursor, self.cursor, &new, echo);
    }
}

/// What the last byte of a control sequence means.
fn control_key(byte: u8, number: u8) -> Option<Key> {
    match (byte, number) {
        (b'A', _) => Some(Key::Up),
        (b'B', _) => Some(Key::Down),
        (b'C', _) => Some(Key::Right),
        (b'D', _) => Some(Key::Left),
        (b'H', _) | (b'~', 1 | 7) => Some(Key::Home),
        (b'F', _) | (b'~', 4 | 8) => Some(Key::End),
        (b'~', 3) => Some(Key::Delete),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        let word = text.rsplit(' ').next().unwrap();
        let all = ["stats", "status", "quit"];
        all.iter().filter(|known| known.starts_with(word)).map(|&known| known.into()).collect()
    }

    fn typed(keys: &str) -> (Vec<String>, Readline, String) {
        let mut line = Readline::new("> ");
        let mut echo = String::new();
        let entered = keys.bytes().filter_map(|byte| line.push(byte, &mut echo, words)).collect();
        (entered, line, echo)
    }

    #[test]
    fn editing_keys_do_what_they_do_elsewhere() {
        for (keys, expected) in [
            ("abc\r", "abc"),
            ("abc\x7f\x7fd\r", "ad"),
            ("abc\x01X\x05Y\r", "XabcY"),
            ("abc\x1b[D\x1b[DX\r", "aXbc"),
            ("abcd\x02\x02\x0b\r", "ab"),
            ("abcd\x02\x15\r", "d"),
            ("one two  \x17\r", "one "),
            ("abc\x1b[H\x1b[3~\x04\r", "c"),
            ("abc\x1bOH\x1bOC-\x1b[4~!\r", "a-bc!"),
            ("q\t\r", "quit "),
            ("s\tu\t\r", "status "),
        ] {
            assert_eq!(typed(keys).0, [expected], "{keys:?}");
        }
    }

    #[test]
    fn history_is_walked_both_ways() {
        assert_eq!(typed("one\rtwo\r\x1b[A\x1b[A\r").0, ["one", "two", "one"]);
        assert_eq!(typed("one\rnew\x1b[A\x1b[B!\r").0, ["one", "new!"]);
        assert_eq!(typed("one\r\x1b[B\x1b[A\x1b[A\r").0, ["one", "one"]);
    }

    #[test]
    fn candidates_are_listed_when_there_is_nothing_to_add() {
        let (_, _, echo) = typed("stat\t\t");
        assert!(echo.ends_with("\r\nstats   status  \r\n> stat\x1b[K"), "{echo:?}");
    }

    /// As recorded from QEMU 10.0.2.
    #[test]
    fn a_line_is_redrawn_as_qemu_redraws_it() {
        for (keys, wanted) in [
            ("abc", "a\x1b[K\x1b[Dab\x1b[K\x1b[D\x1b[Dabc\x1b[K"),
            ("q\r", "q\x1b[K\r\n"),
            ("q\x01X\x05", "q\x1b[K\x1b[DXq\x1b[K\x1b[D\x1b[C"),
            ("q\x7f", "q\x1b[K\x1b[D\x1b[K"),
            ("\x15\x7f\x04", ""),
            ("a\x0c", "a\x1b[K\x1b[2J\x1b[1;1H> a\x1b[K"),
        ] {
            assert_eq!(typed(keys).2, wanted, "{keys:?}");
        }
    }

    /// A terminal that knows as much as is sent to it.
    fn screen(echo: &str) -> (String, usize) {
        let (mut row, mut at) = (Vec::new(), 0);
        let mut rest = echo;
        while let Some(c) = rest.chars().next() {
            if let Some(after) = rest.strip_prefix(LEFT) {
                at -= 1;
                rest = after;
            } else if let Some(after) = rest.strip_prefix(RIGHT) {
                at += 1;
                assert!(at <= row.len());
                rest = after;
            } else if let Some(after) = rest.strip_prefix(ERASE_TO_END) {
                row.truncate(at);
                rest = after;
            } else {
                if at < row.len() {
                    row[at] = c
                } else {
                    row.push(c)
                }
                at += 1;
                rest = &rest[1..];
            }
        }
        (row.into_iter().collect(), at)
    }

    proptest! {
        #[test]
        fn the_screen_shows_the_line(keys in "([a-c ]|\x01|\x02|\x05|\x06|\x7f|\x04|\x0b|\x15|\x17|\x1b\\[[CDHF]){0,40}") {
            let (_, line, echo) = typed(&keys);
            let (row, at) = screen(&echo);
            prop_assert_eq!(row.as_bytes(), &line.line[..]);
            prop_assert_eq!(at, line.cursor);
        }
    }
}
