//! Input events: what a person types and points at, on their way from displays and monitors to the
//! devices that the guest reads them from.
//!
//! Devices register with the [`Router`] for the kinds of events that they take; displays and
//! monitors send events to it. Which of several devices gets an event is for the guest and the
//! operator to say: whoever was activated last comes first.

mod keys;
mod router;
mod typist;

pub use keys::KeyCode;
pub use router::{Change, ChoiceError, Kinds, Mouse, NoDevice, Registration, Router, Screen};

/// A button of a pointing device, wheels included: QMP's `InputButton`.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Button {
    Left,
    Middle,
    Right,
    WheelUp,
    WheelDown,
    Side,
    Extra,
    WheelLeft,
    WheelRight,
    Touch,
}

impl Button {
    /// All buttons, as QMP numbers them.
    pub const ALL: &[Button] = &[
        Button::Left,
        Button::Middle,
        Button::Right,
        Button::WheelUp,
        Button::WheelDown,
        Button::Side,
        Button::Extra,
        Button::WheelLeft,
        Button::WheelRight,
        Button::Touch,
    ];

    /// The button's name in QMP.
    pub const fn name(self) -> &'static str {
        match self {
            Button::Left => "left",
            Button::Middle => "middle",
            Button::Right => "right",
            Button::WheelUp => "wheel-up",
            Button::WheelDown => "wheel-down",
            Button::Side => "side",
            Button::Extra => "extra",
            Button::WheelLeft => "wheel-left",
            Button::WheelRight => "wheel-right",
            Button::Touch => "touch",
        }
    }
}

/// A direction in which things move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Axis {
    /// To the right.
    X,
    /// Downwards.
    Y,
}

impl Axis {
    /// Both.
    pub const ALL: &[Axis] = &[Axis::X, Axis::Y];

    /// The name in QMP.
    pub const fn name(self) -> &'static str {
        match self {
            Axis::X => "x",
            Axis::Y => "y",
        }
    }
}

/// The greatest absolute position: the right or lower edge of a screen.
pub const ABS_MAX: i32 = 0x7fff;

/// What a finger does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TouchKind {
    /// It is put down.
    Begin,
    /// It moves.
    Update,
    /// It is lifted.
    End,
    /// The touch did not mean anything.
    Cancel,
    /// Where it is.
    Data,
}

impl TouchKind {
    /// All of them.
    pub const ALL: &[TouchKind] =
        &[TouchKind::Begin, TouchKind::Update, TouchKind::End, TouchKind::Cancel, TouchKind::Data];

    /// The name in QMP.
    pub const fn name(self) -> &'static str {
        match self {
            TouchKind::Begin => "begin",
            TouchKind::Update => "update",
            TouchKind::End => "end",
            TouchKind::Cancel => "cancel",
            TouchKind::Data => "data",
        }
    }
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputEvent {
    /// A key goes down or up.
    Key(KeyCode, bool),
    /// A button is pressed or released; for wheels a press is one notch.
    Button(Button, bool),
    /// A pointer moves by so much.
    Rel(Axis, i32),
    /// A pointer moves there, between 0 and [`ABS_MAX`].
    Abs(Axis, i32),
    /// A finger on a screen.
    Touch {
        /// What it does.
        kind: TouchKind,
        /// Which finger of those that are down.
        slot: i32,
        /// The number of this touch.
        id: i32,
        /// The direction that `value` is about.
        axis: Axis,
        /// Where it is.
        value: i32,
    },
}

impl InputEvent {
    /// Its kind.
    pub fn kind(&self) -> Kinds {
        match self {
            InputEvent::Key(..) => Kinds::KEY,
            InputEvent::Button(..) => Kinds::BUTTON,
            InputEvent::Rel(..) => Kinds::REL,
            InputEvent::Abs(..) => Kinds::ABS,
            InputEvent::Touch { .. } => Kinds::TOUCH,
        }
    }
}

/// The lights of a keyboard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leds {
    /// Scroll Lock.
    pub scroll: bool,
    /// Num Lock.
    pub num: bool,
    /// Caps Lock.
    pub caps: bool,
}

/// Takes events: a device.
pub trait InputSink: Send + Sync {
    /// What happened at one moment; the guest sees it as one report if its protocol can say so.
    fn input(&self, events: &[InputEvent]);
}
