//! Keyboard, mouse and tablet (virtio 1.2, 5.8).

mod codes;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};

use base::input::{
    ABS_MAX, Axis, Button, InputEvent, InputSink, KeyCode, Kinds, Leds, Registration, Router,
    Screen,
};
use base::props::Props;
use base::state::State;
use parking_lot::Mutex;

use super::pci::{self, Place, Shape, VirtioPci, VirtioPciError, Wiring};
use super::{Chain, Model, VirtQueue};
use crate::pci::{PciBus, PciFunction};
use codes::{axis, kind, led};

/// Number of the kind of device.
const ID: u8 = 18;
const EVENTS: usize = 0;
const STATUS: usize = 1;
const QUEUE_SIZE: u16 = 64;
/// Bytes of an event.
const EVENT: usize = 8;

const BUS_VIRTUAL: u16 = 6;
const VENDOR: u16 = 0x0627;

/// Configuration (5.8.4): what is asked for, how long the answer is, the answer.
mod config {
    pub const SELECT: usize = 0;
    pub const SUBSELECT: usize = 1;
    pub const ANSWER: usize = 8;
    pub const LEN: usize = 136;

    pub const NAME: u8 = 0x01;
    pub const SERIAL: u8 = 0x02;
    pub const IDENTITY: u8 = 0x03;
    pub const EVENT_BITS: u8 = 0x11;
    pub const ABS_INFO: u8 = 0x12;
}

/// Which of them it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Keyboard,
    Mouse,
    Tablet,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Keyboard => "QEMU Virtio Keyboard",
            Kind::Mouse => "QEMU Virtio Mouse",
            Kind::Tablet => "QEMU Virtio Tablet",
        }
    }

    fn kinds(self) -> Kinds {
        match self {
            Kind::Keyboard => Kinds::KEY,
            Kind::Mouse => Kinds::BUTTON | Kinds::REL,
            Kind::Tablet => Kinds::BUTTON | Kinds::ABS,
        }
    }

    fn pci(self) -> pci::Kind {
        let class = match self {
            Kind::Keyboard => 0x09_0000,
            Kind::Mouse => 0x09_0200,
            Kind::Tablet => 0x09_8000,
        };
        // There are no transitional ones.
        pci::Kind { id: ID.into(), transitional: 0, class, rom: None }
    }
}

/// What keyboard, mouse and tablet have in common.
#[derive(Debug, Props)]
pub struct InputProps {
    /// Its serial number.
    pub serial: Option<String>,
    /// The adapter whose viewers use it.
    pub display: Option<String>,
    /// Which of the adapter's heads.
    pub head: u32,
}

/// Of those that have a wheel.
#[derive(Debug, Props)]
pub struct WheelProps {
    /// The wheel is an axis, not two buttons.
    #[prop(name = "wheel-axis", default = true)]
    pub wheel_axis: bool,
}

/// What the driver asks of the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
struct InputState {
    select: u8,
    subselect: u8,
}

/// Where events go, from whatever thread.
struct Channel {
    kind: Kind,
    wheel_axis: bool,
    events: Arc<VirtQueue>,
    input: Mutex<Option<Registration>>,
}

/// The model.
struct Input {
    serial: String,
    channel: Arc<Channel>,
    st: InputState,
}

/// Where a device goes.
pub struct Seat<'a> {
    /// The bus.
    pub bus: &'a PciBus,
    /// Its transport.
    pub place: Place<'a>,
    /// Where messages go.
    pub msi: Arc<dyn base::interrupt::MsiSink>,
    /// Where events come from.
    pub router: &'a Arc<Router>,
}

/// Plugs a device.
pub fn plug(
    seat: Seat<'_>,
    kind: Kind,
    props: &InputProps,
    wheel_axis: bool,
) -> Result<Arc<PciFunction>, VirtioPciError> {
    let shape = Shape { queue_sizes: vec![QUEUE_SIZE; 2], config_len: config::LEN };
    let screen =
        props.display.as_ref().map(|device| Screen { device: device.clone(), head: props.head });
    let serial = props.serial.clone().unwrap_or_default();
    let router = seat.router.clone();
    VirtioPci::plug(seat.bus, &kind.pci(), seat.place, &shape, seat.msi, move |wiring| {
        Box::new(Input::new(kind, serial, wheel_axis, screen, &router, wiring))
    })
}

