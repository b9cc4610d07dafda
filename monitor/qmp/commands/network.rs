//! Commands about networks and network cards.

use std::os::fd::{AsRawFd, OwnedFd};

use hw::net::card::{RxFilter, RxMode};
use machine::networks::Announcement;
use net::NetError;
use net::netdev::{self, NetdevSpec};
use net::options::{Key, Kind};
use serde_json::{Map, Value};

use super::objects::ObjectId;
use super::vnc::FlatAddress;
use crate::qapi::{ErrorClass, Member, Members, Qapi, QmpError, Type};
use crate::qmp::Call;
use crate::{qapi_struct, qapi_words};

impl From<NetError> for QmpError {
    fn from(error: NetError) -> Self {
        let class = match error {
            NetError::NotFound(_) => ErrorClass::DeviceNotFound,
            _ => ErrorClass::GenericError,
        };
        QmpError::of(class, error.to_string())
    }
}

/// A network to be made: its type, its id, and what its type takes.
pub(in crate::qmp) struct Netdev(Map<String, Value>);

impl Qapi for Netdev {
    fn ty() -> Type {
        let names: Vec<_> = netdev::KINDS.iter().map(|kind| kind.name).collect();
        let kinds = Type::Enum { name: "NetClientDriver", values: names };
        let member = |name, ty| Member { name, ty, optional: false };
        let variants = netdev::KINDS.iter().map(|kind| (kind.name, object(kind.name, kind.keys)));
        Type::Union {
            name: "Netdev",
            members: vec![member("id", String::ty()), member("type", kinds)],
            tag: "type",
            variants: variants.collect(),
        }
    }

    fn read(value: Value, name: &str) -> Result<Self, QmpError> {
        Members::of(value, name).map(|members| Netdev(members.rest()))
    }

    fn write(self) -> Option<Value> {
        Some(self.0.into())
    }
}

/// What the schema says of a kind's keys.
fn object(name: &'static str, keys: &'static [Key]) -> Type {
    let member = |key: &Key| Member { name: key.name, ty: key_type(key), optional: !key.required };
    Type::Object { name, members: keys.iter().map(member).collect() }
}

fn key_type(key: &Key) -> Type {
    match key.kind {
        Kind::Text => String::ty(),
        Kind::Bool => bool::ty(),
        Kind::Int => i64::ty(),
        Kind::Uint(16) => Type::Builtin("uint16", "int"),
        Kind::Uint(32) => Type::Builtin("uint32", "int"),
        Kind::Uint(_) => Type::Builtin("uint64", "int"),
        Kind::Size => Type::Builtin("size", "int"),
        Kind::Word(words) => Type::Enum { name: key.name, values: words.to_vec() },
        Kind::Texts => {
            let text = Member { name: "str", ty: String::ty(), optional: false };
            Type::Array(Box::new(Type::Object { name: "String", members: vec![text] }))
        }
        Kind::Object("SocketAddress", _) => FlatAddress::ty(),
        Kind::Object(name, keys) => object(name, keys),
    }
}

pub(in crate::qmp) fn netdev_add(call: &Call<'_>, options: Netdev) -> Result<(), QmpError> {
    let Netdev(mut options) = options;
    let passed = numbers_for_names(call, &mut options)?;
    let spec = NetdevSpec::from_json(&options)?;
    let added = call.target.vm.networks().add(&spec);
    // The network has copies now.
    drop(passed);
    Ok(added?)
}

/// Puts numbers in the place of the names under which the client passed descriptors, which are forgotten then;
/// returns the descriptors.
fn numbers_for_names(
    call: &Call<'_>,
    options: &mut Map<String, Value>,
) -> Result<Vec<OwnedFd>, QmpError> {
    let mut passed = Vec::new();
    let mut number = |name: &str| -> Result<String, QmpError> {
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(name.into());
        }
        let fd = call.session.fds.take(name)?;
        let number = fd.as_raw_fd().to_string();
        passed.push(fd);
        Ok(number)
    };
    for (key, value) in options.iter_mut() {
        match (key.as_str(), value) {
            ("fd" | "fds" | "vhostfd" | "vhostfds", Value::String(text)) => {
                let numbers: Result<Vec<_>, _> = text.split(':').map(&mut number).collect();
                *text = numbers?.join(":");
            }
            ("addr" | "local" | "remote", Value::Object(address))
                if address.get("type").is_some_and(|kind| kind == "fd") =>
            {
                if let Some(Value::String(text)) = address.get_mut("str") {
                    *text = number(text)?;
                }
            }
            _ => {}
        }
    }
    Ok(passed)
}

