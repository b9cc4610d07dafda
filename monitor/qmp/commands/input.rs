//! Commands about keyboards and mice.

use base::input::{Axis, Button, InputEvent, KeyCode, Screen, TouchKind};

use crate::qapi::{ErrorClass, QmpError};
use crate::qmp::Call;
use crate::target::Target;
use crate::{qapi_choice, qapi_struct, qapi_words};

qapi_words!(KeyCode, KeyCode::ALL, KeyCode::name);
qapi_words!(Button, Button::ALL, Button::name);
qapi_words!(Axis, Axis::ALL, Axis::name);
qapi_words!(TouchKind, TouchKind::ALL, TouchKind::name);

qapi_choice! {
    /// A key, by number or by name.
    pub(in crate::qmp) enum KeyValue { "number" Number(i64), "qcode" Code(KeyCode) }
}

impl KeyValue {
    fn key(&self) -> KeyCode {
        match self {
            KeyValue::Number(number) => KeyCode::from_number(*number),
            KeyValue::Code(key) => *key,
        }
    }
}

qapi_struct! {
    /// Keys to be pressed one after the other.
    pub(in crate::qmp) struct Keys { "keys" keys: Vec<KeyValue>, "hold-time" hold_time: Option<i64> }
}

pub(in crate::qmp) fn send_key(call: &Call<'_>, keys: Keys) -> Result<(), QmpError> {
    let codes: Vec<KeyCode> = keys.keys.iter().map(KeyValue::key).collect();
    let hold = keys.hold_time.and_then(|time| u32::try_from(time).ok());
    call.target.vm.input().press(&codes, hold);
    Ok(())
}

qapi_struct! {
    /// A key goes down or up.
    pub(in crate::qmp) struct InputKeyEvent { "key" key: KeyValue, "down" down: bool }
}

qapi_struct! {
    /// A button goes down or up.
    pub(in crate::qmp) struct InputBtnEvent { "button" button: Button, "down" down: bool }
}

qapi_struct! {
    /// A pointer moves.
    pub(in crate::qmp) struct InputMoveEvent { "axis" axis: Axis, "value" value: i64 }
}

qapi_struct! {
    /// A finger does something.
    pub(in crate::qmp) struct InputMultiTouchEvent {
        "type" kind: TouchKind,
        "slot" slot: i64,
        "tracking-id" tracking_id: i64,
        "axis" axis: Axis,
        "value" value: i64,
    }
}

qapi_choice! {
    /// Something that happens.
    pub(in crate::qmp) enum AnyEvent {
        "key" Key(InputKeyEvent),
        "btn" Btn(InputBtnEvent),
        "rel" Rel(InputMoveEvent),
        "abs" Abs(InputMoveEvent),
        "mtt" Mtt(InputMultiTouchEvent),
    }
}

/// The nearest number that devices can be told.
fn narrowed(value: i64) -> i32 {
    value.clamp(i32::MIN.into(), i32::MAX.into()) as i32
}

impl AnyEvent {
    fn event(&self) -> InputEvent {
        match self {
            AnyEvent::Key(event) => InputEvent::Key(event.key.key(), event.down),
            AnyEvent::Btn(event) => InputEvent::Button(event.button, event.down),
            AnyEvent::Rel(event) => InputEvent::Rel(event.axis, narrowed(event.value)),
            AnyEvent::Abs(event) => InputEvent::Abs(event.axis, narrowed(event.value)),
            AnyEvent::Mtt(event) => InputEvent::Touch {
                kind: event.kind,
                slot: narrowed(event.slot),
                id: narrowed(event.tracking_id),
                axis: event.axis,
                value: narrowed(event.value),
            },
        }
    }
}

qapi_struct! {
    /// Events that happen at one moment, at one of the heads or wherever.
    pub(in crate::qmp) struct Events {
        "device" device: Option<String>,
        "head" head: Option<i64>,
        "events" events: Vec<AnyEvent>,
    }
}

pub(in crate::qmp) fn input_send_event(call: &Call<'_>, wanted: Events) -> Result<(), QmpError> {
    let target = call.target;
    let screen = match wanted.device {
        Some(device) => Some(target.screen(device, wanted.head.unwrap_or(0))?),
        None => None,
    };
    let router = target.vm.input();
    if !router.is_running() {
        return Err(QmpError::new("VM not running"));
    }
    let events: Vec<InputEvent> = wanted.events.iter().map(AnyEvent::event).collect();
    let missing = router.check(screen.as_ref(), &events);
    missing.map_err(|error| QmpError::new(error.to_string()))?;
    router.send(screen.as_ref(), &events);
    Ok(())
}

impl Target {
    /// A head of the display adapter of this id.
    fn screen(&self, device: String, head: i64) -> Result<Screen, QmpError> {
        let path = format!("/machine/peripheral/{device}");
        let found = self.machine_objects().iter().any(|(known, _)| *known == path);
        if !found {
            let text = format!("Device '{device}' not found");
            return Err(QmpError::of(ErrorClass::DeviceNotFound, text));
        }
        let unbound = || format!("Device '{device}' (head {head}) is not bound to a QemuConsole");
        let head = u32::try_from(head).map_err(|_| QmpError::new(unbound()))?;
        Ok(Screen { device, head })
    }
}

qapi_struct! {
    /// A pointing device.
    pub(in crate::qmp) struct MouseInfo {
        "name" name: String,
        "index" index: i64,
        "current" current: bool,
        "absolute" absolute: bool,
    }
}

pub(in crate::qmp) fn query_mice(call: &Call<'_>, (): ()) -> Result<Vec<MouseInfo>, QmpError> {
    let mice = call.target.vm.input().mice().into_iter().map(|mouse| MouseInfo {
        name: mouse.name.into(),
        index: mouse.index,
        current: mouse.current,
        absolute: mouse.absolute,
    });
    Ok(mice.collect())
}
