//! `query-block` and its kin.

use block::backend::{Backend, Interface, IoStatus, RequestKind};
use block::dirty::Bitmap;
use block::driver::Driver;
use block::info;
use block::node::{DetectZeroes, Node, Role};
use block::throttle::Kind;
use serde_json::{Value, json};

use crate::qapi::{Qapi, QmpError};
use crate::qmp::Call;
use crate::{qapi_struct, qapi_words};

const IO_STATUS: &[IoStatus] = &[IoStatus::Ok, IoStatus::Failed, IoStatus::NoSpace];
qapi_words!(IoStatus, IO_STATUS, IoStatus::name);

const DETECT_ZEROES: &[DetectZeroes] = &[DetectZeroes::Off, DetectZeroes::On, DetectZeroes::Unmap];
qapi_words!(DetectZeroes, DETECT_ZEROES, DetectZeroes::name);

qapi_struct! {
    /// An image.
    pub(crate) struct ImageInfo {
        "filename" filename: String,
        "format" format: String,
        "dirty-flag" dirty_flag: Option<bool>,
        "actual-size" actual_size: Option<u64>,
        "virtual-size" virtual_size: u64,
        "cluster-size" cluster_size: Option<u64>,
        "encrypted" encrypted: Option<bool>,
        "compressed" compressed: Option<bool>,
        "backing-filename" backing_filename: Option<String>,
        "full-backing-filename" full_backing_filename: Option<String>,
        "backing-filename-format" backing_filename_format: Option<String>,
        "snapshots" snapshots: Option<Value>,
        "backing-image" backing_image: Option<Value>,
        "format-specific" format_specific: Option<Value>,
    }
}

qapi_struct! {
    /// How caches are used.
    pub(crate) struct CacheInfo {
        "writeback" writeback: bool,
        "direct" direct: bool,
        "no-flush" no_flush: bool,
    }
}

qapi_struct! {
    /// A node.
    pub(crate) struct DeviceInfo {
        "file" file: String,
        "node-name" node_name: Option<String>,
        "ro" ro: bool,
        "drv" drv: String,
        "backing_file" backing_file: Option<String>,
        "backing_file_depth" backing_file_depth: u64,
        "encrypted" encrypted: bool,
        "detect_zeroes" detect_zeroes: DetectZeroes,
        "bps" bps: u64,
        "bps_rd" bps_rd: u64,
        "bps_wr" bps_wr: u64,
        "iops" iops: u64,
        "iops_rd" iops_rd: u64,
        "iops_wr" iops_wr: u64,
        "image" image: ImageInfo,
        "bps_max" bps_max: Option<u64>,
        "bps_rd_max" bps_rd_max: Option<u64>,
        "bps_wr_max" bps_wr_max: Option<u64>,
        "iops_max" iops_max: Option<u64>,
        "iops_rd_max" iops_rd_max: Option<u64>,
        "iops_wr_max" iops_wr_max: Option<u64>,
        "bps_max_length" bps_max_length: Option<u64>,
        "bps_rd_max_length" bps_rd_max_length: Option<u64>,
        "bps_wr_max_length" bps_wr_max_length: Option<u64>,
        "iops_max_length" iops_max_length: Option<u64>,
        "iops_rd_max_length" iops_rd_max_length: Option<u64>,
        "iops_wr_max_length" iops_wr_max_length: Option<u64>,
        "iops_size" iops_size: Option<u64>,
        "group" group: Option<String>,
        "cache" cache: CacheInfo,
        "dirty-bitmaps" dirty_bitmaps: Option<Vec<BlockDirtyInfo>>,
        "write_threshold" write_threshold: u64,
        "active" active: bool,
    }
}

qapi_struct! {
    /// A drive.
    pub(crate) struct BlockInfo {
        "device" device: String,
        "qdev" qdev: Option<String>,
        "type" kind: String,
        "removable" removable: bool,
        "locked" locked: bool,
        "inserted" inserted: Option<DeviceInfo>,
        "tray_open" tray_open: Option<bool>,
        "io-status" io_status: Option<IoStatus>,
    }
}

