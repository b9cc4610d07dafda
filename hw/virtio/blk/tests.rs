use std::sync::atomic::AtomicU32;

use base::event_loop::EventLoop;
use base::memory::{AddressSpace, Dma, RamBlock, Region};
use base::props::{PropInput, Props};
use block::backend::DriveInfo;
use block::engine::Inline;
use block::file::{Access, HostFile};
use block::graph::Graph;
use block::node::Node;
use proptest::prelude::*;

use super::*;
use crate::virtio::{Interrupts, ToDriver, VirtQueue};

const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const HEADERS: u64 = 0x4000;
const DATA: u64 = 0x1_0000;
const DISK: u64 = 1 << 20;

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

struct Bed {
    dma: Dma,
    event_loop: EventLoop,
    blk: Blk,
    queue: Arc<VirtQueue>,
    counter: Counter,
    file: tempfile::NamedTempFile,
    next: u16,
    used: u16,
}

fn blk_props(settings: &[(&str, &str)]) -> BlkProps {
    let mut props = BlkProps::default();
    for (name, value) in settings {
        props.set("t", name, PropInput::Text(value)).unwrap();
    }
    props
}

impl Bed {
    fn new(settings: &[(&str, &str)], read_only: bool) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(DISK).unwrap();
        let path = file.path().to_str().unwrap();
        let io = Arc::new(Inline);
        let graph = Graph::new(io.clone()).unwrap();
        let driver = HostFile::open(path, Access { read_only, ..Access::default() }, io).unwrap();
        let node = Node::new(None, path, read_only, Box::new(driver), Vec::new());
        let info = DriveInfo { read_only, ..DriveInfo::default() };
        let backend = graph.add_backend("d", info).unwrap();
        backend.set_node(Some(node)).unwrap();
        let what = Use { writes: !read_only, ..Use::default() };
        backend.plug(what, None).unwrap();

        let root = Region::container("root", 1 << 32);
        root.add(&Region::ram(Arc::new(RamBlock::anonymous("ram", 1 << 20).unwrap())), 0, 0);
        let dma = Dma::new(AddressSpace::new("t", root));
        let counter = Counter::default();
        let driver = Arc::new(ToDriver::new(Box::new(counter.clone())));
        driver.set_ready(true);
        let queue = VirtQueue::new(0, 64, &dma, &driver);
        queue.configure(|st| {
            (st.descriptors, st.driver_area, st.device_area) = (DESCRIPTORS, AVAILABLE, USED);
        });
        queue.enable(1 << 32);
        let event_loop = EventLoop::new().unwrap();
        let wiring = Wiring { queues: vec![queue.clone()], driver, dma: dma.clone() };
        let shown = Shown::decide(&blk_props(settings), &backend, 1).unwrap();
        let thread = registry::Worker { event_loop: event_loop.handle(), keeper: None };
        let blk = Blk::new(Disk::new(shown, backend), &wiring, thread);
        Bed { dma, event_loop, blk, queue, counter, file, next: 0, used: 0 }
    }

    /// Makes a request available: its header, `out` bytes to be read at [`DATA`], `into` to be written
    /// behind, and the status.
    fn offer(&mut self, kind: u32, sector: u64, out: u32, into: u32) {
        let n = u64::from(self.next % 16);
        let first = n * 4;
        let header = HEADERS + n * 0x20;
        self.dma.write_uint(header, 4, kind.into());
        self.dma.write_uint(header + 4, 4, 0);
        self.dma.write_uint(header + 8, 8, sector);
        self.dma.write_uint(header + 0x10, 1, 0xee);
        let data = DATA + n * 0x4000;
        let parts = [(header, 16, 0), (data, out, 0), (data, into, 2), (header + 0x10, 1, 2)];
        let parts: Vec<_> = parts.into_iter().filter(|(_, len, _)| *len > 0).collect();
        for (i, (at, len, flags)) in parts.iter().enumerate() {
            let slot = DESCRIPTORS + 16 * (first + i as u64);
            self.dma.write_uint(slot, 8, *at);
            self.dma.write_uint(slot + 8, 4, (*len).into());
            let next = u64::from(i + 1 < parts.len());
            self.dma.write_uint(slot + 12, 2, flags | next);
            self.dma.write_uint(slot + 14, 2, first + i as u64 + 1);
        }
        self.dma.write_uint(AVAILABLE + 4 + 2 * u64::from(self.next % 64), 2, first);
        self.next = self.next.wrapping_add(1);
        self.dma.write_uint(AVAILABLE + 2, 2, self.next.into());
    }

    /// Has everything that is available done; returns status and length of each, by number.
    fn run(&mut self) -> Vec<(u8, u32)> {
        self.queue.kick();
        let count = self.next.wrapping_sub(self.used);
        let mut answers = vec![(0xff, 0); count.into()];
        for _ in 0..count {
            while self.dma.read_uint(USED + 2, 2) as u16 == self.used {
                self.event_loop.run_once(&(), false).unwrap();
                std::thread::yield_now();
            }
            let entry = USED + 4 + 8 * u64::from(self.used % 64);
            let n = self.dma.read_uint(entry, 4) / 4;
            let first = u64::from(self.next.wrapping_sub(count) % 16);
            let status = self.dma.read_uint(HEADERS + n * 0x20 + 0x10, 1) as u8;
            answers[((n + 16 - first) % 16) as usize] =
                (status, self.dma.read_uint(entry + 4, 4) as u32);
            self.used = self.used.wrapping_add(1);
        }
        answers
    }

    fn one(&mut self, kind: u32, sector: u64, out: u32, into: u32) -> (u8, u32) {
        self.offer(kind, sector, out, into);
        self.run()[0]
    }

    fn data(&self, back: u16) -> u64 {
        DATA + u64::from(self.next.wrapping_sub(back) % 16) * 0x4000
    }

    fn contents(&self) -> Vec<u8> {
        std::fs::read(self.file.path()).unwrap()
    }
}

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const IDENTIFY: u32 = 8;
const DISCARD: u32 = 11;
const ZEROES: u32 = 13;

