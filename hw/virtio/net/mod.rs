//! The network card (virtio 1.2, 5.1).

mod control;
mod filter;
mod props;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use base::event_loop::LoopHandle;
use base::interrupt::MsiSink;
use base::props::MacAddr;
use net::{Cable, End, Offloads};
use parking_lot::Mutex;

use super::features::VERSION_1;
use super::pci::{Kind, Place, Shape, VirtioPci, VirtioPciError, Wiring};
use super::{Model, ToDriver};
use crate::net::card::{Card, Nics, RxFilter, Socket};
use crate::pci::{PciBus, PciFunction, ids};
use crate::registry::Identity;

pub use props::{NetError, NetProps};

use control::Control;
use filter::Filter;
use receive::Receiver;
use transmit::Sender;

/// iPXE for it.
const ROM: &str = "efi-virtio.rom";

const KIND: Kind =
    Kind { id: 1, transitional: ids::QUMRANET_VIRTIO_NET, class: 0x02_0000, rom: Some(ROM) };

/// Feature bits (5.1.3).
mod feature {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
    pub const MTU: u64 = 1 << 3;
    pub const MAC: u64 = 1 << 5;
    /// Legacy: all segmentation that the host can do.
    pub const GSO: u64 = 1 << 6;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const GUEST_ECN: u64 = 1 << 9;
    pub const GUEST_UFO: u64 = 1 << 10;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const HOST_ECN: u64 = 1 << 13;
    pub const HOST_UFO: u64 = 1 << 14;
    pub const MRG_RXBUF: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
    pub const CTRL_VQ: u64 = 1 << 17;
    pub const CTRL_RX: u64 = 1 << 18;
    pub const CTRL_VLAN: u64 = 1 << 19;
    pub const CTRL_RX_EXTRA: u64 = 1 << 20;
    pub const GUEST_ANNOUNCE: u64 = 1 << 21;
    pub const MQ: u64 = 1 << 22;
    pub const CTRL_MAC_ADDR: u64 = 1 << 23;
    pub const GUEST_USO4: u64 = 1 << 54;
    pub const GUEST_USO6: u64 = 1 << 55;
    pub const HOST_USO: u64 = 1 << 56;
    pub const SPEED_DUPLEX: u64 = 1 << 63;

    /// What the driver can switch while it runs.
    pub const GUEST_OFFLOADS: u64 =
        GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_UFO | GUEST_USO4 | GUEST_USO6;
}

/// Configuration (5.1.4).
mod config {
    pub const MAC: usize = 0;
    pub const STATUS: usize = 6;
    pub const PAIRS: usize = 8;
    pub const MTU: usize = 10;
    pub const SPEED: usize = 12;
    pub const DUPLEX: usize = 16;
    pub const LEN: usize = 17;
}

const STATUS_LINK_UP: u16 = 1;
const STATUS_ANNOUNCE: u16 = 2;

/// Where a card goes, and what it works with.
pub struct Placement<'a> {
    /// The bus.
    pub bus: &'a PciBus,
    /// Its transport.
    pub place: Place<'a>,
    /// Who it is.
    pub identity: Identity,
    /// The machine's own event loop, where frames are sent.
    pub main_loop: LoopHandle,
    /// The list of cards.
    pub nics: Arc<Nics>,
    /// Where messages go.
    pub msi: Arc<dyn MsiSink>,
}

/// What all queues of a card share.
struct Shared {
    nics: Arc<Nics>,
    cable: Arc<Cable>,
    /// What is offered besides what rings and transport do.
    offered: u64,
    shown: Shown,
    driver: Arc<ToDriver>,
    /// What was negotiated; zero until then.
    features: AtomicU64,
    /// Which of it the driver has switched on, of what comes to it.
    guest_offloads: AtomicU64,
    /// The guest is asked to announce itself.
    announces: AtomicBool,
    link_up: AtomicBool,
    filter: Mutex<Filter>,
    /// Pairs of queues in use.
    pairs: AtomicU64,
    name: String,
    path: String,
}

/// What the driver is told, and does not change.
#[derive(Clone, Debug)]
struct Shown {
    mac: MacAddr,
    pairs: u16,
    mtu: u16,
    speed: u32,
    duplex: u8,
}

impl Shared {
    fn has(&self, feature: u64) -> bool {
        self.features.load(Ordering::Acquire) & feature != 0
    }

    /// Bytes before each frame.
    fn header_len(&self) -> usize {
        const WITHOUT_COUNT: usize = 10;
        const WITH_COUNT: usize = 12;
        if self.has(feature::MRG_RXBUF | VERSION_1) { WITH_COUNT } else { WITHOUT_COUNT }
    }

