//! `qemu-img measure`

use serde_json::{Map, json};

use super::access::Access;
use super::args::common::{FORMAT, IMAGE_OPTS, OBJECT, OUTPUT, SHARE};
use super::args::{Args, Command, value};
use super::create::parse_size;
use super::creation::{Chosen, join};
use super::formats::{creator, qcow2_options};
use super::{Failure, Outcome, Output, text};
use crate::engine::block_on;
use crate::node::Node;
use crate::qcow2::{CreateOptions, Purpose};
use crate::{Error, Result};

pub(super) const COMMAND: Command = Command {
    name: "measure",
    about: "Calculate file size requred for a new image",
    operands: "(--size SIZE | FILE)",
    options: &[
        value(Some('O'), "target-format", "FMT", "the format of the new image (raw)"),
        value(None, "size", "SIZE", "the size of the new disk"),
        value(Some('o'), "options", "OPTIONS", "options of the new image"),
        FORMAT,
        IMAGE_OPTS,
        value(Some('l'), "snapshot", "SNAPSHOT", "measure this snapshot of FILE"),
        OUTPUT,
        SHARE,
        OBJECT,
    ],
    run,
};

/// What an image would take.
struct Measure {
    required: u64,
    fully_allocated: u64,
}

fn run(args: &Args, output: &mut Output<'_>) -> Outcome {
    let json = args.json()?;
    let size = args.get("size").map(parse_size).transpose()?;
    let name = match args.operands.as_slice() {
        [] => None,
        [name] => Some(name),
        _ => return Err(Failure::new("At most one filename argument is allowed.")),
    };
    if size.is_some() && name.is_some() {
        return Err(Failure::new("--size N cannot be used together with a filename."));
    }
    if size.is_none() && name.is_none() {
        return Err(Failure::new("Either --size N or one filename must be specified."));
    }
    let source = match name {
        Some(name) => Some(Access::from_args(args, Purpose::Read)?.open(name, output)?),
        None => None,
    };
    if args.has("snapshot") && source.is_some() {
        return Err(Failure::new("Failed to load snapshot: Can't find snapshot"));
    }
    let format = args.get("target-format").unwrap_or("raw");
    let creator = creator(format).map_err(|known| match known {
        true => Failure::new(format!("Format driver '{format}' does not support image creation")),
        false => Failure::new(format!("Unknown file format '{format}'")),
    })?;
    let list = join(args.all("options"))?;
    let mut chosen = Chosen::defaults(creator.options);
    if let Err(error) = chosen.apply(&list) {
        output.report(&error.to_string());
        return Err(Failure::new(format!("Invalid options for file format '{format}'")));
    }
    if let Some(size) = size {
        chosen.set("size", &size.to_string())?;
    }
    let measure = match format {
        "raw" | "file" => {
            let size = match &source {
                Some(node) => node.len()?,
                None => size.unwrap_or(0).next_multiple_of(512),
            };
            Measure { required: size, fully_allocated: size }
        }
        "qcow2" => measure_qcow2(&chosen, source.as_deref())?,
        _ => {
            let text = format!("Block driver '{format}' does not support size measurement");
            return Err(Failure::new(text));
        }
    };
    // Of bitmaps, one can speak where the source could have some.
    let bitmaps = format == "qcow2"
        && source.as_ref().is_some_and(|node| {
            let compat = node.driver().specific_info().and_then(|info| info.get("compat").cloned());
            node.driver().name() == "qcow2" && compat != Some(json!("0.10"))
        });
    let Measure { required, fully_allocated } = measure;
    if json {
        let mut map = Map::new();
        if bitmaps {
            map.insert("bitmaps".into(), json!(0));
        }
        map.insert("required".into(), json!(required));
        map.insert("fully-allocated".into(), json!(fully_allocated));
        output.print(&text::json(&map.into()));
    } else {
        let lines = format!("required size: {required}\nfully allocated size: {fully_allocated}\n");
        output.print(&lines);
        if bitmaps {
            output.print("bitmaps size: 0\n");
        }
    }
    Ok(0)
}

fn measure_qcow2(chosen: &Chosen, source: Option<&Node>) -> Result<Measure> {
    let preallocated = matches!(chosen.text("preallocation"), Some("full" | "falloc"));
    let mut plain = Chosen::defaults(super::formats::QCOW2.options);
    for key in ["cluster_size", "refcount_bits", "compat", "size"] {
        if let Some(value) = chosen.text(key) {
            plain.set(key, value)?;
        }
    }
    let mut options = qcow2_options(&plain)?;
    let cluster = options.cluster_size;
    if let Some(source) = source {
        options.size = source.len()?;
    }
    options.header()?;
    let size = options.size.next_multiple_of(512);
    let entry = if chosen.is_on("extended_l2") { 16 } else { 8 };
    let metadata = metadata_size(size, &options, entry)?;
    let aligned = size.next_multiple_of(cluster);
    let fully_allocated = metadata + aligned;
    let data = match source {
        _ if preallocated => aligned,
        None => 0,
        Some(source) => stored(source, size, cluster)?,
    };
    Ok(Measure { required: fully_allocated - aligned + data, fully_allocated })
}

/// All tables of an image with every cluster allocated (docs/interop/qcow2).
fn metadata_size(size: u64, options: &CreateOptions, l2_entry: u64) -> Result<u64> {
    let cluster = options.cluster_size;
    let clusters = size.div_ceil(cluster);
    let l2_tables = (clusters * l2_entry).div_ceil(cluster);
    let l1_clusters = (l2_tables * 8).div_ceil(cluster);
    let too_large = || Error::new(libc::EFBIG, "Image is too big");
    let plain = clusters.checked_add(1 + l2_tables + l1_clusters).ok_or_else(too_large)?;
    let per_block = cluster * 8 / options.refcount_bits;
    let (mut table, mut blocks) = (0, 0);
    loop {
        let new_blocks = (plain + table + blocks).div_ceil(per_block);
        let new_table = (new_blocks * 8).div_ceil(cluster);
        if (new_table, new_blocks) == (table, blocks) {
            break;
        }
        (table, blocks) = (new_table, new_blocks);
    }
    Ok((1 + l2_tables + l1_clusters + table + blocks) * cluster)
}

/// Bytes of the clusters that hold anything but zeroes.
fn stored(source: &Node, size: u64, cluster: u64) -> Result<u64> {
    let (mut at, mut bytes) = (0, 0);
    while at < size {
        let extent = block_on(source.status(at, size - at))?;
        let mut end = at + extent.len.max(1);
        if !extent.zero && (extent.data || extent.allocated) {
            end = end.next_multiple_of(cluster);
            bytes += end - at / cluster * cluster;
        }
        at = end;
    }
    Ok(bytes)
}