impl Input {
    fn new(
        kind: Kind,
        serial: String,
        wheel_axis: bool,
        screen: Option<Screen>,
        router: &Arc<Router>,
        wiring: &Wiring,
    ) -> Self {
        let channel = Arc::new(Channel {
            kind,
            wheel_axis,
            events: wiring.queues[EVENTS].clone(),
            input: Mutex::default(),
        });
        let registration = router.register(
            kind.name(),
            kind.kinds(),
            screen,
            Arc::new(Sink(Arc::downgrade(&channel))),
        );
        *channel.input.lock() = Some(registration);
        let status = &wiring.queues[STATUS];
        let (queue, lights) = (Arc::downgrade(status), Arc::downgrade(&channel));
        status.on_kick(move || {
            if let (Some(queue), Some(channel)) = (queue.upgrade(), lights.upgrade()) {
                queue.serve(|chain| {
                    channel.take_status(&chain);
                    queue.push(chain, 0);
                });
            }
        });
        Input { serial, channel, st: InputState::default() }
    }

    /// The answer to what the driver has asked for.
    fn answer(&self) -> Vec<u8> {
        let kind = self.channel.kind;
        match self.st.select {
            config::NAME => kind.name().into(),
            config::SERIAL => self.serial.bytes().take(config::LEN - config::ANSWER).collect(),
            config::IDENTITY => {
                let version = 1 + u16::from(kind != Kind::Keyboard && self.channel.wheel_axis);
                let product = match kind {
                    Kind::Keyboard => 1,
                    Kind::Mouse => 2,
                    Kind::Tablet => 3,
                };
                [BUS_VIRTUAL, VENDOR, product, version].map(u16::to_le_bytes).concat()
            }
            config::EVENT_BITS => bits(&self.channel.codes(self.st.subselect.into())),
            config::ABS_INFO if kind == Kind::Tablet && u16::from(self.st.subselect) <= axis::Y => {
                // From, to; the rest does not matter.
                [0, ABS_MAX as u32, 0, 0, 0].map(u32::to_le_bytes).concat()
            }
            _ => Vec::new(),
        }
    }
}

/// A bit for each code.
fn bits(codes: &[u16]) -> Vec<u8> {
    let len = codes.iter().max().map_or(0, |most| usize::from(most / 8) + 1);
    let mut bits = vec![0; len];
    for code in codes {
        bits[usize::from(code / 8)] |= 1 << (code % 8);
    }
    bits
}

impl Channel {
    /// The codes of a type of events that there may be.
    fn codes(&self, event: u16) -> Vec<u16> {
        match (self.kind, event) {
            (Kind::Keyboard, kind::KEY) => {
                KeyCode::ALL.iter().filter_map(|&key| codes::key(key)).collect()
            }
            (Kind::Keyboard, kind::LED) => vec![led::NUM, led::CAPS, led::SCROLL],
            (Kind::Keyboard, kind::REPEAT) => vec![0],
            (Kind::Mouse | Kind::Tablet, kind::KEY) => {
                Button::ALL.iter().filter_map(|&button| codes::button(button)).collect()
            }
            (Kind::Mouse, kind::REL) => {
                let wheel = self.wheel_axis.then_some(axis::WHEEL);
                [axis::X, axis::Y].into_iter().chain(wheel).collect()
            }
            (Kind::Tablet, kind::REL) if self.wheel_axis => vec![axis::WHEEL],
            (Kind::Tablet, kind::ABS) => vec![axis::X, axis::Y],
            _ => Vec::new(),
        }
    }

