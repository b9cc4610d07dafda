//! The pointer behind the VMware back door, for guests that have VMware's drivers: what happens is
//! put into a queue of words that the driver takes out by calls; the PS/2 mouse only says that there
//! is something (X.Org's `vmmouse` driver).

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, Weak};

use base::backdoor::CallRegisters;
use base::device::{AnyDevice, Shared};
use base::input::{ABS_MAX, Axis, Button, InputEvent, InputSink, Kinds, Registration, Router};
use base::state::State;
use parking_lot::Mutex;

use super::I8042;

/// Calls, in the low half of ECX.
pub mod call {
    /// Take words out of the queue, as many as EBX says.
    pub const DATA: u16 = 0x27;
    /// How many words there are.
    pub const STATUS: u16 = 0x28;
    /// Do what EBX says.
    pub const COMMAND: u16 = 0x29;
}

/// What drivers say in EBX.
mod command {
    pub const ENABLE: u32 = 0x4541_4552;
    pub const DISABLE: u32 = 0xf5;
    pub const RELATIVE: u32 = 0x4c45_5252;
    pub const ABSOLUTE: u32 = 0x5342_4152;
}

/// The first word after the driver has enabled the pointer.
const VERSION: u32 = 0x3442_554a;
/// In the status: the driver has to enable it again.
const ERROR: u32 = 0xffff_0000;
/// Words that wait at most, and words of a packet.
const QUEUE: usize = 1024;
const PACKET: usize = 4;
/// Registers that words are returned in.
const REGISTERS: usize = 6;
/// In a packet's first word, above the buttons: it tells of a movement.
const RELATIVE: u32 = 1 << 16;

/// What the driver has chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
enum Mode {
    /// Nothing: the PS/2 mouse is one.
    #[default]
    Off,
    /// It has enabled the pointer.
    Enabled,
    Relative,
    Absolute,
}

/// What the pointer holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct VmMouseState {
    mode: Mode,
    words: VecDeque<u32>,
    buttons: u32,
    /// Where it is.
    x: i32,
    y: i32,
}

struct Inner {
    st: VmMouseState,
    /// While the driver wants events.
    input: Option<Registration>,
}

/// The pointer.
pub struct VmMouse {
    me: Weak<VmMouse>,
    router: Arc<Router>,
    ps2: OnceLock<Shared<I8042>>,
    inner: Mutex<Inner>,
}

impl VmMouse {
    /// A pointer that nobody uses yet.
    pub fn new(router: &Arc<Router>) -> Arc<Self> {
        Arc::new_cyclic(|me| VmMouse {
            me: me.clone(),
            router: router.clone(),
            ps2: OnceLock::new(),
            inner: Mutex::new(Inner { st: VmMouseState::default(), input: None }),
        })
    }

    /// The controller whose mouse says that there is something. To be called once.
    pub fn connect(&self, controller: &Shared<I8042>) {
        self.ps2.get_or_init(|| controller.clone());
    }

    /// Answers a call, if it is about the pointer.
    pub fn call(&self, registers: &mut CallRegisters) -> bool {
        match registers.ecx as u16 {
            call::STATUS => {
                let inner = self.inner.lock();
                let fault = if inner.st.mode == Mode::Off { ERROR } else { 0 };
                registers.eax = fault | inner.st.words.len() as u32;
            }
            call::DATA => self.take(registers),
            call::COMMAND => self.command(registers.ebx),
            _ => return false,
        }
        true
    }

    fn take(&self, registers: &mut CallRegisters) {
        let mut inner = self.inner.lock();
        let count = registers.ebx as usize;
        if !(1..=REGISTERS).contains(&count) || count > inner.st.words.len() {
            base::guest_error!("vmmouse: a driver asks for {count} words");
            inner.st.mode = Mode::Off;
            inner.st.words.clear();
            return;
        }
        let into = [
            &mut registers.eax,
            &mut registers.ebx,
            &mut registers.ecx,
            &mut registers.edx,
            &mut registers.esi,
            &mut registers.edi,
        ];
        for (register, word) in into.into_iter().zip(inner.st.words.drain(..count)) {
            *register = word;
        }
    }

    fn command(&self, wanted: u32) {
        let old = match wanted {
            command::ENABLE => {
                let mut inner = self.inner.lock();
                if inner.st.words.len() < QUEUE {
                    inner.st.words.push_back(VERSION);
                }
                if inner.st.mode == Mode::Off {
                    inner.st.mode = Mode::Enabled;
                }
                None
            }
            command::DISABLE => self.leave(),
            command::RELATIVE => self.listen(Mode::Relative, Kinds::REL),
            command::ABSOLUTE => self.listen(Mode::Absolute, Kinds::ABS),
            _ => {
                base::guest_error!("vmmouse: there is no command {wanted:#x}");
                None
            }
        };
        // Not under the lock: listeners are told.
        drop(old);
    }

    fn leave(&self) -> Option<Registration> {
        let mut inner = self.inner.lock();
        inner.st = VmMouseState::default();
        inner.input.take()
    }

