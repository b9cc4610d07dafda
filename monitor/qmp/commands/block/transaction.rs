//! Changes of several disks at one moment.

use block::media::Snapshot;

use super::bitmaps::{self, BlockDirtyBitmap, BlockDirtyBitmapAdd, BlockDirtyBitmapMerge, Undo};
use super::device::{ImageMode, SnapshotSync, node};
use super::internal::{self, BlockdevSnapshotInternal};
use crate::qapi::{Qapi, QmpError};
use crate::qmp::Call;
use crate::{qapi_choice, qapi_struct, qapi_words};

qapi_struct! {
    /// A disk, and the node that its writes are to go to.
    pub(in crate::qmp) struct SnapshotTo {
        "node" node: String,
        "overlay" overlay: String,
    }
}

qapi_choice! {
    /// A change.
    pub(in crate::qmp) enum TransactionAction {
        /// It fails.
        "abort" Abort(()),
        "block-dirty-bitmap-add" BitmapAdd(BlockDirtyBitmapAdd),
        "block-dirty-bitmap-clear" BitmapClear(BlockDirtyBitmap),
        "block-dirty-bitmap-disable" BitmapDisable(BlockDirtyBitmap),
        "block-dirty-bitmap-enable" BitmapEnable(BlockDirtyBitmap),
        "block-dirty-bitmap-merge" BitmapMerge(BlockDirtyBitmapMerge),
        "block-dirty-bitmap-remove" BitmapRemove(BlockDirtyBitmap),
        "blockdev-snapshot" Snapshot(SnapshotTo),
        "blockdev-snapshot-internal-sync" SnapshotInternal(BlockdevSnapshotInternal),
        "blockdev-snapshot-sync" SnapshotSync(SnapshotSync),
    }
}

pub(super) use TransactionAction as Action;

/// What the failure of a job means for the others of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::qmp) enum Completion {
    Individual,
    Grouped,
}

const COMPLETIONS: &[Completion] = &[Completion::Individual, Completion::Grouped];
qapi_words!(Completion, COMPLETIONS, |mode| match mode {
    Completion::Individual => "individual",
    Completion::Grouped => "grouped",
});

qapi_struct! {
    /// How a transaction ends.
    pub(in crate::qmp) struct Properties { "completion-mode" completion: Option<Completion> }
}

qapi_struct! {
    /// Changes, all of them or none.
    pub(in crate::qmp) struct Transaction {
        "actions" actions: Vec<TransactionAction>,
        "properties" properties: Option<Properties>,
    }
}

/// A change that has been prepared, and what ends it. What no undo tells is taken back by dropping it.
struct Step {
    commit: Option<Box<dyn FnOnce() -> Result<(), QmpError>>>,
    undo: Option<Undo>,
}

impl Step {
    /// It is done; so far.
    fn done(undo: Undo) -> Self {
        Self { commit: None, undo: Some(undo) }
    }

    /// It is done when nothing can fail any more.
    fn later(commit: impl FnOnce() -> Result<(), QmpError> + 'static) -> Self {
        Self { commit: Some(Box::new(commit)), undo: None }
    }
}

/// Prepares a change.
fn prepare(call: &Call<'_>, action: &Action) -> Result<Step, QmpError> {
    let vm = call.target.vm.clone();
    let graph = vm.graph();
    let draft = match action {
        Action::Abort(()) => {
            return Err(QmpError::new("Transaction aborted using Abort action"));
        }
        Action::BitmapAdd(new) => return bitmaps::add(graph, new).map(Step::done),
        Action::BitmapClear(which) => return bitmaps::clear(graph, which).map(Step::done),
        Action::BitmapDisable(which) => {
            return bitmaps::enable(graph, which, false).map(Step::done);
        }
        Action::BitmapEnable(which) => return bitmaps::enable(graph, which, true).map(Step::done),
        Action::BitmapMerge(which) => return bitmaps::merge(graph, which).map(Step::done),
        Action::BitmapRemove(which) => return bitmaps::removal(graph, which).map(Step::later),
        Action::SnapshotInternal(which) => return internal::keep(call, which).map(Step::done),
        Action::Snapshot(SnapshotTo { node: name, overlay }) => {
            let top = node(graph, Some(name), Some(name))?;
            let overlay = node(graph, Some(overlay), Some(overlay))?;
            graph.draft_snapshot_to(&top, &overlay)?
        }
        Action::SnapshotSync(snapshot) => {
            let top = node(graph, snapshot.device.as_deref(), snapshot.node_name.as_deref())?;
            if let Some(format) = snapshot.format.as_deref().filter(|format| *format != "qcow2") {
                return Err(QmpError::new(format!("Unknown file format '{format}'")));
            }
            let overlay = Snapshot {
                file: &snapshot.snapshot_file,
                node_name: snapshot.snapshot_node_name.as_deref(),
                create: snapshot.mode != Some(ImageMode::Existing),
                announce: &|text| print!("{text}"),
            };
            graph.draft_snapshot(&top, &overlay)?
        }
    };
    let vm = vm.clone();
    Ok(Step::later(move || Ok(vm.graph().finish_snapshot(draft)?)))
}

/// Makes all changes, or none.
pub(super) fn run(call: &Call<'_>, actions: &[Action]) -> Result<(), QmpError> {
    let mut steps = Vec::new();
    for action in actions {
        match prepare(call, action) {
            Ok(step) => steps.push(step),
            Err(error) => {
                let undone = steps.into_iter().rev().filter_map(|step: Step| step.undo);
                undone.for_each(|undo| undo());
                return Err(error);
            }
        }
    }
    steps.into_iter().filter_map(|step| step.commit).try_for_each(|commit| commit())
}

pub(in crate::qmp) fn transaction(
    call: &Call<'_>,
    Transaction { actions, properties }: Transaction,
) -> Result<(), QmpError> {
    let mode = properties.and_then(|properties| properties.completion);
    if let (Some(Completion::Grouped), Some(first)) = (mode, actions.first()) {
        let kind = first.clone().write().unwrap_or_default();
        return Err(QmpError::new(format!(
            "Action '{}' does not support transaction property completion-mode = grouped",
            kind["type"].as_str().unwrap_or_default()
        )));
    }
    run(call, &actions)
}

pub(in crate::qmp) fn blockdev_snapshot(
    call: &Call<'_>,
    snapshot: SnapshotTo,
) -> Result<(), QmpError> {
    run(call, &[Action::Snapshot(snapshot)])
}

pub(in crate::qmp) fn blockdev_snapshot_sync(
    call: &Call<'_>,
    snapshot: SnapshotSync,
) -> Result<(), QmpError> {
    run(call, &[Action::SnapshotSync(snapshot)])
}
