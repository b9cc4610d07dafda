//! `qemu-img info`

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::access::Access;
use super::args::common::{FORMAT, IMAGE_OPTS, OBJECT, OUTPUT, SHARE};
use super::args::{Args, Command, flag};
use super::{Failure, Outcome, Output, text};
use crate::Result;
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
            next = Some(full_backing_name(&node.location(), &backing));
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
        children.push(json!({ "name": role.name(), "info": describe(&child)? }));
    }
    info.insert("children".into(), children.into());
    crate::info::add_own(&mut info, node)?;
    Ok(Value::Object(info))
}

/// The children that belong to the image itself, in the order in which they are shown: the last that
/// was attached comes first.
fn shown_children(node: &Node) -> Vec<(Role, Arc<Node>)> {
    let mut children = node.children();
    children.retain(|(role, _)| *role != Role::Backing);
    children.reverse();
    children
}

fn human(node: &Node) -> Result<String> {
    let mut out = String::new();
    write_node(node, "", "", false, &mut out)?;
    Ok(out)
}

fn write_node(node: &Node, path: &str, indent: &str, child: bool, out: &mut String) -> Result<()> {
    let driver = node.driver();
    // A protocol below an image is told in words of its own.
    let protocol = child && PROTOCOLS.contains(&driver.name()) && node.children().is_empty();
    *out += &crate::info::in_words(node, indent, protocol)?;
    for (role, child) in shown_children(node) {
        let path = format!("{path}/{}", role.name());
        *out += &format!("{indent}Child node '{path}':\n");
        write_node(&child, &path, &format!("{indent}    "), true, out)?;
    }
    Ok(())
}
