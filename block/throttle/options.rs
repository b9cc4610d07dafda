//! What `throttle-group` objects say of their limits.

use base::options::number::parse_int;
use serde_json::{Map, Value};

use super::{Kind, Limits};

/// The number of a name (`bps-total`, `bps-total-max`, `bps-total-max-length`, `iops-size`).
pub fn number<'a>(limits: &'a mut Limits, name: &str) -> Option<&'a mut u64> {
    if name == "iops-size" {
        return Some(&mut limits.iops_size);
    }
    let stem = name.strip_suffix("-length").unwrap_or(name);
    let stem = stem.strip_suffix("-max").unwrap_or(stem);
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == stem)?;
    let limit = limits.of_mut(kind);
    match name.strip_prefix(stem)? {
        "" => Some(&mut limit.rate),
        "-max" => Some(&mut limit.burst),
        "-max-length" => Some(&mut limit.burst_length),
        _ => None,
    }
}

/// How values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As JSON has them.
    Json,
    /// All as text.
    Keyval,
}

fn set(target: &mut u64, name: &str, value: &Value, form: Form) -> Result<(), String> {
    *target = match (form, value) {
        (Form::Keyval, Value::String(text)) => {
            let wrong = || format!("Parameter '{name}' expects integer");
            let number = parse_int(text).ok_or_else(wrong)?;
            u64::try_from(number).map_err(|_| "Property values cannot be negative".to_owned())?
        }
        _ => value
            .as_u64()
            .ok_or_else(|| format!("Invalid parameter type for '{name}', expected: integer"))?,
    };
    Ok(())
}

/// Lays the members of `limits` over what there is.
pub fn set_members(
    limits: &mut Limits,
    members: &Map<String, Value>,
    form: Form,
) -> Result<(), String> {
    for (name, value) in members {
        let name = format!("limits.{name}");
        let target = name.strip_prefix("limits.").and_then(|name| number(limits, name));
        let target = target.ok_or_else(|| format!("Parameter '{name}' is unexpected"))?;
        set(target, &name, value, form)?;
    }
    Ok(())
}

/// The limits that an object's properties describe, checked.
pub fn limits(props: &Map<String, Value>, form: Form) -> Result<Limits, String> {
    let mut limits = Limits::default();
    for (name, value) in props {
        if name == "limits" {
            let Value::Object(members) = value else {
                return Err("Invalid parameter type for 'limits', expected: object".into());
            };
            set_members(&mut limits, members, form)?;
            continue;
        }
        let target = name.strip_prefix("x-").and_then(|name| number(&mut limits, name));
        let target = target.ok_or_else(|| format!("Parameter '{name}' is unexpected"))?;
        set(target, name, value, form)?;
    }
    limits.check().map_err(|error| error.to_string())?;
    Ok(limits)
}
