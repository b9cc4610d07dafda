//! `qemu-img measure`

use serde_json::{Map, json};

use super::access::Access;
use super::args::common::{FORMAT, IMAGE_OPTS, OBJECT, OUTPUT, SHARE};
use super::args::{Args, Command, value};
use super::create::parse_size;
use super::creation::{Chosen, join};
use super::formats::{creator, encryption, luks_options, qcow2_options};
use super::{Failure, Outcome, Output, snapshot, text};
use crate::driver::Bitmaps;
use crate::engine::block_on;
use crate::luks::{LuksHeader, Volume};
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
    let of_a_file = ["image-opts", "format", "snapshot"];
    if name.is_none() && of_a_file.iter().any(|option| args.has(option)) {
        return Err(Failure::new("--image-opts, -f, and -l require a filename argument."));
    }
    let source = match name {
        Some(name) => Some(Access::from_args(args, Purpose::Read)?.open(name, output)?),
        None => None,
    };
    if let (Some(wanted), Some(source)) = (args.get("snapshot"), &source) {
        snapshot::show(source, wanted, output)?;
    }
    let format = args.get("target-format").unwrap_or("raw");
    let unmeasured = || {
        let text = format!("Block driver '{format}' does not support size measurement");
        Failure::new(text)
    };
    let creator = creator(format).map_err(|known| match known {
        true if format == "qed" => unmeasured(),
        true => Failure::new(format!("Format driver '{format}' does not support image creation")),
        false => Failure::new(format!("Unknown file format '{format}'")),
    })?;
    let list = join(args.all("options"))?;
    let mut chosen = Chosen::defaults(creator.options);
    chosen.objects = args.objects.clone();
    if let Err(error) = chosen.apply(&list) {
        output.report(&error.to_string());
        return Err(Failure::new(format!("Invalid options for file format '{format}'")));
    }
    if let Some(size) = size {
        chosen.set("size", &size.to_string())?;
    }
    let measure = match format {
        "raw" => {
            let size = match &source {
                Some(node) => node.len()?,
                None => size.unwrap_or(0).next_multiple_of(512),
            };
            Measure { required: size, fully_allocated: size }
        }
        "luks" => {
            let missing = || Error::invalid("Parameter 'key-secret' is required for cipher");
            chosen.secret("key-secret")?.ok_or_else(missing)?;
            let len = source.as_ref().map_or(Ok(size.unwrap_or(0)), |node| node.len())?;
            let too_large = || Error::new(libc::EFBIG, "The requested file size is too large");
            let whole = len.checked_next_multiple_of(512);
            let whole = whole.and_then(|len| len.checked_add(keys_size(&chosen, "").ok()?));
            let size = whole.ok_or_else(too_large)?;
            Measure { required: size, fully_allocated: size }
        }
        "qcow2" => measure_qcow2(&chosen, source.as_deref())?,
        _ => return Err(unmeasured()),
    };
    let bitmaps = match &source {
        Some(source) if format == "qcow2" && has_version_3(source, &chosen) => {
            Some(bitmaps_size(source, chosen.number("cluster_size").unwrap_or(65536))?)
        }
        _ => None,
    };
    let Measure { required, fully_allocated } = measure;
    if json {
        let mut map = Map::new();
        if let Some(bitmaps) = bitmaps {
            map.insert("bitmaps".into(), json!(bitmaps));
        }
        map.insert("required".into(), json!(required));
        map.insert("fully-allocated".into(), json!(fully_allocated));
        output.print(&text::json(&map.into()));
    } else {
        let lines = format!("required size: {required}\nfully allocated size: {fully_allocated}\n");
        output.print(&lines);
        if let Some(bitmaps) = bitmaps {
            output.print(&format!("bitmaps size: {bitmaps}\n"));
        }
    }
    Ok(0)
}

/// Whether bitmaps could be in the source, and could be copied.
fn has_version_3(source: &Node, chosen: &Chosen) -> bool {
    let compat = source.driver().specific_info().and_then(|info| info.get("compat").cloned());
    let old = matches!(chosen.text("compat"), Some("0.10" | "v2"));
    source.driver().name() == "qcow2" && compat != Some(json!("0.10")) && !old
}

/// What the source's bitmaps would take: their bits, a table for each, and the directory.
fn bitmaps_size(source: &Node, cluster: u64) -> Result<u64> {
    let list = source.driver().bitmaps().map(Bitmaps::list).unwrap_or_default();
    let len = source.len()?;
    let (mut clusters, mut directory) = (0, 0_u64);
    for bitmap in &list {
        let data = len.div_ceil(bitmap.granularity).div_ceil(8).div_ceil(cluster);
        clusters += data + (data * 8).div_ceil(cluster);
        directory += (24 + bitmap.name.len() as u64).next_multiple_of(8);
    }
    Ok((clusters + directory.div_ceil(cluster)) * cluster)
}

/// What header and key slots of a LUKS volume take.
fn keys_size(chosen: &Chosen, prefix: &str) -> Result<u64> {
    let (header, _) = LuksHeader::create(&luks_options(chosen, prefix)?, 1000)?;
    Ok(Volume::len_of_keys(&header))
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
    let mut metadata = metadata_size(size, &options, entry)?;
    if chosen.is_on("encryption") || chosen.is_given("encrypt.format") {
        // Says what is missing.
        encryption(chosen)?;
        if chosen.text("encrypt.format") == Some("luks") {
            metadata += keys_size(chosen, "encrypt.")?.next_multiple_of(cluster);
        }
    }
    let aligned = size.next_multiple_of(cluster);
    let fully_allocated = metadata + aligned;
    let data = match source {
        // Nobody knows what of the source will be in that file.
        Some(_) if chosen.is_given("backing_file") => aligned,
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
