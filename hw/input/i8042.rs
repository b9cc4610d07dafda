//! The keyboard controller with a PS/2 keyboard and mouse behind it (Intel 8042; IBM PS/2 Hardware
//! Interface Technical Reference, "Keyboard and Auxiliary Device Controller").
//!
//! Everything is answered at once, so that guests that probe never wait.

use std::sync::Arc;

use base::device::{self, Device, Shared, WeakShared};
use base::input::{Axis, InputEvent, InputSink, Kinds, Registration, Router};
use base::irq::IrqLine;
use base::memory::{AccessSizes, Region};
use base::request::{Request, RequestSink, WakeReason};
use base::state::State;
use base::trace_event;

use super::ps2_keyboard::Ps2Keyboard;
use super::ps2_mouse::Ps2Mouse;
use super::scancodes;

/// Port of the data register.
pub const DATA_PORT: u64 = 0x60;
/// Port of the status and command register.
pub const COMMAND_PORT: u64 = 0x64;
/// ISA interrupt of the keyboard.
pub const KEYBOARD_IRQ: u32 = 1;
/// ISA interrupt of the mouse.
pub const MOUSE_IRQ: u32 = 12;

/// Command: the data byte that follows is the command byte.
pub const WRITE_MODE: u8 = 0x60;
/// Command: test the controller.
pub const SELF_TEST: u8 = 0xaa;

const DATA: u32 = 0;
const COMMAND: u32 = 1;

/// Bits of the status register.
mod status {
    pub const OUTPUT_FULL: u8 = 1;
    pub const SYSTEM_FLAG: u8 = 1 << 2;
    pub const COMMAND: u8 = 1 << 3;
    pub const UNLOCKED: u8 = 1 << 4;
    pub const MOUSE_OUTPUT_FULL: u8 = 1 << 5;
}

/// Bits of the command byte.
mod mode {
    pub const KEYBOARD_INTERRUPT: u8 = 1;
    pub const MOUSE_INTERRUPT: u8 = 1 << 1;
    pub const KEYBOARD_DISABLED: u8 = 1 << 4;
    pub const MOUSE_DISABLED: u8 = 1 << 5;
    pub const TRANSLATE: u8 = 1 << 6;
}

/// Bits of the output port.
mod output {
    /// Low resets the processor.
    pub const NO_RESET: u8 = 1;
    pub const A20: u8 = 1 << 1;
    pub const KEYBOARD_FULL: u8 = 1 << 4;
    pub const MOUSE_FULL: u8 = 1 << 5;
    /// As after power-up: the other pins are pulled up.
    pub const RESET: u8 = 0xcf;
}

mod command {
    pub const READ_MODE: u8 = 0x20;
    pub use super::{SELF_TEST, WRITE_MODE};
    pub const DISABLE_MOUSE: u8 = 0xa7;
    pub const ENABLE_MOUSE: u8 = 0xa8;
    pub const TEST_MOUSE: u8 = 0xa9;
    pub const TEST_KEYBOARD: u8 = 0xab;
    pub const DISABLE_KEYBOARD: u8 = 0xad;
    pub const ENABLE_KEYBOARD: u8 = 0xae;
    pub const READ_INPUT: u8 = 0xc0;
    pub const READ_OUTPUT: u8 = 0xd0;
    pub const WRITE_OUTPUT: u8 = 0xd1;
    pub const WRITE_KEYBOARD_BUFFER: u8 = 0xd2;
    pub const WRITE_MOUSE_BUFFER: u8 = 0xd3;
    pub const WRITE_MOUSE: u8 = 0xd4;
    pub const A20_OFF: u8 = 0xdd;
    pub const A20_ON: u8 = 0xdf;
    /// Pulses those of the output port's low bits that are zero in the command.
    pub const PULSE: u8 = 0xf0;
}

const SELF_TEST_PASSED: u8 = 0x55;
const INTERFACE_TEST_PASSED: u8 = 0;
/// The input port: the keyboard is not locked.
const INPUT_PORT: u8 = 0x80;

/// Who filled the output buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
enum Source {
    #[default]
    Nobody,
    Controller,
    Keyboard,
    Mouse,
}

/// Registers.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(reset)]
pub struct I8042State {
    #[state(reset = mode::KEYBOARD_INTERRUPT | mode::MOUSE_INTERRUPT)]
    mode: u8,
    system_flag: bool,
    #[state(reset = output::RESET)]
    output_port: u8,
    /// The command that the next data byte belongs to.
    argument_of: Option<u8>,
    source: Source,
    /// Whose turn it is when both devices have something to say.
    mouse_next: bool,
    /// What the controller itself has to say, and whether it speaks for the mouse.
    reply: Option<(u8, bool)>,
    /// What was read last.
    last: u8,
    /// Translation has seen the prefix of a break code.
    releasing: bool,
    keyboard: Ps2Keyboard,
    mouse: Ps2Mouse,
}

/// What the controller is connected to.
pub struct I8042Wires {
    /// ISA interrupt 1.
    pub keyboard_irq: IrqLine,
    /// ISA interrupt 12.
    pub mouse_irq: IrqLine,
    /// Address line 20.
    pub a20: IrqLine,
    /// The machine.
    pub requests: RequestSink,
}

