//! Numbers and JSON in QEMU's form.

pub(crate) use base::options::number::format_size as size;
use serde_json::Value;

/// JSON as QEMU prints it: four spaces, and empty lists and objects over two lines.
pub(super) fn json(value: &Value) -> String {
    let mut text = String::new();
    write_json(value, 0, &mut text);
    text.push('\n');
    text
}

/// JSON on one line.
pub(crate) fn line(value: &Value) -> String {
    let list = |parts: Vec<String>| parts.join(", ");
    match value {
        Value::Object(map) => {
            let pair = |(key, value): (&String, &Value)| {
                format!("{}: {}", Value::from(key.as_str()), line(value))
            };
            format!("{{{}}}", list(map.iter().map(pair).collect()))
        }
        Value::Array(values) => format!("[{}]", list(values.iter().map(line).collect())),
        scalar => scalar.to_string(),
    }
}

fn write_json(value: &Value, depth: usize, out: &mut String) {
    let indent = |depth: usize| "    ".repeat(depth);
    match value {
        Value::Object(map) => {
            out.push_str("{\n");
            for (i, (key, value)) in map.iter().enumerate() {
                out.push_str(&format!("{}{}: ", indent(depth + 1), Value::from(key.as_str())));
                write_json(value, depth + 1, out);
                out.push_str(if i + 1 < map.len() { ",\n" } else { "\n" });
            }
            out.push_str(&format!("{}}}", indent(depth)));
        }
        Value::Array(list) => {
            out.push_str("[\n");
            for (i, value) in list.iter().enumerate() {
                out.push_str(&indent(depth + 1));
                write_json(value, depth + 1, out);
                out.push_str(if i + 1 < list.len() { ",\n" } else { "\n" });
            }
            out.push_str(&format!("{}]", indent(depth)));
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}
