use std::sync::Arc;

use base::clock::Clocks;
use base::input::{Axis, Button, KeyCode, Leds};
use base::irq::{FnSink, IrqLine, IrqSink};
use base::state::DynState;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;

const A20_LINE: u32 = 20;

struct Bed {
    device: Shared<I8042>,
    lines: Arc<Mutex<Vec<(u32, bool)>>>,
    requests: Arc<Mutex<Vec<Request>>>,
    router: Arc<Router>,
}

fn bed() -> Bed {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (log, asked) = (lines.clone(), requests.clone());
    let sink: Arc<dyn IrqSink> = Arc::new(FnSink(move |n, level| log.lock().push((n, level))));
    let line = |n| IrqLine::new(sink.clone(), n);
    let parts = I8042::create(I8042Wires {
        keyboard_irq: line(KEYBOARD_IRQ),
        mouse_irq: line(MOUSE_IRQ),
        a20: line(A20_LINE),
        requests: RequestSink::new(move |request| asked.lock().push(request)),
    });
    let router = Router::new(&Clocks::new());
    router.set_running(true);
    I8042::connect(&parts.device, &router);
    Bed { device: parts.device, lines, requests, router }
}

impl Bed {
    fn command(&self, value: u8) {
        self.device.lock().write(COMMAND, 0, 1, value.into());
    }
    fn input(&self, events: &[InputEvent]) {
        self.router.send(None, events);
    }
    fn data(&self, value: u8) {
        self.device.lock().write(DATA, 0, 1, value.into());
    }
    fn status(&self) -> u8 {
        self.device.lock().read(COMMAND, 0, 1) as u8
    }
    /// Reads until the output buffer is empty: `fa` from the keyboard, `mfa` from the mouse.
    fn drain(&self) -> String {
        let mut bytes = Vec::new();
        while self.status() & status::OUTPUT_FULL != 0 && bytes.len() < 100 {
            let mouse = if self.status() & status::MOUSE_OUTPUT_FULL != 0 { "m" } else { "" };
            bytes.push(format!("{mouse}{:02x}", self.device.lock().read(DATA, 0, 1)));
        }
        bytes.join(" ")
    }
    fn ask(&self, command: u8) -> String {
        self.command(command);
        self.drain()
    }
    /// Rising edges since the last look.
    fn edges(&self) -> Vec<u32> {
        let mut high = [false; 32];
        let mut edges = Vec::new();
        for (n, level) in self.lines.lock().drain(..) {
            if level && !high[n as usize] {
                edges.push(n);
            }
            high[n as usize] = level;
        }
        edges
    }
}

/// Observed on QEMU 10.0, like everything here.
#[test]
fn probes_are_answered_at_once() {
    let bed = bed();
    assert_eq!(bed.status(), 0x18);
    for (command, answer) in [
        (0x20, "03"),
        (0xa9, "00"),
        (0xaa, "55"),
        (0xab, "00"),
        (0xc0, "80"),
        (0xd0, "cf"),
        (0xe0, ""),
        (0xa1, ""),
        (0xf1, ""),
        (0xff, ""),
    ] {
        assert_eq!(bed.ask(command), answer, "{command:02x}");
    }
    assert_eq!(bed.status(), 0x1c);
    assert_eq!(*bed.requests.lock(), []);
}

#[test]
fn devices_are_disabled_and_enabled() {
    let bed = bed();
    for (command, mode) in [(0xad, "13"), (0xae, "03"), (0xa7, "23"), (0xa8, "03")] {
        bed.command(command);
        assert_eq!(bed.ask(0x20), mode, "{command:02x}");
    }
    bed.command(0xad);
    bed.input(&[InputEvent::Key(KeyCode::A, true)]);
    assert_eq!(bed.drain(), "");
    bed.data(0xf2);
    assert_eq!(bed.drain(), "fa ab 83 1c", "talking to the keyboard enables it");
    bed.command(0xa7);
    bed.command(0xd4);
    bed.data(0xf2);
    assert_eq!(bed.drain(), "mfa m00");
    assert_eq!(bed.ask(0x20), "03");
}

#[test]
fn the_output_port_drives_a20_and_reset() {
    let bed = bed();
    bed.device.lock().reset();
    bed.lines.lock().clear();
    bed.command(0xd1);
    bed.data(0xdd);
    assert!(bed.lines.lock().contains(&(A20_LINE, false)));
    assert_eq!(bed.ask(0xd0), "dd");
    bed.lines.lock().clear();
    bed.command(0xdf);
    assert!(bed.lines.lock().contains(&(A20_LINE, true)));
    assert_eq!(bed.ask(0xd0), "cf");
    bed.command(0xfe);
    bed.command(0xd1);
    bed.data(0xce);
    assert_eq!(*bed.requests.lock(), [Request::Reset, Request::Reset]);
}

