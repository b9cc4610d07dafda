//! The listing of `-device X,help` and `-object X,help`.

use super::{PropSpec, Value};

/// The listing as QEMU lays it out: sorted by the text of the line, the explanation from column 25.
///
/// ```text
/// isa-debug-exit options:
///   iobase=<uint32>        -  (default: 1281)
///   iosize=<uint32>        -  (default: 2)
/// ```
pub fn help_text(owner: &str, specs: &[PropSpec]) -> String {
    if specs.is_empty() {
        return format!("There are no options for {owner}.\n");
    }
    let mut lines: Vec<String> = specs.iter().map(line).collect();
    lines.sort_unstable();
    format!("{owner} options:\n{}\n", lines.join("\n"))
}

fn line(spec: &PropSpec) -> String {
    let head = format!("  {}=<{}>", spec.name, spec.type_name);
    match &spec.default {
        Some(default) => format!("{head:<24} - {} (default: {})", spec.help, default_text(default)),
        None if spec.help.is_empty() => head,
        None => format!("{head:<24} - {}", spec.help),
    }
}

fn default_text(default: &Value) -> String {
    match default {
        Value::Bool(true) => "on".into(),
        Value::Bool(false) => "off".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
