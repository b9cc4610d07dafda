//! Numbers and JSON in QEMU's form.

use serde_json::Value;

/// A size as people read it: three digits and a unit.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    // Below 1 the leading zero is none of the three digits.
    let digits = if value < 1.0 && value > 0.0 { 3 } else { digits };
    let text = format!("{value:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text} {}", UNITS[unit])
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (1000, "0.977 KiB"),
            (1536, "1.5 KiB"),
            (200704, "196 KiB"),
            (10 << 20, "10 MiB"),
            (i64::MAX as u64, "8 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
