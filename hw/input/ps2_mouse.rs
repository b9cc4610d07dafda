//! The PS/2 mouse: standard, with a wheel (IntelliMouse) and with five buttons (Explorer). Drivers
//! select the richer protocols by a knock of sample rates (Microsoft, "Mouse Wheel Support").

use std::collections::VecDeque;

use base::input::{Axis, Button, InputEvent};
use base::state::{State, StateError};

/// Bytes of reports the mouse remembers; motion beyond adds up until there is room.
const REPORTS: usize = 16;
/// With an answer on top.
const QUEUE: usize = REPORTS + 8;

mod command {
    pub const SCALING_1_1: u8 = 0xe6;
    pub const SCALING_2_1: u8 = 0xe7;
    pub const SET_RESOLUTION: u8 = 0xe8;
    pub const STATUS: u8 = 0xe9;
    pub const STREAM: u8 = 0xea;
    pub const POLL: u8 = 0xeb;
    pub const LEAVE_WRAP: u8 = 0xec;
    pub const WRAP: u8 = 0xee;
    pub const REMOTE: u8 = 0xf0;
    pub const IDENTIFY: u8 = 0xf2;
    pub const SET_RATE: u8 = 0xf3;
    pub const ENABLE: u8 = 0xf4;
    pub const DISABLE: u8 = 0xf5;
    pub const SET_DEFAULTS: u8 = 0xf6;
    pub const RESET: u8 = 0xff;
}

const ACK: u8 = 0xfa;
const SELF_TEST_PASSED: u8 = 0xaa;

/// Bits of the status byte.
mod status {
    pub const SCALING_2_1: u8 = 1 << 4;
    pub const ENABLED: u8 = 1 << 5;
    pub const REMOTE: u8 = 1 << 6;
}

/// Bits of a report's first byte, below them the buttons left, right and middle.
mod report {
    pub const ALWAYS: u8 = 1 << 3;
    pub const X_NEGATIVE: u8 = 1 << 4;
    pub const Y_NEGATIVE: u8 = 1 << 5;
    pub const BUTTONS: u8 = 7;
}

/// In the fourth byte of an Explorer report: it tells of the horizontal wheel.
const HORIZONTAL: u8 = 1 << 6;

/// Protocols, by the identity that selects them.
mod kind {
    pub const STANDARD: u8 = 0;
    pub const WHEEL: u8 = 3;
    pub const EXPLORER: u8 = 4;
}

/// What the mouse holds.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(reset, check)]
pub struct Ps2Mouse {
    queue: VecDeque<u8>,
    argument_of: Option<u8>,
    status: u8,
    #[state(reset = 2)]
    resolution: u8,
    #[state(reset = 100)]
    rate: u8,
    wrap: bool,
    kind: u8,
    /// How far the knock has come.
    knock: u8,
    buttons: u8,
    dx: i32,
    /// Upwards.
    dy: i32,
    /// Notches of the wheel, towards the user.
    dz: i32,
    /// Notches of the horizontal wheel, to the left.
    dw: i32,
}

impl Ps2Mouse {
    fn check(&self) -> Result<(), StateError> {
        if self.queue.len() > QUEUE {
            return Err(StateError::invalid("the mouse remembers 24 bytes"));
        }
        Ok(())
    }

