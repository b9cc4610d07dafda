//! What monitors tell of nodes.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::driver::{Driver, Snapshot};
use crate::engine::block_on;
use crate::node::{Node, Role};
use crate::open::full_backing_name;
use crate::tools::snapshot::{rows, table};
use crate::tools::text;
use crate::{Error, Result};

/// `ImageInfo` of a node; with `chain` also of what backs it.
pub fn image(node: &Node, chain: bool) -> Result<Map<String, Value>> {
    let mut info = Map::new();
    if let Some(backing) = node.child(Role::Backing).filter(|_| chain) {
        info.insert("backing-image".into(), image(&backing, true)?.into());
    }
    add_own(&mut info, node)?;
    Ok(info)
}

/// `SnapshotInfo` of a snapshot inside an image.
pub fn snapshot(known: &Snapshot) -> Value {
    const SECOND: u64 = 1_000_000_000;
    let Snapshot { id, name, time, vm_state_size, .. } = known;
    let mut info = Map::new();
    if let Some(icount) = time.icount {
        info.insert("icount".into(), json!(icount));
    }
    let members = json!({
        "vm-clock-nsec": time.vm_clock % SECOND,
        "name": name,
        "date-sec": time.seconds,
        "date-nsec": time.nanoseconds,
        "vm-clock-sec": time.vm_clock / SECOND,
        "id": id,
        "vm-state-size": vm_state_size,
    });
    info.extend(members.as_object().cloned().unwrap_or_default());
    info.into()
}

/// Adds what `ImageInfo` has of the node itself, without those below it.
pub(crate) fn add_own(info: &mut Map<String, Value>, node: &Node) -> Result<()> {
    let driver = node.driver();
    let backing = driver.backing_name();
    if let Some((_, Some(format))) = &backing {
        info.insert("backing-filename-format".into(), json!(format));
    }
    let snapshots = driver.snapshots().map(|snapshots| block_on(snapshots.list())).transpose()?;
    if let Some(snapshots) = snapshots.filter(|list| !list.is_empty()) {
        info.insert("snapshots".into(), snapshots.iter().map(snapshot).collect());
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
        info.insert("format-specific".into(), json!({"type": driver.name(), "data": data}));
    }
    if let Some((name, _)) = &backing {
        let full = full_backing_name(&node.location(), name);
        info.insert("full-backing-filename".into(), json!(full));
    }
    if driver.is_encrypted() {
        info.insert("encrypted".into(), json!(true));
    }
    if let Some((name, _)) = backing {
        info.insert("backing-filename".into(), json!(name));
    }
    if driver.tells_state() {
        info.insert("dirty-flag".into(), json!(driver.is_dirty()));
    }
    Ok(())
}

/// The snapshots that all of a machine's disks have, and those that only some have, in words; `disks` are
/// those that are written, each with what it is called.
pub fn snapshots_text(disks: &[(String, Arc<Node>)]) -> Result<String> {
    let mut lists = Vec::new();
    for (name, node) in disks {
        let list = node.driver().snapshots().map(|snapshots| block_on(snapshots.list()));
        lists.push((name, list.transpose()?));
    }
    let Some(first) = lists.iter().find_map(|(_, list)| list.clone()) else {
        return Err(Error::unsupported("no block device can store vmstate for snapshot"));
    };
    if lists.iter().filter_map(|(_, list)| list.as_ref()).all(Vec::is_empty) {
        return Ok("There is no snapshot available.\n".into());
    }
    let everywhere = |name: &str| {
        let has = |list: &Option<Vec<Snapshot>>| {
            list.as_ref().is_some_and(|list| list.iter().any(|known| known.name == name))
        };
        lists.iter().all(|(_, list)| has(list))
    };
    let (mut shared, _): (Vec<_>, Vec<_>) = first.into_iter().partition(|s| everywhere(&s.name));
    // Its number differs from disk to disk.
    shared.iter_mut().for_each(|snapshot| snapshot.id = "--".into());
    let mut out = "List of snapshots present on all disks:\n".to_owned();
    out += &if shared.is_empty() { "None\n".into() } else { rows(&shared) };
    for (name, list) in &lists {
        let partial = list.iter().flatten().filter(|known| !everywhere(&known.name)).cloned();
        let partial: Vec<Snapshot> = partial.collect();
        if !partial.is_empty() {
            out += &format!("\nList of partial (non-loadable) snapshots on '{name}':\n");
            out += &rows(&partial);
        }
    }
    Ok(out)
}

/// How many backing files there are below a node.
pub fn backing_depth(node: &Node) -> u64 {
    node.child(Role::Backing).map_or(0, |backing| 1 + backing_depth(&backing))
}

/// An image in words; one that is a `protocol` below another in some of its own.
pub(crate) fn in_words(node: &Node, indent: &str, protocol: bool) -> Result<String> {
    let driver = node.driver();
    let (name, len) = (node.filename(), node.len()?);
    let mut out = String::new();
    let mut line = |text: String| out += &format!("{indent}{text}\n");
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
        let full = full_backing_name(&node.location(), &backing);
        let actual = match full == backing {
            true => String::new(),
            false => format!(" (actual path: {full})"),
        };
        line(format!("backing file: {backing}{actual}"));
        if let Some(format) = format {
            line(format!("backing file format: {format}"));
        }
    }
    for row in table(node)?.lines() {
        out += &format!("{indent}{row}\n");
    }
    out += &specific_text(driver, indent);
    Ok(out)
}

/// An image in words, and all that back it.
pub fn chain_text(node: &Node) -> Result<String> {
    let below = node.child(Role::Backing).map(|backing| chain_text(&backing)).transpose()?;
    Ok(in_words(node, "", false)? + &below.unwrap_or_default())
}

/// What a format says of itself, for people.
pub(crate) fn specific_text(driver: &dyn Driver, indent: &str) -> String {
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