    /// What the driver takes as it is.
    fn guest_takes(&self) -> Offloads {
        let on = self.guest_offloads.load(Ordering::Acquire);
        let has = |bits: u64| on & bits == bits;
        Offloads {
            checksum: has(feature::GUEST_CSUM),
            tso4: has(feature::GUEST_TSO4),
            tso6: has(feature::GUEST_TSO6),
            ecn: has(feature::GUEST_ECN),
            uso: has(feature::GUEST_USO4 | feature::GUEST_USO6),
            ufo: has(feature::GUEST_UFO),
        }
    }

    fn config(&self) -> Vec<u8> {
        let Shown { pairs, mtu, speed, duplex, .. } = self.shown;
        let mut bytes = vec![0; config::LEN];
        bytes[config::MAC..config::STATUS].copy_from_slice(&self.filter.lock().mac.0);
        let link = if self.link_up.load(Ordering::Relaxed) { STATUS_LINK_UP } else { 0 };
        let announce = if self.announces.load(Ordering::Relaxed) { STATUS_ANNOUNCE } else { 0 };
        for (at, value) in
            [(config::STATUS, link | announce), (config::PAIRS, pairs), (config::MTU, mtu)]
        {
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        bytes[config::SPEED..config::DUPLEX].copy_from_slice(&speed.to_le_bytes());
        bytes[config::DUPLEX] = duplex;
        bytes.truncate(config_len(self.offered));
        bytes
    }

    /// The filter has changed, which the operator may want to know.
    fn filter_changed(&self) {
        self.nics.filter_changed(&self.name, &self.path);
    }
}

/// Bytes of configuration: as much as the features say something about.
fn config_len(offered: u64) -> usize {
    [
        (feature::SPEED_DUPLEX, config::LEN),
        (feature::MTU, config::SPEED),
        (feature::MQ, config::MTU),
        (feature::STATUS, config::PAIRS),
    ]
    .into_iter()
    .find(|(bit, _)| offered & bit != 0)
    .map_or(config::STATUS, |(_, len)| len)
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Receive(usize),
    Transmit(usize),
    Control,
}

/// The model.
pub struct Net {
    shared: Arc<Shared>,
    parts: Arc<Parts>,
    socket: Option<Socket>,
}

/// Who serves the queues.
struct Parts {
    shared: Arc<Shared>,
    receivers: Vec<Arc<Receiver>>,
    senders: Vec<Arc<Sender>>,
    controls: Vec<Arc<Control>>,
}

impl Parts {
    /// The role of a queue: with one pair in all, the third is for control (5.1.2).
    fn role(&self, index: u16) -> Role {
        let pairs = if self.shared.has(feature::MQ) { self.receivers.len() } else { 1 };
        let pair = usize::from(index / 2);
        match (pair < pairs, index % 2) {
            (true, 0) => Role::Receive(pair),
            (true, _) => Role::Transmit(pair),
            (false, _) => Role::Control,
        }
    }

    fn kick(&self, index: u16) {
        match self.role(index) {
            Role::Receive(pair) => self.receivers[pair].offer_room(),
            Role::Transmit(pair) => self.senders[pair].on_kick(),
            Role::Control => self.controls[usize::from(index)].schedule(),
        }
    }
}

impl Net {
    /// Plugs a card.
    pub fn plug(placement: Placement<'_>, props: &NetProps) -> Result<Arc<PciFunction>, NetError> {
        let Placement { bus, place, identity, main_loop, nics, msi } = placement;
        bus.check_place(place.type_name, &place.props.pci).map_err(VirtioPciError::from)?;
        let socket = nics.connect("virtio-net-pci", &identity, &props.nic)?;
        let pairs = socket.cable().lanes().max(1) as u16;
        let (offered, shown) = props.check(socket.mac, pairs)?;
        let (rx, tx) = (props.rx_queue_size, props.tx_queue_size);
        let mut queue_sizes: Vec<u16> = [rx, tx].repeat(pairs.into());
        if props.ctrl_vq {
            queue_sizes.push(CONTROL_QUEUE);
        }
        let shape = Shape { queue_sizes, config_len: config_len(offered) };
        let path = format!("{}/virtio-backend", identity.path);
        let function = VirtioPci::plug(bus, &KIND, place, &shape, msi, |wiring| {
            Box::new(Net::new(wiring, socket, offered, shown, nics, &main_loop, path))
        })?;
        Ok(function)
    }