    /// Whether a byte waits to be taken.
    pub fn has_data(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next byte for the host.
    pub fn take(&mut self) -> Option<u8> {
        self.queue.pop_front()
    }

    /// The mouse is moved or clicked.
    pub fn pointer(&mut self, events: &[InputEvent]) {
        if self.status & status::ENABLED == 0 || events.is_empty() {
            return;
        }
        for &event in events {
            match event {
                InputEvent::Rel(Axis::X, dx) => self.dx = self.dx.saturating_add(dx),
                InputEvent::Rel(Axis::Y, dy) => self.dy = self.dy.saturating_sub(dy),
                InputEvent::Button(button, down) => self.button(button, down),
                _ => {}
            }
        }
        if self.status & status::REMOTE == 0 {
            // Even a report that tells nothing new is sent.
            while self.send_report(REPORTS) && self.moved() {}
        }
    }

    fn button(&mut self, button: Button, down: bool) {
        let notch = i32::from(down);
        let bit = match button {
            Button::Left => 0,
            Button::Right => 1,
            Button::Middle => 2,
            Button::Side => 3,
            Button::Extra => 4,
            Button::WheelUp => return self.dz = self.dz.saturating_sub(notch),
            Button::WheelDown => return self.dz = self.dz.saturating_add(notch),
            Button::WheelLeft => return self.dw = self.dw.saturating_add(notch),
            Button::WheelRight => return self.dw = self.dw.saturating_sub(notch),
            Button::Touch => return,
        };
        self.buttons = self.buttons & !(1 << bit) | u8::from(down) << bit;
    }

    fn moved(&self) -> bool {
        (self.dx, self.dy, self.dz, self.dw) != (0, 0, 0, 0)
    }

    /// Appends a report, as much of the motion as fits in one, if the queue has room for it.
    fn send_report(&mut self, room: usize) -> bool {
        let len = if self.kind == kind::STANDARD { 3 } else { 4 };
        if self.queue.len() + len > room {
            return false;
        }
        let dx = take_up_to(&mut self.dx, 127);
        let dy = take_up_to(&mut self.dy, 127);
        let sign = |delta: i32, bit: u8| if delta < 0 { bit } else { 0 };
        self.queue.extend([
            report::ALWAYS
                | sign(dx, report::X_NEGATIVE)
                | sign(dy, report::Y_NEGATIVE)
                | self.buttons & report::BUTTONS,
            dx as u8,
            dy as u8,
        ]);
        match self.kind {
            kind::STANDARD => (self.dz, self.dw) = (0, 0),
            kind::WHEEL => {
                self.dw = 0;
                self.queue.push_back(take_up_to(&mut self.dz, 127) as u8);
            }
            _ if self.dw != 0 => {
                let dw = take_up_to(&mut self.dw, 31) as u8;
                self.queue.push_back(HORIZONTAL | dw & 0x3f);
            }
            _ => {
                let dz = take_up_to(&mut self.dz, 7) as u8;
                self.queue.push_back((self.buttons & 0x18) << 1 | dz & 0x0f);
            }
        }
        true
    }

    fn reply(&mut self, bytes: &[u8]) {
        let room = QUEUE.saturating_sub(self.queue.len());
        self.queue.extend(bytes.iter().take(room));
    }

    /// The host sends a byte.
    pub fn receive(&mut self, byte: u8) {
        match self.argument_of.take() {
            _ if self.wrap && !matches!(byte, command::LEAVE_WRAP | command::RESET) => {
                self.reply(&[byte]);
            }
            Some(command) => self.argument(command, byte),
            None => self.command(byte),
        }
    }

    fn command(&mut self, byte: u8) {
        match byte {
            command::SCALING_1_1 => self.status &= !status::SCALING_2_1,
            command::SCALING_2_1 => self.status |= status::SCALING_2_1,
            command::SET_RESOLUTION | command::SET_RATE => self.argument_of = Some(byte),
            command::STREAM => self.status &= !status::REMOTE,
            command::LEAVE_WRAP => self.wrap = false,
            command::WRAP => self.wrap = true,
            command::REMOTE => self.status |= status::REMOTE,
            command::ENABLE => self.status |= status::ENABLED,
            command::DISABLE => self.status &= !status::ENABLED,
            command::SET_DEFAULTS => {
                let defaults = Ps2Mouse::default();
                self.rate = defaults.rate;
                self.resolution = defaults.resolution;
                self.status = defaults.status;
            }
            command::STATUS => {
                return self.reply(&[ACK, self.status, self.resolution, self.rate]);
            }
            command::IDENTIFY => return self.reply(&[ACK, self.kind]),
            command::POLL => {
                self.reply(&[ACK]);
                self.send_report(QUEUE);
                return;
            }
            command::RESET => {
                let queue = std::mem::take(&mut self.queue);
                *self = Ps2Mouse { queue, buttons: self.buttons, ..Ps2Mouse::default() };
                return self.reply(&[ACK, SELF_TEST_PASSED, kind::STANDARD]);
            }
            // Bytes that are no commands go unanswered.
            _ => return,
        }
        self.reply(&[ACK]);
    }

    fn argument(&mut self, command: u8, byte: u8) {
        if command == command::SET_RESOLUTION {
            self.resolution = byte;
        } else {
            self.rate = byte;
            self.hear_knock(byte);
        }
        self.reply(&[ACK]);
    }

    /// 200, 100, 80 asks for the wheel; 200, 200, 80 for five buttons.
    fn hear_knock(&mut self, rate: u8) {
        const FIRST: u8 = 1;
        const WHEEL: u8 = 2;
        const EXPLORER: u8 = 3;
        self.knock = match (self.knock, rate) {
            (FIRST, 100) => WHEEL,
            (FIRST, 200) => EXPLORER,
            (WHEEL, 80) => {
                self.kind = kind::WHEEL;
                0
            }
            (EXPLORER, 80) => {
                self.kind = kind::EXPLORER;
                0
            }
            (0, 200) => FIRST,
            _ => 0,
        };
    }
}

/// Takes at most `limit` in either direction out of `sum`.
fn take_up_to(sum: &mut i32, limit: i32) -> i32 {
    let part = (*sum).clamp(-limit, limit);
    *sum -= part;
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mouse: &mut Ps2Mouse) -> Vec<u8> {
        std::iter::from_fn(|| mouse.take()).collect()
    }

    fn answers(mouse: &mut Ps2Mouse, bytes: &[u8]) -> Vec<u8> {
        bytes.iter().for_each(|&byte| mouse.receive(byte));
        read(mouse)
    }

