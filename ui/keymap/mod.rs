//! Keyboard layouts: from what a key means, which is what viewers tell, to the key itself.
//!
//! A layout is a file of `pc-bios/keymaps`: a line for each key, with its QMP name and what it means
//! alone, with Shift, with AltGr, and with both. A meaning is a character, `none`, or the name of a
//! dead key. Files are built in; `-k` may also name one by its path.

mod fixed;
mod keysym;

use std::collections::HashMap;

use base::input::KeyCode;

pub use keysym::Symbol;

/// Layouts that are built in.
macro_rules! layouts {
    ($($name:literal),* $(,)?) => {
        const LAYOUTS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../pc-bios/keymaps/", $name)))),*];
    };
}

layouts!(
    "da", "de", "de-ch", "en-gb", "en-us", "es", "fi", "fr", "fr-be", "fr-ca", "fr-ch", "hr", "hu",
    "is", "it", "ja", "lt", "lv", "nl", "no", "pl", "pt", "pt-br", "ru", "sl", "sv", "tr",
);

/// What is used unless another is asked for.
pub const DEFAULT: &str = "en-us";

/// Modifiers that decide what a key means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Shift is held.
    pub shift: bool,
    /// The right Alt key is held.
    pub alt_gr: bool,
}

/// Levels in the order of a layout's columns.
const LEVELS: [Level; 4] = [
    Level { shift: false, alt_gr: false },
    Level { shift: true, alt_gr: false },
    Level { shift: false, alt_gr: true },
    Level { shift: true, alt_gr: true },
];

/// Why there is no such layout.
#[derive(Debug, thiserror::Error)]
pub enum KeymapError {
    /// Neither is it built in nor is it a file that can be read.
    #[error("could not read keymap file: '{0}'")]
    NotFound(String),
    /// A line of it.
    #[error("{name}:{line}: {problem}")]
    Line {
        /// The layout.
        name: String,
        /// Number of the line.
        line: usize,
        /// What is wrong.
        problem: String,
    },
}

/// A keyboard layout.
#[derive(Debug)]
pub struct Keymap {
    /// The keys that can mean a symbol, and how.
    keys: HashMap<Symbol, Vec<(KeyCode, Level)>>,
}

impl Keymap {
    /// The layout of this name, or in this file.
    pub fn load(name: &str) -> Result<Self, KeymapError> {
        if let Some((_, text)) = LAYOUTS.iter().find(|(known, _)| *known == name) {
            return Keymap::parse(name, text);
        }
        let text = std::fs::read_to_string(name);
        Keymap::parse(name, &text.map_err(|_| KeymapError::NotFound(name.into()))?)
    }

    fn parse(name: &str, text: &str) -> Result<Self, KeymapError> {
        let mut keys: HashMap<Symbol, Vec<_>> = HashMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let fault = |problem| KeymapError::Line { name: name.into(), line: number, problem };
            if line.starts_with("//") || line.trim().is_empty() {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            let key = words.next().unwrap_or_default();
            let key =
                KeyCode::from_name(key).ok_or_else(|| fault(format!("there is no key '{key}'")))?;
            for (word, level) in words.zip(LEVELS) {
                if word == "none" {
                    continue;
                }
                let symbol = Symbol::from_name(word)
                    .ok_or_else(|| fault(format!("'{word}' means nothing")))?;
                keys.entry(symbol).or_default().push((key, level));
            }
        }
        Ok(Keymap { keys })
    }

    /// The key that means a character, and the modifiers that it takes: as few as possible.
    pub fn typed(&self, character: char) -> Option<(KeyCode, Level)> {
        if character == ' ' {
            return Some((KeyCode::Spc, Level::default()));
        }
        let keys = self.keys.get(&Symbol::Character(character))?;
        let order = |level: &Level| LEVELS.iter().position(|other| other == level);
        keys.iter().min_by_key(|(_, level)| order(level)).copied()
    }

