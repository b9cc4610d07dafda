//! What keys mean, by the numbers of the X Window System ("X Window System Protocol", appendix A).

use xkeysym::{Keysym, key};

/// Dead keys, which change the character that follows.
const DEAD: &[(&str, u32)] = &[
    ("dead_grave", key::dead_grave),
    ("dead_acute", key::dead_acute),
    ("dead_circumflex", key::dead_circumflex),
    ("dead_tilde", key::dead_tilde),
    ("dead_macron", key::dead_macron),
    ("dead_breve", key::dead_breve),
    ("dead_abovedot", key::dead_abovedot),
    ("dead_diaeresis", key::dead_diaeresis),
    ("dead_abovering", key::dead_abovering),
    ("dead_doubleacute", key::dead_doubleacute),
    ("dead_caron", key::dead_caron),
    ("dead_cedilla", key::dead_cedilla),
    ("dead_ogonek", key::dead_ogonek),
    ("dead_belowdot", key::dead_belowdot),
    ("dead_hook", key::dead_hook),
    ("dead_horn", key::dead_horn),
    ("dead_stroke", key::dead_stroke),
    ("dead_belowcomma", key::dead_belowcomma),
    ("dead_doublegrave", key::dead_doublegrave),
    ("dead_invertedbreve", key::dead_invertedbreve),
    ("dead_greek", key::dead_greek),
    ("dead_currency", key::dead_currency),
    ("dead_iota", key::dead_iota),
];

/// What a key means, however it is numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Symbol {
    /// A character.
    Character(char),
    /// A dead key, by its number.
    Dead(u32),
}

impl Symbol {
    /// The meaning of a number, if it is a character or a dead key.
    pub fn from_keysym(keysym: u32) -> Option<Self> {
        if DEAD.iter().any(|(_, number)| *number == keysym) {
            return Some(Symbol::Dead(keysym));
        }
        Keysym::new(keysym).key_char().map(Symbol::Character)
    }

    /// The meaning that a layout's file names.
    pub fn from_name(name: &str) -> Option<Self> {
        if let Some((_, number)) = DEAD.iter().find(|(known, _)| *known == name) {
            return Some(Symbol::Dead(*number));
        }
        if name == "space" {
            return Some(Symbol::Character(' '));
        }
        let mut characters = name.chars();
        let first = characters.next()?;
        match characters.as_str() {
            "" => Some(Symbol::Character(first)),
            // A character that cannot be seen, such as U+00A0.
            _ => {
                let number = u32::from_str_radix(name.strip_prefix("U+")?, 16).ok()?;
                char::from_u32(number).map(Symbol::Character)
            }
        }
    }
}
