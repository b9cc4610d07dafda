//! Drives: trays, media, lengths, overlays.

use std::sync::Arc;

use block::graph::Graph;
use block::node::Node;

use super::drive;
use crate::qapi::QmpError;
use crate::qmp::Call;
use crate::{qapi_struct, qapi_words};

qapi_struct! {
    /// A drive, and whether its guest is overruled.
    pub(in crate::qmp) struct Tray {
        "device" device: Option<String>,
        "id" id: Option<String>,
        "force" force: Option<bool>,
    }
}

pub(in crate::qmp) fn blockdev_open_tray(call: &Call<'_>, tray: Tray) -> Result<(), QmpError> {
    let (called, drive) = drive(call.target.vm.graph(), tray.device, tray.id)?;
    Ok(drive.open_tray(&called, tray.force.unwrap_or(false))?)
}

pub(in crate::qmp) fn eject(call: &Call<'_>, tray: Tray) -> Result<(), QmpError> {
    let (called, drive) = drive(call.target.vm.graph(), tray.device, tray.id)?;
    Ok(drive.eject(&called, tray.force.unwrap_or(false))?)
}

qapi_struct! {
    /// A drive.
    pub(in crate::qmp) struct DriveName {
        "device" device: Option<String>,
        "id" id: Option<String>,
    }
}

pub(in crate::qmp) fn blockdev_close_tray(
    call: &Call<'_>,
    DriveName { device, id }: DriveName,
) -> Result<(), QmpError> {
    let (called, drive) = drive(call.target.vm.graph(), device, id)?;
    Ok(drive.close_tray(&called)?)
}

qapi_struct! {
    /// A device.
    pub(in crate::qmp) struct DeviceId { "id" id: String }
}

pub(in crate::qmp) fn blockdev_remove_medium(
    call: &Call<'_>,
    DeviceId { id }: DeviceId,
) -> Result<(), QmpError> {
    let (called, drive) = drive(call.target.vm.graph(), None, Some(id))?;
    Ok(drive.remove_medium(&called)?)
}

qapi_struct! {
    /// A device, and the node to be its medium.
    pub(in crate::qmp) struct Insertion { "id" id: String, "node-name" node_name: String }
}

pub(in crate::qmp) fn blockdev_insert_medium(
    call: &Call<'_>,
    Insertion { id, node_name }: Insertion,
) -> Result<(), QmpError> {
    let graph = call.target.vm.graph();
    let (called, drive) = drive(graph, None, Some(id))?;
    let missing = || QmpError::new(format!("Node '{node_name}' not found"));
    let node = graph.node(&node_name).ok_or_else(missing)?;
    if !graph.users(&node).is_empty() {
        return Err(QmpError::new(format!("Node '{node_name}' is already in use")));
    }
    Ok(drive.insert_medium(&called, node)?)
}

/// Whether a new medium can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadOnlyMode {
    /// As the old one.
    Retain,
    /// It can not.
    ReadOnly,
    /// It can.
    ReadWrite,
}

impl ReadOnlyMode {
    pub(crate) const ALL: &[Self] = &[Self::Retain, Self::ReadOnly, Self::ReadWrite];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Retain => "retain",
            Self::ReadOnly => "read-only",
            Self::ReadWrite => "read-write",
        }
    }

    pub(crate) fn read_only(self) -> Option<bool> {
        match self {
            Self::Retain => None,
            Self::ReadOnly => Some(true),
            Self::ReadWrite => Some(false),
        }
    }
}

qapi_words!(ReadOnlyMode, ReadOnlyMode::ALL, ReadOnlyMode::name);

qapi_struct! {
    /// A drive, and the image to be its medium.
    pub(in crate::qmp) struct Change {
        "device" device: Option<String>,
        "id" id: Option<String>,
        "filename" filename: String,
        "format" format: Option<String>,
        "force" force: Option<bool>,
        "read-only-mode" read_only_mode: Option<ReadOnlyMode>,
    }
}

pub(in crate::qmp) fn blockdev_change_medium(
    call: &Call<'_>,
    change: Change,
) -> Result<(), QmpError> {
    let graph = call.target.vm.graph();
    let (called, drive) = drive(graph, change.device, change.id)?;
    let read_only = change.read_only_mode.and_then(ReadOnlyMode::read_only);
    let image = (change.filename.as_str(), change.format.as_deref());
    let force = change.force.unwrap_or(false);
    let warnings = graph.change_medium(&drive, &called, image, read_only, force)?;
    warnings.iter().for_each(|warning| eprintln!("{warning}"));
    Ok(())
}

/// The node of a drive or of a name.
pub(super) fn node(
    graph: &Graph,
    device: Option<&str>,
    name: Option<&str>,
) -> Result<Arc<Node>, QmpError> {
    let by_device = device.and_then(|device| graph.backend(device));
    let found = match &by_device {
        Some(drive) => drive.node(),
        None => name.or(device).and_then(|name| graph.node(name)),
    };
    let missing = || match by_device {
        Some(_) => format!("Device '{}' has no medium", device.unwrap_or_default()),
        None => format!(
            "Cannot find device='{}' nor node-name='{}'",
            device.unwrap_or_default(),
            name.unwrap_or_default()
        ),
    };
    found.ok_or_else(|| QmpError::new(missing()))
}

qapi_struct! {
    /// A disk, and the length it is to have.
    pub(in crate::qmp) struct Resize {
        "device" device: Option<String>,
        "node-name" node_name: Option<String>,
        "size" size: i64,
    }
}

pub(in crate::qmp) fn block_resize(call: &Call<'_>, resize: Resize) -> Result<(), QmpError> {
    let graph = call.target.vm.graph();
    let node = node(graph, resize.device.as_deref(), resize.node_name.as_deref())?;
    let size = u64::try_from(resize.size);
    let size = size.map_err(|_| QmpError::new("Parameter 'size' expects a >0 size"))?;
    Ok(graph.resize(&node, size)?)
}

/// Whether the file of an overlay is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::qmp) enum ImageMode {
    Existing,
    AbsolutePaths,
}

const IMAGE_MODES: &[ImageMode] = &[ImageMode::Existing, ImageMode::AbsolutePaths];
qapi_words!(ImageMode, IMAGE_MODES, |mode| match mode {
    ImageMode::Existing => "existing",
    ImageMode::AbsolutePaths => "absolute-paths",
});

qapi_struct! {
    /// A disk, and the overlay it is to get.
    pub(in crate::qmp) struct SnapshotSync {
        "device" device: Option<String>,
        "node-name" node_name: Option<String>,
        "snapshot-file" snapshot_file: String,
        "snapshot-node-name" snapshot_node_name: Option<String>,
        "format" format: Option<String>,
        "mode" mode: Option<ImageMode>,
    }
}

qapi_struct! {
    /// A node, and the offset that its writes stay below.
    pub(in crate::qmp) struct WriteThreshold {
        "node-name" node_name: String,
        "write-threshold" write_threshold: u64,
    }
}

pub(in crate::qmp) fn block_set_write_threshold(
    call: &Call<'_>,
    WriteThreshold { node_name, write_threshold }: WriteThreshold,
) -> Result<(), QmpError> {
    let graph = call.target.vm.graph();
    let node = graph
        .node(&node_name)
        .ok_or_else(|| QmpError::new(format!("Device '{node_name}' not found")))?;
    node.set_write_threshold(write_threshold, graph.events());
    Ok(())
}
