//! Changes of several disks at one moment.

use block::media::{Draft, Snapshot};
use serde_json::Value;

use super::device::{ImageMode, SnapshotSync, node};
use crate::qapi::{Members, Qapi, QmpError, Type};
use crate::qmp::Call;
use crate::{qapi_struct, qapi_words};

qapi_struct! {
    /// A disk, and the node that its writes are to go to.
    pub(in crate::qmp) struct SnapshotTo {
        "node" node: String,
        "overlay" overlay: String,
    }
}

/// A change.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::qmp) enum Action {
    /// It fails.
    Abort,
    Snapshot(SnapshotTo),
    SnapshotSync(SnapshotSync),
}

const KINDS: [&str; 3] = ["abort", "blockdev-snapshot", "blockdev-snapshot-sync"];

impl Qapi for Action {
    fn ty() -> Type {
        let data = |name, ty| {
            let member = crate::qapi::Member { name: "data", ty, optional: false };
            (name, Type::Object { name, members: vec![member] })
        };
        let kinds = Type::Enum { name: "TransactionActionKind", values: KINDS.to_vec() };
        Type::Union {
            name: "TransactionAction",
            members: vec![crate::qapi::Member { name: "type", ty: kinds, optional: false }],
            tag: "type",
            variants: vec![
                data(KINDS[0], <()>::ty()),
                data(KINDS[1], SnapshotTo::ty()),
                data(KINDS[2], SnapshotSync::ty()),
            ],
        }
    }

    fn read(value: Value, name: &str) -> Result<Self, QmpError> {
        let mut members = Members::of(value, name)?;
        let kind: String = members.take("type")?;
        let action = match kind.as_str() {
            "abort" => members.take("data").map(|()| Action::Abort)?,
            "blockdev-snapshot" => Action::Snapshot(members.take("data")?),
            "blockdev-snapshot-sync" => Action::SnapshotSync(members.take("data")?),
            _ => return Err(QmpError::not_accepted("type", &kind)),
        };
        members.finish()?;
        Ok(action)
    }

    fn write(self) -> Option<Value> {
        let (kind, data) = match self {
            Action::Abort => (KINDS[0], ().write()),
            Action::Snapshot(data) => (KINDS[1], data.write()),
            Action::SnapshotSync(data) => (KINDS[2], data.write()),
        };
        Some(serde_json::json!({"type": kind, "data": data}))
    }
}

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
        "actions" actions: Vec<Action>,
        "properties" properties: Option<Properties>,
    }
}

/// Prepares a change; what has been prepared is taken back when it is dropped.
fn prepare(call: &Call<'_>, action: &Action) -> Result<Draft, QmpError> {
    let graph = call.target.vm.graph();
    match action {
        Action::Abort => Err(QmpError::new("Transaction aborted using Abort action")),
        Action::Snapshot(SnapshotTo { node: name, overlay }) => {
            let top = node(graph, Some(name), Some(name))?;
            let overlay = node(graph, Some(overlay), Some(overlay))?;
            Ok(graph.draft_snapshot_to(&top, &overlay)?)
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
            Ok(graph.draft_snapshot(&top, &overlay)?)
        }
    }
}

fn run(call: &Call<'_>, actions: &[Action]) -> Result<(), QmpError> {
    let drafts = actions.iter().map(|action| prepare(call, action));
    let drafts = drafts.collect::<Result<Vec<_>, _>>()?;
    let graph = call.target.vm.graph();
    Ok(drafts.into_iter().try_for_each(|draft| graph.finish_snapshot(draft))?)
}

pub(in crate::qmp) fn transaction(
    call: &Call<'_>,
    Transaction { actions, properties }: Transaction,
) -> Result<(), QmpError> {
    let mode = properties.and_then(|properties| properties.completion);
    if let (Some(Completion::Grouped), Some(first)) = (mode, actions.first()) {
        let kind = match first {
            Action::Abort => KINDS[0],
            Action::Snapshot(_) => KINDS[1],
            Action::SnapshotSync(_) => KINDS[2],
        };
        return Err(QmpError::new(format!(
            "Action '{kind}' does not support transaction property completion-mode = grouped"
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