pub(in crate::qmp) fn netdev_del(
    call: &Call<'_>,
    ObjectId { id }: ObjectId,
) -> Result<(), QmpError> {
    Ok(call.target.vm.remove_network(&id)?)
}

qapi_struct! {
    /// A cable, and whether it is plugged in.
    pub(in crate::qmp) struct Link { "name" name: String, "up" up: bool }
}

pub(in crate::qmp) fn set_link(call: &Call<'_>, Link { name, up }: Link) -> Result<(), QmpError> {
    Ok(call.target.vm.networks().set_link(&name, up)?)
}

const RX_MODES: &[RxMode] = &[RxMode::Normal, RxMode::None, RxMode::All];
qapi_words!(RxMode, RX_MODES, |mode: RxMode| match mode {
    RxMode::Normal => "normal",
    RxMode::None => "none",
    RxMode::All => "all",
});

qapi_struct! {
    /// A card, perhaps.
    pub(in crate::qmp) struct CardName { "name" name: Option<String> }
}

qapi_struct! {
    /// What a card lets through.
    pub(in crate::qmp) struct RxFilterInfo {
        "name" name: String,
        "promiscuous" promiscuous: bool,
        "multicast" multicast: RxMode,
        "unicast" unicast: RxMode,
        "vlan" vlan: RxMode,
        "broadcast-allowed" broadcast_allowed: bool,
        "multicast-overflow" multicast_overflow: bool,
        "unicast-overflow" unicast_overflow: bool,
        "main-mac" main_mac: String,
        "vlan-table" vlan_table: Vec<i64>,
        "unicast-table" unicast_table: Vec<String>,
        "multicast-table" multicast_table: Vec<String>,
    }
}

pub(in crate::qmp) fn query_rx_filter(
    call: &Call<'_>,
    CardName { name }: CardName,
) -> Result<Vec<RxFilterInfo>, QmpError> {
    let filters = call.target.vm.networks().rx_filters(name.as_deref())?;
    let info = |(name, filter): (String, RxFilter)| RxFilterInfo {
        name,
        promiscuous: filter.promiscuous,
        multicast: filter.multicast,
        unicast: filter.unicast,
        vlan: filter.vlan,
        broadcast_allowed: filter.broadcast_allowed,
        multicast_overflow: filter.multicast_overflow,
        unicast_overflow: filter.unicast_overflow,
        main_mac: filter.main_mac.to_string(),
        vlan_table: filter.vlan_table.iter().map(|&id| id.into()).collect(),
        unicast_table: filter.unicast_table.iter().map(ToString::to_string).collect(),
        multicast_table: filter.multicast_table.iter().map(ToString::to_string).collect(),
    };
    Ok(filters.into_iter().map(info).collect())
}

qapi_struct! {
    /// How, and how often, cards tell the network where they are.
    pub(in crate::qmp) struct AnnounceParameters {
        "initial" initial: i64,
        "max" max: i64,
        "rounds" rounds: i64,
        "step" step: i64,
        "interfaces" interfaces: Option<Vec<String>>,
        "id" id: Option<String>,
    }
}

pub(in crate::qmp) fn announce_self(
    call: &Call<'_>,
    parameters: AnnounceParameters,
) -> Result<(), QmpError> {
    let AnnounceParameters { initial, max, rounds, step, interfaces, id } = parameters;
    let vm = &call.target.vm;
    let announcement = Announcement { initial, max, rounds, step, interfaces, id };
    vm.networks().announce_repeatedly(vm.clocks(), announcement);
    Ok(())
}
