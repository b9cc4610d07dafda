//! Commands about disks.

mod bitmaps;
mod create;
pub(crate) mod device;
mod internal;
mod nodes;
pub(crate) mod query;
mod throttle;
mod transaction;

use std::sync::Arc;

use block::backend::Backend;
use block::graph::Graph;

use crate::qapi::{ErrorClass, QmpError};

pub(in crate::qmp) use bitmaps::{
    block_dirty_bitmap_add, block_dirty_bitmap_clear, block_dirty_bitmap_disable,
    block_dirty_bitmap_enable, block_dirty_bitmap_merge, block_dirty_bitmap_remove,
    block_dirty_bitmap_sha256,
};
pub(in crate::qmp) use create::{blockdev_create, job_dismiss, query_block_jobs, query_jobs};
pub(in crate::qmp) use device::{
    block_resize, block_set_write_threshold, blockdev_change_medium, blockdev_close_tray,
    blockdev_insert_medium, blockdev_open_tray, blockdev_remove_medium, eject,
};
pub(in crate::qmp) use internal::{
    blockdev_snapshot_delete_internal_sync, blockdev_snapshot_internal_sync,
};
pub(in crate::qmp) use nodes::{blockdev_add, blockdev_del, blockdev_reopen};
pub(in crate::qmp) use query::{query_block, query_blockstats, query_named_block_nodes};
pub(in crate::qmp) use throttle::block_set_io_throttle;
pub(in crate::qmp) use transaction::{blockdev_snapshot, blockdev_snapshot_sync, transaction};

impl From<block::Error> for QmpError {
    fn from(error: block::Error) -> Self {
        QmpError::new(error.to_string())
    }
}

/// What the operator calls a drive, and the drive.
pub(crate) type Found = (String, Arc<Backend>);

fn not_found(name: &str) -> QmpError {
    QmpError::of(ErrorClass::DeviceNotFound, format!("Device '{name}' not found"))
}

/// The drive of a name, or that of a device's id or path; exactly one is given.
pub(crate) fn drive(
    graph: &Graph,
    device: Option<String>,
    id: Option<String>,
) -> Result<Found, QmpError> {
    match (device, id) {
        (Some(name), None) => {
            let found = graph.backend(&name).ok_or_else(|| not_found(&name))?;
            Ok((name, found))
        }
        (None, Some(id)) => {
            let found = graph.drive_of_device(&id).ok_or_else(|| not_found(&id))?;
            Ok((id, found))
        }
        _ => Err(QmpError::new("Need exactly one of 'device' and 'id'")),
    }
}
