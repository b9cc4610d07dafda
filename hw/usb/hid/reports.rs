//! What keyboards and pointers have to report.

use std::collections::VecDeque;

use base::input::{ABS_MAX, Axis, Button, InputEvent, KeyCode};
use base::state::{State, StateError};

use super::usages::{self, FIRST_MODIFIER, LAST_MODIFIER};

/// What is remembered for a host that does not ask: key strokes, or movements between clicks.
const QUEUE: usize = 16;
/// Keys that a report has room for, beside modifiers.
const KEYS: usize = 6;
/// Keys that are noticed to be held at once.
const HELD: usize = 16;
/// Instead of keys that are too many.
const ROLL_OVER: u8 = 1;

/// Keys on their way to the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(check)]
pub struct Keys {
    /// Usages, and whether they go down.
    strokes: VecDeque<(u8, bool)>,
    modifiers: u8,
    held: Vec<u8>,
}

impl Keys {
    fn check(&self) -> Result<(), StateError> {
        if self.strokes.len() > QUEUE || self.held.len() > HELD {
            return Err(StateError::invalid("the keyboard remembers 16 keys"));
        }
        Ok(())
    }

    /// A key goes down or up.
    pub fn stroke(&mut self, key: KeyCode, down: bool) {
        if let Some(usage) = usages::usage(key)
            && self.strokes.len() < QUEUE
        {
            self.strokes.push_back((usage, down));
        }
    }

    /// Whether there is something new.
    pub fn has_news(&self) -> bool {
        !self.strokes.is_empty()
    }

    /// The next report.
    pub fn report(&mut self) -> Vec<u8> {
        match self.strokes.pop_front() {
            Some((usage @ FIRST_MODIFIER..=LAST_MODIFIER, down)) => {
                let bit = 1 << (usage - FIRST_MODIFIER);
                self.modifiers = self.modifiers & !bit | if down { bit } else { 0 };
            }
            Some((usage, down)) => {
                let at = self.held.iter().position(|&held| held == usage);
                match (at, down) {
                    (None, true) if self.held.len() < HELD => self.held.push(usage),
                    (Some(at), false) => drop(self.held.remove(at)),
                    _ => {}
                }
            }
            None => {}
        }
        let mut report = vec![self.modifiers, 0];
        if self.held.len() > KEYS {
            report.extend([ROLL_OVER; KEYS]);
        } else {
            report.extend(&self.held);
            report.resize(2 + KEYS, 0);
        }
        report
    }
}

/// A movement, or where a pointer is, and its buttons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
struct Moment {
    buttons: u8,
    /// How far, for a mouse; where, for a tablet.
    x: i32,
    y: i32,
    /// Notches of the wheel, away from the user.
    wheel: i32,
}

impl Moment {
    /// What remains of it when its movement has been told.
    fn at_rest(self, absolute: bool) -> Moment {
        match absolute {
            true => Moment { wheel: 0, ..self },
            false => Moment { buttons: self.buttons, ..Moment::default() },
        }
    }
}

/// Movements on their way to the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(check)]
pub struct Moves {
    queue: VecDeque<Moment>,
    /// What was reported last.
    last: Moment,
}

impl Moves {
    fn check(&self) -> Result<(), StateError> {
        if self.queue.len() > QUEUE {
            return Err(StateError::invalid("the pointer remembers 16 movements"));
        }
        Ok(())
    }

    /// What happened at one moment. Movements add up while no button changes.
    pub fn happen(&mut self, events: &[InputEvent], absolute: bool) {
        let before = self.queue.back().copied().unwrap_or(self.last);
        let mut now = before.at_rest(absolute);
        for event in events {
            match *event {
                InputEvent::Rel(Axis::X, dx) if !absolute => now.x = now.x.saturating_add(dx),
                InputEvent::Rel(Axis::Y, dy) if !absolute => now.y = now.y.saturating_add(dy),
                InputEvent::Abs(Axis::X, x) if absolute => now.x = x.clamp(0, ABS_MAX),
                InputEvent::Abs(Axis::Y, y) if absolute => now.y = y.clamp(0, ABS_MAX),
                InputEvent::Button(Button::WheelUp, true) => now.wheel += 1,
                InputEvent::Button(Button::WheelDown, true) => now.wheel -= 1,
                InputEvent::Button(button, down) => {
                    let bit = bit(button);
                    now.buttons = now.buttons & !bit | if down { bit } else { 0 };
                }
                _ => {}
            }
        }
        let full = self.queue.len() >= QUEUE;
        match self.queue.back_mut() {
            Some(back) if full || back.buttons == now.buttons => {
                back.wheel = back.wheel.saturating_add(now.wheel);
                if absolute {
                    (back.x, back.y) = (now.x, now.y);
                } else {
                    (back.x, back.y) = (back.x.saturating_add(now.x), back.y.saturating_add(now.y));
                }
            }
            _ => self.queue.push_back(now),
        }
    }