/// The controller.
pub struct I8042 {
    wires: I8042Wires,
    /// Ties of keyboard and mouse to whoever produces input.
    inputs: Option<[Registration; 2]>,
    st: I8042State,
}

/// The controller and the regions the board places.
pub struct I8042Parts {
    /// The controller.
    pub device: Shared<I8042>,
    /// For [`DATA_PORT`].
    pub data: Region,
    /// For [`COMMAND_PORT`].
    pub command: Region,
}

impl I8042 {
    /// The controller with its keyboard and mouse.
    pub fn create(wires: I8042Wires) -> I8042Parts {
        let device = device::share(|_| I8042 { wires, inputs: None, st: I8042State::default() });
        let data = device::region(&device, DATA, "i8042-data", 1, AccessSizes::BYTE);
        let command = device::region(&device, COMMAND, "i8042-cmd", 1, AccessSizes::BYTE);
        I8042Parts { device, data, command }
    }

    /// Takes what is typed and pointed at.
    pub fn connect(device: &Shared<I8042>, router: &Arc<Router>) {
        let sink = |take: fn(&mut I8042, &[InputEvent])| {
            Arc::new(Input { controller: Arc::downgrade(device), take })
        };
        let keyboard = sink(|controller, events| {
            for event in events {
                if let InputEvent::Key(key, down) = *event {
                    controller.st.keyboard.key(key, down);
                }
            }
        });
        let mouse = sink(|controller, events| controller.st.mouse.pointer(events));
        let registrations = [
            router.register("QEMU PS/2 Keyboard", Kinds::KEY, None, keyboard),
            router.register("QEMU PS/2 Mouse", Kinds::BUTTON | Kinds::REL, None, mouse),
        ];
        device.lock().inputs = Some(registrations);
    }

    /// Has the mouse send a report that tells nothing: there is something elsewhere.
    pub fn nudge(device: &Shared<I8042>) {
        let mut controller = device.lock();
        controller.st.mouse.pointer(&[InputEvent::Rel(Axis::X, 0)]);
        controller.update();
    }

    fn status(&self) -> u8 {
        let full = match self.st.source {
            Source::Nobody => 0,
            _ if self.speaks_for_mouse() => status::OUTPUT_FULL | status::MOUSE_OUTPUT_FULL,
            _ => status::OUTPUT_FULL,
        };
        let flag = if self.st.system_flag { status::SYSTEM_FLAG } else { 0 };
        status::UNLOCKED | status::COMMAND | flag | full
    }

    /// Whether the byte in the output buffer counts as the mouse's.
    fn speaks_for_mouse(&self) -> bool {
        match self.st.source {
            Source::Nobody | Source::Keyboard => false,
            Source::Mouse => true,
            Source::Controller => self.st.reply.is_some_and(|(_, mouse)| mouse),
        }
    }

    /// Fills an empty output buffer and makes the outputs follow.
    fn update(&mut self) {
        let keyboard = self.st.mode & mode::KEYBOARD_DISABLED == 0 && self.st.keyboard.has_data();
        let mouse = self.st.mode & mode::MOUSE_DISABLED == 0 && self.st.mouse.has_data();
        // A device that was disabled or has been emptied takes its byte back.
        let stale = match self.st.source {
            Source::Nobody => true,
            Source::Controller => self.st.reply.is_none(),
            Source::Keyboard => !keyboard,
            Source::Mouse => !mouse,
        };
        if stale {
            self.st.source = if self.st.reply.is_some() {
                Source::Controller
            } else if mouse && (self.st.mouse_next || !keyboard) {
                Source::Mouse
            } else if keyboard {
                Source::Keyboard
            } else {
                Source::Nobody
            };
        }
        let full = self.st.source != Source::Nobody;
        let for_mouse = self.speaks_for_mouse();
        if full {
            self.st.output_port |=
                if for_mouse { output::MOUSE_FULL } else { output::KEYBOARD_FULL };
        }
        let keyboard_enabled = self.st.mode & (mode::KEYBOARD_INTERRUPT | mode::KEYBOARD_DISABLED)
            == mode::KEYBOARD_INTERRUPT;
        self.wires.keyboard_irq.set(full && !for_mouse && keyboard_enabled);
        let mouse_enabled = self.st.mode & mode::MOUSE_INTERRUPT != 0;
        self.wires.mouse_irq.set(full && for_mouse && mouse_enabled);
    }

    fn read_data(&mut self) -> u8 {
        match self.st.source {
            Source::Nobody => {}
            Source::Controller => {
                if let Some((byte, _)) = self.st.reply.take() {
                    self.st.last = byte;
                }
            }
            Source::Keyboard => {
                self.st.mouse_next = true;
                self.st.last = self.take_translated().unwrap_or(self.st.last);
            }
            Source::Mouse => {
                self.st.mouse_next = false;
                self.st.last = self.st.mouse.take().unwrap_or(self.st.last);
            }
        }
        // The lines drop for a moment even if there is more: each byte is an edge.
        self.st.source = Source::Nobody;
        self.st.output_port &= !(output::MOUSE_FULL | output::KEYBOARD_FULL);
        self.wires.keyboard_irq.lower();
        self.wires.mouse_irq.lower();
        self.update();
        self.st.last
    }

