//! Disks, as people see and change them.

use std::sync::Arc;

use base::options::{Keyval, ParsedOpts};
use block::media::Snapshot;
use block::node::{Node, Role};
use block::schema::Form;
use block::throttle::{Group, Kind, Limits};

use super::command::{Context, Printed, refuse, silence};
use super::vnc;
use super::words::Arguments;
use crate::qapi::{Qapi, QmpError};
use crate::qmp::block_commands::device::ReadOnlyMode;
use crate::qmp::block_commands::query::{drive_stats, drives, named_nodes};
use crate::qmp::block_commands::{self, Found};
use crate::target::Target;

/// The drive of a name, or of a device's id.
fn drive(target: &Target, name: &str) -> Result<Found, QmpError> {
    let graph = target.vm.graph();
    match graph.backend(name) {
        Some(_) => block_commands::drive(graph, Some(name.into()), None),
        None => block_commands::drive(graph, None, Some(name.into())),
    }
}

pub(super) fn info(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    let mut nodes = false;
    let mut verbose = false;
    while !arguments.at_end() && arguments.0.starts_with('-') {
        nodes |= arguments.flag('n').unwrap_or(false);
        verbose |= arguments.flag('v').unwrap_or(false);
        if arguments.0.starts_with('-') {
            arguments.flag('n').map_err(|option| format!("info block: {option}"))?;
        }
    }
    let name = arguments.word().map(str::to_owned);
    arguments.end("block")?;
    let mut out = String::new();
    // All but the first of the list have an empty line before them, also one that is asked for.
    let lead = |position: usize| if position > 0 { "\n" } else { "" };
    for (at, drive) in drives(context)?.into_iter().enumerate().filter(|_| !nodes) {
        let called = [Some(&drive.device), drive.qdev.as_ref()];
        if name.as_ref().is_some_and(|name| !called.contains(&Some(name))) {
            continue;
        }
        let node = drive.inserted.as_ref().and_then(|info| info.node_name.clone());
        out += lead(at);
        out += &drive.write().as_ref().map(describe).unwrap_or_default();
        if let Some(node) = node.filter(|_| verbose) {
            out += &images(context, &node)?;
        }
    }
    if !out.is_empty() || name.is_none() && !nodes {
        return Ok(out);
    }
    for (at, info) in named_nodes(context)?.into_iter().enumerate() {
        let node = info.node_name.clone().unwrap_or_default();
        if name.as_ref().is_some_and(|name| *name != node) {
            continue;
        }
        out += lead(at);
        out += &describe(&serde_json::json!({"device": "", "inserted": info.write()}));
        if verbose {
            out += &images(context, &node)?;
        }
    }
    Ok(out)
}

/// `info snapshots`: of all disks that have a medium and are written.
pub(super) fn snapshots(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    arguments.end("snapshots")?;
    let graph = context.vm.graph();
    let drives = graph.backends().into_iter().filter_map(|drive| {
        let node = drive.node()?;
        let name = if drive.name().is_empty() { node.name() } else { drive.name() };
        Some((name.to_owned(), node))
    });
    let mut disks: Vec<(String, Arc<Node>)> = drives.collect();
    for node in graph.nodes().into_iter().filter(|node| graph.is_owned(node) && !node.is_used()) {
        if !disks.iter().any(|(_, known)| Arc::ptr_eq(known, &node)) {
            disks.push((node.name().to_owned(), node));
        }
    }
    disks.retain(|(_, node)| !node.is_read_only());
    // As QEMU has it, not as an error of the command.
    Ok(block::info::snapshots_text(&disks).unwrap_or_else(|error| format!("{error}\n")))
}

/// The images of a node, as `qemu-img info` has them.
fn images(context: &Context<'_>, node: &str) -> Result<String, QmpError> {
    let node = context.vm.graph().node(node);
    let text = node.map(|node| block::info::chain_text(&node)).transpose()?;
    Ok(format!("\nImages:\n{}", text.unwrap_or_default()))
}

pub(super) fn drive_add(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    let as_node = arguments.flag('n').map_err(|option| format!("drive_add: {option}"))?;
    arguments.word().ok_or("drive_add: string expected".to_owned())?;
    let text = arguments.word().ok_or("drive_add: string expected".to_owned())?;
    arguments.end("drive_add")?;
    Ok(match add_drive(context, as_node, text) {
        Ok(()) if as_node => String::new(),
        Ok(()) => "OK\n".into(),
        // As QEMU has it, not as an error of the command.
        Err(fault) => fault + "\n",
    })
}

fn add_drive(context: &Context<'_>, as_node: bool, text: &str) -> Result<(), String> {
    let graph = context.vm.graph();
    if as_node {
        let tree = Keyval::parse(text, Some("driver")).map_err(|error| error.to_string())?.tree;
        if !tree.contains_key("node-name") {
            return Err("'node-name' needs to be specified".into());
        }
        return graph.add_node(&tree, Form::Keyval).map(drop).map_err(|error| error.to_string());
    }
    let parsed = ParsedOpts::parse(text, None, |_| false).map_err(|error| error.to_string())?;
    machine::launch::add_drive(parsed.opts, graph).map_err(|error| error.to_string())
}

