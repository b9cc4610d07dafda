//! Texts, as somebody would type them at the guest's keyboard.

use base::input::KeyCode;

use crate::keymap::Keymap;

/// Keys in the order in which they go down; they go up the other way round.
pub fn keys(keymap: &Keymap, character: char) -> Option<Vec<KeyCode>> {
    match character {
        '\n' => return Some(vec![KeyCode::Ret]),
        '\t' => return Some(vec![KeyCode::Tab]),
        _ => {}
    }
    let (key, level) = keymap.chord(character)?;
    let shift = level.shift.then_some(KeyCode::Shift);
    let alt_gr = level.alt_gr.then_some(KeyCode::AltR);
    Some(shift.into_iter().chain(alt_gr).chain([key]).collect())
}

/// A text's keys, and the characters that the keyboard does not have. Lines may end in whatever way.
pub fn chords(keymap: &Keymap, text: &str) -> (Vec<Vec<KeyCode>>, Vec<char>) {
    let mut missing = Vec::new();
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let chord = |character| {
        let keys = keys(keymap, character);
        if keys.is_none() && !missing.contains(&character) {
            missing.push(character);
        }
        keys
    };
    let chords = text.chars().filter_map(chord).collect();
    (chords, missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_say_which_modifiers_to_hold() {
        let us = Keymap::load("en-us").unwrap();
        let (typed, missing) = chords(&us, "aB\r\n\u{2603}!\u{2603}");
        assert_eq!(
            typed,
            [
                vec![KeyCode::A],
                vec![KeyCode::Shift, KeyCode::B],
                vec![KeyCode::Ret],
                vec![KeyCode::Shift, KeyCode::Digit1],
            ]
        );
        assert_eq!(missing, ['\u{2603}']);
        let german = Keymap::load("de").unwrap();
        assert_eq!(keys(&german, '@'), Some(vec![KeyCode::AltR, KeyCode::Q]));
        assert_eq!(keys(&german, 'z'), Some(vec![KeyCode::Y]));
        assert_eq!(keys(&german, '\t'), Some(vec![KeyCode::Tab]));
    }
}