#[test]
fn both_devices_get_their_turn() {
    let bed = bed();
    bed.data(0xf2);
    bed.command(0xd4);
    bed.data(0xf2);
    bed.edges();
    assert_eq!(bed.drain(), "fa mfa ab m00 83");
    assert_eq!(bed.edges(), [12, 1, 12, 1]);
    bed.data(0xf2);
    bed.command(0x20);
    assert_eq!(bed.drain(), "fa 03 ab 83", "the controller goes first");
    bed.command(0x20);
    bed.command(0xaa);
    assert_eq!(bed.drain(), "55", "its last word counts");
    assert_eq!(bed.device.lock().read(DATA, 0, 1), 0x55, "the buffer keeps what was read");
}

#[test]
fn the_buffers_are_written_by_command() {
    let bed = bed();
    for (command, answer, irq) in [(0xd2, "5a", 1), (0xd3, "m5a", 12)] {
        bed.command(command);
        bed.edges();
        bed.data(0x5a);
        assert_eq!(bed.edges(), [irq]);
        assert_eq!(bed.drain(), answer);
    }
}

#[test]
fn interrupts_follow_the_command_byte() {
    let bed = bed();
    bed.command(0x60);
    bed.data(0);
    bed.data(0xee);
    assert!(bed.edges().is_empty());
    bed.command(0x60);
    bed.data(1);
    assert_eq!(bed.edges(), [1]);
    assert_eq!(bed.drain(), "ee");
    bed.command(0xad);
    bed.edges();
    assert_eq!(bed.ask(0x20), "11");
    assert!(bed.edges().is_empty(), "a disabled keyboard's line is silent");
}

#[test]
fn translation_makes_set_1() {
    let bed = bed();
    bed.command(0x60);
    bed.data(0x43);
    for (key, codes) in [
        (KeyCode::A, "1e 9e"),
        (KeyCode::Up, "e0 48 e0 c8"),
        (KeyCode::Print, "e0 2a e0 37 e0 b7 e0 aa"),
        (KeyCode::Pause, "e1 1d 45 e1 9d c5"),
        (KeyCode::F7, "41 c1"),
    ] {
        bed.input(&[InputEvent::Key(key, true), InputEvent::Key(key, false)]);
        assert_eq!(bed.drain(), codes, "{key:?}");
    }
    bed.data(0xf2);
    assert_eq!(bed.drain(), "fa ab 41");
}

#[test]
fn the_mouse_reports() {
    let bed = bed();
    bed.command(0xd4);
    bed.data(0xf4);
    assert_eq!(bed.drain(), "mfa");
    bed.input(&[
        InputEvent::Rel(Axis::X, 1),
        InputEvent::Rel(Axis::Y, 2),
        InputEvent::Button(Button::Middle, true),
    ]);
    assert_eq!(bed.drain(), "m2c m01 mfe");
    assert_eq!(*bed.requests.lock(), [Request::WakeUp(WakeReason::Operator)]);
}

#[test]
fn lights_are_told() {
    let bed = bed();
    for (leds, lit) in [(5, Leds { scroll: true, num: false, caps: true }), (0, Leds::default())] {
        bed.data(0xed);
        bed.data(leds);
        assert_eq!(bed.router.leds(), lit);
    }
}

#[test]
fn hostile_saves_are_refused() {
    let bed = bed();
    let mut bytes = base::state::Writer::new();
    bed.device.lock().st.save(&mut bytes);
    let bytes = bytes.into_bytes();
    assert!(bed.device.lock().st.load(&bytes[..bytes.len() - 1]).is_err());
    assert!(bed.device.lock().st.load(&bytes).is_ok());
}

proptest! {
    #[test]
    fn any_access_is_survived_and_undone_by_reset(
        accesses in prop::collection::vec((any::<bool>(), 0..3u32, any::<u8>()), 0..300),
    ) {
        let bed = bed();
        for (write, target, value) in accesses {
            match (write, target) {
                (true, 0..=1) => bed.device.lock().write(target, 0, 1, value.into()),
                (true, _) => {
                    let key = KeyCode::ALL[usize::from(value) % KeyCode::ALL.len()];
                    bed.input(&[InputEvent::Key(key, value & 1 == 0)]);
                }
                (false, 0..=1) => {
                    bed.device.lock().read(target, 0, 1);
                }
                (false, _) => {
                    let dx = i32::from(value) * 5 - 600;
                    bed.input(&[InputEvent::Rel(Axis::X, dx), InputEvent::Rel(Axis::Y, -dx)]);
                }
            }
            prop_assert!(bed.status() & 0x18 == 0x18);
        }
        bed.device.lock().reset();
        prop_assert_eq!(&bed.device.lock().st, &I8042State::default());
    }
}
