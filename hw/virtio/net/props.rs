//! Properties of network cards.

use base::props::{MacAddr, Props};

use super::{Shown, feature};
use crate::net::card::{CardError, NicProps};
use crate::virtio::pci::VirtioPciError;

/// Sizes of queues.
const MIN_QUEUE: u16 = 256;
const MAX_QUEUE: u16 = 1024;
/// Pairs of queues that the transport has places for.
const UNKNOWN: i32 = -1;
/// Duplex, as the driver is told.
const HALF: u8 = 0;
const FULL: u8 = 1;
const DUPLEX_UNKNOWN: u8 = 0xff;

/// Properties of a network card.
#[derive(Debug, Props)]
pub struct NetProps {
    /// Offers to complete checksums.
    #[prop(default = true)]
    pub csum: bool,
    /// Lets the driver switch what comes to it.
    #[prop(default = true)]
    pub ctrl_guest_offloads: bool,
    /// Lets the driver set the address in one piece.
    #[prop(default = true)]
    pub ctrl_mac_addr: bool,
    /// Has the modes of receiving.
    #[prop(default = true)]
    pub ctrl_rx: bool,
    /// Has more of them.
    #[prop(default = true)]
    pub ctrl_rx_extra: bool,
    /// Filters virtual networks.
    #[prop(default = true)]
    pub ctrl_vlan: bool,
    /// Has a control queue.
    #[prop(default = true)]
    pub ctrl_vq: bool,
    /// What the driver is told: `half` or `full`.
    pub duplex: Option<String>,
    /// Not there: a partner that takes over during migration.
    pub failover: bool,
    /// Offers segmentation to legacy drivers.
    #[prop(default = true)]
    pub gso: bool,
    /// Asks the guest to announce itself.
    #[prop(default = true)]
    pub guest_announce: bool,
    /// Sends frames whose checksums are not complete.
    #[prop(default = true)]
    pub guest_csum: bool,
    /// Sends segments with ECN.
    #[prop(default = true)]
    pub guest_ecn: bool,
    /// Not there: coalescing by the card.
    pub guest_rsc_ext: bool,
    /// Sends large segments.
    #[prop(default = true)]
    pub guest_tso4: bool,
    /// Sends large segments.
    #[prop(default = true)]
    pub guest_tso6: bool,
    /// Sends large datagrams.
    #[prop(default = true)]
    pub guest_ufo: bool,
    /// Sends several datagrams in one.
    #[prop(default = true)]
    pub guest_uso4: bool,
    /// Sends several datagrams in one.
    #[prop(default = true)]
    pub guest_uso6: bool,
    /// Not there: reports of hashes.
    pub hash: bool,
    /// Takes segments with ECN.
    #[prop(default = true)]
    pub host_ecn: bool,
    /// The largest packet, which the driver is told.
    pub host_mtu: u16,
    /// Takes large segments.
    #[prop(default = true)]
    pub host_tso4: bool,
    /// Takes large segments.
    #[prop(default = true)]
    pub host_tso6: bool,
    /// Takes large datagrams.
    #[prop(default = true)]
    pub host_ufo: bool,
    /// Takes several datagrams in one.
    #[prop(default = true)]
    pub host_uso: bool,
    /// Has several pairs of queues.
    pub mq: bool,
    /// Puts frames into several buffers.
    #[prop(default = true)]
    pub mrg_rxbuf: bool,
    /// The network.
    #[prop(flatten)]
    pub nic: NicProps,
    /// Has no effect: nothing is coalesced.
    #[prop(default = 300_000)]
    pub rsc_interval: u32,
    /// Not there: distribution by hashes.
    pub rss: bool,
    /// Descriptors of receive queues.
    #[prop(default = MIN_QUEUE)]
    pub rx_queue_size: u16,
    /// What the driver is told, in Mb/s.
    #[prop(default = UNKNOWN)]
    pub speed: i32,
    /// Tells the driver about the link.
    #[prop(default = true)]
    pub status: bool,
    /// Has no effect: frames are sent at once.
    pub tx: Option<String>,
    /// Descriptors of transmit queues.
    #[prop(default = MIN_QUEUE)]
    pub tx_queue_size: u16,
}

/// QEMU's words about one of the two queues have one.
fn full_stop(queue: &str) -> &'static str {
    if queue == "rx" { "." } else { "" }
}

