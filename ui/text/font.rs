//! The font of text consoles: Spleen by Frederic Cambus, which has nearly all characters of the PC's.

use std::collections::HashMap;
use std::sync::OnceLock;

use spleen_font::FONT_8X16;

use super::cp437;

/// Size of a character.
pub const WIDTH: u32 = 8;
/// Size of a character.
pub const HEIGHT: u32 = 16;

/// Lines of a character, the leftmost dot in the highest bit.
pub type Glyph = [u8; HEIGHT as usize];

/// Characters that the font has not, and what looks most like them.
const SIMILAR: [(char, char); 11] = [
    ('►', '▶'),
    ('◄', '◀'),
    ('∟', '└'),
    ('α', 'a'),
    ('Σ', 'E'),
    ('σ', 'o'),
    ('τ', 't'),
    ('Θ', '0'),
    ('δ', 'd'),
    ('φ', 'ø'),
    ('ε', 'e'),
];

/// Parts of a file of fonts for Linux's console (version 1): a mode, the size of a character, and behind
/// all of them the characters that each is, in UTF-16.
mod file {
    pub const MODE: usize = 2;
    pub const MODE_512: u8 = 1;
    pub const GLYPHS: usize = 4;
    pub const NEXT: u16 = 0xffff;
    /// What follows is more than a character.
    pub const SEQUENCE: u16 = 0xfffe;
}

/// A character by its number.
pub fn glyph(number: u8) -> Glyph {
    static GLYPHS: OnceLock<Vec<Glyph>> = OnceLock::new();
    let glyphs = GLYPHS.get_or_init(load);
    glyphs.get(usize::from(number)).copied().unwrap_or_default()
}

fn load() -> Vec<Glyph> {
    let wide = FONT_8X16.get(file::MODE).is_some_and(|mode| mode & file::MODE_512 != 0);
    let count = if wide { 512 } else { 256 };
    let (glyphs, rest) = FONT_8X16.get(file::GLYPHS..).unwrap_or_default().as_chunks::<16>();
    let names = glyphs.get(count..).unwrap_or_default().as_flattened();
    let mut places = HashMap::new();
    let (mut place, mut in_sequence) = (0, false);
    let pairs = names.iter().chain(rest).copied().collect::<Vec<u8>>();
    for unit in pairs.as_chunks().0.iter().map(|pair| u16::from_le_bytes(*pair)) {
        match unit {
            file::NEXT => (place, in_sequence) = (place + 1, false),
            file::SEQUENCE => in_sequence = true,
            _ if in_sequence => {}
            unit => {
                places.entry(char::from_u32(unit.into()).unwrap_or_default()).or_insert(place);
            }
        }
    }
    let find = |character: char| {
        let similar = SIMILAR.iter().find(|(missing, _)| *missing == character);
        let shown = similar.map_or(character, |(_, similar)| *similar);
        let place: Option<&usize> = places.get(&shown);
        place.and_then(|place| glyphs.get(*place)).copied().unwrap_or_default()
    };
    (0..=255).map(|number| find(cp437::character(number))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_looks_like_something() {
        let blank = |number: &u8| matches!(number, 0 | 0x20 | 0xff);
        let missing: Vec<char> = (0..=255)
            .filter(|number| !blank(number) && glyph(*number) == Glyph::default())
            .map(cp437::character)
            .collect();
        assert_eq!(missing, Vec::<char>::new());
        assert_eq!(glyph(0xdb), [0xff; 16]);
        assert_eq!(glyph(b' '), [0; 16]);
    }
}
