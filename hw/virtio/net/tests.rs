use std::sync::atomic::AtomicU32;

use base::event_loop::EventLoop;
use base::memory::{AddressSpace, Dma, RamBlock, Region};
use base::props::{NetdevId, PropInput, Props};
use net::{Checksum, Delivery, Gso, GsoKind, Offload, Plug, Side};
use proptest::prelude::*;

use super::*;
use crate::net::card::NicProps;
use crate::net::testbed::{Wire, send, wire};
use crate::virtio::queue::MAX_SIZE;
use crate::virtio::{Interrupts, VirtQueue};

const OWN: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const SIZE: u16 = 256;
const BUFFERS: u64 = 0x10_0000;

#[derive(Clone, Default)]
struct Counter(Arc<AtomicU32>);

impl Interrupts for Counter {
    fn queue(&self, _: u16) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn config(&self) {
        self.0.fetch_add(0x100, Ordering::Relaxed);
    }
}

/// A card and its driver. Each queue has its rings in pages of its own.
struct Bed {
    dma: Dma,
    event_loop: EventLoop,
    net: Net,
    queues: Vec<Arc<VirtQueue>>,
    wire: Arc<Wire>,
    plug: Plug,
    counter: Counter,
    next: [u16; 3],
    used: [u16; 3],
}

const RX: usize = 0;
const TX: usize = 1;
const CONTROL: usize = 2;

fn area(queue: usize) -> u64 {
    0x1_0000 * (queue as u64 + 1)
}

impl Bed {
    fn new(settings: &[(&str, &str)], features: u64) -> Self {
        let mut props = NetProps::default();
        for (name, value) in settings {
            props.set("t", name, PropInput::Text(value)).unwrap();
        }
        let root = Region::container("root", 1 << 32);
        root.add(&Region::ram(Arc::new(RamBlock::anonymous("ram", 4 << 20).unwrap())), 0, 0);
        let dma = Dma::new(AddressSpace::new("t", root));
        let counter = Counter::default();
        let driver = Arc::new(ToDriver::new(Box::new(counter.clone())));
        let queues: Vec<_> =
            (0..3).map(|index| VirtQueue::new(index, SIZE, &dma, &driver)).collect();
        let (nics, wire, plug) = wire();
        let nic = NicProps { netdev: Some(NetdevId("n".into())), ..NicProps::default() };
        let socket = nics.connect("virtio-net-pci", &Identity::default(), &nic).unwrap();
        let (offered, shown) = props.check(socket.mac, 1).unwrap();
        let event_loop = EventLoop::new().unwrap();
        let wiring = Wiring { queues: queues.clone(), driver: driver.clone(), dma: dma.clone() };
        let handle = event_loop.handle();
        let mut net = Net::new(&wiring, socket, offered, shown, nics, &handle, "/p".into());
        for (n, queue) in queues.iter().enumerate() {
            queue.configure(|st| {
                st.descriptors = area(n);
                st.driver_area = area(n) + 0x2000;
                st.device_area = area(n) + 0x4000;
            });
            queue.enable(features);
        }
        let offered = net.features(0);
        net.activate(features & (offered | VERSION_1));
        driver.set_ready(true);
        let (next, used) = ([0; 3], [0; 3]);
        Bed { dma, event_loop, net, queues, wire, plug, counter, next, used }
    }

    /// Makes a chain available: the place, the length and the direction of each buffer.
    fn offer(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) {
        let first = u64::from(self.next[queue]) * 4 % u64::from(SIZE);
        for (n, (at, len, write)) in (0..).zip(buffers) {
            let slot = area(queue) + 16 * (first + n);
            let more = n + 1 < buffers.len() as u64;
            self.dma.write_uint(slot, 8, *at);
            self.dma.write_uint(slot + 8, 4, (*len).into());
            self.dma.write_uint(slot + 12, 2, u64::from(more) | if *write { 2 } else { 0 });
            self.dma.write_uint(slot + 14, 2, first + n + 1);
        }
        let ring = area(queue) + 0x2000;
        self.dma.write_uint(ring + 4 + 2 * u64::from(self.next[queue] % SIZE), 2, first);
        self.next[queue] = self.next[queue].wrapping_add(1);
        self.dma.write_uint(ring + 2, 2, self.next[queue].into());
    }

