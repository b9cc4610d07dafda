//! The machine's networks and cards, for those who look at them and change them while it exists.

use std::sync::{Arc, OnceLock};

use base::clock::Clocks;
use hw::net::card::{NicEntry, Nics, RxFilter};
use net::filter::{FilterKind, NetFilter};
use net::netdev::{Context, NetdevSpec};
use net::{NetError, Netdev, Networks, Side, hub_number};
use parking_lot::Mutex;

pub use crate::announce::Announcement;
use crate::announce::Announcer;

/// Networks and cards.
pub struct HostNetworks {
    networks: Arc<Networks>,
    nics: Arc<Nics>,
    context: OnceLock<Context>,
    hub: Mutex<Vec<HubPort>>,
    announcer: Arc<Announcer>,
}

/// A place at the hub that cards and back ends of `-net` share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubPort {
    /// The card or back end there.
    pub name: String,
    /// Whether it is a card.
    pub is_nic: bool,
}

impl Default for HostNetworks {
    fn default() -> Self {
        let networks = Arc::<Networks>::default();
        let nics = Nics::new(networks.clone());
        let (hub, announcer) = Default::default();
        HostNetworks { networks, nics, context: OnceLock::new(), hub, announcer }
    }
}

impl HostNetworks {
    /// What back ends are made with. To be called once, before there are any.
    pub fn set_context(&self, context: Context) {
        self.context.get_or_init(|| context);
    }

    /// The back ends.
    pub fn networks(&self) -> &Arc<Networks> {
        &self.networks
    }

    /// The cards.
    pub fn nics(&self) -> &Arc<Nics> {
        &self.nics
    }

    /// Makes a back end.
    pub fn add(&self, spec: &NetdevSpec) -> Result<(), NetError> {
        self.networks.check_free(&spec.id)?;
        let context = self.context.get().ok_or_else(|| NetError::failed("no networks yet"))?;
        self.networks.add(spec.make(context)?)
    }

    /// Makes a filter at a back end's cable.
    pub fn add_filter(&self, id: &str, kind: FilterKind) -> Result<NetFilter, NetError> {
        let context = self.context.get().ok_or_else(|| NetError::failed("no networks yet"))?;
        NetFilter::make(context, id, kind)
    }

    /// Takes a back end away; its card stays, without a peer.
    pub(crate) fn remove(&self, id: &str) -> Result<Netdev, NetError> {
        let network = self.networks.remove(id)?;
        network.cable.set_link(Side::Host, false);
        Ok(network)
    }

    /// Pulls or plugs in the cable of a card or of a back end.
    pub fn set_link(&self, name: &str, up: bool) -> Result<(), NetError> {
        let (cable, side) = match (self.networks.get(name), self.nics.get(name)) {
            (Some(network), _) => (network.cable, Side::Host),
            (None, Some(nic)) => (nic.cable, Side::Guest),
            (None, None) => return Err(NetError::NotFound(name.into())),
        };
        cable.set_link(side, up);
        Ok(())
    }

    /// What cards let through: one card, or all that can tell.
    pub fn rx_filters(&self, name: Option<&str>) -> Result<Vec<(String, RxFilter)>, NetError> {
        let Some(name) = name else {
            let nics = self.nics.list();
            return Ok(nics
                .iter()
                .filter_map(|nic| Some((nic.name.clone(), filter(nic)?)))
                .collect());
        };
        match self.nics.get(name) {
            Some(nic) => match filter(&nic) {
                Some(filter) => Ok(vec![(nic.name, filter)]),
                None => Err(NetError::failed(format!(
                    "net client({name}) doesn't support rx-filter querying"
                ))),
            },
            None if self.networks.get(name).is_some() => {
                Err(NetError::failed(format!("net client({name}) isn't a NIC")))
            }
            None => Err(NetError::failed(format!("invalid net client name: {name}"))),
        }
    }

    /// Has cards tell the network where they are.
    pub fn announce_repeatedly(&self, clocks: &Clocks, what: Announcement) {
        self.announcer.begin(&self.nics, clocks, what);
    }

    /// Notes who is at the hub, in the order in which they came.
    pub fn set_hub(&self, ports: Vec<HubPort>) {
        *self.hub.lock() = ports;
    }

    /// The number of the hub that a back end is connected to.
    pub fn hub_of(&self, network: &Netdev) -> Option<i64> {
        let card = network.cable.card();
        let port = card.and_then(|card| self.networks.get(&card));
        let by_port = port.and_then(|port| hub_number(&port));
        by_port.or_else(|| is_at_hub(&self.hub.lock(), network.id()).then_some(0))
    }

    /// What is odd about the connections.
    pub fn warnings(&self) -> Vec<String> {
        let hub = self.hub.lock();
        let mut warnings = Vec::new();
        if hub.iter().any(|port| port.is_nic) && hub.iter().all(|port| port.is_nic) {
            warnings.push("hub 0 is not connected to host network".into());
        } else if !hub.is_empty() && hub.iter().all(|port| !port.is_nic) {
            warnings.push("hub 0 with no nics".into());
        }
        let at_hub = |name: &str| is_at_hub(&hub, name);
        let networks = self.networks.list();
        let alone = |port: &&Netdev| {
            let id = port.id();
            let has_backend =
                networks.iter().any(|network| network.cable.card().as_deref() == Some(id));
            hub_number(port).is_some() && !port.cable.occupied(Side::Guest) && !has_backend
        };
        let nics = self.nics.list();
        for (number, ports) in ports_of_hubs(&networks) {
            let ports = || ports.iter().rev().copied();
            for port in ports().filter(alone) {
                warnings.push(format!("hub port {} has no peer", port.id()));
            }
            let is_nic =
                |port: &Netdev| nics.iter().any(|nic| Arc::ptr_eq(&nic.cable, &port.cable));
            let (with_nic, with_host) =
                (ports().any(is_nic), ports().any(|port| !alone(&port) && !is_nic(port)));
            match (with_nic, with_host) {
                // Said above.
                _ if number == 0 && !hub.is_empty() => {}
                (false, true) => warnings.push(format!("hub {number} with no nics")),
                (true, false) => {
                    warnings.push(format!("hub {number} is not connected to host network"));
                }
                _ => {}
            }
        }
        for network in &networks {
            let has_backend = hub_number(network).is_some() && !alone(&network);
            if !has_backend && !network.cable.occupied(Side::Guest) && !at_hub(network.id()) {
                let warning = format!("netdev {} has no peer", network.id());
                warnings.extend(vec![warning; network.cable.lanes()]);
            }
        }
        for nic in nics {
            if !nic.cable.occupied(Side::Host) && !at_hub(&nic.name) {
                warnings.push(format!("nic {} has no peer", nic.name));
            }
        }
        warnings
    }

