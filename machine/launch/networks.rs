//! Networks, and the cards that a board has by itself: `-netdev`, `-nic`, `-net`, and what there is
//! when nothing is said.

use hw::registry::{self, BusKind, Category};
use serde_json::{Map, Value};

use super::{fault, place};
use crate::config::{
    ConfigError, DeviceConfig, LegacyNet, Located, MachineConfig, NetdevConfig, NetworkConfig,
    NicConfig, NicNetwork, Origin, PropList,
};
use crate::networks::{HostNetworks, HubPort};

/// The type of card that a PC has unless told otherwise, and a short name for another.
const USUAL_CARD: &str = "e1000";
const USUAL_NETWORK: &str = "user";
const ALIASES: [(&str, &str); 1] = [("virtio", "virtio-net-pci")];

/// A card that the board plugs.
pub(super) struct BoardCard {
    /// The device that it becomes.
    pub device: Located<DeviceConfig>,
    /// Whether it is at the hub.
    at_hub: bool,
}

/// What comes of the options.
pub(super) struct Cards {
    pub list: Vec<BoardCard>,
    hub: Vec<HubPort>,
    /// Cards of types that are none.
    unknown: Vec<String>,
    /// Nothing was said, so there is nothing to warn of.
    by_default: bool,
}

/// Numbers ids that are made up, which begin with a sign that no given id has.
#[derive(Default)]
struct Ids(u32);

impl Ids {
    fn next(&mut self) -> String {
        let n = self.0;
        self.0 += 1;
        // Two digits that nobody can rely on.
        format!("#net{n}{:02}", std::process::id() % 100)
    }
}

/// Makes the networks, and says which cards the board is to have.
pub(super) fn create(
    config: &MachineConfig,
    host: &HostNetworks,
    has_slots: bool,
) -> Result<Cards, ConfigError> {
    let by_default = !config.networks.given && !config.no_defaults && has_slots;
    let usual = NetworkConfig {
        legacy: [LegacyNet::Nic(NicConfig::default())]
            .into_iter()
            .chain(net::netdev::exists(USUAL_NETWORK).then(|| LegacyNet::Netdev(keys())))
            .map(|legacy| Located::new(legacy, &Origin::None))
            .collect(),
        ..NetworkConfig::default()
    };
    let networks = if by_default { &usual } else { &config.networks };
    let (list, hub, unknown) = (Vec::new(), Vec::new(), Vec::new());
    let mut cards = Cards { list, hub, unknown, by_default };
    let mut ids = Ids::default();
    for Located { value: netdev, origin } in &networks.netdevs {
        make(host, netdev, origin)?;
    }
    for Located { value: nic, origin } in &networks.nics {
        let netdev = match &nic.network {
            Some(NicNetwork::Own(tree)) => Some(own(host, tree, &mut ids, origin)?),
            Some(NicNetwork::Named(id)) => Some(id.clone()),
            None => None,
        };
        cards.add(nic, netdev, false, origin, has_slots);
    }
    cards.connect_hub(networks, host, &mut ids, has_slots)?;
    Ok(cards)
}

fn keys() -> Map<String, Value> {
    [("type".to_owned(), Value::from(USUAL_NETWORK))].into_iter().collect()
}

fn make(host: &HostNetworks, netdev: &NetdevConfig, origin: &Origin) -> Result<(), ConfigError> {
    let _place = place(origin);
    let made = netdev.spec().and_then(|spec| host.add(&spec));
    made.map_err(|error| match origin {
        Origin::None => fault(error),
        origin => ConfigError::at(origin, error.to_string()),
    })
}

/// Makes a network that belongs to one card; returns its id.
fn own(
    host: &HostNetworks,
    tree: &Map<String, Value>,
    ids: &mut Ids,
    origin: &Origin,
) -> Result<String, ConfigError> {
    let mut tree = tree.clone();
    let made_up = tree.get("id").is_none();
    let id = match tree.get("id").and_then(Value::as_str) {
        Some(id) => id.to_owned(),
        None => ids.next(),
    };
    tree.insert("id".into(), id.clone().into());
    match made_up {
        true => {
            let _place = place(origin);
            let spec = net::netdev::NetdevSpec::from_tree_as(&tree, &id);
            let made = spec.and_then(|spec| host.add(&spec));
            made.map_err(|error| ConfigError::at(origin, error.to_string()))?;
        }
        false => make(host, &NetdevConfig::Keys(tree), origin)?,
    }
    Ok(id)
}

/// A port of the hub of `-net`; that of a back end is connected to it.
fn hub_port(id: &str, backend: Option<&str>) -> NetdevConfig {
    let keys = [("type", "hubport"), ("id", id), ("hubid", "0")];
    let keys = keys.into_iter().chain(backend.map(|backend| ("netdev", backend)));
    NetdevConfig::Keys(keys.map(|(key, value)| (key.to_owned(), value.into())).collect())
}