    fn kick(&mut self, queue: usize) {
        self.queues[queue].kick();
        let clocks = base::clock::Clocks::new();
        (0..4).for_each(|_| self.event_loop.run_once(&clocks, false).unwrap());
    }

    /// Lengths of chains that came back.
    fn collect(&mut self, queue: usize) -> Vec<u32> {
        let ring = area(queue) + 0x4000;
        let until = self.dma.read_uint(ring + 2, 2) as u16;
        let from = std::mem::replace(&mut self.used[queue], until);
        (0..until.wrapping_sub(from))
            .map(|n| {
                let at = ring + 4 + 8 * u64::from(from.wrapping_add(n) % SIZE);
                self.dma.read_uint(at + 4, 4) as u32
            })
            .collect()
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.dma.read(at, &mut bytes);
        bytes
    }

    /// A command; returns its status.
    fn command(&mut self, header: [u8; 2], argument: &[u8]) -> u8 {
        let bytes = [&header[..], argument].concat();
        self.dma.write(BUFFERS, &bytes);
        let status = BUFFERS + 0x1_0000;
        self.offer(CONTROL, &[(BUFFERS, bytes.len() as u32, false), (status, 1, true)]);
        self.kick(CONTROL);
        assert_eq!(self.collect(CONTROL), [1]);
        self.bytes(status, 1)[0]
    }
}

fn frame(to: [u8; 6], len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
    bytes[..6].copy_from_slice(&to);
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    bytes
}

#[test]
fn frames_go_out_as_they_are() {
    let mut bed = Bed::new(&[], VERSION_1 | feature::CSUM | feature::HOST_TSO4);
    *bed.wire.accepts.lock() = Offloads::ALL;
    let bytes = frame([0xff; 6], 4000);
    let checksum = Checksum::Partial { start: 34, offset: 16 };
    let gso = Gso { kind: GsoKind::Tcp4, size: 1448, ecn: false, header_len: 54 };
    let offload = Offload { checksum, gso: Some(gso) };
    bed.dma.write(BUFFERS, &offload.to_vnet());
    bed.dma.write(BUFFERS + 12, &bytes);
    bed.offer(TX, &[(BUFFERS, 100, false), (BUFFERS + 100, 3912, false)]);
    bed.kick(TX);
    assert_eq!(*bed.wire.frames.lock(), [(bytes, offload)]);
    assert_eq!(bed.collect(TX), [0]);
    assert_eq!(bed.wire.flushed.load(Ordering::Relaxed), 1);
}

#[test]
fn what_does_not_fit_waits_in_the_queue() {
    let mut bed = Bed::new(&[], VERSION_1);
    bed.wire.full.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        bed.offer(TX, &[(BUFFERS, 72, false)]);
    }
    bed.kick(TX);
    assert_eq!(bed.collect(TX).len(), 0);
    bed.wire.full.store(false, Ordering::Relaxed);
    bed.plug.ready();
    bed.kick(RX);
    assert_eq!((bed.collect(TX).len(), bed.wire.frames.lock().len()), (3, 3));
}

#[test]
fn a_small_frame_goes_at_once_while_the_loop_sleeps() {
    let mut bed = Bed::new(&[], VERSION_1);
    bed.offer(TX, &[(BUFFERS, 72, false)]);
    let Bed { event_loop, queues, wire, .. } = &mut bed;
    let handle = event_loop.handle();
    std::thread::scope(|scope| {
        scope.spawn(|| event_loop.run(&()).unwrap());
        while !handle.is_asleep() {
            std::thread::yield_now();
        }
        queues[TX].kick();
        let sent = wire.frames.lock().len();
        handle.quit();
        assert_eq!(sent, 1);
    });
    assert_eq!(bed.collect(TX), [0]);
}

