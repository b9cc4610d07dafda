//! The kinds of back ends: a table, from which `-netdev`, `netdev_add` and the help come.

use std::sync::Arc;

use base::chardev::{Chardevs, SocketAddress};
use base::clock::Clocks;
use base::event_loop::LoopHandle;
use base::options::{OptionError, check_id, json};
use serde_json::{Map, Value};

use crate::options::{self, Key, Values};
use crate::{NetError, Netdev, Networks};

/// What back ends need from their surroundings.
#[derive(Clone)]
pub struct Context {
    /// The loop that serves them.
    pub handle: LoopHandle,
    /// The machine's clocks: what waits for the guest runs on the virtual one, which stands still
    /// while the guest does.
    pub clocks: Clocks,
    /// For back ends that talk to character devices.
    pub chardevs: Arc<Chardevs>,
    /// Who is told what happens to connections.
    pub events: NetEvents,
    /// All back ends, for those that connect others.
    pub networks: Arc<Networks>,
}

/// What happens to the connection of a back end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Named as QMP's events and their data are.
pub enum NetEvent {
    StreamConnected { netdev: String, address: SocketAddress },
    StreamDisconnected { netdev: String },
}

/// Takes events, on the loop that serves back ends.
#[derive(Clone)]
pub struct NetEvents(Arc<dyn Fn(NetEvent) + Send + Sync>);

impl NetEvents {
    /// Has `take` called for each event.
    pub fn new(take: impl Fn(NetEvent) + Send + Sync + 'static) -> Self {
        NetEvents(Arc::new(take))
    }

    /// Tells one.
    pub fn tell(&self, event: NetEvent) {
        (self.0)(event);
    }
}

/// A kind of back ends.
pub struct NetdevKind {
    /// The word in `type=`.
    pub name: &'static str,
    /// Its options besides `type` and `id`.
    pub keys: &'static [Key],
    /// Whether its keys may have dots in text, and every key needs its `=`.
    pub dotted: bool,
    /// Makes one of this id.
    pub make: fn(&Context, &str, &Values) -> Result<Netdev, NetError>,
}

/// All kinds, in the order of `-netdev help`.
pub const KINDS: &[&NetdevKind] = &[
    &crate::socket::KIND,
    &crate::stream::KIND,
    &crate::dgram::KIND,
    &crate::hub::KIND,
    &crate::tap::KIND,
    &crate::user::KIND,
    &crate::tap::BRIDGE,
];

/// Kinds that other builds of QEMU have, or that are no back ends.
const FOREIGN: [&str; 7] = ["none", "nic", "l2tpv3", "vde", "netmap", "vhost-user", "vhost-vdpa"];

/// Checks what was given against the keys of a kind.
type CheckValues = fn(&[Key], &Map<String, Value>) -> Result<Values, NetError>;

/// Whether there is a kind of this name.
pub fn exists(name: &str) -> bool {
    KINDS.iter().any(|kind| kind.name == name)
}

/// What `-netdev help` prints.
pub fn help_text() -> String {
    let mut text = String::from("Available netdev backend types:\n");
    for kind in KINDS {
        text.push_str(kind.name);
        text.push('\n');
    }
    text
}

/// Splits text into keys and values, as it suits the type that it names.
pub fn read_keys(text: &str) -> Result<Map<String, Value>, NetError> {
    let first = text.split(',').find_map(|piece| match piece.split_once('=') {
        Some(("type", word)) => Some(word),
        None => Some(piece),
        Some(_) => None,
    });
    let dotted = KINDS.iter().any(|kind| kind.dotted && Some(kind.name) == first);
    options::read_text(text, dotted)
}

/// A back end to be made: its options are well-formed.
#[derive(Clone)]
pub struct NetdevSpec {
    /// Its id.
    pub id: String,
    kind: &'static NetdevKind,
    values: Values,
}

impl NetdevSpec {
    /// From the argument of `-netdev`: `user,id=n0,restrict=on`, or JSON.
    pub fn parse(text: &str) -> Result<NetdevSpec, NetError> {
        if text.starts_with('{') {
            return match json::parse(text).map_err(|error| NetError::failed(error.to_string()))? {
                Value::Object(object) => Self::from_json(&object),
                _ => Err(NetError::failed("JSON object expected")),
            };
        }
        Self::from_tree(&read_keys(text)?)
    }

    /// From keys whose values are text, as [`options::read_text`] gives them (`-nic` adds and takes
    /// away some).
    pub fn from_tree(tree: &Map<String, Value>) -> Result<NetdevSpec, NetError> {
        Self::with(tree, |kind| match kind.dotted {
            true => Values::from_dotted,
            false => Values::from_text,
        })
    }

    /// As [`Self::from_tree`], with an id that was made up: it may have signs that no given id has.
    pub fn from_tree_as(tree: &Map<String, Value>, id: &str) -> Result<NetdevSpec, NetError> {
        let mut tree = tree.clone();
        tree.insert("id".into(), "made-up".into());
        Ok(NetdevSpec { id: id.into(), ..Self::from_tree(&tree)? })
    }

    /// From the arguments of `netdev_add`.
    pub fn from_json(object: &Map<String, Value>) -> Result<NetdevSpec, NetError> {
        Self::with(object, |_| Values::from_json)
    }

    fn with(
        given: &Map<String, Value>,
        check: impl FnOnce(&NetdevKind) -> CheckValues,
    ) -> Result<NetdevSpec, NetError> {
        let mut own = given.clone();
        let mut take = |name: &str| match own.remove(name) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(NetError::WrongType { name: name.into(), expected: "string" }),
            None => Err(OptionError::Missing(name.into()).into()),
        };
        let kind = take("type")?;
        let known = KINDS.iter().find(|known| known.name == kind).copied();
        let foreign = |kind: String| match FOREIGN.contains(&&*kind) {
            true => NetError::Failed(format!(
                "network backend '{kind}' is not compiled into this binary"
            )),
            false => NetError::NotAccepted { name: "type".into(), value: kind },
        };
        let kind = known.ok_or_else(|| foreign(kind))?;
        let id = take("id")?;
        check_id(&id)?;
        Ok(NetdevSpec { id, kind, values: check(kind)(kind.keys, &own)? })
    }

    /// The name of the type.
    pub fn kind(&self) -> &'static str {
        self.kind.name
    }

    /// Makes it.
    pub fn make(&self, context: &Context) -> Result<Netdev, NetError> {
        (self.kind.make)(context, &self.id, &self.values)
    }
}