    /// What `info network` shows.
    pub fn info(&self) -> String {
        let hub = self.hub.lock().clone();
        let networks = self.networks.list();
        let nics = self.nics.list();
        let mut text = hubs(&networks, &nics);
        // Two that share hub 0 are connected without ports.
        let has_ports = networks.iter().any(|network| hub_number(network) == Some(0));
        if !has_ports && !hub.is_empty() {
            text += "hub 0\n";
            for (n, port) in hub.iter().enumerate().rev() {
                let row = match port.is_nic {
                    true => {
                        nics.iter().find(|nic| nic.name == port.name).map(|nic| nic_row(nic, 0))
                    }
                    false => networks
                        .iter()
                        .find(|net| net.id() == port.name)
                        .map(|net| network_row(net, 0)),
                };
                if let Some(row) = row {
                    text += &format!(" \\ hub0port{n}: {row}");
                }
            }
        }
        let at_hub = |name: &str| is_at_hub(&hub, name);
        let mut rows: Vec<(u64, String)> = Vec::new();
        for network in networks.iter().filter(|network| network.cable.card().is_none()) {
            if !at_hub(network.id()) && hub_number(network).is_none() {
                let row = |lane| network_row(network, lane);
                rows.push((network.cable.arrival(), (0..network.cable.lanes()).map(row).collect()));
            }
        }
        for nic in nics.iter().filter(|nic| !at_hub(&nic.name)) {
            let peer = networks.iter().find(|network| Arc::ptr_eq(&network.cable, &nic.cable));
            if peer.is_some_and(|peer| hub_number(peer).is_some()) {
                continue;
            }
            let row = |lane| {
                let peer = peer.map(|network| format!(" \\ {}", network_row(network, lane)));
                nic_row(nic, lane) + &peer.unwrap_or_default()
            };
            rows.push((nic.arrival, (0..nic.cable.lanes()).map(row).collect()));
        }
        rows.sort_by_key(|(arrival, _)| *arrival);
        rows.into_iter().for_each(|(_, row)| text += &row);
        text
    }
}

/// The ports of each hub, the newest hub first.
fn ports_of_hubs(networks: &[Netdev]) -> Vec<(i64, Vec<&Netdev>)> {
    let mut hubs: Vec<(i64, Vec<&Netdev>)> = Vec::new();
    for network in networks {
        let Some(number) = hub_number(network) else { continue };
        match hubs.iter_mut().find(|(known, _)| *known == number) {
            Some((_, ports)) => ports.push(network),
            None => hubs.insert(0, (number, vec![network])),
        }
    }
    hubs
}

/// Hubs with their ports and who is there, the newest first.
fn hubs(networks: &[Netdev], nics: &[NicEntry]) -> String {
    let mut text = String::new();
    for (number, ports) in ports_of_hubs(networks) {
        text += &format!("hub {number}\n");
        for port in ports.into_iter().rev() {
            let nic = nics.iter().find(|nic| Arc::ptr_eq(&nic.cable, &port.cable));
            let there = |network: &&Netdev| network.cable.card().as_deref() == Some(port.id());
            let network = || networks.iter().find(there).map(|network| network_row(network, 0));
            let row = nic.map(|nic| nic_row(nic, 0)).or_else(network);
            match row {
                Some(row) => text += &format!(" \\ {}: {row}", port.id()),
                None => text += &format!(" \\ {}\n", port.id()),
            }
        }
    }
    text
}

/// Whether a card, a back end or a port belongs to the hub of `-net`.
fn is_at_hub(hub: &[HubPort], name: &str) -> bool {
    let mut ports = (0..).zip(hub);
    ports.any(|(n, port)| port.name == name || format!("hub0port{n}") == name)
}

fn filter(nic: &NicEntry) -> Option<RxFilter> {
    nic.filter_seen();
    nic.card.upgrade()?.rx_filter()
}

/// Only the first of a card's ends tells more than that it is there.
fn nic_row(nic: &NicEntry, lane: usize) -> String {
    let about = match lane {
        0 => format!("model={},macaddr={}", nic.model, nic.mac()),
        _ => String::new(),
    };
    format!("{}: index={lane},type=nic,{about}\n", nic.name_at(lane))
}

fn network_row(network: &Netdev, lane: usize) -> String {
    let (id, kind) = (network.id(), network.kind);
    // Queues get their numbers from a card.
    let index = if network.cable.card().is_some() { lane } else { 0 };
    let filters = network.cable.filter_info();
    let heading = if filters.is_empty() { "" } else { "filters:\n" };
    format!("{id}: index={index},type={kind},{}\n{heading}{filters}", network.backend.info(lane))
}