#[test]
fn frames_are_put_into_several_buffers() {
    let mut bed = Bed::new(&[], VERSION_1 | feature::MRG_RXBUF);
    let bytes = frame(OWN, 2500);
    assert_eq!(send(&bed.plug, &bytes, Offload::default()), Delivery::Full);
    for n in 0..2 {
        bed.offer(RX, &[(BUFFERS + 0x1000 * n, 1000, true)]);
    }
    bed.kick(RX);
    assert_eq!(bed.wire.woken.load(Ordering::Relaxed), 1);
    assert_eq!(send(&bed.plug, &bytes, Offload::default()), Delivery::Full, "two are not enough");
    bed.offer(RX, &[(BUFFERS + 0x2000, 1000, true)]);
    bed.kick(RX);
    assert_eq!(send(&bed.plug, &bytes, Offload::default()), Delivery::Taken);
    assert_eq!(bed.collect(RX), [1000, 1000, 512]);
    let parts = [1000, 1000, 512].into_iter().enumerate();
    let all: Vec<u8> =
        parts.flat_map(|(n, len)| bed.bytes(BUFFERS + 0x1000 * n as u64, len)).collect();
    assert_eq!((&all[10..12], &all[12..]), (&[3, 0][..], &bytes[..]));
    assert_eq!(bed.counter.0.load(Ordering::Relaxed), 1, "one interrupt for all");
}

#[test]
fn without_merging_a_frame_has_one_buffer_or_none() {
    let mut bed = Bed::new(&[], 0);
    bed.offer(RX, &[(BUFFERS, 10, true), (BUFFERS + 0x100, 100, true)]);
    assert_eq!(send(&bed.plug, &frame(OWN, 101), Offload::default()), Delivery::Taken);
    assert!(bed.collect(RX).is_empty(), "it is dropped");
    let bytes = frame(OWN, 80);
    assert_eq!(send(&bed.plug, &bytes, Offload::default()), Delivery::Taken);
    assert_eq!(bed.collect(RX), [90]);
    assert_eq!(bed.bytes(BUFFERS + 0x100, 80), bytes);
}

#[test]
fn offloads_follow_what_was_negotiated() {
    let bed = Bed::new(&[], VERSION_1 | feature::GUEST_CSUM | feature::GUEST_TSO4);
    let takes = bed.plug.peer_accepts();
    assert_eq!(takes, Offloads { checksum: true, tso4: true, ..Offloads::default() });
    let mut bed = Bed::new(
        &[],
        VERSION_1 | feature::GUEST_CSUM | feature::CTRL_GUEST_OFFLOADS | feature::CTRL_VQ,
    );
    assert!(bed.plug.peer_accepts().checksum);
    assert_eq!(bed.command([5, 0], &0u64.to_le_bytes()), 0);
    assert!(!bed.plug.peer_accepts().checksum);
    assert_eq!(bed.command([5, 0], &feature::GUEST_TSO4.to_le_bytes()), 1);
}

#[test]
fn the_driver_sets_filters() {
    let all = VERSION_1 | feature::CTRL_VQ | feature::CTRL_RX | feature::CTRL_VLAN;
    let mut bed = Bed::new(&[], all);
    let shown = |bed: &Bed| bed.net.shared.rx_filter().unwrap();
    assert!(shown(&bed).promiscuous);
    assert_eq!(bed.command([0, 0], &[0]), 0);
    assert_eq!(bed.command([0, 1], &[1]), 0);
    assert_eq!(bed.command([0, 9], &[1]), 1);
    assert_eq!(bed.command([2, 0], &[7, 0]), 0);
    let tables = [&[1, 0, 0, 0][..], &[2; 6], &[2, 0, 0, 0], &[3; 6], &[5; 6]].concat();
    assert_eq!(bed.command([1, 0], &tables), 0);
    assert_eq!(bed.command([1, 0], &tables[..10]), 1, "the second table is missing");
    assert_eq!(bed.command([1, 1], &[6; 6]), 0);
    let filter = shown(&bed);
    assert!(!filter.promiscuous);
    assert_eq!(filter.multicast, crate::net::card::RxMode::All);
    assert_eq!((filter.vlan_table.clone(), filter.main_mac), (vec![7], MacAddr([6; 6])));
    assert_eq!((filter.unicast_table.len(), filter.multicast_table.len()), (1, 2));
    assert_eq!(bed.net.config()[..6], [6; 6]);
    bed.net.reset();
    assert_eq!(bed.net.config()[..6], OWN);
}

