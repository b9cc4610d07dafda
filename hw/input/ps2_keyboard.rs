//! The PS/2 keyboard behind the controller (IBM PS/2 Hardware Interface Technical Reference,
//! "Keyboard and Auxiliary Device Controller").

use std::collections::VecDeque;

use base::input::{KeyCode, Leds};
use base::state::{State, StateError};

use super::scancodes::{self, Modifiers};

/// Bytes of key strokes the keyboard remembers; it forgets what is typed beyond.
const KEYS: usize = 16;

mod command {
    pub const SET_LEDS: u8 = 0xed;
    pub const ECHO: u8 = 0xee;
    pub const SCAN_CODE_SET: u8 = 0xf0;
    pub const IDENTIFY: u8 = 0xf2;
    pub const SET_RATE: u8 = 0xf3;
    pub const ENABLE: u8 = 0xf4;
    pub const DISABLE: u8 = 0xf5;
    pub const SET_DEFAULTS: u8 = 0xf6;
    pub const ALL_MAKE_BREAK_REPEAT: u8 = 0xfa;
    pub const KEY_MAKE_BREAK: u8 = 0xfc;
    pub const RESET: u8 = 0xff;
}

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;
/// An MF2 keyboard.
const IDENTITY: [u8; 2] = [0xab, 0x83];
const DEFAULT_SET: u8 = 2;

/// What the keyboard holds.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(reset, check)]
pub struct Ps2Keyboard {
    /// Answers to the last command; they go before key strokes.
    replies: VecDeque<u8>,
    keys: VecDeque<u8>,
    /// The command whose argument comes next.
    argument_of: Option<u8>,
    #[state(reset = true)]
    scanning: bool,
    #[state(reset = DEFAULT_SET)]
    scan_code_set: u8,
    leds: u8,
    modifiers: u8,
}

impl Ps2Keyboard {
    fn check(&self) -> Result<(), StateError> {
        if self.keys.len() > KEYS || self.replies.len() > KEYS {
            return Err(StateError::invalid("the keyboard remembers 16 bytes"));
        }
        if !(1..=3).contains(&self.scan_code_set) {
            return Err(StateError::invalid("there are three scan code sets"));
        }
        Ok(())
    }

    /// Whether a byte waits to be taken.
    pub fn has_data(&self) -> bool {
        !self.replies.is_empty() || !self.keys.is_empty()
    }

    /// The next byte for the host.
    pub fn take(&mut self) -> Option<u8> {
        self.replies.pop_front().or_else(|| self.keys.pop_front())
    }

    /// A key goes down or up.
    pub fn key(&mut self, key: KeyCode, down: bool) {
        let mut modifiers = Modifiers::from_bits(self.modifiers);
        modifiers.note(key, down);
        self.modifiers = modifiers.bits();
        if self.scanning {
            let room = KEYS.saturating_sub(self.keys.len());
            let bytes = scancodes::sequence(self.scan_code_set, key, down, modifiers);
            self.keys.extend(bytes.into_iter().take(room));
        }
    }

    /// The lights.
    pub fn leds(&self) -> Leds {
        let on = |bit: u8| self.leds & bit != 0;
        Leds { scroll: on(1), num: on(2), caps: on(4) }
    }

    /// The host sends a byte.
    pub fn receive(&mut self, byte: u8) {
        self.replies.clear();
        match self.argument_of.take() {
            Some(command) => self.argument(command, byte),
            None => self.command(byte),
        }
    }

    fn reply(&mut self, bytes: &[u8]) {
        self.replies.extend(bytes);
    }

    fn defaults(&mut self) {
        self.keys.clear();
        self.scan_code_set = DEFAULT_SET;
        self.scanning = true;
    }