    fn listen(&self, mode: Mode, kind: Kinds) -> Option<Registration> {
        let me = self.me.upgrade()?;
        let input = self.router.register("vmmouse", kind | Kinds::BUTTON, None, me);
        input.activate();
        let mut inner = self.inner.lock();
        inner.st.mode = mode;
        inner.input.replace(input)
    }
}

fn bit(button: Button) -> u32 {
    match button {
        Button::Left => 0x20,
        Button::Right => 0x10,
        Button::Middle => 0x08,
        _ => 0,
    }
}

impl VmMouseState {
    /// Puts what happened into the queue. Returns whether there was room.
    fn happen(&mut self, events: &[InputEvent]) -> bool {
        let relative = self.mode == Mode::Relative;
        let mut wheel = 0;
        if relative {
            (self.x, self.y) = (0, 0);
        }
        for event in events {
            match *event {
                InputEvent::Rel(Axis::X, dx) => self.x = self.x.saturating_add(dx),
                // Upwards.
                InputEvent::Rel(Axis::Y, dy) => self.y = self.y.saturating_sub(dy),
                // Positions have 16 bits.
                InputEvent::Abs(Axis::X, x) => self.x = x.clamp(0, ABS_MAX) << 1,
                InputEvent::Abs(Axis::Y, y) => self.y = y.clamp(0, ABS_MAX) << 1,
                InputEvent::Button(Button::WheelUp, true) => wheel -= 1,
                InputEvent::Button(Button::WheelDown, true) => wheel += 1,
                InputEvent::Button(button, down) => {
                    self.buttons = self.buttons & !bit(button) | if down { bit(button) } else { 0 };
                }
                _ => {}
            }
        }
        if self.words.len() + PACKET > QUEUE {
            return false;
        }
        let flags = if relative { RELATIVE } else { 0 };
        self.words.extend([flags | self.buttons, self.x as u32, self.y as u32, wheel as u32]);
        true
    }
}

impl InputSink for VmMouse {
    fn input(&self, events: &[InputEvent]) {
        if self.inner.lock().st.happen(events)
            && let Some(controller) = self.ps2.get()
        {
            I8042::nudge(controller);
        }
    }
}

impl AnyDevice for VmMouse {
    fn reset(&self) {
        drop(self.leave());
    }
}

#[cfg(test)]
mod tests {
    use base::clock::Clocks;

    use super::*;

    fn ask(mouse: &VmMouse, call: u16, ebx: u32) -> [u32; 4] {
        let mut registers = CallRegisters { ebx, ecx: call.into(), ..CallRegisters::default() };
        assert!(mouse.call(&mut registers));
        [registers.eax, registers.ebx, registers.ecx, registers.edx]
    }

    #[test]
    fn a_driver_takes_what_happens() {
        let router = Router::new(&Clocks::new());
        router.set_running(true);
        let mouse = VmMouse::new(&router);
        assert_eq!(ask(&mouse, call::STATUS, 0)[0], ERROR);
        ask(&mouse, call::COMMAND, command::ENABLE);
        assert_eq!(ask(&mouse, call::STATUS, 0)[0], 1);
        assert_eq!(ask(&mouse, call::DATA, 1)[0], VERSION);
        ask(&mouse, call::COMMAND, command::ABSOLUTE);
        assert_eq!(router.mice()[0].name, "vmmouse");
        assert!(router.is_absolute(None));
        router.send(
            None,
            &[
                InputEvent::Abs(Axis::X, 0x7fff),
                InputEvent::Button(Button::Left, true),
                InputEvent::Button(Button::WheelUp, true),
            ],
        );
        assert_eq!(ask(&mouse, call::STATUS, 0)[0], 4);
        assert_eq!(ask(&mouse, call::DATA, 4), [0x20, 0xfffe, 0, u32::MAX]);
        ask(&mouse, call::COMMAND, command::RELATIVE);
        assert_eq!(router.mice().len(), 1);
        router.send(None, &[InputEvent::Rel(Axis::Y, 3)]);
        assert_eq!(ask(&mouse, call::DATA, 4), [RELATIVE | 0x20, 0, 3u32.wrapping_neg(), 0]);
        ask(&mouse, call::DATA, 4);
        assert_eq!(ask(&mouse, call::STATUS, 0)[0], ERROR, "it asked for too much");
        ask(&mouse, call::COMMAND, command::DISABLE);
        assert!(router.mice().is_empty());
        let mut other = CallRegisters { ecx: 10, ..CallRegisters::default() };
        assert!(!mouse.call(&mut other));
    }

    #[test]
    fn what_nobody_takes_is_forgotten() {
        let router = Router::new(&Clocks::new());
        router.set_running(true);
        let mouse = VmMouse::new(&router);
        ask(&mouse, call::COMMAND, command::ENABLE);
        ask(&mouse, call::COMMAND, command::ABSOLUTE);
        (0..1000).for_each(|x| router.send(None, &[InputEvent::Abs(Axis::X, x)]));
        assert_eq!(ask(&mouse, call::STATUS, 0)[0], 1021);
        AnyDevice::reset(&*mouse);
        assert_eq!(ask(&mouse, call::STATUS, 0)[0], ERROR);
        assert!(router.mice().is_empty());
    }
}
