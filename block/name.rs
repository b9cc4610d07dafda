//! Names that say all that is needed to open a node again.

use serde_json::{Map, Value, json};

use crate::format::PROTOCOLS;
use crate::node::{Node, Role};
use crate::options::json_of;
use crate::tools::text;

/// The name for these options.
pub fn of_options(options: &Map<String, Value>) -> String {
    format!("json:{}", text::line(&Value::Object(options.clone())))
}

/// The name of an image in a format, in a file that has no simpler one.
pub fn of_layer(format: &str, file: &Node) -> String {
    of_options(&layer(format, file))
}

fn layer(format: &str, file: &Node) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("driver".into(), format.into());
    map.insert("file".into(), described(file));
    map
}

/// The options by which a node could be opened again.
pub fn described(node: &Node) -> Value {
    if let Some(known) = json_of(node.filename()) {
        return known;
    }
    let driver = node.driver().name();
    match node.child(Role::File) {
        Some(file) if !PROTOCOLS.contains(&driver) => layer(driver, file).into(),
        _ => json!({"driver": driver, "filename": node.filename()}),
    }
}