    fn moves(mouse: &mut Ps2Mouse, dx: i32, dy: i32) -> Vec<u8> {
        mouse.pointer(&[InputEvent::Rel(Axis::X, dx), InputEvent::Rel(Axis::Y, dy)]);
        read(mouse)
    }

    fn presses(mouse: &mut Ps2Mouse, buttons: &[Button]) -> Vec<u8> {
        let events: Vec<_> = buttons.iter().map(|&b| InputEvent::Button(b, true)).collect();
        mouse.pointer(&events);
        read(mouse)
    }

    const EXPLORER_KNOCK: [u8; 6] = [0xf3, 200, 0xf3, 200, 0xf3, 80];
    const WHEEL_KNOCK: [u8; 6] = [0xf3, 200, 0xf3, 100, 0xf3, 80];

    /// Observed on QEMU 10.0, like the other values here.
    #[test]
    fn commands_are_answered() {
        let mut mouse = Ps2Mouse::default();
        for (bytes, expected) in [
            (&[0xff][..], &[0xfa, 0xaa, 0x00][..]),
            (&[0xf2], &[0xfa, 0x00]),
            (&[0xe9], &[0xfa, 0x00, 0x02, 0x64]),
            (&[0xeb], &[0xfa, 0x08, 0x00, 0x00]),
            (&[0xe8, 0x03, 0xe7, 0xf0, 0xf4], &[0xfa; 5]),
            (&[0xe9], &[0xfa, 0x70, 0x03, 0x64]),
            (&[0xee, 0x12, 0xf2, 0xec], &[0xfa, 0x12, 0xf2, 0xfa]),
            (&[0xee, 0xff], &[0xfa, 0xfa, 0xaa, 0x00]),
            (&[0xfe], &[]),
            (&[0x10], &[]),
            (&[0xf3, 200, 0xf3, 100, 0xf4, 0xf3, 80], &[0xfa; 7]),
            (&[0xf6, 0xf2], &[0xfa, 0xfa, 3]),
        ] {
            assert_eq!(answers(&mut mouse, bytes), expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn motion_is_told_in_steps_of_127() {
        let mut mouse = Ps2Mouse::default();
        assert!(moves(&mut mouse, 5, 0).is_empty(), "not enabled");
        answers(&mut mouse, &[0xf4]);
        assert_eq!(moves(&mut mouse, 0, 5), [0x28, 0, 0xfb]);
        assert_eq!(moves(&mut mouse, 300, 0), [8, 0x7f, 0, 8, 0x7f, 0, 8, 0x2e, 0]);
        assert_eq!(moves(&mut mouse, -128, 0), [0x18, 0x81, 0, 0x18, 0xff, 0]);
    }

    #[test]
    fn motion_adds_up_while_the_queue_is_full() {
        let mut mouse = Ps2Mouse::default();
        answers(&mut mouse, &[0xf4]);
        for dx in 1..=12 {
            mouse.pointer(&[InputEvent::Rel(Axis::X, dx)]);
        }
        assert_eq!(read(&mut mouse), [8, 1, 0, 8, 2, 0, 8, 3, 0, 8, 4, 0, 8, 5, 0]);
        assert_eq!(moves(&mut mouse, 3, 0), [8, 0x42, 0]);
    }

    #[test]
    fn wheels_and_side_buttons_need_the_knock() {
        let mut mouse = Ps2Mouse::default();
        answers(&mut mouse, &[0xf4]);
        assert_eq!(presses(&mut mouse, &[Button::WheelUp]), [8, 0, 0]);
        answers(&mut mouse, &WHEEL_KNOCK);
        assert_eq!(answers(&mut mouse, &[0xeb]), [0xfa, 8, 0, 0, 0], "no old notches");
        assert_eq!(presses(&mut mouse, &[Button::WheelUp]), [8, 0, 0, 0xff]);
        assert_eq!(presses(&mut mouse, &[Button::Side]), [8, 0, 0, 0]);
        answers(&mut mouse, &EXPLORER_KNOCK);
        assert_eq!(
            presses(&mut mouse, &[Button::WheelUp, Button::WheelLeft]),
            [8, 0, 0, 0x41, 8, 0, 0, 0x1f]
        );
        let notches = [Button::WheelRight; 40];
        assert_eq!(presses(&mut mouse, &notches), [8, 0, 0, 0x61, 8, 0, 0, 0x77]);
    }

    #[test]
    fn in_remote_mode_the_host_asks() {
        let mut mouse = Ps2Mouse::default();
        answers(&mut mouse, &[0xf4, 0xf0]);
        assert!(moves(&mut mouse, 7, 0).is_empty());
        assert_eq!(answers(&mut mouse, &[0xeb]), [0xfa, 8, 7, 0]);
        assert_eq!(answers(&mut mouse, &[0xeb]), [0xfa, 8, 0, 0]);
    }
}