#[test]
fn what_is_written_is_on_the_disk_and_is_read_again() {
    let mut bed = Bed::new(&[], false);
    bed.dma.write(bed.data(0), &[0x5a; 1024]);
    assert_eq!(bed.one(WRITE, 3, 1024, 0), (0, 1));
    assert_eq!(bed.one(FLUSH, 0, 0, 0), (0, 1));
    assert!(bed.contents()[3 * 512..5 * 512].iter().all(|&byte| byte == 0x5a));
    assert_eq!(bed.one(READ, 4, 0, 1024), (0, 1025));
    assert_eq!(bed.dma.read_uint(bed.data(1), 2), 0x5a5a);
    assert_eq!(bed.dma.read_uint(bed.data(1) + 512, 2), 0);
    // The interrupt comes after what it is about.
    while bed.counter.0.load(Ordering::Relaxed) < 3 {
        std::thread::yield_now();
    }
}

#[test]
fn requests_that_can_not_be_are_answered() {
    let sizes = [("logical_block_size", "1024"), ("physical_block_size", "1024")];
    let mut bed = Bed::new(&[sizes[0], sizes[1], ("discard", "off")], false);
    let end = DISK / 512;
    for (kind, sector, out, into, answer) in [
        (READ, end, 0, 1024, (1, 1)),
        (READ, end - 2, 0, 2048, (1, 1)),
        (READ, 1, 0, 1024, (1, 1)),
        (READ, 0, 0, 512, (1, 1)),
        (READ, u64::MAX, 0, 1024, (1, 1)),
        (READ, u64::MAX / 512, 0, 1024, (1, 1)),
        (READ, end - 2, 0, 1024, (0, 1025)),
        (DISCARD, 0, 16, 0, (2, 1)),
        (2, 0, 0, 0, (2, 1)),
        (99, 0, 0, 4, (2, 1)),
        (WRITE | 1 << 31, 0, 1024, 0, (0, 1)),
    ] {
        assert_eq!(bed.one(kind, sector, out, into), answer, "{kind} at {sector}");
    }
    let mut bed = Bed::new(&[], true);
    assert_eq!(bed.one(WRITE, 0, 512, 0), (1, 1));
    assert_eq!(bed.one(READ, 0, 0, 512), (0, 513));
    assert_ne!(bed.blk.features(1 << 32) & feature::READ_ONLY, 0);
}

#[test]
fn discarding_and_zeroing() {
    let mut bed = Bed::new(&[("max-write-zeroes-sectors", "100")], false);
    bed.dma.write(bed.data(0), &[7; 0x2000]);
    assert_eq!(bed.one(WRITE, 0, 0x2000, 0), (0, 1));
    let mut change = |kind, sector: u64, sectors: u32, flags: u32| {
        let at = bed.data(0);
        bed.dma.write_uint(at, 8, sector);
        bed.dma.write_uint(at + 8, 4, sectors.into());
        bed.dma.write_uint(at + 12, 4, flags.into());
        bed.one(kind, 0, 16, 0).0
    };
    assert_eq!(change(ZEROES, 1, 2, 0), 0);
    assert_eq!(change(ZEROES, 4, 1, 1), 0);
    assert_eq!(change(ZEROES, 0, 101, 0), 1, "too many");
    assert_eq!(change(ZEROES, DISK / 512, 1, 0), 1, "behind the end");
    assert_eq!(change(ZEROES, u64::MAX, 1, 0), 1);
    assert_eq!(change(ZEROES, 0, 1, 2), 2, "unknown flags");
    assert_eq!(change(DISCARD, 0, 1, 1), 2);
    assert_eq!(change(DISCARD, 8, 4, 0), 0);
    let contents = bed.contents();
    let kept: Vec<_> = (0..8).map(|sector| contents[sector * 512] == 7).collect();
    assert_eq!(kept, [true, false, false, true, false, true, true, true]);
    assert_eq!(bed.one(ZEROES, 0, 32, 0).0, 2, "two segments");
    assert_eq!(bed.one(ZEROES, 0, 8, 0).0, 1, "half a segment");
}