    /// The key that means `keysym` (a number of the X Window System), best so while these modifiers
    /// are held.
    pub fn key(&self, keysym: u32, held: Level) -> Option<KeyCode> {
        if let Some(key) = fixed::key(keysym) {
            return Some(key);
        }
        let keys = self.keys.get(&Symbol::from_keysym(keysym)?)?;
        let fitting = keys.iter().find(|(_, level)| *level == held);
        let shifted = || keys.iter().find(|(_, level)| level.shift == held.shift);
        fitting.or_else(shifted).or_else(|| keys.first()).map(|(key, _)| *key)
    }

    /// The key that means a character, and what has to be held meanwhile; with the fewest modifiers
    /// that do.
    pub fn chord(&self, character: char) -> Option<(KeyCode, Level)> {
        let keys = self.keys.get(&Symbol::Character(character))?;
        let effort = |level: &Level| (level.alt_gr, level.shift);
        keys.iter().min_by_key(|(_, level)| effort(level)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(layout: &str, keysym: u32) -> Option<KeyCode> {
        Keymap::load(layout).unwrap().key(keysym, Level::default())
    }

    #[test]
    fn every_layout_is_readable_and_has_letters_and_digits() {
        for (name, _) in LAYOUTS {
            let keymap = Keymap::load(name).unwrap_or_else(|error| panic!("{error}"));
            for symbol in "0123456789+-=,.:;()".chars() {
                assert!(keymap.key(symbol.into(), Level::default()).is_some(), "{name}: {symbol}");
            }
            let letters = if *name == "ru" { "абвгджэюя" } else { "abcxyzABCXYZ" };
            for letter in letters.chars() {
                let keysym =
                    if letter.is_ascii() { letter.into() } else { 0x0100_0000 + letter as u32 };
                assert!(keymap.key(keysym, Level::default()).is_some(), "{name}: {letter}");
            }
        }
    }

    #[test]
    fn keys_are_where_the_language_has_them() {
        assert_eq!(key("en-us", 'y'.into()), Some(KeyCode::Y));
        assert_eq!(key("de", 'y'.into()), Some(KeyCode::Z));
        assert_eq!(key("fr", 'a'.into()), Some(KeyCode::Q));
        assert_eq!(key("de", 0xfc), Some(KeyCode::BracketLeft));
        assert_eq!(key("de", '@'.into()), Some(KeyCode::Q));
        assert_eq!(key("en-us", '@'.into()), Some(KeyCode::Digit2));
        // Cyrillic by its old number and by its character.
        assert_eq!(key("ru", 0x6c6), Some(KeyCode::A));
        assert_eq!(key("ru", 0x0100_0444), Some(KeyCode::A));
        // A dead key.
        assert_eq!(key("de", 0xfe52), Some(KeyCode::GraveAccent));
        assert_eq!(key("de", 0xff0d), Some(KeyCode::Ret));
        assert_eq!(key("de", 0x00ff_ffff), None);
    }

    #[test]
    fn of_several_keys_the_one_for_the_modifiers_is_taken() {
        let text = "q a none b\nw b a\n";
        let keymap = Keymap::parse("x", text).unwrap();
        let find = |symbol: char, shift, alt_gr| keymap.key(symbol.into(), Level { shift, alt_gr });
        assert_eq!(find('a', false, false), Some(KeyCode::Q));
        assert_eq!(find('a', true, false), Some(KeyCode::W));
        assert_eq!(find('b', false, false), Some(KeyCode::W));
        assert_eq!(find('b', false, true), Some(KeyCode::Q));
        assert_eq!(find('a', true, true), Some(KeyCode::W));
    }

    #[test]
    fn faults_name_their_line() {
        let fault = |text| Keymap::parse("x", text).unwrap_err().to_string();
        assert_eq!(fault("// nothing\nfoo a\n"), "x:2: there is no key 'foo'");
        assert_eq!(fault("a nonsense\n"), "x:1: 'nonsense' means nothing");
        let missing = Keymap::load("/nowhere").unwrap_err().to_string();
        assert_eq!(missing, "could not read keymap file: '/nowhere'");
    }
}
