//! The object tree as text.

use std::fmt::Write;
use std::sync::Arc;

use base::object::Object;
use base::options::number::format_size;
use serde_json::Value;

use crate::qom::{Entry, types};
use crate::target::Target;

/// What every device has, which says nothing about one, and what is told of elsewhere.
const COMMON: [&str; 9] = [
    "type",
    "parent_bus",
    "realized",
    "hotplugged",
    "hotpluggable",
    "unavailable-features",
    "bootindex",
    "bootindexA",
    "bootindexB",
];

/// The bus of devices that are on none.
const MAIN_BUS: &str = "/machine/unattached/sysbus";

/// `info qom-tree`
pub(super) fn objects(path: &str, object: &Arc<Object>) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    let mut text = String::new();
    object_lines(&mut text, name, object, 0);
    text
}

fn object_lines(text: &mut String, name: &str, object: &Arc<Object>, depth: usize) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{:1$}/{name} ({2})", "", depth * 2, object.type_name());
    let mut children = object.children();
    children.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, child) in &children {
        object_lines(text, name, child, depth + 1);
    }
}

/// `info qtree`: devices by the bus they sit on, the last one first.
pub(super) fn devices(target: &Target, brief: bool) -> String {
    let entries = target.machine_objects();
    let mut text = "bus: main-system-bus\n  type System\n".to_owned();
    on_bus(&mut text, &entries, MAIN_BUS, 2, brief);
    text
}

fn on_bus(text: &mut String, entries: &[Entry], bus: &str, indent: usize, brief: bool) {
    let sits_here = |(path, object): &&Entry| {
        object.is_device() && object.get(path, "parent_bus").is_ok_and(|parent| parent == bus)
    };
    for (path, device) in entries.iter().rev().filter(sits_here) {
        let id = device.id().unwrap_or_default();
        let _ = writeln!(text, "{:indent$}dev: {}, id \"{id}\"", "", device.type_name());
        if !brief {
            properties(text, path, device, indent + 2);
        }
        for (name, child) in device.children() {
            let info = types::find(child.type_name());
            if info.is_some_and(|info| info.is_a("bus")) {
                let inner = indent + 2;
                let _ = writeln!(text, "{:inner$}bus: {name}", "");
                let deeper = inner + 2;
                let _ = writeln!(text, "{:deeper$}type {}", "", child.type_name());
                on_bus(text, entries, &format!("{path}/{name}"), deeper, brief);
            }
        }
    }
}

fn properties(text: &mut String, path: &str, device: &Arc<Object>, indent: usize) {
    for property in device.properties() {
        if COMMON.contains(&property.name()) {
            continue;
        }
        let value = device.get(path, property.name()).unwrap_or_default();
        let shown = match (property.name(), value) {
            ("addr", Value::Number(place)) => {
                let place = place.as_u64().unwrap_or(0);
                format!("{:02x}.{:x}", place >> 3, place & 7)
            }
            (_, Value::Number(number)) if property.type_name() == "size" => {
                let bytes = number.as_u64().unwrap_or(0);
                format!("{bytes} ({})", format_size(bytes))
            }
            (_, Value::Number(number)) => match (number.as_u64(), number.as_i64()) {
                (Some(value), _) => format!("{value} ({value:#x})"),
                (None, value) => format!("{0} ({0:#x})", value.unwrap_or(0)),
            },
            (_, value) => value.to_string(),
        };
        let _ = writeln!(text, "{:indent$}{} = {shown}", "", property.name());
    }
}