#[test]
fn serial_numbers_are_cut_to_twenty_bytes() {
    let serial = "0123456789012345678901234567890";
    let mut bed = Bed::new(&[("serial", serial)], false);
    assert_eq!(bed.one(IDENTIFY, 0, 0, 30), (0, 21));
    let mut bytes = [0; 21];
    bed.dma.read(bed.data(1), &mut bytes);
    assert_eq!(&bytes, b"01234567890123456789\0");
}

#[test]
fn a_request_without_a_header_or_a_status_needs_a_reset() {
    for (len, flags) in [(8, 0), (16, 0), (1, 2)] {
        let mut bed = Bed::new(&[], false);
        bed.dma.write_uint(DESCRIPTORS, 8, DATA);
        bed.dma.write_uint(DESCRIPTORS + 8, 4, len);
        bed.dma.write_uint(DESCRIPTORS + 12, 2, flags);
        bed.dma.write_uint(AVAILABLE + 2, 2, 1);
        bed.queue.kick();
        bed.event_loop.run_once(&(), false).unwrap();
        assert!(bed.queue.driver().is_broken());
        assert_eq!((bed.dma.read_uint(USED + 2, 2), bed.queue.in_flight()), (0, 0));
    }
}

#[test]
fn the_write_cache_is_the_drivers() {
    let mut bed = Bed::new(&[], false);
    assert_eq!(bed.blk.config()[config::WRITE_CACHE], 1);
    bed.blk.write_config(config::WRITE_CACHE, &[0]);
    assert_eq!(bed.blk.config()[config::WRITE_CACHE], 0);
    bed.blk.reset();
    assert_eq!(bed.blk.config()[config::WRITE_CACHE], 1);
    bed.blk.activate(0);
    assert_eq!(bed.blk.config()[config::WRITE_CACHE], 0, "it can not flush");
}

/// Bytes that QEMU 10.0.2 shows of a disk of 64 MiB, but for what follows from the size.
#[test]
fn configuration_is_qemus() {
    let bed = Bed::new(&[("num-queues", "2")], false);
    let mut expected = vec![
        0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0, 0, 0, 2, 0, 0x10, 0x3f, 0, 2, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 1, 0, 2, 0, 0xff, 0xff, 0x3f, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0x3f,
        0,
    ];
    expected.extend([1, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(bed.blk.config(), expected);
    assert_eq!(bed.blk.features(1 << 32), 1 << 32 | 0x7e54);
    assert_eq!(bed.blk.features(0) & 0xffff, 0x7ed4);
    let settings = [
        ("logical_block_size", "4096"),
        ("physical_block_size", "16384"),
        ("min_io_size", "8192"),
        ("opt_io_size", "65536"),
        ("discard_granularity", "65536"),
        ("config-wce", "off"),
    ];
    let config = Bed::new(&settings, false).blk.config();
    assert_eq!(config[19..34], [0x38, 0, 0x10, 0, 0, 2, 0, 2, 0, 0x10, 0, 0, 0, 1, 0]);
    assert_eq!(config[44], 0x80);
}

#[test]
fn properties_that_can_not_be_are_refused() {
    let refusal = |name, value| {
        blk_props(&[(name, value)]).check().map_err(|error| error.to_string()).unwrap_err()
    };
    assert_eq!(refusal("num-queues", "0"), "num-queues property must be larger than 0");
    assert_eq!(
        refusal("queue-size", "3"),
        "invalid queue-size property (3), must be a power of 2 (max 1024)"
    );
    assert_eq!(refusal("queue-size", "2"), "invalid queue-size property (2), must be > 2");
    assert_eq!(
        refusal("max-discard-sectors", "5000000"),
        "invalid max-discard-sectors property (5000000), must be between 1 and 4194303"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Rounds of writes to distinct sectors, in any order and so merged in any way.
    #[test]
    fn merged_requests_do_what_single_ones_do(
        rounds in prop::collection::vec(
            prop::collection::btree_map(0u64..24, any::<u8>(), 1..12), 1..6
        ),
        merges: bool,
    ) {
        let merging = if merges { "on" } else { "off" };
        let mut bed = Bed::new(&[("request-merging", merging)], false);
        let mut oracle = vec![0; 24];
        for round in rounds {
            for (&sector, &byte) in &round {
                let at = bed.data(0);
                bed.dma.write(at, &[byte; 512]);
                bed.offer(WRITE, sector, 512, 0);
                oracle[sector as usize] = byte;
            }
            prop_assert!(bed.run().iter().all(|answer| *answer == (0, 1)));
            for &sector in round.keys() {
                bed.offer(READ, sector, 0, 512);
            }
            prop_assert!(bed.run().iter().all(|answer| *answer == (0, 513)));
            for (back, &sector) in (1..).zip(round.keys().rev()) {
                let at = bed.data(back);
                let read = [at, at + 511].map(|at| bed.dma.read_uint(at, 1) as u8);
                prop_assert_eq!(read, [oracle[sector as usize]; 2]);
            }
        }
        let contents = bed.contents();
        let stored: Vec<u8> = (0..24).map(|sector| contents[sector * 512 + 100]).collect();
        prop_assert_eq!(stored, oracle);
    }
}