/// Why a card could not be plugged.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Its network.
    #[error(transparent)]
    Card(#[from] CardError),
    /// Its transport.
    #[error(transparent)]
    Pci(#[from] VirtioPciError),
    /// Descriptors of a queue.
    #[error(
        "Invalid {name}_queue_size (= {size}), must be a power of 2 between {MIN_QUEUE} and {max}{}",
        full_stop(.name)
    )]
    QueueSize {
        /// Of which.
        name: &'static str,
        /// The size.
        size: u16,
        /// How many there may be.
        max: u16,
    },
    /// Neither half nor full.
    #[error("'duplex' must be 'half' or 'full'")]
    Duplex,
    /// A negative speed.
    #[error("'speed' must be between 0 and INT_MAX")]
    Speed,
    /// A property that asks for what is not there.
    #[error("{0}=on is not supported by this build")]
    Missing(&'static str),
}

impl NetProps {
    /// What is offered besides what rings and transport do, and what the driver is told.
    pub(super) fn check(&self, mac: MacAddr, pairs: u16) -> Result<(u64, Shown), NetError> {
        for (name, on) in [
            ("failover", self.failover),
            ("guest_rsc_ext", self.guest_rsc_ext),
            ("hash", self.hash),
            ("rss", self.rss),
        ] {
            if on {
                return Err(NetError::Missing(name));
            }
        }
        // Back ends in the host's kernel alone take longer queues of frames to send.
        for (name, size, max) in
            [("rx", self.rx_queue_size, MAX_QUEUE), ("tx", self.tx_queue_size, MIN_QUEUE)]
        {
            if !(MIN_QUEUE..=max).contains(&size) || !size.is_power_of_two() {
                return Err(NetError::QueueSize { name, size, max });
            }
        }
        let duplex = match self.duplex.as_deref() {
            Some("half") => HALF,
            Some("full") => FULL,
            Some(_) => return Err(NetError::Duplex),
            None => DUPLEX_UNKNOWN,
        };
        if self.speed < UNKNOWN {
            return Err(NetError::Speed);
        }
        let told = self.duplex.is_some() || self.speed != UNKNOWN;
        let shown = Shown { mac, pairs, mtu: self.host_mtu, speed: self.speed as u32, duplex };
        Ok((self.offered(told), shown))
    }

    fn offered(&self, speed: bool) -> u64 {
        let control = self.ctrl_vq;
        [
            (self.csum, feature::CSUM),
            (self.guest_csum, feature::GUEST_CSUM),
            (control && self.ctrl_guest_offloads, feature::CTRL_GUEST_OFFLOADS),
            (self.host_mtu != 0, feature::MTU),
            (true, feature::MAC),
            (self.csum && self.gso, feature::GSO),
            (self.guest_csum && self.guest_tso4, feature::GUEST_TSO4),
            (self.guest_csum && self.guest_tso6, feature::GUEST_TSO6),
            (self.guest_csum && self.guest_ecn, feature::GUEST_ECN),
            (self.guest_csum && self.guest_ufo, feature::GUEST_UFO),
            (self.csum && self.host_tso4, feature::HOST_TSO4),
            (self.csum && self.host_tso6, feature::HOST_TSO6),
            (self.csum && self.host_ecn, feature::HOST_ECN),
            (self.csum && self.host_ufo, feature::HOST_UFO),
            (self.mrg_rxbuf, feature::MRG_RXBUF),
            (self.status, feature::STATUS),
            (control, feature::CTRL_VQ),
            (control && self.ctrl_rx, feature::CTRL_RX),
            (control && self.ctrl_vlan, feature::CTRL_VLAN),
            (control && self.ctrl_rx_extra, feature::CTRL_RX_EXTRA),
            (control && self.guest_announce, feature::GUEST_ANNOUNCE),
            (control && self.mq, feature::MQ),
            (control && self.ctrl_mac_addr, feature::CTRL_MAC_ADDR),
            (self.guest_csum && self.guest_uso4, feature::GUEST_USO4),
            (self.guest_csum && self.guest_uso6, feature::GUEST_USO6),
            (self.csum && self.host_uso, feature::HOST_USO),
            (speed, feature::SPEED_DUPLEX),
        ]
        .into_iter()
        .filter(|(on, _)| *on)
        .fold(0, |offered, (_, bit)| offered | bit)
    }
}
