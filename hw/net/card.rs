//! What all network cards have in common: their address, their cable, their place in the machine's
//! list.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use base::clock::Clocks;
use base::event_loop::LoopHandle;
use base::props::{MacAddr, NetdevId, PropError, Props};
use net::{Cable, End, Frame, Networks, Offload, Part, Plug, Side};
use parking_lot::Mutex;

use crate::pci::{PciBus, PciError};
use crate::registry::Identity;

/// Properties of any card.
#[derive(Clone, Debug, Props)]
pub struct NicProps {
    /// Place in the order in which firmware boots.
    pub bootindex: Option<i32>,
    /// Its address; all zeroes: one is chosen.
    pub mac: MacAddr,
    /// The network at the other end of its cable.
    pub netdev: Option<NetdevId>,
}

/// Why a card could not be plugged.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// There is no such network.
    #[error(transparent)]
    Property(#[from] PropError),
    /// The network has a card already.
    #[error("Property '{owner}.netdev' can't take value '{id}', it's in use")]
    InUse {
        /// Type name of the card.
        owner: &'static str,
        /// The network.
        id: String,
    },
    /// Its place on the bus.
    #[error(transparent)]
    Pci(#[from] PciError),
}

/// Where a card goes, and what it works with.
pub struct NicPlace<'a> {
    /// The bus.
    pub bus: &'a PciBus,
    /// The clocks.
    pub clocks: &'a Clocks,
    /// The machine's own event loop, where frames are sent.
    pub main_loop: LoopHandle,
    /// The list of cards.
    pub nics: Arc<Nics>,
    /// Who it is.
    pub identity: Identity,
}

/// How much of a kind of frames a card lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxMode {
    /// Nothing.
    None,
    /// What its tables name.
    Normal,
    /// Everything.
    All,
}

/// What a card lets through (`query-rx-filter`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RxFilter {
    /// Everything.
    pub promiscuous: bool,
    /// Frames to many.
    pub multicast: RxMode,
    /// Frames to one.
    pub unicast: RxMode,
    /// Frames of virtual networks.
    pub vlan: RxMode,
    /// Frames to all.
    pub broadcast_allowed: bool,
    /// More addresses came than there is room for.
    pub multicast_overflow: bool,
    /// As above.
    pub unicast_overflow: bool,
    /// The card's own address.
    pub main_mac: MacAddr,
    /// Virtual networks.
    pub vlan_table: Vec<u16>,
    /// Further addresses.
    pub unicast_table: Vec<MacAddr>,
    /// Groups.
    pub multicast_table: Vec<MacAddr>,
}

/// A card, as the machine sees it.
pub trait Card: Send + Sync {
    /// The address that it goes by now.
    fn mac(&self) -> MacAddr;

    /// What it lets through, if it can tell.
    fn rx_filter(&self) -> Option<RxFilter> {
        None
    }

    /// Has the guest announce itself; returns whether it will.
    fn announce(&self) -> bool {
        false
    }
}

/// A card in the list.
#[derive(Clone)]
pub struct NicEntry {
    /// Its id, or a name that was made up.
    pub name: String,
    /// The number in a name that was made up.
    number: Option<usize>,
    /// Its type.
    pub model: &'static str,
    /// Its path in the object tree.
    pub path: String,
    /// Its cable.
    pub cable: Arc<Cable>,
    /// When it came, among the back ends.
    pub arrival: u64,
    /// The operator knows that its filter has changed.
    told: Arc<AtomicBool>,
    /// Queues that it has.
    pub lanes: usize,
    /// Itself.
    pub card: Weak<dyn Card>,
}

impl NicEntry {
    /// The address that it goes by now.
    pub fn mac(&self) -> MacAddr {
        self.card.upgrade().map(|card| card.mac()).unwrap_or_default()
    }

    /// What the end of a lane of its cable is called: it has one at each lane of the network's.
    pub fn name_at(&self, lane: usize) -> String {
        match self.number {
            Some(number) => format!("{}.{}", self.model, number + lane),
            None => self.name.clone(),
        }
    }

    /// The operator has looked at its filter, and may be told of changes again.
    pub fn filter_seen(&self) {
        self.told.store(false, Ordering::Relaxed);
    }

