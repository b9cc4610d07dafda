//! `qemu-img info`

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::access::Access;
use super::args::common::{FORMAT, IMAGE_OPTS, OBJECT, OUTPUT, SHARE};
use super::args::{Args, Command, flag};
use super::{Failure, Outcome, Output, snapshot, text};
use crate::Result;
use crate::driver::Driver;
use crate::format::PROTOCOLS;
use crate::node::{Node, Role};
use crate::open::full_backing_name;
use crate::qcow2::Purpose;

pub(super) const COMMAND: Command = Command {
    name: "info",
    about: "Display information about image",
    operands: "FILE",
    options: &[
        FORMAT,
        IMAGE_OPTS,
        flag(Some('b'), "backing-chain", "and all images below"),
        SHARE,
        OBJECT,
        OUTPUT,
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
    let mut access = Access::from_args(args, Purpose::Read)?.without_backing();
    access.no_io = true;
    let mut next = Some(name.clone());
    while let Some(name) = next.take() {
        if !seen.insert(name.clone()) {
            return Err(Failure::new(format!("Backing file '{name}' creates an infinite loop.")));
        }
        let node = access.open(&name, output)?;
        if args.has("backing-chain")
            && let Some((backing, format)) = node.driver().backing_name()
        {
            next = Some(full_backing_name(node.filename(), &backing));
            access = Access { format, image_opts: false, ..access };
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
    let mut info = Map::new();
    let mut children = Vec::new();
    for (role, child) in shown_children(node) {
        children.push(json!({ "name": role.name(), "info": describe(child)? }));
    }
    info.insert("children".into(), children.into());
    crate::info::add_own(&mut info, node)?;
    Ok(Value::Object(info))
}

/// The children that belong to the image itself, in the order in which they are shown.
fn shown_children(node: &Node) -> Vec<(Role, &Arc<Node>)> {
    let mut children: Vec<_> = node.children().filter(|(role, _)| *role != Role::Backing).collect();
    children.sort_by_key(|(role, _)| role.name().into_owned());
    children
}

fn human(node: &Node) -> Result<String> {
    let mut out = String::new();
    write_node(node, "", "", false, &mut out)?;
    Ok(out)
}

fn write_node(node: &Node, path: &str, indent: &str, child: bool, out: &mut String) -> Result<()> {
    let driver = node.driver();
    let (name, len) = (node.filename(), node.len()?);
    let mut line = |text: String| *out += &format!("{indent}{text}\n");
    // A protocol below an image is told in words of its own.
    let protocol = child && PROTOCOLS.contains(&driver.name()) && node.child(Role::Image).is_none();
    let size = format!("{} ({len} bytes)", text::size(len));
    if protocol {
        line(format!("filename: {name}"));
        line(format!("protocol type: {}", driver.name()));
        line(format!("file length: {size}"));
    } else {
        line(format!("image: {name}"));
        line(format!("file format: {}", driver.name()));
        line(format!("virtual size: {size}"));
    }
    let disk_size = driver.allocated_size()?.map_or("unavailable".into(), text::size);
    line(format!("disk size: {disk_size}"));
    if driver.is_encrypted() {
        line("encrypted: yes".into());
    }
    if let Some(size) = driver.cluster_size() {
        line(format!("cluster_size: {size}"));
    }
    if driver.is_dirty() {
        line("cleanly shut down: no".into());
    }
    if let Some((backing, format)) = driver.backing_name() {
        let full = full_backing_name(name, &backing);
        let actual = match full == backing {
            true => String::new(),
            false => format!(" (actual path: {full})"),
        };
        line(format!("backing file: {backing}{actual}"));
        if let Some(format) = format {
            line(format!("backing file format: {format}"));
        }
    }
    for row in snapshot::table(node)?.lines() {
        *out += &format!("{indent}{row}\n");
    }
    *out += &specific_text(driver, indent);
    for (role, child) in shown_children(node) {
        let path = format!("{path}/{}", role.name());
        *out += &format!("{indent}Child node '{path}':\n");
        write_node(child, &path, &format!("{indent}    "), true, out)?;
    }
    Ok(())
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
