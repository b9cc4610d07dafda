//! Snapshots inside images.

use std::time::{SystemTime, UNIX_EPOCH};

use block::driver::SnapshotTime;

use super::bitmaps::Undo;
use super::device::node as find;
use super::transaction::{Action, run};
use crate::qapi::{Qapi, QmpError};
use crate::qapi_struct;
use crate::qmp::Call;

qapi_struct! {
    /// A disk, and the name of a snapshot.
    pub(in crate::qmp) struct BlockdevSnapshotInternal {
        "device" device: String,
        "name" name: String,
    }
}

qapi_struct! {
    /// A snapshot of a disk, by what is known of it.
    pub(in crate::qmp) struct KnownSnapshot {
        "device" device: String,
        "id" id: Option<String>,
        "name" name: Option<String>,
    }
}

qapi_struct! {
    /// A snapshot.
    pub(in crate::qmp) struct SnapshotInfo {
        "id" id: String,
        "name" name: String,
        "vm-state-size" vm_state_size: u64,
        "date-sec" date_sec: u64,
        "date-nsec" date_nsec: u64,
        "vm-clock-sec" vm_clock_sec: u64,
        "vm-clock-nsec" vm_clock_nsec: u64,
        "icount" icount: Option<u64>,
    }
}

/// Keeps a disk as it is now.
pub(super) fn keep(call: &Call<'_>, wanted: &BlockdevSnapshotInternal) -> Result<Undo, QmpError> {
    let (vm, device) = (call.target.vm.clone(), wanted.device.clone());
    let node = find(vm.graph(), Some(&device), Some(&device))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = SnapshotTime {
        seconds: now.as_secs(),
        nanoseconds: now.subsec_nanos(),
        vm_clock: u64::try_from(vm.clocks().now_virtual()).unwrap_or(0),
        icount: None,
    };
    vm.graph().keep(&node, &device, &wanted.name, time)?;
    let name = wanted.name.clone();
    Ok(Box::new(move || {
        if let Err(error) = vm.graph().forget_kept(&node, &device, None, Some(&name)) {
            base::error_report!("Failed to delete snapshot '{name}': {error}");
        }
    }))
}

pub(in crate::qmp) fn blockdev_snapshot_internal_sync(
    call: &Call<'_>,
    snapshot: BlockdevSnapshotInternal,
) -> Result<(), QmpError> {
    run(call, &[Action::SnapshotInternal(snapshot)])
}

pub(in crate::qmp) fn blockdev_snapshot_delete_internal_sync(
    call: &Call<'_>,
    KnownSnapshot { device, id, name }: KnownSnapshot,
) -> Result<SnapshotInfo, QmpError> {
    let graph = call.target.vm.graph();
    let node = find(graph, Some(&device), Some(&device))?;
    let gone = graph.forget_kept(&node, &device, id.as_deref(), name.as_deref())?;
    SnapshotInfo::read(block::info::snapshot(&gone), "snapshot")
}
