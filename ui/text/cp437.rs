//! Code page 437, the characters of the PC's own font.

use std::collections::HashMap;
use std::sync::OnceLock;

/// Characters by their numbers; the first 32 are those that the font has there.
const CHARACTERS: &str = "\u{0}☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼ !\"#$%&'()*+,-./0123456789:;<=>?\
    @ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~⌂\
    ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
    αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// The character of a number.
pub fn character(number: u8) -> char {
    static TABLE: OnceLock<Vec<char>> = OnceLock::new();
    let table = TABLE.get_or_init(|| CHARACTERS.chars().collect());
    match table.get(usize::from(number)) {
        Some('\0') | None => ' ',
        Some(character) => *character,
    }
}

/// The number of a character, if it has one.
pub fn number(character: char) -> Option<u8> {
    static TABLE: OnceLock<HashMap<char, u8>> = OnceLock::new();
    if (' '..='~').contains(&character) {
        return Some(character as u8);
    }
    let table = TABLE.get_or_init(|| CHARACTERS.chars().zip(0..=255).collect());
    table.get(&character).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_a_character() {
        assert_eq!(CHARACTERS.chars().count(), 256);
        for n in 1..=255 {
            assert_eq!(number(character(n)), Some(n));
        }
        assert_eq!((character(0xdb), character(0x41), character(0xe1)), ('█', 'A', 'ß'));
        assert_eq!(number('漢'), None);
    }
}