qapi_struct! {
    /// A dirty bitmap.
    pub(crate) struct BlockDirtyInfo {
        "name" name: Option<String>,
        "count" count: u64,
        "granularity" granularity: u64,
        "recording" recording: bool,
        "busy" busy: bool,
        "persistent" persistent: bool,
        "inconsistent" inconsistent: Option<bool>,
    }
}

fn bitmaps(node: &Node) -> block::Result<Vec<BlockDirtyInfo>> {
    let info = |Bitmap { info, persistent, count }| BlockDirtyInfo {
        name: Some(info.name),
        count,
        granularity: info.granularity,
        recording: info.enabled,
        busy: false,
        persistent,
        inconsistent: info.inconsistent.then_some(true),
    };
    Ok(node.dirty_bitmaps()?.into_iter().map(info).collect())
}

/// A node, and with its drive also what the drive does to requests.
fn device_info(node: &Node, drive: Option<&Backend>, chain: bool) -> Result<DeviceInfo, QmpError> {
    let image = ImageInfo::read(info::image(node, chain)?.into(), "image")?;
    let group = drive.and_then(Backend::throttle);
    let limits = group.as_ref().map(|group| group.limits()).unwrap_or_default();
    let rate = |kind| limits.of(kind).rate;
    let burst = |kind| Some(limits.of(kind).burst).filter(|burst| *burst > 0);
    let length = |kind| burst(kind).map(|_| limits.of(kind).burst_length);
    let manner = node.manner();
    Ok(DeviceInfo {
        file: node.filename(),
        node_name: Some(node.name().to_owned()),
        ro: node.is_read_only(),
        drv: node.driver().name().to_owned(),
        backing_file: node.child(Role::Backing).map(|backing| backing.filename()),
        backing_file_depth: if chain { info::backing_depth(node) } else { 0 },
        encrypted: false,
        detect_zeroes: manner.detect_zeroes,
        bps: rate(Kind::BpsTotal),
        bps_rd: rate(Kind::BpsRead),
        bps_wr: rate(Kind::BpsWrite),
        iops: rate(Kind::IopsTotal),
        iops_rd: rate(Kind::IopsRead),
        iops_wr: rate(Kind::IopsWrite),
        image,
        bps_max: burst(Kind::BpsTotal),
        bps_rd_max: burst(Kind::BpsRead),
        bps_wr_max: burst(Kind::BpsWrite),
        iops_max: burst(Kind::IopsTotal),
        iops_rd_max: burst(Kind::IopsRead),
        iops_wr_max: burst(Kind::IopsWrite),
        bps_max_length: length(Kind::BpsTotal),
        bps_rd_max_length: length(Kind::BpsRead),
        bps_wr_max_length: length(Kind::BpsWrite),
        iops_max_length: length(Kind::IopsTotal),
        iops_rd_max_length: length(Kind::IopsRead),
        iops_wr_max_length: length(Kind::IopsWrite),
        iops_size: Some(limits.iops_size).filter(|size| *size > 0),
        group: group.map(|group| group.name().to_owned()),
        cache: CacheInfo {
            writeback: drive.is_none_or(Backend::write_cache),
            direct: manner.direct,
            no_flush: manner.no_flush,
        },
        dirty_bitmaps: Some(bitmaps(node)?).filter(|bitmaps| !bitmaps.is_empty()),
        write_threshold: node.write_threshold(),
        active: true,
    })
}

/// What a drive's device is called: its id, or its path.
pub(crate) fn device_of(drive: &Backend) -> Option<String> {
    drive.device().map(|device| device.name().to_owned())
}