    fn new(
        wiring: &Wiring,
        socket: Socket,
        offered: u64,
        shown: Shown,
        nics: Arc<Nics>,
        main_loop: &LoopHandle,
        path: String,
    ) -> Self {
        let shared = Arc::new(Shared {
            nics,
            cable: socket.cable().clone(),
            offered,
            driver: wiring.driver.clone(),
            features: AtomicU64::new(0),
            guest_offloads: AtomicU64::new(0),
            announces: AtomicBool::new(false),
            link_up: AtomicBool::new(socket.cable().is_up()),
            filter: Mutex::new(Filter::new(shown.mac)),
            pairs: AtomicU64::new(1),
            name: socket.name().into(),
            path,
            shown,
        });
        let pair = |n: usize| [wiring.queues.get(2 * n), wiring.queues.get(2 * n + 1)];
        let pairs: Vec<_> = (0..usize::from(shared.shown.pairs))
            .map_while(|n| {
                let [rx, tx] = pair(n);
                Some((n, rx?.clone(), tx?.clone()))
            })
            .collect();
        let receivers =
            pairs.iter().map(|(n, rx, _)| Receiver::new(&shared, rx, socket.plug(*n), main_loop));
        let receivers: Vec<_> = receivers.collect();
        let senders =
            pairs.iter().map(|(n, _, tx)| Sender::new(&shared, tx, socket.plug(*n), main_loop));
        let senders: Vec<_> = senders.collect();
        let controls =
            wiring.queues.iter().map(|queue| Control::new(&shared, queue, main_loop)).collect();
        for (receiver, sender) in receivers.iter().zip(&senders) {
            receiver.answers_to(sender);
        }
        let parts = Arc::new(Parts { shared: shared.clone(), receivers, senders, controls });
        for queue in &wiring.queues {
            let parts = Arc::downgrade(&parts);
            let index = queue.index();
            queue.on_kick(move || {
                if let Some(parts) = parts.upgrade() {
                    parts.kick(index);
                }
            });
        }
        let ends = parts.receivers.iter().map(|end| {
            let end: Weak<Receiver> = Arc::downgrade(end);
            end as Weak<dyn End>
        });
        let card: Weak<Shared> = Arc::downgrade(&shared);
        socket.enter(card, ends.collect());
        Net { shared, parts, socket: Some(socket) }
    }
}

/// Descriptors of the control queue.
const CONTROL_QUEUE: u16 = 64;

impl Model for Net {
    fn features(&self, common: u64) -> u64 {
        common | self.shared.offered
    }

    fn config(&self) -> Vec<u8> {
        self.shared.config()
    }

    fn write_config(&mut self, at: usize, bytes: &[u8]) {
        // Drivers of before the control queue set the address here.
        if self.shared.has(VERSION_1 | feature::CTRL_MAC_ADDR) || at + bytes.len() > config::STATUS
        {
            return;
        }
        let mut filter = self.shared.filter.lock();
        filter.mac.0[at..at + bytes.len()].copy_from_slice(bytes);
        drop(filter);
        self.shared.filter_changed();
    }

    fn activate(&mut self, features: u64) {
        let shared = &self.shared;
        shared.features.store(features, Ordering::Release);
        shared.guest_offloads.store(features & feature::GUEST_OFFLOADS, Ordering::Release);
        shared.filter.lock().passes_vlans(features & feature::CTRL_VLAN == 0);
        // What did not fit before there was a driver may fit now.
        self.parts.receivers.iter().for_each(|receiver| receiver.offer_room());
    }

    fn queue_reset(&mut self, index: u16) {
        if let Role::Transmit(pair) = self.parts.role(index) {
            self.parts.senders[pair].forget();
        }
    }

    fn reset(&mut self) {
        let shared = &self.shared;
        self.parts.senders.iter().for_each(|sender| sender.forget());
        shared.features.store(0, Ordering::Release);
        shared.guest_offloads.store(0, Ordering::Release);
        shared.announces.store(false, Ordering::Relaxed);
        shared.pairs.store(1, Ordering::Release);
        *shared.filter.lock() = Filter::new(shared.shown.mac);
    }

    fn unplug(&mut self) {
        self.socket = None;
        self.parts.senders.iter().for_each(|sender| sender.forget());
    }
}

impl Card for Shared {
    fn mac(&self) -> MacAddr {
        self.filter.lock().mac
    }

    fn rx_filter(&self) -> Option<RxFilter> {
        Some(self.filter.lock().shown(self.has(feature::CTRL_VLAN)))
    }

    fn announce(&self) -> bool {
        let possible = self.has(feature::GUEST_ANNOUNCE) && self.has(feature::CTRL_VQ);
        if possible && self.driver.is_ready() {
            self.announces.store(true, Ordering::Relaxed);
            self.driver.config_changed();
            return true;
        }
        false
    }
}