    /// Tells the network where the card is, as the guest or, in its place, by a frame of RARP.
    pub fn announce(&self) {
        let Some(card) = self.card.upgrade() else { return };
        if !card.announce() {
            let frame = announcement(card.mac());
            let parts = [Part::from(&frame[..])];
            let plug = self.cable.plug(Side::Guest, 0);
            // Nobody keeps it for later: there are more rounds.
            let _ = plug.send(&Frame::new(&parts, Offload::default()));
            plug.flush();
        }
    }
}

/// A reverse ARP request (RFC 903), which every switch on the way learns the card's place from.
fn announcement(mac: MacAddr) -> [u8; 60] {
    const TYPE: [u8; 2] = [0x80, 0x35];
    /// Ethernet, IPv4, lengths of their addresses, a reverse request.
    const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 3];
    let mut frame = [0; 60];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac.0);
    frame[12..14].copy_from_slice(&TYPE);
    frame[14..22].copy_from_slice(&REQUEST);
    frame[22..28].copy_from_slice(&mac.0);
    frame[32..38].copy_from_slice(&mac.0);
    frame
}

/// The first address that is given away, and how many there are.
const FIRST_MAC: MacAddr = MacAddr([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);
const LAST_BYTES: usize = 256;

/// The cards of a machine, and the networks that they may be connected to.
pub struct Nics {
    networks: Arc<Networks>,
    /// By last byte: how many cards have this address of those that are given away.
    macs: Mutex<[u32; LAST_BYTES]>,
    entries: Mutex<Vec<NicEntry>>,
    on_filter: OnceLock<FilterChanged>,
}

/// Told the name and the path of a card whose filter has changed; may be called with the card locked.
type FilterChanged = Box<dyn Fn(&str, &str) + Send + Sync>;

impl Nics {
    /// A list without cards.
    pub fn new(networks: Arc<Networks>) -> Arc<Self> {
        let (macs, entries) = (Mutex::new([0; LAST_BYTES]), Mutex::default());
        Arc::new(Nics { networks, macs, entries, on_filter: OnceLock::new() })
    }

    /// Who is told when a filter has changed. To be called once.
    pub fn listen(&self, on_filter: impl Fn(&str, &str) + Send + Sync + 'static) {
        self.on_filter.get_or_init(|| Box::new(on_filter));
    }

    /// The filter of a card has changed; the operator is told once until he looks at it.
    pub fn filter_changed(&self, name: &str, path: &str) {
        if self.get(name).is_some_and(|entry| !entry.told.swap(true, Ordering::Relaxed)) {
            self.on_filter.get().into_iter().for_each(|tell| tell(name, path));
        }
    }

    /// All cards, in the order in which they came.
    pub fn list(&self) -> Vec<NicEntry> {
        self.entries.lock().clone()
    }

    /// The card of this name.
    pub fn get(&self, name: &str) -> Option<NicEntry> {
        self.entries.lock().iter().find(|entry| entry.name == name).cloned()
    }

    /// The networks.
    pub fn networks(&self) -> &Arc<Networks> {
        &self.networks
    }

    /// The cable for a card with these properties, and the card's address.
    pub fn connect(
        self: &Arc<Self>,
        model: &'static str,
        identity: &Identity,
        props: &NicProps,
    ) -> Result<Socket, CardError> {
        let made_up = || {
            let entries = self.entries.lock();
            let alike = entries.iter().filter(|entry| entry.model == model);
            let number = alike.map(|entry| entry.cable.lanes()).sum();
            (format!("{model}.{number}"), Some(number))
        };
        let (name, number) = identity.id.clone().map_or_else(made_up, |id| (id, None));
        let cable = match &props.netdev {
            Some(NetdevId(id)) => {
                let network = self.networks.get(id);
                let missing = || PropError::no_such_backend(model, "netdev", id);
                let cable = network.ok_or_else(missing)?.cable;
                if cable.occupied(Side::Guest) {
                    return Err(CardError::InUse { owner: model, id: id.clone() });
                }
                cable
            }
            None => Cable::new(""),
        };
        let path = identity.path.clone();
        let mac = self.take_mac(props.mac);
        Ok(Socket { nics: self.clone(), name, number, model, path, cable, mac })
    }

    fn take_mac(&self, given: MacAddr) -> MacAddr {
        let mut macs = self.macs.lock();
        if given != MacAddr::default() {
            if let Some(count) = place(given).map(|at| &mut macs[at]) {
                *count += 1;
            }
            return given;
        }
        let first = usize::from(FIRST_MAC.0[5]);
        let free = (first..LAST_BYTES).find(|&at| macs[at] == 0).unwrap_or(LAST_BYTES - 1);
        macs[free] += 1;
        let mut mac = FIRST_MAC;
        mac.0[5] = free as u8;
        mac
    }
}

/// Where an address is among those that are given away.
fn place(mac: MacAddr) -> Option<usize> {
    (mac.0[..5] == FIRST_MAC.0[..5]).then_some(mac.0[5].into())
}

/// A card's end of its cable. Dropping it pulls the cable out.
pub struct Socket {
    nics: Arc<Nics>,
    name: String,
    number: Option<usize>,
    model: &'static str,
    path: String,
    cable: Arc<Cable>,
    /// The card's address.
    pub mac: MacAddr,
}

impl Socket {
    /// The cable.
    pub fn cable(&self) -> &Arc<Cable> {
        &self.cable
    }

    /// The name that the card goes by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The card's side of a lane.
    pub fn plug(&self, lane: usize) -> Plug {
        self.cable.plug(Side::Guest, lane)
    }

    /// The card is there: these are its queues.
    pub fn enter(&self, card: Weak<dyn Card>, queues: Vec<Weak<dyn End>>) {
        let lanes = queues.len();
        for (lane, end) in queues.into_iter().enumerate() {
            self.plug(lane).attach(end);
        }
        self.cable.set_card(Some(self.name.clone()));
        self.nics.entries.lock().push(NicEntry {
            name: self.name.clone(),
            number: self.number,
            model: self.model,
            path: self.path.clone(),
            cable: self.cable.clone(),
            arrival: net::next_arrival(),
            told: Arc::default(),
            lanes,
            card,
        });
    }

    /// The card goes.
    pub fn leave(&self) {
        let mut entries = self.nics.entries.lock();
        let Some(at) = entries.iter().position(|entry| entry.name == self.name) else { return };
        let lanes = entries.remove(at).lanes;
        drop(entries);
        if let Some(at) = place(self.mac) {
            let mut macs = self.nics.macs.lock();
            macs[at] = macs[at].saturating_sub(1);
        }
        self.cable.set_card(None);
        (0..lanes).for_each(|lane| self.plug(lane).detach());
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(nics: &Arc<Nics>, mac: MacAddr) -> Socket {
        let props = NicProps { mac, ..NicProps::default() };
        nics.connect("e1000", &Identity::default(), &props).unwrap()
    }

    /// As QEMU numbers them.
    #[test]
    fn addresses_are_given_away_in_order() {
        let nics = Nics::new(Arc::default());
        let last = |socket: &Socket| socket.mac.0[5];
        let mut second = FIRST_MAC;
        second.0[5] += 1;
        let given = socket(&nics, second);
        let chosen = [MacAddr::default(); 2].map(|mac| socket(&nics, mac));
        assert_eq!(last(&given), 0x57);
        assert_eq!(chosen.each_ref().map(last), [0x56, 0x58]);
        let foreign = socket(&nics, MacAddr([2; 6]));
        assert_eq!(foreign.mac, MacAddr([2; 6]));
    }

    #[test]
    fn networks_must_be_there() {
        let nics = Nics::new(Arc::default());
        let props = NicProps { netdev: Some(NetdevId("n".into())), ..NicProps::default() };
        let error = nics.connect("e1000", &Identity::default(), &props).err().unwrap();
        assert_eq!(error.to_string(), "Property 'e1000.netdev' can't find value 'n'");
    }

    #[test]
    fn announcements_are_broadcast() {
        let frame = announcement(FIRST_MAC);
        assert_eq!(frame[..6], [0xff; 6]);
        assert_eq!(frame[6..12], FIRST_MAC.0);
        assert_eq!((&frame[12..14], &frame[20..22]), (&[0x80, 0x35][..], &[0, 3][..]));
    }
}
