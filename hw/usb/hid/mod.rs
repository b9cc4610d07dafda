//! Keyboard, mouse and tablet (USB HID 1.11).

mod models;
mod reports;
mod usages;

use std::sync::Arc;

use base::clock::{ClockKind, Clocks, Timer};
use base::device::{self, Shared, WeakShared};
use base::input::{InputEvent, InputSink, Kinds, Leds, Registration, Router, Screen};
use base::state::State;

use super::descriptor::Description;
use super::device::{Bell, Function};
use super::packet::{Packet, Reply, Setup, Token};
use reports::{Keys, Moves};

/// Which of them it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A mouse with a wheel.
    Mouse,
    /// A pointer that tells where it is.
    Tablet,
    /// A keyboard.
    Keyboard,
}

impl Kind {
    /// Its name and its events, as the router knows them.
    fn input(self) -> (&'static str, Kinds) {
        match self {
            Kind::Mouse => ("QEMU HID Mouse", Kinds::BUTTON | Kinds::REL),
            Kind::Tablet => ("QEMU HID Tablet", Kinds::BUTTON | Kinds::ABS),
            Kind::Keyboard => ("QEMU HID Keyboard", Kinds::KEY),
        }
    }
}

/// Requests, with the type of the request before the number (7.1, 7.2).
mod request {
    pub const GET_DESCRIPTOR: u16 = 0x8106;
    pub const GET_REPORT: u16 = 0xa101;
    pub const GET_IDLE: u16 = 0xa102;
    pub const GET_PROTOCOL: u16 = 0xa103;
    pub const SET_REPORT: u16 = 0x2109;
    pub const SET_IDLE: u16 = 0x210a;
    pub const SET_PROTOCOL: u16 = 0x210b;
}

/// The descriptor that says what reports mean.
const REPORT_DESCRIPTOR: u16 = 0x22;
/// The only endpoint beside 0.
const ENDPOINT: u8 = 1;
/// The unit of the time after which a report is repeated, in nanoseconds.
const IDLE_UNIT: i64 = 4_000_000;

/// What the device holds.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(reset)]
pub struct HidState {
    keys: Keys,
    moves: Moves,
    /// Reports are repeated after so many units; never if zero.
    idle: u8,
    /// It is time to repeat the last one.
    due: bool,
    #[state(reset = 1)]
    protocol: u8,
    /// The host has asked for reports, so that it is the one to get events.
    asked: bool,
}

/// The device.
struct Hid {
    kind: Kind,
    clocks: Clocks,
    bell: Bell,
    repeat: Timer,
    input: Option<Registration>,
    st: HidState,
}

/// A device that takes its events from `router`; `bell` is rung when there is something to report.
pub fn create(
    kind: Kind,
    screen: Option<Screen>,
    router: &Arc<Router>,
    clocks: &Clocks,
    bell: &Bell,
) -> Box<dyn Function> {
    let hid = device::share(|me| Hid {
        kind,
        clocks: clocks.clone(),
        bell: bell.clone(),
        repeat: device::timer(me, clocks, ClockKind::Virtual, Hid::repeat),
        input: None,
        st: HidState::default(),
    });
    let (name, kinds) = kind.input();
    let registration = router.register(name, kinds, screen, Arc::new(Sink(Arc::downgrade(&hid))));
    if kind == Kind::Keyboard {
        // A keyboard is not asked before a key is pressed that could tell which one is used.
        registration.activate();
    }
    hid.lock().input = Some(registration);
    Box::new(HidFunction { kind, hid })
}

struct Sink(WeakShared<Hid>);

impl InputSink for Sink {
    fn input(&self, events: &[InputEvent]) {
        if let Some(hid) = self.0.upgrade() {
            hid.lock().happen(events);
        }
    }
}

impl Hid {
    fn happen(&mut self, events: &[InputEvent]) {
        match self.kind {
            Kind::Keyboard => {
                for event in events {
                    if let InputEvent::Key(key, down) = *event {
                        self.st.keys.stroke(key, down);
                    }
                }
            }
            kind => self.st.moves.happen(events, kind == Kind::Tablet),
        }
        self.bell.ring();
    }

    fn repeat(&mut self) {
        self.st.due = self.st.idle > 0;
        self.bell.ring();
    }

    fn has_news(&self) -> bool {
        self.st.due || self.st.keys.has_news() || self.st.moves.has_news()
    }

    fn report(&mut self) -> Vec<u8> {
        self.st.due = false;
        if self.st.idle > 0 {
            self.repeat.set(self.clocks.now_virtual() + i64::from(self.st.idle) * IDLE_UNIT);
        }
        match self.kind {
            Kind::Keyboard => self.st.keys.report(),
            kind => self.st.moves.report(kind == Kind::Tablet),
        }
    }

    fn set_idle(&mut self, idle: u8) {
        self.st.idle = idle;
        self.st.due = false;
        match idle {
            0 => self.repeat.cancel(),
            _ => self.repeat.set(self.clocks.now_virtual() + i64::from(idle) * IDLE_UNIT),
        }
    }

    fn set_lights(&self, bits: u8) {
        let leds = Leds { num: bits & 1 != 0, caps: bits & 2 != 0, scroll: bits & 4 != 0 };
        if let Some(input) = &self.input {
            input.set_leds(leds);
        }
    }

    /// The host listens: a pointer gets events before others from now on.
    fn listened(&mut self) {
        if self.kind != Kind::Keyboard
            && !std::mem::replace(&mut self.st.asked, true)
            && let Some(input) = &self.input
        {
            input.activate();
        }
    }
}

struct HidFunction {
    kind: Kind,
    hid: Shared<Hid>,
}

impl Function for HidFunction {
    fn description(&self) -> &'static Description {
        self.kind.description()
    }

    fn request(&mut self, setup: &Setup, data: &mut Vec<u8>) -> Reply {
        let mut hid = self.hid.lock();
        let has_protocols = self.kind != Kind::Tablet;
        match setup.code() {
            request::GET_DESCRIPTOR if setup.value >> 8 == REPORT_DESCRIPTOR => {
                *data = self.kind.reports().to_vec();
            }
            request::GET_REPORT => {
                hid.listened();
                *data = hid.report();
            }
            request::SET_REPORT if self.kind == Kind::Keyboard => {
                if let Some(&bits) = data.first() {
                    hid.set_lights(bits);
                }
            }
            request::GET_IDLE => *data = vec![hid.st.idle],
            request::SET_IDLE => hid.set_idle((setup.value >> 8) as u8),
            request::GET_PROTOCOL if has_protocols => *data = vec![hid.st.protocol],
            // Reports are those of either protocol.
            request::SET_PROTOCOL if has_protocols => hid.st.protocol = setup.value as u8,
            _ => return Reply::Stall,
        }
        Reply::Done
    }

    fn transfer(&mut self, packet: &mut Packet) -> Reply {
        if (packet.token, packet.endpoint) != (Token::In, ENDPOINT) {
            return Reply::Stall;
        }
        let mut hid = self.hid.lock();
        hid.listened();
        if !hid.has_news() {
            return Reply::Nak;
        }
        let mut report = hid.report();
        report.truncate(packet.room);
        packet.answer(&report)
    }

    fn detached(&mut self) {
        let mut hid = self.hid.lock();
        hid.repeat.cancel();
        // Others get the events from now on.
        hid.input = None;
    }

    fn reset(&mut self) {
        let mut hid = self.hid.lock();
        hid.repeat.cancel();
        hid.st = HidState { asked: hid.st.asked, ..HidState::default() };
    }
}