fn block_info(drive: &Backend) -> Result<BlockInfo, QmpError> {
    let listener = drive.drive();
    let removable = listener.as_ref().is_none_or(|listener| listener.is_removable());
    let stops = drive.info().interface != Interface::Floppy && drive.is_used();
    let tray = listener.as_ref().filter(|listener| listener.has_tray());
    let inserted = drive.node().map(|node| device_info(&node, Some(drive), true)).transpose()?;
    Ok(BlockInfo {
        device: drive.name().to_owned(),
        qdev: device_of(drive),
        kind: "unknown".into(),
        removable,
        locked: listener.as_ref().is_some_and(|listener| listener.is_locked()),
        inserted,
        tray_open: tray.map(|tray| tray.is_tray_open()),
        io_status: stops.then(|| drive.io_status()),
    })
}

/// All drives that have a name or a device.
pub(crate) fn drives(call: &crate::target::Target) -> Result<Vec<BlockInfo>, QmpError> {
    let drives = call.vm.graph().backends();
    let shown = drives.iter().filter(|drive| !drive.name().is_empty() || drive.is_used());
    shown.map(|drive| block_info(drive)).collect()
}

pub(in crate::qmp) fn query_block(call: &Call<'_>, (): ()) -> Result<Vec<BlockInfo>, QmpError> {
    drives(call.target)
}

qapi_struct! {
    /// How nodes are listed.
    pub(in crate::qmp) struct Listing {
        /// Without the images that back them.
        "flat" flat: Option<bool>,
    }
}

pub(in crate::qmp) fn query_named_block_nodes(
    call: &Call<'_>,
    Listing { flat }: Listing,
) -> Result<Vec<DeviceInfo>, QmpError> {
    nodes(call.target, !flat.unwrap_or(false))
}

/// All nodes, newest first.
pub(crate) fn named_nodes(target: &crate::target::Target) -> Result<Vec<DeviceInfo>, QmpError> {
    nodes(target, true)
}

fn nodes(target: &crate::target::Target, chain: bool) -> Result<Vec<DeviceInfo>, QmpError> {
    let nodes = target.vm.graph().nodes();
    nodes.iter().rev().map(|node| device_info(node, None, chain)).collect()
}

qapi_struct! {
    /// Whose figures are wanted.
    pub(in crate::qmp) struct Subject {
        /// Those of nodes, not of drives.
        "query-nodes" query_nodes: Option<bool>,
    }
}

qapi_struct! {
    /// What a drive has done.
    pub(crate) struct BlockStats {
        "device" device: Option<String>,
        "qdev" qdev: Option<String>,
        "node-name" node_name: Option<String>,
        "stats" stats: Figures,
        "driver-specific" driver_specific: Option<Value>,
        "parent" parent: Option<Value>,
        "backing" backing: Option<Value>,
    }
}

macro_rules! figures {
    ($($wire:literal $field:ident: $kind:ident $figure:ident),* $(,)?) => {
        qapi_struct! {
            /// Figures of requests.
            pub(crate) struct Figures {
                $($wire $field: u64,)*
                "wr_highest_offset" wr_highest_offset: u64,
                "idle_time_ns" idle_time_ns: Option<u64>,
                "account_invalid" account_invalid: bool,
                "account_failed" account_failed: bool,
                "timed_stats" timed_stats: Vec<Value>,
            }
        }

        impl Figures {
            fn of(drive: Option<&Backend>) -> Self {
                let of = |kind| drive.map(|drive| drive.stats().of(kind)).unwrap_or_default();
                Figures {
                    $($field: of(RequestKind::$kind).$figure,)*
                    wr_highest_offset: drive.map_or(0, |drive| drive.stats().highest_written()),
                    idle_time_ns: drive.and_then(|drive| drive.stats().idle_nanoseconds()),
                    account_invalid: drive.is_some(),
                    account_failed: drive.is_some(),
                    timed_stats: Vec::new(),
                }
            }
        }
    };
}