pub(super) fn drive_del(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    let name = arguments.word().ok_or("drive_del: string expected".to_owned())?;
    arguments.end("drive_del")?;
    let graph = context.vm.graph();
    let owned = graph.node(name).is_some_and(|node| graph.is_owned(&node));
    let removed = match graph.backend(name) {
        _ if owned => graph.remove_node(name).map_err(|error| error.to_string()),
        Some(drive) => graph.remove_drive(&drive).map_err(|error| error.to_string()),
        None => Err(format!("Device '{name}' not found")),
    };
    Ok(removed.err().map(|fault| fault + "\n").unwrap_or_default())
}

/// `qemu-io`: a request by hand. What it says goes to the program's output, as with QEMU.
pub(super) fn request(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    let by_device = arguments.flag('d').map_err(|option| format!("qemu-io: {option}"))?;
    let name = arguments.string().ok_or("qemu-io: block device name expected".to_owned())?;
    let name = name.as_str();
    let line = arguments.string().ok_or("qemu-io: string expected".to_owned())?;
    arguments.end("qemu-io")?;
    let graph = context.vm.graph();
    let backend = if by_device { graph.drive_of_device(name) } else { graph.backend(name) };
    let node = match &backend {
        Some(backend) => backend.node(),
        None if by_device => {
            return Err(QmpError::new(format!("Device '{name}' not found")).into());
        }
        None => {
            let missing = || QmpError::new(format!("Cannot find device='' nor node-name='{name}'"));
            Some(graph.node(name).ok_or_else(missing)?)
        }
    };
    if let Some(node) = node {
        let write_cache = backend.as_ref().is_none_or(|backend| backend.write_cache());
        block::tools::io::run_in_machine(&node, write_cache, &line);
    }
    silence()
}

/// A drive, as `query-block` tells of it.
fn describe(drive: &serde_json::Value) -> String {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let yes = |value: &serde_json::Value| value.as_bool().unwrap_or(false);
    let inserted = &drive["inserted"];
    let node = text(&inserted["node-name"]);
    let mut out = match text(&drive["device"]) {
        name if name.is_empty() && !node.is_empty() => node,
        name if !node.is_empty() => format!("{name} ({node})"),
        name if name.is_empty() => text(&drive["qdev"]),
        name => name,
    };
    if inserted.is_null() {
        out += ": [not inserted]\n";
    } else {
        let read_only = if yes(&inserted["ro"]) { ", read-only" } else { "" };
        out += &format!(": {} ({}{read_only})\n", text(&inserted["file"]), text(&inserted["drv"]));
    }
    let mut line = |title: &str, value: String| out += &format!("    {title:<18}{value}\n");
    if drive["qdev"].is_string() {
        line("Attached to:", text(&drive["qdev"]));
    }
    let status = text(&drive["io-status"]);
    if !status.is_empty() && status != "ok" {
        line("I/O status:", status);
    }
    if yes(&drive["removable"]) {
        let locked = if yes(&drive["locked"]) { "" } else { "not " };
        let tray = if yes(&drive["tray_open"]) { "open" } else { "closed" };
        line("Removable device:", format!("{locked}locked, tray {tray}"));
    }
    if inserted.is_null() {
        return out;
    }
    let cache = &inserted["cache"];
    let mode = [
        (if yes(&cache["writeback"]) { "writeback" } else { "writethrough" }, true),
        (", direct", yes(&cache["direct"])),
        (", ignore flushes", yes(&cache["no-flush"])),
    ];
    line("Cache mode:", mode.iter().filter(|(_, on)| *on).map(|(word, _)| *word).collect());
    if inserted["backing_file"].is_string() {
        let depth = &inserted["backing_file_depth"];
        line(
            "Backing file:",
            format!("{} (chain depth: {depth})", text(&inserted["backing_file"])),
        );
    }
    let detect = text(&inserted["detect_zeroes"]);
    if detect != "off" {
        line("Detect zeroes:", detect);
    }
    if inserted["group"].is_string() {
        let names = [
            "bps",
            "bps_rd",
            "bps_wr",
            "bps_max",
            "bps_rd_max",
            "bps_wr_max",
            "iops",
            "iops_rd",
            "iops_wr",
            "iops_max",
            "iops_rd_max",
            "iops_wr_max",
            "iops_size",
        ];
        let value = |name: &&str| format!("{name}={} ", inserted[*name].as_u64().unwrap_or(0));
        let values: String = names.iter().map(value).collect();
        line("I/O throttling:", format!("{values}group={}", text(&inserted["group"])));
    }
    out
}

