//! What a terminal sends when keys are pressed (ECMA-48, and xterm's control sequences for keys).

use crate::text::EditKey;

/// A key, as far as a terminal tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// What means a character.
    Char(char),
    /// Together with Ctrl.
    Ctrl(char),
    /// The key above.
    Enter,
    /// The key above, to the right.
    Backspace,
    /// To the left.
    Tab,
    /// Back.
    BackTab,
    /// Leave.
    Escape,
    /// From 1.
    Function(u8),
    /// Keys that move.
    Edit(EditKey),
}

/// A key and the modifiers that are told of beyond what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Press {
    /// The key.
    pub key: Key,
    /// Alt is held.
    pub alt: bool,
    /// Ctrl is held; with characters, [`Key::Ctrl`] says so.
    pub ctrl: bool,
    /// Shift is held; characters are told as they are with it.
    pub shift: bool,
}

impl Press {
    fn plain(key: Key) -> Self {
        Press { key, alt: false, ctrl: false, shift: false }
    }
}

/// Longest sequence that means a key.
const MAX_SEQUENCE: usize = 24;

/// Takes the next key off `bytes`. With `more`, what could be the start of something longer waits for
/// the rest of it.
pub fn next(bytes: &mut Vec<u8>, more: bool) -> Option<Press> {
    loop {
        let (press, taken) = parse(bytes, more)?;
        bytes.drain(..taken);
        if press.is_some() {
            return press;
        }
    }
}

/// The first key, if it is one, and how many bytes it takes.
fn parse(bytes: &[u8], more: bool) -> Option<(Option<Press>, usize)> {
    match bytes {
        [] => None,
        [0x1b] if more => None,
        [0x1b] => Some((Some(Press::plain(Key::Escape)), 1)),
        [0x1b, b'[' | b'O', rest @ ..] => match sequence(rest) {
            Some((press, taken)) => Some((press, taken + 2)),
            None if more && rest.len() < MAX_SEQUENCE => None,
            None if rest.is_empty() => {
                let alt = Press { alt: true, ..Press::plain(Key::Char(char::from(bytes[1]))) };
                Some((Some(alt), 2))
            }
            None => Some((None, bytes.len())),
        },
        [0x1b, 0x1b, ..] => Some((Some(Press::plain(Key::Escape)), 1)),
        [0x1b, rest @ ..] => {
            let (press, taken) = parse(rest, more)?;
            Some((press.map(|press| Press { alt: true, ..press }), taken + 1))
        }
        [byte, ..] if *byte < 0x80 => Some((Some(Press::plain(control(*byte))), 1)),
        _ => character(bytes, more),
    }
}

fn control(byte: u8) -> Key {
    match byte {
        0x08 | 0x7f => Key::Backspace,
        b'\t' => Key::Tab,
        b'\r' | b'\n' => Key::Enter,
        0 => Key::Ctrl('@'),
        1..=26 => Key::Ctrl(char::from(byte - 1 + b'a')),
        27..=31 => Key::Ctrl(char::from(byte + 0x40)),
        _ => Key::Char(char::from(byte)),
    }
}