#[test]
fn the_guest_announces_itself_when_asked() {
    let mut bed = Bed::new(&[], VERSION_1 | feature::CTRL_VQ | feature::GUEST_ANNOUNCE);
    assert!(bed.net.shared.announce());
    assert_eq!(bed.net.config()[6], 3);
    assert_eq!(bed.counter.0.load(Ordering::Relaxed), 0x100);
    assert_eq!(bed.command([3, 0], &[]), 0);
    assert_eq!(bed.net.config()[6], 1);
    assert!(!Bed::new(&[], VERSION_1).net.shared.announce());
}

#[test]
fn the_link_is_told() {
    let bed = Bed::new(&[("speed", "2500"), ("duplex", "full"), ("host_mtu", "9000")], VERSION_1);
    let config = bed.net.config();
    assert_eq!(config[10..17], [0x28, 0x23, 0xc4, 0x09, 0, 0, 1]);
    bed.plug.cable().set_link(Side::Guest, false);
    assert_eq!(bed.net.config()[6], 0);
    assert_eq!(bed.counter.0.load(Ordering::Relaxed), 0x100);
}

/// As observed on QEMU 10.0.
#[test]
fn odd_properties_are_refused() {
    for (name, value, words) in [
        ("duplex", "x", "'duplex' must be 'half' or 'full'"),
        ("speed", "-2", "'speed' must be between 0 and INT_MAX"),
        (
            "rx_queue_size",
            "100",
            "Invalid rx_queue_size (= 100), must be a power of 2 between 256 and 1024.",
        ),
        (
            "tx_queue_size",
            "3",
            "Invalid tx_queue_size (= 3), must be a power of 2 between 256 and 256",
        ),
    ] {
        let mut props = NetProps::default();
        props.set("t", name, PropInput::Text(value)).unwrap();
        let error = props.check(MacAddr::default(), 1).map(drop).unwrap_err();
        assert_eq!(error.to_string(), words);
    }
    assert_eq!(config_len(NetProps::default().check(MacAddr::default(), 1).unwrap().0), 8);
}

proptest! {
    /// Chains of any make do no harm, and all come back or stay with the card.
    #[test]
    fn odd_chains_do_no_harm(
        chains in prop::collection::vec(
            (0usize..3, prop::collection::vec((0u32..0x3000, any::<bool>()), 1..4)),
            1..40,
        ),
        fill in any::<u8>(),
        features in any::<u64>(),
    ) {
        let mut bed = Bed::new(&[], features & !(1 << 34));
        bed.dma.write(BUFFERS, &vec![fill; 0x1_0000]);
        for (n, (queue, buffers)) in chains.iter().enumerate() {
            let at = |i: usize| BUFFERS + 0x1000 * ((n + i) as u64 % 16);
            let mut list: Vec<_> =
                buffers.iter().enumerate().map(|(i, (len, write))| (at(i), *len, *write)).collect();
            list.sort_by_key(|(_, _, write)| *write);
            bed.offer(*queue, &list);
            bed.kick(*queue);
            let _ = send(&bed.plug, &frame(OWN, 60 + 100 * n), Offload::default());
        }
        let out: usize = bed.queues.iter().map(|queue| queue.in_flight()).sum();
        prop_assert!(out <= usize::from(MAX_SIZE));
        bed.net.reset();
    }
}
