//! Networks and network cards: `-netdev`, `-nic`, `-net`.

use base::options::OptionError;
use base::props::MacAddr;
use net::NetError;
use net::netdev::NetdevSpec;
use serde_json::{Map, Value};

use super::{ConfigError, Located, Origin};

/// What is said about networks and cards.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkConfig {
    /// `-netdev`, in order.
    pub netdevs: Vec<Located<NetdevConfig>>,
    /// `-nic`, in order.
    pub nics: Vec<Located<NicConfig>>,
    /// `-net`, in order: what is connected to the hub.
    pub legacy: Vec<Located<LegacyNet>>,
    /// Something was said, so that nothing is there by default.
    pub given: bool,
}

/// A back end.
#[derive(Clone, Debug, PartialEq)]
pub enum NetdevConfig {
    /// As typed: keys and values, or JSON.
    Argument(String),
    /// Keys and values, less those of the card.
    Keys(Map<String, Value>),
}

impl NetdevConfig {
    /// The back end to be made.
    pub fn spec(&self) -> Result<NetdevSpec, NetError> {
        match self {
            NetdevConfig::Argument(text) => NetdevSpec::parse(text),
            NetdevConfig::Keys(tree) => NetdevSpec::from_tree(tree),
        }
    }
}

/// A card that the board has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NicConfig {
    /// Its type, if not the board's own.
    pub model: Option<String>,
    /// Its address, if one was given.
    pub mac: Option<MacAddr>,
    /// How many MSI-X vectors it has.
    pub vectors: Option<u32>,
    /// What it is called.
    pub id: Option<String>,
    /// The network that it is connected to: by its id, or one of its own.
    pub network: Option<NicNetwork>,
}

/// What a card is connected to.
#[derive(Clone, Debug, PartialEq)]
pub enum NicNetwork {
    /// A network with a name.
    Named(String),
    /// A network that is made for it; without an id it gets one.
    Own(Map<String, Value>),
}

/// Something at the hub.
#[derive(Clone, Debug, PartialEq)]
pub enum LegacyNet {
    /// A card.
    Nic(NicConfig),
    /// A back end; without an id it gets one.
    Netdev(Map<String, Value>),
}

impl NetworkConfig {
    /// Adds a back end, unless there is one of its id.
    pub fn add_netdev(&mut self, netdev: NetdevConfig, origin: &Origin) -> Result<(), ConfigError> {
        let fault = |error: &dyn ToString| ConfigError::at(origin, error.to_string());
        let spec = netdev.spec().map_err(|error| fault(&error))?;
        let same = |other: &Located<NetdevConfig>| {
            other.value.spec().is_ok_and(|other| other.id == spec.id)
        };
        if self.netdevs.iter().any(same) {
            return Err(fault(&OptionError::DuplicateId { id: spec.id, group: "netdev".into() }));
        }
        self.netdevs.push(Located::new(netdev, origin));
        self.given = true;
        Ok(())
    }
}
