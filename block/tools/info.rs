//! `qemu-img info`

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::args::{Args, Command, flag, value};
use super::{Failure, Outcome, Output, open_with, text};
use crate::Result;
use crate::driver::Driver;
use crate::engine::Inline;
use crate::node::{Node, Role};
use crate::open::{OpenOptions, full_backing_name};
use crate::qcow2::Purpose;

pub(super) const COMMAND: Command = Command {
    name: "info",
    about: "Display information about image",
    operands: "FILE",
    options: &[
        value(Some('f'), "format", "FMT", "specifies FILE image format"),
        flag(None, "backing-chain", "display information about the backing chain"),
        flag(Some('U'), "force-share", "open the image in shared mode for concurrent access"),
        value(None, "output", "human|json", "specifies output format (default: human)"),
    ],
    run,
};

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    let json = args.json()?;
    let [name] = args.operands.as_slice() else {
        return Err(Failure::usage("Expecting one image file name"));
    };
    let mut images = Vec::new();
    let mut seen = HashSet::new();
    let mut next = Some((name.clone(), args.get("format").map(str::to_owned)));
    while let Some((name, format)) = next.take() {
        if !seen.insert(name.clone()) {
            return Err(Failure::new(format!("Backing file '{name}' creates an infinite loop.")));
        }
        let options = OpenOptions {
            format,
            purpose: Purpose::Read,
            force_share: args.has("force-share"),
            no_backing: true,
            no_io: false,
            secrets: Default::default(),
            io: std::sync::Arc::new(Inline),
        };
        let node = open_with(&name, &options, output)?;
        if args.has("backing-chain")
            && let Some((backing, format)) = node.driver().backing_name()
        {
            next = Some((full_backing_name(&name, &backing), format));
        }
        images.push(node);
    }
    if json {
        let all: Result<Vec<Value>> = images.iter().map(|node| describe(node)).collect();
        let value = match (args.has("backing-chain"), all?) {
            (false, mut one) => one.pop().unwrap_or_default(),
            (true, all) => Value::Array(all),
        };
        output.print(&text::json(&value));
    } else {
        let all: Result<Vec<String>> = images.iter().map(|node| human(node)).collect();
        output.print(&all?.join("\n"));
    }
    Ok(0)
}

/// `ImageInfo` of a node and its file.
fn describe(node: &Node) -> Result<Value> {
    let driver = node.driver();
    let mut info = Map::new();
    let mut children = Vec::new();
    if let Some(file) = node.child(Role::File) {
        children.push(json!({ "name": "file", "info": describe(file)? }));
    }
    info.insert("children".into(), children.into());
    let backing = driver.backing_name();
    if let Some((_, Some(format))) = &backing {
        info.insert("backing-filename-format".into(), json!(format));
    }
    info.insert("virtual-size".into(), json!(node.len()?));
    info.insert("filename".into(), json!(node.filename()));
    if let Some(size) = driver.cluster_size() {
        info.insert("cluster-size".into(), json!(size));
    }
    info.insert("format".into(), json!(driver.name()));
    if let Some(size) = driver.allocated_size()? {
        info.insert("actual-size".into(), json!(size));
    }
    if let Some(data) = driver.specific_info() {
        let specific = json!({ "type": driver.name(), "data": data });
        info.insert("format-specific".into(), specific);
    }
    if let Some((name, _)) = backing {
        let full = full_backing_name(node.filename(), &name);
        info.insert("full-backing-filename".into(), json!(full));
        info.insert("backing-filename".into(), json!(name));
    }
    info.insert("dirty-flag".into(), json!(driver.is_dirty()));
    Ok(Value::Object(info))
}

fn human(node: &Node) -> Result<String> {
    let driver = node.driver();
    let (name, len) = (node.filename(), node.len()?);
    let mut out = format!(
        "image: {name}\nfile format: {}\nvirtual size: {} ({len} bytes)\n",
        driver.name(),
        text::size(len)
    );
    let disk_size = |node: &Node| -> Result<String> {
        let size = node.driver().allocated_size()?;
        Ok(size.map_or("unavailable".into(), text::size))
    };
    out += &format!("disk size: {}\n", disk_size(node)?);
    if let Some(size) = driver.cluster_size() {
        out += &format!("cluster_size: {size}\n");
    }
    if driver.is_dirty() {
        out += "cleanly shut down: no\n";
    }
    if let Some((backing, format)) = driver.backing_name() {
        let full = full_backing_name(name, &backing);
        out += &format!("backing file: {backing}");
        if full != backing {
            out += &format!(" (actual path: {full})");
        }
        out.push('\n');
        if let Some(format) = format {
            out += &format!("backing file format: {format}\n");
        }
    }
    out += &specific_text(driver, "");
    if let Some(file) = node.child(Role::File) {
        let len = file.len()?;
        out += &format!(
            "Child node '/file':\n    filename: {}\n    protocol type: {}\n    file length: {} \
             ({len} bytes)\n    disk size: {}\n",
            file.filename(),
            file.driver().name(),
            text::size(len),
            disk_size(file)?
        );
    }
    Ok(out)
}

/// What a format says of itself, for people.
pub(super) fn specific_text(driver: &dyn Driver, indent: &str) -> String {
    let Some(info) = driver.specific_info().filter(|info| !info.is_empty()) else {
        return String::new();
    };
    let mut out = format!("{indent}Format specific information:\n");
    write_map(&info, &format!("{indent}    "), &mut out);
    out
}

fn write_map(map: &Map<String, Value>, indent: &str, out: &mut String) {
    for (key, value) in map {
        write_value(&key.replace('-', " "), value, indent, out);
    }
}

fn write_value(key: &str, value: &Value, indent: &str, out: &mut String) {
    let deeper = format!("{indent}    ");
    match value {
        Value::Object(map) => {
            *out += &format!("{indent}{key}:\n");
            write_map(map, &deeper, out);
        }
        Value::Array(list) => {
            *out += &format!("{indent}{key}:\n");
            for (i, value) in list.iter().enumerate() {
                write_value(&format!("[{i}]"), value, &deeper, out);
            }
        }
        Value::String(text) => *out += &format!("{indent}{key}: {text}\n"),
        scalar => *out += &format!("{indent}{key}: {scalar}\n"),
    }
}