    fn command(&mut self, byte: u8) {
        match byte {
            command::ECHO => self.reply(&[command::ECHO]),
            command::IDENTIFY => self.reply(&[ACK, IDENTITY[0], IDENTITY[1]]),
            command::SET_LEDS
            | command::SCAN_CODE_SET
            | command::SET_RATE
            | command::KEY_MAKE_BREAK => {
                self.argument_of = Some(byte);
                self.reply(&[ACK]);
            }
            command::ENABLE => {
                self.scanning = true;
                self.reply(&[ACK]);
            }
            command::DISABLE => {
                self.defaults();
                self.scanning = false;
                self.reply(&[ACK]);
            }
            command::SET_DEFAULTS => {
                self.defaults();
                self.reply(&[ACK]);
            }
            command::RESET => {
                let modifiers = self.modifiers;
                *self = Ps2Keyboard { modifiers, ..Ps2Keyboard::default() };
                self.reply(&[ACK, SELF_TEST_PASSED]);
            }
            // A null byte, which some guests send to see whether anybody is there, is acknowledged.
            0 | command::ALL_MAKE_BREAK_REPEAT => self.reply(&[ACK]),
            _ => self.reply(&[RESEND]),
        }
    }

    fn argument(&mut self, command: u8, byte: u8) {
        match (command, byte) {
            (command::SCAN_CODE_SET, 0) => self.reply(&[ACK, self.scan_code_set]),
            (command::SCAN_CODE_SET, 1..=3) => {
                self.scan_code_set = byte;
                self.reply(&[ACK]);
            }
            (command::SCAN_CODE_SET, _) => self.reply(&[RESEND]),
            (command::SET_LEDS, _) => {
                self.leds = byte & 7;
                self.reply(&[ACK]);
            }
            // The repeat rate is up to whoever types; single keys of set 3 always do everything.
            _ => self.reply(&[ACK]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(keyboard: &mut Ps2Keyboard, bytes: &[u8]) -> Vec<u8> {
        bytes
            .iter()
            .flat_map(|&byte| {
                keyboard.receive(byte);
                std::iter::from_fn(|| keyboard.take()).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Observed on QEMU 10.0.
    #[test]
    fn commands_are_answered() {
        let mut keyboard = Ps2Keyboard::default();
        for (bytes, expected) in [
            (&[0xee][..], &[0xee][..]),
            (&[0xf2], &[0xfa, 0xab, 0x83]),
            (&[0x05], &[0xfe]),
            (&[0x00], &[0xfa]),
            (&[0xf0, 0x03, 0xf0, 0x00], &[0xfa, 0xfa, 0xfa, 0xfa, 0x03]),
            (&[0xf0, 0x04], &[0xfa, 0xfe]),
            (&[0xf5, 0xf0, 0x00], &[0xfa, 0xfa, 0xfa, 0x02]),
            (&[0xed, 0xf4], &[0xfa, 0xfa]),
            (&[0xf3, 0x20], &[0xfa, 0xfa]),
            (&[0xf7], &[0xfe]),
            (&[0xfa], &[0xfa]),
            (&[0xfc, 0x05, 0x06], &[0xfa, 0xfa, 0xfe]),
            (&[0xfd], &[0xfe]),
            (&[0xff], &[0xfa, 0xaa]),
        ] {
            assert_eq!(answers(&mut keyboard, bytes), expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn a_command_drops_unread_replies_but_not_keys() {
        let mut keyboard = Ps2Keyboard::default();
        keyboard.key(KeyCode::A, true);
        keyboard.receive(0xf2);
        assert_eq!(answers(&mut keyboard, &[0xee]), [0xee, 0x1c]);
    }

    #[test]
    fn what_is_typed_beyond_the_buffer_is_lost() {
        let mut keyboard = Ps2Keyboard::default();
        (0..20).for_each(|_| keyboard.key(KeyCode::A, true));
        assert_eq!(answers(&mut keyboard, &[0xee]).len(), 1 + KEYS);
        keyboard.receive(0xf5);
        keyboard.key(KeyCode::A, true);
        assert_eq!(answers(&mut keyboard, &[0xee]), [0xee], "not scanning");
    }
}
