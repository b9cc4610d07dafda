//! Keyboards and mice: `sendkey`, `mouse_move` and their kin.

use std::sync::atomic::Ordering;

use base::input::{Axis, Button, InputEvent, KeyCode};

use super::command::{Context, Printed, silence};
use super::words::Arguments;
use crate::qapi::QmpError;

/// The buttons of `mouse_button`, by bit.
const BUTTONS: [Button; 3] = [Button::Left, Button::Right, Button::Middle];

pub(super) fn sendkey(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    let keys = arguments.word().ok_or("sendkey: string expected".to_owned())?;
    let hold = match arguments.at_end() {
        true => None,
        false => u32::try_from(arguments.expression()?).ok(),
    };
    arguments.end("sendkey")?;
    let mut codes = Vec::new();
    for name in keys.split('-') {
        match key(name) {
            Some(key) => codes.push(key),
            None => return Ok(format!("invalid parameter: {name}\n")),
        }
    }
    context.vm.input().press(&codes, hold);
    silence()
}

/// A key by its name, by its number in hexadecimal, or by the sign that is on it.
fn key(name: &str) -> Option<KeyCode> {
    match name.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok().map(KeyCode::from_number),
        None if name == "<" => Some(KeyCode::Less),
        None => KeyCode::from_name(name),
    }
}

/// The number that a word begins with, as C reads it; zero if there is none.
fn number(word: &str) -> i32 {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let (radix, digits) = match digits.strip_prefix("0x") {
        Some(digits) => (16, digits),
        None if digits.starts_with('0') => (8, digits),
        None => (10, digits),
    };
    let value = digits
        .chars()
        .map_while(|c| c.to_digit(radix))
        .fold(0, |sum: i64, digit| sum.saturating_mul(radix.into()).saturating_add(digit.into()));
    (sign * value).clamp(i32::MIN.into(), i32::MAX.into()) as i32
}

pub(super) fn mouse_move(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    let mut delta = || arguments.word().map(number);
    let missing = || "mouse_move: string expected".to_owned();
    let (dx, dy, dz) = (delta().ok_or_else(missing)?, delta().ok_or_else(missing)?, delta());
    arguments.end("mouse_move")?;
    let mut events = vec![InputEvent::Rel(Axis::X, dx), InputEvent::Rel(Axis::Y, dy)];
    let wheel = dz.filter(|&dz| dz != 0);
    let wheel = wheel.map(|dz| if dz > 0 { Button::WheelUp } else { Button::WheelDown });
    events.extend(wheel.map(|wheel| InputEvent::Button(wheel, true)));
    let router = context.vm.input();
    router.send(None, &events);
    if let Some(wheel) = wheel {
        router.send(None, &[InputEvent::Button(wheel, false)]);
    }
    silence()
}

pub(super) fn mouse_button(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    let pressed = arguments.expression()?;
    arguments.end("mouse_button")?;
    let before = context.mouse_buttons.swap(pressed, Ordering::Relaxed);
    let buttons = BUTTONS.into_iter().enumerate().map(|(n, button)| (1 << n, button));
    let changed = buttons.filter(|(bit, _)| (before ^ pressed) & bit != 0);
    let event = |(bit, button)| InputEvent::Button(button, pressed & bit != 0);
    let events: Vec<InputEvent> = changed.map(event).collect();
    context.vm.input().send(None, &events);
    silence()
}

pub(super) fn mouse_set(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    let index = arguments.expression()? as i64;
    arguments.end("mouse_set")?;
    let chosen = context.vm.input().choose_mouse(index);
    chosen.map_err(|error| QmpError::new(error.to_string()))?;
    silence()
}

pub(super) fn mice(context: &Context<'_>, _: &mut Arguments<'_>) -> Printed {
    let mice = context.vm.input().mice();
    if mice.is_empty() {
        return Ok("No mouse devices connected\n".into());
    }
    let line = |mouse: &base::input::Mouse| {
        let mark = if mouse.current { '*' } else { ' ' };
        let absolute = if mouse.absolute { " (absolute)" } else { "" };
        format!("{mark} Mouse #{}: {}{absolute}\n", mouse.index, mouse.name)
    };
    Ok(mice.iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As QEMU 10.0.2 understands them.
    #[test]
    fn keys_and_numbers() {
        for (name, wanted) in [
            ("a", Some(KeyCode::A)),
            ("<", Some(KeyCode::Less)),
            ("0x1e", Some(KeyCode::A)),
            ("0x1ff", Some(KeyCode::Unmapped)),
            ("0x", None),
            ("0x1g", None),
            ("A", None),
            ("", None),
        ] {
            assert_eq!(key(name), wanted, "{name}");
        }
        let texts = ["5", "-0x10", "0x5z", "010", "a", "-", "99999999999", "-99999999999"];
        assert_eq!(texts.map(number), [5, -16, 5, 8, 0, 0, i32::MAX, i32::MIN]);
    }
}