    /// An event as the driver knows it: type, code, value.
    fn event(&self, event: &InputEvent) -> Option<(u16, u16, i32)> {
        let place = |direction| match direction {
            Axis::X => axis::X,
            Axis::Y => axis::Y,
        };
        Some(match *event {
            InputEvent::Key(key, down) => (kind::KEY, codes::key(key)?, down.into()),
            InputEvent::Button(Button::WheelUp, down) if self.wheel_axis => {
                (kind::REL, axis::WHEEL, down.then_some(1)?)
            }
            InputEvent::Button(Button::WheelDown, down) if self.wheel_axis => {
                (kind::REL, axis::WHEEL, down.then_some(-1)?)
            }
            InputEvent::Button(button, down) => (kind::KEY, codes::button(button)?, down.into()),
            InputEvent::Rel(direction, by) => (kind::REL, place(direction), by),
            InputEvent::Abs(direction, at) => (kind::ABS, place(direction), at.clamp(0, ABS_MAX)),
            InputEvent::Touch { .. } => return None,
        })
    }

    /// The driver switches a light.
    fn take_status(&self, chain: &Chain) {
        let mut event = [0; EVENT];
        if !chain.read(0, &mut event) || self.kind != Kind::Keyboard {
            return;
        }
        let [t0, t1, c0, c1, value, ..] = event;
        let (event, code) = (u16::from_le_bytes([t0, t1]), u16::from_le_bytes([c0, c1]));
        let registration = self.input.lock();
        let Some(registration) = registration.as_ref().filter(|_| event == kind::LED) else {
            return;
        };
        let mut leds: Leds = registration.leds();
        match code {
            led::NUM => leds.num = value != 0,
            led::CAPS => leds.caps = value != 0,
            led::SCROLL => leds.scroll = value != 0,
            _ => return,
        }
        registration.set_leds(leds);
    }
}

struct Sink(Weak<Channel>);

impl InputSink for Sink {
    fn input(&self, events: &[InputEvent]) {
        let Some(channel) = self.0.upgrade() else { return };
        let mut report: Vec<_> = events.iter().filter_map(|event| channel.event(event)).collect();
        if report.is_empty() {
            return;
        }
        report.push((kind::SYNC, 0, 0));
        let queue = &channel.events;
        let mut chains: Vec<Chain> = Vec::new();
        while chains.len() < report.len()
            && let Some(chain) = queue.pop()
        {
            chains.push(chain);
        }
        if chains.len() < report.len() {
            // The driver is too far behind: half a report would be worse than none.
            chains.into_iter().rev().for_each(|chain| queue.unpop(chain));
            return;
        }
        for (chain, (event, code, value)) in chains.into_iter().zip(report) {
            let mut bytes = [0; EVENT];
            bytes[..2].copy_from_slice(&event.to_le_bytes());
            bytes[2..4].copy_from_slice(&code.to_le_bytes());
            bytes[4..].copy_from_slice(&value.to_le_bytes());
            chain.write(0, &bytes);
            queue.push(chain, EVENT as u32);
        }
    }
}

impl Model for Input {
    fn features(&self, common: u64) -> u64 {
        common
    }

    fn config(&self) -> Vec<u8> {
        let answer = self.answer();
        let mut bytes = vec![self.st.select, self.st.subselect, answer.len() as u8];
        bytes.resize(config::ANSWER, 0);
        bytes.extend(answer);
        bytes.resize(config::LEN, 0);
        bytes
    }

    fn write_config(&mut self, at: usize, bytes: &[u8]) {
        for (place, &byte) in (at..).zip(bytes) {
            match place {
                config::SELECT => self.st.select = byte,
                config::SUBSELECT => self.st.subselect = byte,
                _ => {}
            }
        }
    }

    fn activate(&mut self, _: u64) {
        if let Some(input) = &*self.channel.input.lock() {
            input.activate();
        }
    }

    fn reset(&mut self) {
        self.st = InputState::default();
        if let Some(input) = &*self.channel.input.lock() {
            input.deactivate();
        }
    }

    fn unplug(&mut self) {
        *self.channel.input.lock() = None;
    }
}
