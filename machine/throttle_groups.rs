//! `-object throttle-group`: limits that several disks share.

use std::sync::{Arc, Weak};

use base::object::{Object, Property};
use base::options::number::parse_int;
use base::props::PropSpec;
use block::throttle::options::{self, Form, number, set_members};
use block::throttle::{Group, Limits};
use serde_json::Value;

use crate::config::PropList;

/// The type.
pub const THROTTLE_GROUP: &str = "throttle-group";

/// The limits that properties describe.
pub(crate) fn limits(props: &PropList) -> Result<Limits, String> {
    let mut limits = Limits::default();
    match props {
        PropList::Text(pairs) => {
            for (name, value) in pairs {
                let stem = name.strip_prefix("x-");
                let target = stem.and_then(|stem| number(&mut limits, stem));
                let target = target.ok_or_else(|| format!("Invalid parameter '{name}'"))?;
                let number = parse_int(value).and_then(|number| u64::try_from(number).ok());
                *target =
                    number.ok_or_else(|| format!("Parameter '{name}' expects an int64 value"))?;
            }
        }
        PropList::Json(members) => return options::limits(members, Form::Json),
    }
    limits.check().map_err(|error| error.to_string())?;
    Ok(limits)
}

const fn spec(name: &'static str, type_name: &'static str) -> PropSpec {
    PropSpec { name, type_name, default: None, help: "" }
}

/// The properties, for listings.
pub const SPECS: &[PropSpec] = &[
    spec("limits", "ThrottleLimits"),
    spec("x-bps-read-max-length", "int"),
    spec("x-bps-read-max", "int"),
    spec("x-bps-read", "int"),
    spec("x-bps-total-max-length", "int"),
    spec("x-bps-total-max", "int"),
    spec("x-bps-total", "int"),
    spec("x-bps-write-max-length", "int"),
    spec("x-bps-write-max", "int"),
    spec("x-bps-write", "int"),
    spec("x-iops-read-max-length", "int"),
    spec("x-iops-read-max", "int"),
    spec("x-iops-read", "int"),
    spec("x-iops-size", "int"),
    spec("x-iops-total-max-length", "int"),
    spec("x-iops-total-max", "int"),
    spec("x-iops-total", "int"),
    spec("x-iops-write-max-length", "int"),
    spec("x-iops-write-max", "int"),
    spec("x-iops-write", "int"),
];

/// The names of the numbers.
fn names() -> impl Iterator<Item = &'static str> {
    SPECS.iter().filter_map(|spec| spec.name.strip_prefix("x-"))
}

/// The group in the object tree, which does not keep it.
pub(crate) fn object(group: &Arc<Group>) -> Object {
    let value = |group: &Weak<Group>, name: &str| -> Value {
        let limits = group.upgrade().map(|group| group.limits());
        limits.and_then(|mut limits| number(&mut limits, name).map(|n| *n)).into()
    };
    let single = names().map(|name| {
        let group = Arc::downgrade(group);
        Property::computed(format!("x-{name}"), "int", move || value(&group, name))
    });
    let (shown, changed) = (Arc::downgrade(group), Arc::downgrade(group));
    let all = Property::computed("limits", "ThrottleLimits", move || {
        Value::Object(names().map(|name| (name.to_owned(), value(&shown, name))).collect())
    })
    .writable(move |value| {
        let Value::Object(members) = value else {
            return Err("Invalid parameter type for 'limits', expected: object".into());
        };
        let Some(group) = changed.upgrade() else { return Ok(()) };
        let mut limits = group.limits();
        set_members(&mut limits, members, Form::Json)?;
        limits.check().map_err(|error| error.to_string())?;
        group.set_limits(limits);
        Ok(())
    });
    Object::new(THROTTLE_GROUP).with(single).with([all])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Texts and values recorded from QEMU 10.0.2.
    #[test]
    fn limits_are_set_and_shown() {
        let parse = |value: Value| {
            let Value::Object(members) = value else { unreachable!() };
            limits(&PropList::Json(members))
        };
        for (value, refusal) in [
            (json!({"limits": {"foo": 100}}), "Parameter 'limits.foo' is unexpected"),
            (json!({"foo": 3}), "Parameter 'foo' is unexpected"),
            (
                json!({"limits": {"bps-total": 100, "iops-size": 3}}),
                "iops size requires an iops value to be set",
            ),
        ] {
            assert_eq!(parse(value), Err(refusal.into()));
        }
        let text = PropList::Text(vec![("limits.bps-total".into(), "100".into())]);
        assert_eq!(limits(&text), Err("Invalid parameter 'limits.bps-total'".into()));
        let group = Group::new("g", parse(json!({"x-bps-total": 100})).unwrap());
        let object = object(&group);
        assert_eq!(object.get("/objects/g", "limits").unwrap()["bps-total"], 100);
        object.set("limits", &json!({"bps-total": 5})).unwrap();
        assert_eq!(object.get("/objects/g", "x-bps-total").unwrap(), 5);
        assert_eq!(object.get("/objects/g", "x-iops-read-max-length").unwrap(), 1);
    }
}
