//! Commands about trace events.

use crate::qapi::QmpError;
use crate::qmp::Call;
use crate::{qapi_struct, qapi_words};

/// Whether an event is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::qmp) enum EventState {
    Unavailable,
    Disabled,
    Enabled,
}

const STATES: [EventState; 3] =
    [EventState::Unavailable, EventState::Disabled, EventState::Enabled];

qapi_words!(EventState, STATES, |state| match state {
    EventState::Unavailable => "unavailable",
    EventState::Disabled => "disabled",
    EventState::Enabled => "enabled",
});

qapi_struct! {
    /// A name or pattern.
    pub(in crate::qmp) struct Pattern { "name" name: String }
}

qapi_struct! {
    /// An event.
    pub(in crate::qmp) struct EventInfo { "name" name: String, "state" state: EventState }
}

fn known(name: &str) -> Result<(), QmpError> {
    let is_pattern = name.contains(['*', '?']);
    if is_pattern || base::trace::names().contains(&name) {
        return Ok(());
    }
    Err(QmpError::new(format!("unknown event \"{name}\"")))
}

pub(in crate::qmp) fn get_state(_: &Call<'_>, wanted: Pattern) -> Result<Vec<EventInfo>, QmpError> {
    known(&wanted.name)?;
    let on = base::trace::enabled_names();
    let info = |name: &str| EventInfo {
        name: name.into(),
        state: if on.contains(&name) { EventState::Enabled } else { EventState::Disabled },
    };
    let names = base::trace::names().into_iter();
    Ok(names.filter(|name| base::trace::matches(&wanted.name, name)).map(info).collect())
}

qapi_struct! {
    /// Which events, and whether they are to be recorded.
    pub(in crate::qmp) struct SetEvents {
        "name" name: String,
        "enable" enable: bool,
        "ignore-unavailable" ignore_unavailable: Option<bool>,
    }
}

pub(in crate::qmp) fn set_state(_: &Call<'_>, change: SetEvents) -> Result<(), QmpError> {
    known(&change.name)?;
    base::trace::set_enabled(&change.name, change.enable);
    Ok(())
}
