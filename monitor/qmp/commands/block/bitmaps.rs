//! Dirty bitmaps.

use std::sync::Arc;

use block::driver::BitmapChange;
use block::graph::Graph;
use block::node::Node;
use serde_json::Value;

use super::device::node as find;
use super::transaction::{Action, run};
use crate::qapi::{Qapi, QmpError, Type};
use crate::qapi_struct;
use crate::qmp::Call;

qapi_struct! {
    /// A bitmap of a node.
    pub(in crate::qmp) struct BlockDirtyBitmap {
        "node" node: String,
        "name" name: String,
    }
}

qapi_struct! {
    /// A new bitmap.
    pub(in crate::qmp) struct BlockDirtyBitmapAdd {
        "node" node: String,
        "name" name: String,
        "granularity" granularity: Option<Granularity>,
        "persistent" persistent: Option<bool>,
        "disabled" disabled: Option<bool>,
    }
}

/// Bytes that a bit stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::qmp) struct Granularity(u32);

impl Qapi for Granularity {
    fn ty() -> Type {
        u64::ty()
    }

    fn read(value: Value, name: &str) -> Result<Self, QmpError> {
        let number = i64::read(value, name)?;
        let fault = |_| QmpError::new(format!("Parameter '{name}' expects uint32_t"));
        Ok(Self(u32::try_from(number).map_err(fault)?))
    }

    fn write(self) -> Option<Value> {
        Some(self.0.into())
    }
}

/// A bitmap of the same node, or of another.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::qmp) enum BlockDirtyBitmapOrStr {
    Local(String),
    External(BlockDirtyBitmap),
}

impl Qapi for BlockDirtyBitmapOrStr {
    fn ty() -> Type {
        Type::Alternate {
            name: "BlockDirtyBitmapOrStr",
            members: vec![String::ty(), BlockDirtyBitmap::ty()],
        }
    }

    fn read(value: Value, name: &str) -> Result<Self, QmpError> {
        match value {
            Value::String(local) => Ok(Self::Local(local)),
            Value::Object(_) => Ok(Self::External(BlockDirtyBitmap::read(value, name)?)),
            _ => Err(QmpError::wrong_type(name, "BlockDirtyBitmapOrStr")),
        }
    }

    fn write(self) -> Option<Value> {
        match self {
            Self::Local(name) => name.write(),
            Self::External(bitmap) => bitmap.write(),
        }
    }
}

qapi_struct! {
    /// A bitmap, and those whose bits it is to get.
    pub(in crate::qmp) struct BlockDirtyBitmapMerge {
        "node" node: String,
        "target" target: String,
        "bitmaps" bitmaps: Vec<BlockDirtyBitmapOrStr>,
    }
}

qapi_struct! {
    /// The digest of a bitmap.
    pub(in crate::qmp) struct BlockDirtyBitmapSha256 { "sha256" sha256: String }
}

/// How a change of a bitmap is taken back.
pub(super) type Undo = Box<dyn FnOnce()>;

fn of_name(graph: &Graph, name: &str) -> Result<Arc<Node>, QmpError> {
    find(graph, Some(name), Some(name))
}

fn take_back(node: Arc<Node>, name: String, changes: Vec<BitmapChange>) -> Undo {
    Box::new(move || {
        for change in changes {
            // It was like this before.
            let _ = node.change_dirty_bitmap(&name, change);
        }
    })
}

pub(super) fn add(graph: &Graph, new: &BlockDirtyBitmapAdd) -> Result<Undo, QmpError> {
    let node = of_name(graph, &new.node)?;
    let granularity = new.granularity.map(|Granularity(size)| u64::from(size));
    let enabled = !new.disabled.unwrap_or(false);
    node.add_dirty_bitmap(&new.name, granularity, enabled, new.persistent.unwrap_or(false))?;
    Ok(take_back(node, new.name.clone(), vec![BitmapChange::Remove]))
}

pub(super) fn clear(graph: &Graph, bitmap: &BlockDirtyBitmap) -> Result<Undo, QmpError> {
    let node = of_name(graph, &bitmap.node)?;
    let before = node.dirty_ranges(&bitmap.name)?;
    node.change_dirty_bitmap(&bitmap.name, BitmapChange::Clear)?;
    Ok(take_back(node, bitmap.name.clone(), vec![BitmapChange::Merge(before)]))
}

pub(super) fn enable(graph: &Graph, bitmap: &BlockDirtyBitmap, on: bool) -> Result<Undo, QmpError> {
    let node = of_name(graph, &bitmap.node)?;
    let before = node.dirty_bitmap(&bitmap.name)?.info.enabled;
    node.change_dirty_bitmap(&bitmap.name, BitmapChange::Enable(on))?;
    Ok(take_back(node, bitmap.name.clone(), vec![BitmapChange::Enable(before)]))
}

pub(super) fn merge(graph: &Graph, merge: &BlockDirtyBitmapMerge) -> Result<Undo, QmpError> {
    let node = of_name(graph, &merge.node)?;
    let before = node.dirty_ranges(&merge.target)?;
    let changes = vec![BitmapChange::Clear, BitmapChange::Merge(before)];
    let undo = take_back(node.clone(), merge.target.clone(), changes);
    let add = |source: &BlockDirtyBitmapOrStr| {
        let (from, name) = match source {
            BlockDirtyBitmapOrStr::Local(name) => (node.clone(), name),
            BlockDirtyBitmapOrStr::External(other) => (of_name(graph, &other.node)?, &other.name),
        };
        Ok(node.merge_dirty_bitmap(&merge.target, &from, name)?)
    };
    match merge.bitmaps.iter().try_for_each(add) {
        Ok(()) => Ok(undo),
        Err(error) => {
            undo();
            Err(error)
        }
    }
}

/// The bitmap must be there; it is removed when nothing can fail any more.
pub(super) fn removal(
    graph: &Graph,
    bitmap: &BlockDirtyBitmap,
) -> Result<impl FnOnce() -> Result<(), QmpError> + use<>, QmpError> {
    let node = of_name(graph, &bitmap.node)?;
    let name = bitmap.name.clone();
    node.dirty_bitmap(&name)?;
    Ok(move || Ok(node.change_dirty_bitmap(&name, BitmapChange::Remove)?))
}

macro_rules! commands {
    ($($name:ident($argument:ty) => $action:ident;)*) => {$(
        pub(in crate::qmp) fn $name(call: &Call<'_>, argument: $argument) -> Result<(), QmpError> {
            run(call, &[Action::$action(argument)])
        }
    )*};
}

commands! {
    block_dirty_bitmap_add(BlockDirtyBitmapAdd) => BitmapAdd;
    block_dirty_bitmap_remove(BlockDirtyBitmap) => BitmapRemove;
    block_dirty_bitmap_clear(BlockDirtyBitmap) => BitmapClear;
    block_dirty_bitmap_enable(BlockDirtyBitmap) => BitmapEnable;
    block_dirty_bitmap_disable(BlockDirtyBitmap) => BitmapDisable;
    block_dirty_bitmap_merge(BlockDirtyBitmapMerge) => BitmapMerge;
}

pub(in crate::qmp) fn block_dirty_bitmap_sha256(
    call: &Call<'_>,
    BlockDirtyBitmap { node, name }: BlockDirtyBitmap,
) -> Result<BlockDirtyBitmapSha256, QmpError> {
    let sha256 = of_name(call.target.vm.graph(), &node)?.dirty_bitmap_sha256(&name)?;
    Ok(BlockDirtyBitmapSha256 { sha256 })
}
