//! From what a client tells of its keyboard to keys of the guest's.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use base::input::{KeyCode, Leds};

use crate::keymap::{Keymap, Level};

/// Most key strokes that wait for those before them.
const MAX_WAITING: usize = 512;

/// The keyboard of one client.
pub struct Keyboard {
    keymap: Arc<Keymap>,
    /// Whether Caps Lock and Num Lock of the guest are made to fit what the client types.
    sync_locks: bool,
    /// Whether what keys mean counts even if the client tells which they are.
    by_meaning: bool,
    /// The lights of the guest, as they will be once it has seen all keys.
    leds: Leds,
    /// Keys that are down, by the number under which the client knows them.
    down: BTreeMap<Name, KeyCode>,
    strokes: VecDeque<(KeyCode, bool)>,
    /// Ctrl, Alt and a digit choose a screen.
    chooses: bool,
    chosen: Option<usize>,
}

/// The digits that choose a screen.
const DIGITS: [KeyCode; 9] = [
    KeyCode::Digit1,
    KeyCode::Digit2,
    KeyCode::Digit3,
    KeyCode::Digit4,
    KeyCode::Digit5,
    KeyCode::Digit6,
    KeyCode::Digit7,
    KeyCode::Digit8,
    KeyCode::Digit9,
];

/// What a client calls a key that it holds: it may mean something else when it is released.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Meaning(u32),
    Code(u32),
}

impl Keyboard {
    pub fn new(keymap: Arc<Keymap>, sync_locks: bool, by_meaning: bool) -> Self {
        Keyboard {
            keymap,
            sync_locks,
            by_meaning,
            leds: Leds::default(),
            down: BTreeMap::new(),
            strokes: VecDeque::new(),
            chooses: false,
            chosen: None,
        }
    }

    /// From now on Ctrl, Alt and a digit choose a screen.
    pub fn let_choose(&mut self) {
        self.chooses = true;
    }

    /// The screen that was chosen, from 0.
    pub fn take_choice(&mut self) -> Option<usize> {
        self.chosen.take()
    }

    /// Whether a screen was chosen.
    pub fn has_choice(&self) -> bool {
        self.chosen.is_some()
    }

    /// Whether Ctrl is held.
    pub fn holds_ctrl(&self) -> bool {
        self.holds(KeyCode::Ctrl) || self.holds(KeyCode::CtrlR)
    }

    /// Forgets keys that are on their way to the guest, and takes its lights for what they are.
    pub fn forget_strokes(&mut self, leds: Leds) {
        self.strokes.clear();
        self.leds = leds;
    }

    /// The guest has switched its lights.
    pub fn set_leds(&mut self, leds: Leds) {
        self.leds = leds;
    }

    /// A key of which it is known what it means.
    pub fn key(&mut self, keysym: u32, down: bool) {
        if !down {
            return self.release(Name::Meaning(keysym));
        }
        let level = Level {
            shift: self.holds(KeyCode::Shift) || self.holds(KeyCode::ShiftR),
            alt_gr: self.holds(KeyCode::AltR),
        };
        if let Some(key) = self.keymap.key(keysym, level) {
            self.adjust_locks(keysym, level.shift);
            self.press(Name::Meaning(keysym), key);
        }
    }

    /// A key of which it is also known which it is.
    pub fn extended_key(&mut self, keysym: u32, code: u32, down: bool) {
        let key = match self.by_meaning || code > 0xff {
            true => KeyCode::Unmapped,
            false => KeyCode::from_number(code.into()),
        };
        if key == KeyCode::Unmapped {
            return self.key(keysym, down);
        }
        if down {
            let shift = self.holds(KeyCode::Shift) || self.holds(KeyCode::ShiftR);
            self.adjust_locks(keysym, shift);
            self.press(Name::Code(code), key);
        } else {
            self.release(Name::Code(code));
        }
    }

    /// All keys that are down go up.
    pub fn release_all(&mut self) {
        let down = std::mem::take(&mut self.down);
        self.strokes.extend(down.into_values().map(|key| (key, false)));
    }

    /// The next key that goes down or up.
    pub fn next_stroke(&mut self) -> Option<(KeyCode, bool)> {
        self.strokes.pop_front()
    }

    /// Whether there is a next one.
    pub fn has_strokes(&self) -> bool {
        !self.strokes.is_empty()
    }

    fn holds(&self, key: KeyCode) -> bool {
        self.down.values().any(|down| *down == key)
    }

    fn press(&mut self, name: Name, key: KeyCode) {
        if self.strokes.len() >= MAX_WAITING {
            return;
        }
        let chosen = DIGITS.iter().position(|digit| *digit == key);
        if self.chooses && chosen.is_some() && self.holds_ctrl() && self.holds(KeyCode::Alt) {
            self.chosen = chosen;
            // What is held is held at another screen, and can choose again.
            self.strokes.extend(self.down.values().map(|key| (*key, false)));
            return;
        }
        match key {
            KeyCode::CapsLock => self.leds.caps ^= !self.holds(key),
            KeyCode::NumLock => self.leds.num ^= !self.holds(key),
            _ => {}
        }
        self.down.insert(name, key);
        self.strokes.push_back((key, true));
    }