fn character(bytes: &[u8], more: bool) -> Option<(Option<Press>, usize)> {
    let start = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(start) {
        Ok(text) => text,
        Err(error) if error.valid_up_to() > 0 => {
            std::str::from_utf8(&start[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(error) if error.error_len().is_none() && more => return None,
        Err(_) => return Some((None, 1)),
    };
    let first = valid.chars().next()?;
    Some((Some(Press::plain(Key::Char(first))), first.len_utf8()))
}

/// What follows ESC [ or ESC O: the key, if it is one, and how many bytes it takes; `None` if there is
/// no end.
fn sequence(bytes: &[u8]) -> Option<(Option<Press>, usize)> {
    // The keys F1 to F5 of Linux's console.
    if let [b'[', last @ b'A'..=b'E', ..] = bytes {
        return Some((Some(Press::plain(Key::Function(last - b'A' + 1))), 2));
    }
    let end = bytes.iter().position(|byte| (0x40..0x7f).contains(byte))?;
    let text = std::str::from_utf8(&bytes[..end]).unwrap_or_default();
    let mut numbers = text.split(';').map(|number| number.parse::<u8>().unwrap_or(0));
    let (first, second) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(1));
    let key = match (bytes[end], first) {
        (b'A', _) => Some(Key::Edit(EditKey::Up)),
        (b'B', _) => Some(Key::Edit(EditKey::Down)),
        (b'C', _) => Some(Key::Edit(EditKey::Right)),
        (b'D', _) => Some(Key::Edit(EditKey::Left)),
        (b'H', _) | (b'~', 1 | 7) => Some(Key::Edit(EditKey::Home)),
        (b'F', _) | (b'~', 4 | 8) => Some(Key::Edit(EditKey::End)),
        (b'Z', _) => Some(Key::BackTab),
        (last @ b'P'..=b'S', _) => Some(Key::Function(last - b'P' + 1)),
        (b'~', 2) => Some(Key::Edit(EditKey::Insert)),
        (b'~', 3) => Some(Key::Edit(EditKey::Delete)),
        (b'~', 5) => Some(Key::Edit(EditKey::PageUp)),
        (b'~', 6) => Some(Key::Edit(EditKey::PageDown)),
        (b'~', number @ 11..=15) => Some(Key::Function(number - 10)),
        (b'~', number @ 17..=21) => Some(Key::Function(number - 11)),
        (b'~', number @ 23..=24) => Some(Key::Function(number - 12)),
        _ => None,
    };
    let modifiers = second.saturating_sub(1);
    let press = key.map(|key| Press {
        key,
        shift: modifiers & 1 != 0 || key == Key::BackTab,
        alt: modifiers & 2 != 0,
        ctrl: modifiers & 4 != 0,
    });
    Some((press, end + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn presses(bytes: &[u8]) -> Vec<Press> {
        let mut bytes = bytes.to_vec();
        std::iter::from_fn(|| next(&mut bytes, false)).collect()
    }

    fn keys(bytes: &[u8]) -> Vec<Key> {
        presses(bytes).into_iter().map(|press| press.key).collect()
    }

    #[test]
    fn keys_are_told_apart() {
        assert_eq!(
            keys(b"aB\r\x7f\t\x03"),
            [Key::Char('a'), Key::Char('B'), Key::Enter, Key::Backspace, Key::Tab, Key::Ctrl('c')]
        );
        assert_eq!(keys("é漢".as_bytes()), [Key::Char('é'), Key::Char('漢')]);
        assert_eq!(
            keys(b"\x1b[A\x1bOB\x1b[5~\x1bOP\x1b[24~\x1b[[C"),
            [
                Key::Edit(EditKey::Up),
                Key::Edit(EditKey::Down),
                Key::Edit(EditKey::PageUp),
                Key::Function(1),
                Key::Function(12),
                Key::Function(3)
            ]
        );
        let far = presses(b"\x1b[1;5A\x1b2\x1b")[..].to_vec();
        assert!(far[0].ctrl && !far[0].alt);
        assert!(far[1].alt && far[1].key == Key::Char('2'));
        assert_eq!(far[2].key, Key::Escape);
    }

    #[test]
    fn what_may_go_on_waits() {
        let mut bytes = b"\x1b".to_vec();
        assert_eq!(next(&mut bytes, true), None);
        bytes.extend(b"[");
        assert_eq!(next(&mut bytes, true), None);
        bytes.extend(b"Cx");
        assert_eq!(next(&mut bytes, true).map(|p| p.key), Some(Key::Edit(EditKey::Right)));
        assert_eq!(next(&mut bytes, true).map(|p| p.key), Some(Key::Char('x')));
        let mut half = "é".as_bytes()[..1].to_vec();
        assert_eq!(next(&mut half, true), None);
        assert_eq!(next(&mut half, false), None);
        assert!(half.is_empty());
    }

    proptest! {
        #[test]
        fn anything_can_be_typed(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut rest = bytes.clone();
            while next(&mut rest, true).is_some() {}
            while next(&mut rest, false).is_some() {}
            prop_assert!(rest.is_empty());
        }
    }
}