figures! {
    "rd_bytes" rd_bytes: Read bytes,
    "wr_bytes" wr_bytes: Write bytes,
    "zone_append_bytes" zone_append_bytes: Append bytes,
    "unmap_bytes" unmap_bytes: Unmap bytes,
    "rd_operations" rd_operations: Read operations,
    "wr_operations" wr_operations: Write operations,
    "zone_append_operations" zone_append_operations: Append operations,
    "flush_operations" flush_operations: Flush operations,
    "unmap_operations" unmap_operations: Unmap operations,
    "rd_total_time_ns" rd_total_time_ns: Read nanoseconds,
    "wr_total_time_ns" wr_total_time_ns: Write nanoseconds,
    "zone_append_total_time_ns" zone_append_total_time_ns: Append nanoseconds,
    "flush_total_time_ns" flush_total_time_ns: Flush nanoseconds,
    "unmap_total_time_ns" unmap_total_time_ns: Unmap nanoseconds,
    "rd_merged" rd_merged: Read merged,
    "wr_merged" wr_merged: Write merged,
    "zone_append_merged" zone_append_merged: Append merged,
    "unmap_merged" unmap_merged: Unmap merged,
    "failed_rd_operations" failed_rd_operations: Read failed,
    "failed_wr_operations" failed_wr_operations: Write failed,
    "failed_zone_append_operations" failed_zone_append_operations: Append failed,
    "failed_flush_operations" failed_flush_operations: Flush failed,
    "failed_unmap_operations" failed_unmap_operations: Unmap failed,
    "invalid_rd_operations" invalid_rd_operations: Read invalid,
    "invalid_wr_operations" invalid_wr_operations: Write invalid,
    "invalid_zone_append_operations" invalid_zone_append_operations: Append invalid,
    "invalid_flush_operations" invalid_flush_operations: Flush invalid,
    "invalid_unmap_operations" invalid_unmap_operations: Unmap invalid,
}

/// The figures of a node and of those below it; nodes do not count.
fn node_stats(node: &Node, drive: Option<&Backend>) -> BlockStats {
    let below = |role| node.child(role).and_then(|child| node_stats(&child, None).write());
    BlockStats {
        device: None,
        qdev: None,
        node_name: Some(node.name().to_owned()),
        stats: Figures::of(drive),
        driver_specific: driver_specific(node.driver()),
        parent: below(Role::File),
        backing: below(Role::Backing),
    }
}

fn driver_specific(driver: &dyn Driver) -> Option<Value> {
    matches!(driver.name(), "file" | "host_device").then(|| {
        json!({
            "driver": driver.name(),
            "discard-nb-ok": 0,
            "discard-nb-failed": 0,
            "discard-bytes-ok": 0,
        })
    })
}

/// The figures of all drives.
pub(crate) fn drive_stats(target: &crate::target::Target) -> Vec<BlockStats> {
    let drives = target.vm.graph().backends();
    let shown = drives.iter().filter(|drive| !drive.name().is_empty() || drive.is_used());
    let stats = |drive: &std::sync::Arc<Backend>| {
        let stats = match drive.node() {
            Some(node) => node_stats(&node, Some(drive)),
            None => BlockStats {
                device: None,
                qdev: None,
                node_name: None,
                stats: Figures::of(Some(drive)),
                driver_specific: None,
                parent: None,
                backing: None,
            },
        };
        BlockStats {
            device: Some(drive.name().to_owned()),
            qdev: device_of(drive),
            driver_specific: None,
            ..stats
        }
    };
    shown.map(stats).collect()
}

pub(in crate::qmp) fn query_blockstats(
    call: &Call<'_>,
    Subject { query_nodes }: Subject,
) -> Result<Vec<BlockStats>, QmpError> {
    if query_nodes.unwrap_or(false) {
        let nodes = call.target.vm.graph().nodes();
        return Ok(nodes.iter().map(|node| node_stats(node, None)).collect());
    }
    Ok(drive_stats(call.target))
}