pub(super) fn stats(context: &Context<'_>, _: &mut Arguments<'_>) -> Printed {
    let line = |stats: serde_json::Value| {
        let figures = &stats["stats"];
        let names = [
            "rd_bytes",
            "wr_bytes",
            "rd_operations",
            "wr_operations",
            "flush_operations",
            "wr_total_time_ns",
            "rd_total_time_ns",
            "flush_total_time_ns",
            "rd_merged",
            "wr_merged",
            "idle_time_ns",
        ];
        let value = |name: &&str| format!(" {name}={}", figures[*name].as_u64().unwrap_or(0));
        let values: String = names.iter().map(value).collect();
        format!("{}:{values}\n", stats["device"].as_str().unwrap_or_default())
    };
    Ok(drive_stats(context).into_iter().filter_map(Qapi::write).map(line).collect())
}

pub(super) fn commit(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    let name = arguments.word().ok_or("commit: block device name expected".to_owned())?;
    arguments.end("commit")?;
    let graph = context.vm.graph();
    let committed = if name == "all" {
        let tops = graph.backends().into_iter().filter_map(|backend| backend.node());
        let mut tops = tops.filter(|top| top.child(Role::Backing).is_some());
        tops.try_for_each(|top| graph.commit(&top))
    } else {
        let Some(backend) = graph.backend(name) else {
            return Ok(format!("Device '{name}' not found\n"));
        };
        let Some(top) = backend.node() else {
            return Ok(format!("Device '{name}' has no medium\n"));
        };
        graph.commit(&top)
    };
    let fault = |error: block::Error| format!("'commit' error for '{name}': {error}\n");
    Ok(committed.err().map(fault).unwrap_or_default())
}

pub(super) fn eject(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    let force = arguments.flag('f').map_err(|option| format!("eject: {option}"))?;
    let name = arguments.word().ok_or("eject: block device name expected".to_owned())?;
    arguments.end("eject")?;
    let (called, drive) = drive(context, name)?;
    drive.eject(&called, force).map_err(QmpError::from)?;
    silence()
}

pub(super) fn change(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    let force = arguments.flag('f').map_err(|option| format!("change: {option}"))?;
    let name = arguments.word().ok_or("change: block device name expected".to_owned())?;
    if name == "vnc" {
        return vnc::change(context, arguments);
    }
    let file = arguments.word().ok_or("change: filename expected".to_owned())?;
    let (format, mode) = (arguments.word(), arguments.word());
    arguments.end("change")?;
    let mode = mode.map(|word| {
        let found = ReadOnlyMode::ALL.iter().find(|mode| mode.name() == word);
        found.ok_or_else(|| QmpError::new(format!("invalid parameter value: {word}")))
    });
    let read_only = mode.transpose()?.and_then(|mode| mode.read_only());
    let (called, drive) = drive(context, name)?;
    let graph = context.vm.graph();
    let changed = graph.change_medium(&drive, &called, (file, format), read_only, force);
    Ok(changed.map_err(QmpError::from)?.into_iter().map(|warning| warning + "\n").collect())
}

pub(super) fn resize(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    let name = arguments.word().ok_or("block_resize: block device name expected".to_owned())?;
    let size = arguments.word().ok_or("block_resize: invalid size".to_owned())?;
    arguments.end("block_resize")?;
    let size = base::options::number::parse_size(size, 1 << 20)
        .map_err(|_| "block_resize: invalid size".to_owned())?;
    let (called, drive) = drive(context, name)?;
    let missing = || QmpError::new(format!("Device '{called}' has no medium"));
    let node = drive.node().ok_or_else(missing)?;
    context.vm.graph().resize(&node, size).map_err(QmpError::from)?;
    silence()
}

pub(super) fn throttle(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    let what = "block_set_io_throttle";
    let name = arguments.word().ok_or(format!("{what}: block device name expected"))?;
    let mut limits = Limits::default();
    for kind in Kind::ALL {
        limits.of_mut(kind).rate = arguments.expression()?;
    }
    arguments.end(what)?;
    limits.check().map_err(QmpError::from)?;
    let (called, drive) = drive(context, name)?;
    if !limits.is_limited() {
        drive.set_throttle(None);
        return silence();
    }
    let present = drive.throttle();
    let group = present.unwrap_or_else(|| Group::new(&called, limits));
    group.set_limits(limits);
    drive.set_throttle(Some(group));
    silence()
}

pub(super) fn snapshot(context: &Context<'_>, arguments: &mut Arguments<'_>) -> Printed {
    let existing = arguments.flag('n').map_err(|option| format!("snapshot_blkdev: {option}"))?;
    let name = arguments.word().ok_or("snapshot_blkdev: block device name expected".to_owned())?;
    let (file, format) = (arguments.word(), arguments.word());
    arguments.end("snapshot_blkdev")?;
    let Some(file) = file else {
        return refuse("Parameter 'snapshot-file' is missing");
    };
    if let Some(format) = format.filter(|format| *format != "qcow2") {
        return refuse(&format!("Unknown file format '{format}'"));
    }
    let (called, drive) = drive(context, name)?;
    let missing = || QmpError::new(format!("Device '{called}' has no medium"));
    let node = drive.node().ok_or_else(missing)?;
    let overlay =
        Snapshot { file, node_name: None, create: !existing, announce: &|text| print!("{text}") };
    context.vm.graph().snapshot(&node, &overlay).map_err(QmpError::from)?;
    silence()
}