    fn release(&mut self, name: Name) {
        let key = self.down.remove(&name);
        if let Some(key) = key.filter(|key| !self.holds(*key)) {
            self.strokes.push_back((key, false));
        }
    }

    /// Presses Caps Lock or Num Lock if the client's seem to be in the other state.
    fn adjust_locks(&mut self, keysym: u32, shift: bool) {
        if !self.sync_locks || self.strokes.len() >= MAX_WAITING {
            return;
        }
        let capital = match keysym {
            0x41..=0x5a => Some(true),
            0x61..=0x7a => Some(false),
            _ => None,
        };
        if let Some(capital) = capital
            && (capital != shift) != self.leds.caps
        {
            self.leds.caps = !self.leds.caps;
            self.strokes.extend([(KeyCode::CapsLock, true), (KeyCode::CapsLock, false)]);
        }
        // The keypad's digits are 0xffb0 to 0xffb9, what its keys mean otherwise 0xff95 to 0xff9f.
        let digit = match keysym {
            0xffb0..=0xffb9 => Some(true),
            0xff95..=0xff9f => Some(false),
            _ => None,
        };
        if let Some(digit) = digit
            && digit != self.leds.num
        {
            self.leds.num = !self.leds.num;
            self.strokes.extend([(KeyCode::NumLock, true), (KeyCode::NumLock, false)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIFT: u32 = 0xffe1;

    fn keyboard() -> Keyboard {
        Keyboard::new(Arc::new(Keymap::load("en-us").unwrap()), true, false)
    }

    fn strokes(keyboard: &mut Keyboard) -> String {
        std::iter::from_fn(|| keyboard.next_stroke())
            .map(|(key, down)| format!("{}{} ", if down { '+' } else { '-' }, key.name()))
            .collect()
    }

    fn typed(keyboard: &mut Keyboard, keysym: u32) -> String {
        keyboard.key(keysym, true);
        keyboard.key(keysym, false);
        strokes(keyboard)
    }

    #[test]
    fn a_key_is_released_though_it_means_something_else_by_then() {
        let mut keyboard = keyboard();
        keyboard.key(SHIFT, true);
        keyboard.key('!'.into(), true);
        keyboard.key(SHIFT, false);
        keyboard.key('!'.into(), false);
        assert_eq!(strokes(&mut keyboard), "+shift +1 -shift -1 ");
        keyboard.extended_key('a'.into(), 0x1e, true);
        keyboard.extended_key('A'.into(), 0x1e, false);
        assert_eq!(strokes(&mut keyboard), "+a -a ");
        keyboard.extended_key('b'.into(), 0, true);
        keyboard.extended_key('b'.into(), 0, false);
        assert_eq!(strokes(&mut keyboard), "+b -b ");
        // What was never pressed is not released.
        keyboard.key('c'.into(), false);
        assert_eq!(strokes(&mut keyboard), "");
    }

    #[test]
    fn locks_follow_what_is_typed() {
        let mut keyboard = keyboard();
        let caps = "+caps_lock -caps_lock ";
        assert_eq!(typed(&mut keyboard, 'A'.into()), format!("{caps}+a -a "));
        assert_eq!(typed(&mut keyboard, 'B'.into()), "+b -b ");
        assert_eq!(typed(&mut keyboard, 'c'.into()), format!("{caps}+c -c "));
        assert_eq!(typed(&mut keyboard, 0xffb5), "+num_lock -num_lock +kp_5 -kp_5 ");
        assert_eq!(typed(&mut keyboard, 0xffb5), "+kp_5 -kp_5 ");
        keyboard.set_leds(Leds { caps: true, ..Leds::default() });
        assert_eq!(typed(&mut keyboard, 'D'.into()), "+d -d ");
        // The client's own key counts too.
        assert_eq!(typed(&mut keyboard, 0xffe5), caps);
        assert_eq!(typed(&mut keyboard, 'e'.into()), "+e -e ");
    }

    #[test]
    fn a_screen_is_chosen() {
        let mut keyboard = keyboard();
        keyboard.let_choose();
        keyboard.key(0xffe3, true);
        keyboard.key(0xffe9, true);
        assert_eq!(strokes(&mut keyboard), "+ctrl +alt ");
        keyboard.key('2'.into(), true);
        assert_eq!(keyboard.take_choice(), Some(1));
        assert_eq!(strokes(&mut keyboard), "-ctrl -alt ");
        keyboard.key('2'.into(), false);
        keyboard.extended_key('1'.into(), 2, true);
        assert_eq!(keyboard.take_choice(), Some(0));
    }

    #[test]
    fn what_is_held_is_released_at_the_end() {
        let mut keyboard = keyboard();
        keyboard.key(0xffe3, true);
        keyboard.key('x'.into(), true);
        strokes(&mut keyboard);
        keyboard.release_all();
        assert_eq!(strokes(&mut keyboard), "-x -ctrl ");
        for _ in 0..10_000 {
            keyboard.key('x'.into(), true);
        }
        assert_eq!(keyboard.strokes.len(), MAX_WAITING);
    }
}