    fn take_translated(&mut self) -> Option<u8> {
        let byte = self.st.keyboard.take()?;
        if self.st.mode & mode::TRANSLATE == 0 {
            return Some(byte);
        }
        if scancodes::is_release(byte) {
            self.st.releasing = true;
            return self.take_translated();
        }
        let released = std::mem::take(&mut self.st.releasing);
        Some(scancodes::translate(byte) | if released { 0x80 } else { 0 })
    }

    fn reply(&mut self, byte: u8, mouse: bool) {
        self.st.reply = Some((byte, mouse));
    }

    fn set_output_port(&mut self, value: u8) {
        self.st.output_port = value;
        self.wires.a20.set(value & output::A20 != 0);
        if value & output::NO_RESET == 0 {
            self.wires.requests.send(Request::Reset);
        }
    }

    fn command(&mut self, value: u8) {
        match value {
            command::READ_MODE => self.reply(self.st.mode, false),
            command::DISABLE_MOUSE => self.st.mode |= mode::MOUSE_DISABLED,
            command::ENABLE_MOUSE => self.st.mode &= !mode::MOUSE_DISABLED,
            command::TEST_MOUSE | command::TEST_KEYBOARD => {
                self.reply(INTERFACE_TEST_PASSED, false);
            }
            command::SELF_TEST => {
                self.st.system_flag = true;
                self.reply(SELF_TEST_PASSED, false);
            }
            command::DISABLE_KEYBOARD => self.st.mode |= mode::KEYBOARD_DISABLED,
            command::ENABLE_KEYBOARD => self.st.mode &= !mode::KEYBOARD_DISABLED,
            command::READ_INPUT => self.reply(INPUT_PORT, false),
            command::READ_OUTPUT => self.reply(self.st.output_port, false),
            command::WRITE_MODE
            | command::WRITE_OUTPUT
            | command::WRITE_KEYBOARD_BUFFER
            | command::WRITE_MOUSE_BUFFER
            | command::WRITE_MOUSE => self.st.argument_of = Some(value),
            command::A20_OFF => self.set_output_port(self.st.output_port & !output::A20),
            command::A20_ON => self.set_output_port(self.st.output_port | output::A20),
            command::PULSE..=0xff if value & output::NO_RESET == 0 => {
                self.wires.requests.send(Request::Reset);
            }
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.st.argument_of.take() {
            Some(command::WRITE_MODE) => self.st.mode = value,
            Some(command::WRITE_OUTPUT) => self.set_output_port(value),
            Some(command::WRITE_KEYBOARD_BUFFER) => self.reply(value, false),
            Some(command::WRITE_MOUSE_BUFFER) => self.reply(value, true),
            // Talking to a device enables it.
            Some(_) => {
                self.st.mode &= !mode::MOUSE_DISABLED;
                self.st.mouse.receive(value);
            }
            None => {
                self.st.mode &= !mode::KEYBOARD_DISABLED;
                self.st.releasing = false;
                let lit = self.st.keyboard.leds();
                self.st.keyboard.receive(value);
                let leds = self.st.keyboard.leds();
                if let Some([keyboard, _]) = self.inputs.as_ref().filter(|_| leds != lit) {
                    keyboard.set_leds(leds);
                }
            }
        }
    }
}

impl Device for I8042 {
    fn read(&mut self, region: u32, _: u64, _: u8) -> u64 {
        let value = match region {
            DATA => {
                let value = self.read_data();
                trace_event!(pckbd_kbd_read_data, "{value:#04x}");
                value
            }
            _ => {
                let value = self.status();
                trace_event!(pckbd_kbd_read_status, "{value:#04x}");
                value
            }
        };
        value.into()
    }

    fn write(&mut self, region: u32, _: u64, _: u8, value: u64) {
        match region {
            DATA => {
                trace_event!(pckbd_kbd_write_data, "{value:#04x}");
                self.write_data(value as u8);
            }
            _ => {
                trace_event!(pckbd_kbd_write_command, "{value:#04x}");
                self.command(value as u8);
            }
        }
        self.update();
    }

    fn reset(&mut self) {
        self.st = I8042State::default();
        self.wires.a20.raise();
        self.update();
    }
}

/// One of the devices behind the controller, as whoever produces input sees it.
struct Input {
    controller: WeakShared<I8042>,
    take: fn(&mut I8042, &[InputEvent]),
}

impl InputSink for Input {
    fn input(&self, events: &[InputEvent]) {
        let Some(controller) = self.controller.upgrade() else { return };
        let mut controller = controller.lock();
        (self.take)(&mut controller, events);
        controller.update();
        // Somebody is there.
        controller.wires.requests.send(Request::WakeUp(WakeReason::Operator));
    }
}

#[cfg(test)]
mod tests;
