//! Keys for a text console rather than the guest.

use xkeysym::key;

use super::Session;
use crate::keymap::Symbol;
use crate::text::EditKey;

impl Session {
    /// If a text console is shown, a key that goes down is for it.
    pub(super) fn type_into_terminal(&mut self, keysym: u32, down: bool) {
        let Some(terminal) = &self.terminal else { return };
        self.keyboard.forget_strokes(self.desk.leds());
        if !down || self.keyboard.has_choice() {
            return;
        }
        let ctrl = self.keyboard.holds_ctrl();
        let edit = match keysym {
            key::Up | key::KP_Up => EditKey::Up,
            key::Down | key::KP_Down => EditKey::Down,
            key::Right | key::KP_Right => EditKey::Right,
            key::Left | key::KP_Left => EditKey::Left,
            key::Home | key::KP_Home => EditKey::Home,
            key::End | key::KP_End => EditKey::End,
            key::Insert | key::KP_Insert => EditKey::Insert,
            key::Delete | key::KP_Delete => EditKey::Delete,
            key::Prior | key::KP_Prior => EditKey::PageUp,
            key::Next | key::KP_Next => EditKey::PageDown,
            key::Return | key::KP_Enter => return terminal.send(b"\r"),
            key::BackSpace => return terminal.send(b"\x7f"),
            key::Tab => return terminal.send(b"\t"),
            key::Escape => return terminal.send(b"\x1b"),
            _ => {
                let Some(Symbol::Character(character)) = Symbol::from_keysym(keysym) else {
                    return;
                };
                let mut text = [0; 4];
                return match character {
                    '@'..='~' if ctrl => terminal.send(&[character as u8 & 0x1f]),
                    _ => terminal.send(character.encode_utf8(&mut text).as_bytes()),
                };
            }
        };
        terminal.press(edit, ctrl);
    }
}