impl Cards {
    /// Adds a card, if there is such a type.
    fn add(
        &mut self,
        nic: &NicConfig,
        netdev: Option<String>,
        at_hub: bool,
        origin: &Origin,
        has_slots: bool,
    ) {
        let model = nic.model.as_deref().unwrap_or(USUAL_CARD);
        let alias = ALIASES.iter().find(|(alias, _)| *alias == model);
        let model = alias.map_or(model, |(_, name)| name);
        let kind = registry::find(model).filter(|kind| {
            has_slots && kind.category == Category::Network && kind.bus == BusKind::Pci
        });
        let Some(kind) = kind else {
            let name = nic.id.as_deref().unwrap_or("anonymous");
            let model = nic.model.as_deref().unwrap_or("unspecified");
            return self.unknown.push(format!("({name}, model {model})"));
        };
        let mut props = Vec::new();
        let mut set = |name: &str, value: Option<String>| {
            let known = kind.specs().iter().any(|spec| spec.name == name);
            props.extend(value.filter(|_| known).map(|value| (name.to_owned(), value)));
        };
        set("netdev", netdev);
        set("mac", nic.mac.map(|mac| mac.to_string()));
        set("vectors", nic.vectors.map(|vectors| vectors.to_string()));
        let props = PropList::Text(props);
        let device = DeviceConfig { driver: kind.name.into(), id: None, bus: None, props };
        self.list.push(BoardCard { device: Located::new(device, origin), at_hub });
    }

    /// Connects what `-net` makes: one card to one back end directly, as a hub of two would, and more
    /// of them by the ports of a hub.
    fn connect_hub(
        &mut self,
        networks: &NetworkConfig,
        host: &HostNetworks,
        ids: &mut Ids,
        has_slots: bool,
    ) -> Result<(), ConfigError> {
        let at_hub = |net: &&Located<LegacyNet>| match &net.value {
            LegacyNet::Nic(nic) => nic.network.is_none(),
            LegacyNet::Netdev(_) => true,
        };
        let is_nic = |net: &&Located<LegacyNet>| matches!(net.value, LegacyNet::Nic(_));
        let members = networks.legacy.iter().filter(at_hub);
        let (nics, backends): (Vec<_>, Vec<_>) = members.partition(is_nic);
        let others = host.networks().list();
        let others = others.iter().filter(|other| net::hub_number(other) == Some(0)).count();
        let direct = nics.len() <= 1 && backends.len() <= 1 && others == 0;
        let mut direct_peer = None;
        for Located { value, origin } in &networks.legacy {
            let port = format!("hub0port{}", others + self.hub.len());
            match value {
                LegacyNet::Netdev(tree) => {
                    let id = own(host, tree, ids, origin)?;
                    match direct {
                        true => direct_peer = Some(id.clone()),
                        false => make(host, &hub_port(&port, Some(&id)), origin)?,
                    }
                    self.hub.push(HubPort { name: id, is_nic: false });
                }
                LegacyNet::Nic(NicConfig { network: Some(NicNetwork::Named(id)), .. }) => {
                    if host.networks().get(id).is_none() {
                        let text = format!("netdev '{id}' not found");
                        return Err(ConfigError::at(origin, text));
                    }
                }
                LegacyNet::Nic(_) => {
                    // A card has a number, too.
                    ids.next();
                    if !direct {
                        make(host, &hub_port(&port, None), origin)?;
                    }
                    self.hub.push(HubPort { name: port, is_nic: true });
                }
            }
        }
        let mut ports = self.hub.iter().filter(|port| port.is_nic).map(|port| port.name.clone());
        let mut cards = Vec::new();
        for Located { value, origin } in &networks.legacy {
            let LegacyNet::Nic(nic) = value else { continue };
            let (network, at_hub) = match &nic.network {
                Some(NicNetwork::Named(id)) => (Some(id.clone()), false),
                _ if direct => (direct_peer.clone(), true),
                _ => (ports.next(), true),
            };
            cards.push((nic, network, at_hub, origin));
        }
        for (nic, network, at_hub, origin) in cards {
            self.add(nic, network, at_hub, origin, has_slots);
        }
        Ok(())
    }

    /// The cards are there: notes who is at the hub, and warns of what is odd.
    pub fn settle(mut self, host: &HostNetworks) {
        let mut names = host.nics().list().into_iter().zip(&self.list);
        let mut at_hub = names.by_ref().filter(|(_, card)| card.at_hub).map(|(nic, _)| nic.name);
        for port in self.hub.iter_mut().filter(|port| port.is_nic) {
            port.name = at_hub.next().unwrap_or_default();
        }
        self.hub.retain(|port| !port.name.is_empty());
        host.set_hub(self.hub);
        if self.by_default {
            return;
        }
        for warning in host.warnings() {
            base::warn_report!("{warning}");
        }
        for card in self.unknown {
            base::warn_report!(
                "requested NIC {card} was not created (not supported by this machine?)"
            );
        }
    }
}
