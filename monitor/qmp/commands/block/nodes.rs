//! Nodes that the operator makes.

use block::schema::{self, Form, Key, Kind};
use serde_json::{Map, Value};

use crate::qapi::{Member, Members, Qapi, QmpError, Type};
use crate::qapi_struct;
use crate::qmp::Call;

/// The options of a node, of any driver.
pub(in crate::qmp) struct BlockdevOptions(Map<String, Value>);

const OPTIONS: &str = "BlockdevOptions";

pub(super) fn member(key: &Key) -> Member {
    let text = String::ty;
    let node = |name, more: &[Type]| Type::Alternate {
        name,
        members: [Type::Known(OPTIONS), text()].into_iter().chain(more.to_vec()).collect(),
    };
    let object =
        |keys: &[Key]| Type::Object { name: key.name, members: keys.iter().map(member).collect() };
    // Members of one name may hold different words in different drivers.
    let words = |words: &[&'static str]| Type::Enum { name: words[0], values: words.to_vec() };
    let ty = match key.kind {
        Kind::Text => text(),
        Kind::Bool => bool::ty(),
        Kind::Int => i64::ty(),
        Kind::Size => Type::Builtin("size", "int"),
        Kind::Word(list) => words(list),
        Kind::Node => node("BlockdevRef", &[]),
        Kind::NodeOrNull => node("BlockdevRefOrNull", &[Type::Builtin("null", "null")]),
        Kind::Object(keys) => object(keys),
        Kind::Objects(keys) => Type::Array(Box::new(object(keys))),
        Kind::Nodes => Type::Array(Box::new(node("BlockdevRef", &[]))),
        Kind::Words(list) => Type::Array(Box::new(words(list))),
        Kind::WordOrObject(list, keys) => {
            Type::Alternate { name: "Qcow2OverlapChecks", members: vec![object(keys), words(list)] }
        }
    };
    Member { name: key.name, ty, optional: key.optional }
}

impl Qapi for BlockdevOptions {
    fn ty() -> Type {
        let drivers = schema::drivers();
        let names = Type::Enum {
            name: "BlockdevDriver",
            values: drivers.iter().map(|(name, _)| *name).collect(),
        };
        let tag = Member { name: "driver", ty: names, optional: false };
        let own = |&(name, keys): &(&'static str, &'static [Key])| {
            (name, Type::Object { name, members: keys.iter().map(member).collect() })
        };
        Type::Union {
            name: OPTIONS,
            members: [tag].into_iter().chain(schema::COMMON.iter().map(member)).collect(),
            tag: "driver",
            variants: drivers.iter().map(own).collect(),
        }
    }

    fn read(value: Value, name: &str) -> Result<Self, QmpError> {
        let mut options = Members::of(value, name)?.rest();
        let prefix = if name.is_empty() { String::new() } else { format!("{name}.") };
        schema::check_below(&mut options, Form::Json, &prefix)?;
        Ok(BlockdevOptions(options))
    }

    fn write(self) -> Option<Value> {
        Some(self.0.into())
    }
}

pub(in crate::qmp) fn blockdev_add(
    call: &Call<'_>,
    BlockdevOptions(options): BlockdevOptions,
) -> Result<(), QmpError> {
    call.target.vm.graph().add_node(&options, Form::Json)?;
    Ok(())
}

qapi_struct! {
    /// A node.
    pub(in crate::qmp) struct NodeName { "node-name" node_name: String }
}

pub(in crate::qmp) fn blockdev_del(
    call: &Call<'_>,
    NodeName { node_name }: NodeName,
) -> Result<(), QmpError> {
    Ok(call.target.vm.graph().remove_node(&node_name)?)
}

qapi_struct! {
    /// The nodes to be treated in another manner.
    pub(in crate::qmp) struct Reopen { "options" options: Vec<BlockdevOptions> }
}

impl Clone for BlockdevOptions {
    fn clone(&self) -> Self {
        BlockdevOptions(self.0.clone())
    }
}

impl std::fmt::Debug for BlockdevOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl PartialEq for BlockdevOptions {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

pub(in crate::qmp) fn blockdev_reopen(
    call: &Call<'_>,
    Reopen { options }: Reopen,
) -> Result<(), QmpError> {
    let trees = options.into_iter().map(|BlockdevOptions(tree)| tree).collect();
    Ok(call.target.vm.graph().reopen(trees)?)
}