    /// Whether there is something new.
    pub fn has_news(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next report.
    pub fn report(&mut self, absolute: bool) -> Vec<u8> {
        let Some(front) = self.queue.front_mut() else {
            self.last = self.last.at_rest(absolute);
            return bytes(self.last, absolute);
        };
        let mut told = *front;
        told.wheel = take(&mut front.wheel);
        if !absolute {
            (told.x, told.y) = (take(&mut front.x), take(&mut front.y));
        }
        if front.wheel == 0 && (absolute || (front.x, front.y) == (0, 0)) {
            self.queue.pop_front();
        }
        self.last = told;
        bytes(told, absolute)
    }
}

/// Takes as much as fits in a report.
fn take(sum: &mut i32) -> i32 {
    let part = (*sum).clamp(-127, 127);
    *sum -= part;
    part
}

fn bit(button: Button) -> u8 {
    match button {
        Button::Left => 1,
        Button::Right => 1 << 1,
        Button::Middle => 1 << 2,
        Button::Side => 1 << 3,
        Button::Extra => 1 << 4,
        _ => 0,
    }
}

fn bytes(moment: Moment, absolute: bool) -> Vec<u8> {
    let Moment { buttons, x, y, wheel } = moment;
    let mut bytes = vec![buttons];
    if absolute {
        bytes.extend((x as u16).to_le_bytes());
        bytes.extend((y as u16).to_le_bytes());
    } else {
        bytes.extend([x as u8, y as u8]);
    }
    bytes.push(wheel as u8);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn left(down: bool) -> InputEvent {
        InputEvent::Button(Button::Left, down)
    }

    #[test]
    fn keys_are_reported_one_by_one() {
        let mut keys = Keys::default();
        for (key, down) in [
            (KeyCode::Shift, true),
            (KeyCode::A, true),
            (KeyCode::Unmapped, true),
            (KeyCode::A, false),
            (KeyCode::Shift, false),
        ] {
            keys.stroke(key, down);
        }
        let mut reports = Vec::new();
        while keys.has_news() {
            reports.push(keys.report()[..3].to_vec());
        }
        assert_eq!(reports, [[2, 0, 0], [2, 0, 4], [2, 0, 0], [0, 0, 0]]);
    }

    #[test]
    fn too_many_keys_roll_over() {
        let mut keys = Keys::default();
        let all =
            [KeyCode::A, KeyCode::B, KeyCode::C, KeyCode::D, KeyCode::E, KeyCode::F, KeyCode::G];
        all.iter().for_each(|&key| keys.stroke(key, true));
        let last = (0..7).map(|_| keys.report()).last();
        assert_eq!(last, Some(vec![0, 0, 1, 1, 1, 1, 1, 1]));
        keys.stroke(KeyCode::C, false);
        assert_eq!(keys.report(), [0, 0, 4, 5, 7, 8, 9, 10]);
    }

    #[test]
    fn movements_add_up_between_clicks() {
        let mut moves = Moves::default();
        let mouse = |moves: &mut Moves, events: &[InputEvent]| moves.happen(events, false);
        mouse(&mut moves, &[InputEvent::Rel(Axis::X, 100)]);
        mouse(&mut moves, &[InputEvent::Rel(Axis::X, 100), InputEvent::Rel(Axis::Y, -3)]);
        mouse(&mut moves, &[left(true), InputEvent::Rel(Axis::X, 1)]);
        mouse(&mut moves, &[InputEvent::Button(Button::WheelUp, true)]);
        mouse(&mut moves, &[left(false)]);
        let mut reports = Vec::new();
        while moves.has_news() {
            reports.push(moves.report(false));
        }
        assert_eq!(reports, [[0, 127, 0xfd, 0], [0, 73, 0, 0], [1, 1, 0, 1], [0, 0, 0, 0]]);
        assert_eq!(moves.report(false), [0, 0, 0, 0], "asked for nevertheless");
    }

    #[test]
    fn a_tablet_tells_where() {
        let mut moves = Moves::default();
        moves.happen(&[InputEvent::Abs(Axis::X, 0x1234), InputEvent::Abs(Axis::Y, 99_999)], true);
        moves.happen(&[InputEvent::Abs(Axis::X, 0x1235), InputEvent::Rel(Axis::X, 5)], true);
        moves.happen(&[left(true)], true);
        assert_eq!(moves.report(true), [0, 0x35, 0x12, 0xff, 0x7f, 0]);
        assert_eq!(moves.report(true), [1, 0x35, 0x12, 0xff, 0x7f, 0]);
        assert!(!moves.has_news());
        assert_eq!(moves.report(true), [1, 0x35, 0x12, 0xff, 0x7f, 0]);
    }

    proptest! {
        /// However movements are told, nothing of them is lost.
        #[test]
        fn a_mouse_goes_all_the_way(
            moves in prop::collection::vec((-3000i32..3000, any::<bool>(), any::<bool>()), 0..40),
        ) {
            let mut mouse = Moves::default();
            let (mut wanted, mut told) = (0, 0);
            for (dx, down, asked) in moves {
                mouse.happen(&[InputEvent::Rel(Axis::X, dx), left(down)], false);
                wanted += dx;
                prop_assert!(mouse.queue.len() <= QUEUE);
                if asked {
                    told += i32::from(mouse.report(false)[1] as i8);
                }
            }
            for _ in 0..2000 {
                told += i32::from(mouse.report(false)[1] as i8);
            }
            prop_assert_eq!(told, wanted);
        }
    }
}
