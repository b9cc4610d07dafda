//! Drives on a channel, with images behind them, driven as a guest drives them.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base::device::{self, Device, Shared};
use base::irq::{FnSink, IrqLine};
use base::memory::{AddressSpace, Dma, RamBlock, Region};
use block::Error;
use block::backend::{Backend, DriveInfo, ErrorPolicy, OnError, Use};
use block::driver::{Driver, Extent, Io, Preallocation, ZeroFlags};
use block::engine::Inline;
use block::graph::Graph;
use block::node::Node;
use block::vector::Vector;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::channel::sectors;
use super::drive::{Config, Drive, Kind};
use super::spec::{command, control, reg, status};
use crate::storage::piix3_ide::Piix3Ide;

/// Regions of the first channel.
const CONTROL: u32 = 2;
const MASTER: u32 = 4;
const TABLE: u32 = 6;

/// Where descriptors and data are.
const TABLE_AT: u64 = 0x1000;
const DATA_AT: u64 = 0x1_0000;

/// In the bus master's status.
const ACTIVE: u8 = 1;
const INTERRUPT: u8 = 4;

const PATIENCE: Duration = Duration::from_secs(20);

/// A controller with one drive.
struct Bed {
    ide: Shared<Piix3Ide>,
    irq: IrqLine,
    ram: Arc<RamBlock>,
    graph: Arc<Graph>,
    backend: Arc<Backend>,
    disk: Arc<Memory>,
}

/// A disk in memory that fails when told to.
struct Memory {
    data: Mutex<Vec<u8>>,
    fails: AtomicBool,
}

impl Memory {
    /// Sectors are full of their own number.
    fn new(sectors: u32) -> Arc<Self> {
        let data = (0..sectors).flat_map(|sector| [sector as u8; 512]).collect();
        Arc::new(Memory { data: Mutex::new(data), fails: AtomicBool::new(false) })
    }

    fn access(&self, act: impl FnOnce(&mut Vec<u8>)) -> Io<'_, ()> {
        let failed = self.fails.load(Ordering::Relaxed);
        if !failed {
            act(&mut self.data.lock());
        }
        let result = if failed { Err(Error::from_errno(5)) } else { Ok(()) };
        Box::pin(ready(result))
    }
}

struct Disk(Arc<Memory>);

impl Driver for Disk {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn len(&self) -> block::Result<u64> {
        Ok(self.0.data.lock().len() as u64)
    }

    fn read(&self, at: u64, into: Vector) -> Io<'_, ()> {
        self.0.access(|data| into.write(0, &data[at as usize..][..into.len()]))
    }

    fn write(&self, at: u64, from: Vector) -> Io<'_, ()> {
        self.0.access(|data| data[at as usize..][..from.len()].copy_from_slice(&from.to_vec()))
    }

    fn write_zeroes(&self, at: u64, len: u64, _: ZeroFlags) -> Io<'_, ()> {
        self.0.access(|data| data[at as usize..][..len as usize].fill(0))
    }

    fn discard(&self, at: u64, len: u64) -> Io<'_, ()> {
        self.write_zeroes(at, len, ZeroFlags::default())
    }

    fn flush(&self) -> Io<'_, ()> {
        self.0.access(|_| ())
    }

    fn truncate(&self, _: u64, _: Preallocation) -> Io<'_, ()> {
        self.0.access(|_| ())
    }

    fn status(&self, _: u64, len: u64) -> Io<'_, Extent> {
        Box::pin(ready(Ok(Extent { len, data: true, allocated: true, ..Extent::default() })))
    }
}

fn bed(kind: Kind, count: u32) -> Bed {
    let graph = Graph::new(Arc::new(Inline)).unwrap();
    let disk = Memory::new(count);
    let read_only = kind == Kind::Cdrom;
    let driver = Box::new(Disk(disk.clone()));
    let node = Node::new(Some("n".into()), "memory", read_only, driver, Vec::new());
    let backend = graph.add_backend("d", DriveInfo::default()).unwrap();
    backend.set_node(Some(node)).unwrap();
    let what = Use { must_write: !read_only, writes: !read_only, ..Use::default() };
    backend.plug(what, None).unwrap();
    let ram = Arc::new(RamBlock::anonymous("ram", 0x20_0000).unwrap());
    let space = AddressSpace::new("memory", Region::ram(ram.clone()));
    let irq = IrqLine::new(Arc::new(FnSink(|_, _| ())), 14);
    let irqs = [irq.clone(), IrqLine::unconnected()];
    let ide = device::share(|me| Piix3Ide::new(irqs, &Dma::new(space), me));
    let drive = Drive::new(Config { trim: true, ..Config::plain(kind) }, sectors(&backend));
    ide.lock().channel(0).unwrap().attach(0, drive, Some(backend.clone()), None);
    Bed { ide, irq, ram, graph, backend, disk }
}

impl Bed {
    fn read(&self, register: u64) -> u8 {
        self.ide.lock().read(0, register, 1) as u8
    }

    fn write(&self, register: u64, value: u8) {
        self.ide.lock().write(0, register, 1, value.into());
    }

    fn status(&self) -> u8 {
        self.ide.lock().read(CONTROL, 0, 1) as u8
    }

    fn master(&self) -> u8 {
        self.ide.lock().read(MASTER, 2, 1) as u8
    }

    /// Waits while something is under way.
    fn settle(&self) -> u8 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.graph.drain();
            let status = self.status();
            if status & status::BUSY == 0 {
                return status;
            }
            assert!(Instant::now() < deadline, "still busy");
        }
    }

    fn begin(&self, code: u8, features: u8, count: u8, lba: u32) {
        let [low, mid, high, top] = lba.to_le_bytes();
        self.write(reg::DEVICE, 0xe0 | top);
        for (register, value) in [(1, features), (2, count), (3, low), (4, mid), (5, high)] {
            self.write(register, 0);
            self.write(register, value);
        }
        self.write(reg::STATUS, code);
    }

    fn stop_master(&self) {
        self.ide.lock().write(MASTER, 0, 1, 0);
    }

    fn run(&self, code: u8, count: u8, lba: u32) -> u8 {
        self.begin(code, 0, count, lba);
        self.settle()
    }

    fn words(&self, bytes: usize) -> Vec<u8> {
        (0..bytes / 2)
            .flat_map(|_| (self.ide.lock().read(0, reg::DATA, 2) as u16).to_le_bytes())
            .collect()
    }

    fn put(&self, bytes: &[u8]) {
        for pair in bytes.chunks(2) {
            let word = u16::from_le_bytes([pair[0], pair[1]]);
            self.ide.lock().write(0, reg::DATA, 2, word.into());
        }
    }

    /// Points the bus master to memory and starts it.
    fn start_master(&self, spans: &[(u64, u16)], to_memory: bool) {
        let last = spans.len() - 1;
        for (index, &(at, len)) in spans.iter().enumerate() {
            let place = TABLE_AT + 8 * index as u64;
            self.ram.write_uint(place, 4, at);
            let flag = u64::from(index == last) << 31;
            self.ram.write_uint(place + 4, 4, u64::from(len) | flag);
        }
        let mut ide = self.ide.lock();
        ide.write(MASTER, 0, 1, 0);
        ide.write(MASTER, 2, 1, 6);
        ide.write(TABLE, 0, 4, TABLE_AT);
        ide.write(MASTER, 0, 1, if to_memory { 9 } else { 1 });
    }

    fn memory(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.read(at, &mut bytes);
        bytes
    }

    /// Sends a packet and takes what is offered in return.
    fn packet(&self, packet: &[u8], limit: u16) -> (u8, Vec<u8>) {
        self.write(reg::DEVICE, 0xa0);
        let [low, high] = limit.to_le_bytes();
        for (register, value) in [(1, 0), (4, low), (5, high), (7, command::PACKET)] {
            self.write(register, value);
        }
        let mut bytes = [0; 12];
        bytes[..packet.len()].copy_from_slice(packet);
        self.put(&bytes);
        let mut data = Vec::new();
        while self.settle() & status::DATA_REQUEST != 0 {
            let count = u16::from_le_bytes([self.read(reg::LBA_MID), self.read(reg::LBA_HIGH)]);
            let offered = self.words(usize::from(count).next_multiple_of(2));
            data.extend(&offered[..count.into()]);
        }
        (self.status(), data)
    }
}

const DONE: u8 = 0x50;
const FAILED: u8 = 0x41;
const HAS_DATA: u8 = 0x58;

#[test]
fn sectors_pass_through_the_data_register() {
    let bed = bed(Kind::Disk, 64);
    assert_eq!(bed.run(command::READ, 3, 5), HAS_DATA);
    for sector in 5..8 {
        assert!(bed.irq.level());
        bed.read(reg::STATUS);
        assert_eq!(bed.read(reg::COUNT), 7 - sector);
        assert_eq!(bed.words(512), [sector; 512]);
        bed.settle();
    }
    assert_eq!(bed.status(), DONE);
    assert!(!bed.irq.level(), "the last block has been announced");
    bed.begin(command::WRITE_MULTIPLE, 0, 17, 1);
    assert_eq!(bed.status(), HAS_DATA);
    assert!(!bed.irq.level(), "the first block is not announced");
    bed.put(&[0xaa; 16 * 512]);
    assert_eq!(bed.settle(), HAS_DATA);
    bed.put(&[0xbb; 512]);
    assert_eq!(bed.settle(), DONE);
    bed.run(command::READ_MULTIPLE, 2, 16);
    assert_eq!(bed.words(1024), [[0xaa; 512], [0xbb; 512]].concat());
}

#[test]
fn what_is_beyond_the_end_is_refused() {
    let bed = bed(Kind::Disk, 64);
    assert_eq!(bed.run(command::READ, 2, 63), HAS_DATA);
    bed.words(512);
    assert_eq!(bed.settle(), FAILED);
    assert_eq!((bed.read(reg::ERROR), bed.read(reg::LBA_LOW), bed.read(reg::COUNT)), (4, 64, 1));
    bed.begin(command::WRITE, 0, 1, 64);
    bed.put(&[0; 512]);
    assert_eq!(bed.settle(), FAILED);
    bed.begin(command::READ_DMA, 0, 2, 63);
    bed.start_master(&[(DATA_AT, 1024)], true);
    assert_eq!(bed.settle(), FAILED);
    assert_eq!(bed.master(), INTERRUPT);
    assert_eq!(bed.memory(DATA_AT, 2), [0, 0]);
}

#[test]
fn the_bus_master_moves_sectors_to_and_from_memory() {
    let bed = bed(Kind::Disk, 64);
    bed.begin(command::READ_DMA, 0, 3, 7);
    assert_eq!(bed.status(), HAS_DATA, "waits for the bus master");
    bed.start_master(&[(DATA_AT, 512), (DATA_AT + 0x2000, 1024)], true);
    assert_eq!(bed.settle(), DONE);
    assert_eq!(bed.master(), INTERRUPT);
    assert!(bed.irq.level());
    assert_eq!(bed.memory(DATA_AT, 512), [7; 512]);
    assert_eq!(bed.memory(DATA_AT + 0x2000, 1024), [[8; 512], [9; 512]].concat());
    // Started before the command; memory is left over.
    bed.start_master(&[(DATA_AT, 4096)], true);
    assert_eq!(bed.run(command::READ_DMA, 1, 20), DONE);
    assert_eq!(bed.master(), ACTIVE | INTERRUPT);
    // Memory is short: nothing happens.
    bed.stop_master();
    bed.read(reg::STATUS);
    bed.begin(command::READ_DMA, 0, 2, 30);
    bed.start_master(&[(DATA_AT, 512)], true);
    assert_eq!(bed.settle(), DONE);
    assert_eq!((bed.master(), bed.irq.level()), (0, false));
    assert_eq!(bed.memory(DATA_AT, 1), [20]);
    // Memory that is not there.
    bed.begin(command::READ_DMA, 0, 1, 1);
    bed.start_master(&[(0xfec0_0000, 512)], true);
    assert_eq!((bed.settle(), bed.master()), (DONE, INTERRUPT));
    bed.ram.write(DATA_AT, &[0xcc; 512]);
    bed.begin(command::WRITE_DMA, 0, 1, 2);
    bed.start_master(&[(DATA_AT, 512)], false);
    assert_eq!(bed.settle(), DONE);
    bed.run(command::READ, 1, 2);
    assert_eq!(bed.words(512), [0xcc; 512]);
}

#[test]
fn ranges_of_a_list_are_trimmed() {
    let bed = bed(Kind::Disk, 64);
    let ranges = [10 | 2 << 48, 0, 20 | 1 << 48].map(u64::to_le_bytes).concat();
    bed.ram.write(DATA_AT, &ranges);
    bed.begin(command::DATA_SET_MANAGEMENT, 1, 1, 0);
    bed.start_master(&[(DATA_AT, 512)], false);
    let deadline = Instant::now() + PATIENCE;
    while bed.settle() & status::DATA_REQUEST != 0 {
        assert!(Instant::now() < deadline);
    }
    assert_eq!((bed.status(), bed.master()), (DONE, INTERRUPT));
    bed.ram.write(DATA_AT, &(63 | 2u64 << 48).to_le_bytes());
    bed.begin(command::DATA_SET_MANAGEMENT, 1, 1, 0);
    bed.start_master(&[(DATA_AT, 512)], false);
    assert_eq!(bed.settle(), FAILED);
}

#[test]
fn a_reset_in_the_middle_forgets_the_command() {
    let bed = bed(Kind::Disk, 64);
    bed.begin(command::READ, 0, 1, 3);
    bed.ide.lock().write(CONTROL, 0, 1, control::RESET.into());
    bed.ide.lock().write(CONTROL, 0, 1, 0);
    assert_eq!(bed.settle(), DONE);
    assert_eq!([1, 2, 3, 4, 5, 6].map(|register| bed.read(register)), [1, 1, 1, 0, 0, 0xa0]);
    assert_eq!(bed.run(command::READ, 1, 3), HAS_DATA);
    assert_eq!(bed.words(512), [3; 512]);
}

#[test]
fn a_failed_request_waits_for_the_machine_or_is_passed_over() {
    let bed = bed(Kind::Disk, 64);
    let fail = |read| {
        bed.backend.set_error_policy(ErrorPolicy { read, ..bed.backend.error_policy() });
        bed.disk.fails.store(true, Ordering::Relaxed);
    };
    fail(OnError::Stop);
    bed.begin(command::READ, 0, 1, 3);
    bed.graph.drain();
    assert_eq!(bed.status() & status::BUSY, status::BUSY);
    bed.disk.fails.store(false, Ordering::Relaxed);
    bed.graph.resume();
    assert_eq!(bed.settle(), HAS_DATA);
    assert_eq!(bed.words(512), [3; 512]);
    fail(OnError::Report);
    assert_eq!(bed.run(command::READ, 1, 3), FAILED);
    fail(OnError::Ignore);
    assert_eq!(bed.run(command::READ, 1, 3), HAS_DATA);
}

#[test]
fn a_reset_drops_a_request_that_waits_for_the_machine() {
    let bed = bed(Kind::Disk, 64);
    let stop = ErrorPolicy { read: OnError::Stop, write: OnError::Stop };
    bed.backend.set_error_policy(stop);
    bed.disk.fails.store(true, Ordering::Relaxed);
    bed.begin(command::READ_DMA, 0, 1, 3);
    bed.start_master(&[(DATA_AT, 512)], true);
    bed.graph.drain();
    bed.disk.fails.store(false, Ordering::Relaxed);
    bed.ide.lock().reset();
    bed.graph.resume();
    bed.graph.drain();
    assert_eq!((bed.status(), bed.memory(DATA_AT, 1)), (DONE, vec![0]));
}

#[test]
fn a_cd_answers_packets() {
    let bed = bed(Kind::Cdrom, 400);
    assert_eq!([4, 5].map(|register| bed.read(register)), [0x14, 0xeb]);
    let (status, data) = bed.packet(&[0x25], 0xffff);
    assert_eq!((status, &data[..]), (DONE, &[0, 0, 0, 99, 0, 0, 8, 0][..]));
    // Three blocks in pieces of odd size.
    let (status, data) = bed.packet(&[0x28, 0, 0, 0, 0, 2, 0, 0, 3], 3001);
    assert_eq!((status, data.len()), (DONE, 3 * 2048));
    assert_eq!([data[0], data[2047], data[2048], data[6143]], [8, 11, 12, 19]);
    let (status, data) = bed.packet(&[0xbe, 0, 0, 0, 0, 2, 0, 0, 40, 0xf8], 0xffff);
    assert_eq!((status, data.len()), (DONE, 40 * 2352));
    assert_eq!(data[2352 + 12..][..5], [0x00, 0x02, 0x03, 0x01, 12]);
    assert_eq!(bed.packet(&[0x28, 0, 0, 0, 0, 99, 0, 0, 2], 0xffff).0, FAILED);
    assert_eq!(bed.read(reg::ERROR), 0x50);
    let (_, sense) = bed.packet(&[0x03, 0, 0, 0, 18], 0xffff);
    assert_eq!((sense[2], sense[12]), (5, 0x21));
    // An odd number of bytes.
    let (status, data) = bed.packet(&[0x12, 0, 0, 0, 5], 0xffff);
    assert_eq!((status, &data[..]), (DONE, &[5, 0x80, 0, 0x21, 31][..]));
}

#[test]
fn a_cd_is_read_by_the_bus_master() {
    let bed = bed(Kind::Cdrom, 400);
    for (packet, wanted) in [
        ([0x28, 0, 0, 0, 0, 3, 0, 0, 2, 0, 0, 0], [12, 12]),
        ([0xbe, 0, 0, 0, 0, 3, 0, 0, 1, 0xf8, 0, 0], [0, 0xff]),
        ([0x12, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0], [5, 0x80]),
    ] {
        bed.write(reg::ERROR, 1);
        bed.write(reg::STATUS, command::PACKET);
        bed.put(&packet);
        bed.settle();
        bed.start_master(&[(DATA_AT, 4096)], true);
        assert_eq!(bed.settle(), DONE);
        assert_eq!(bed.read(reg::COUNT), 3);
        assert_eq!(bed.memory(DATA_AT, 2), wanted);
        bed.stop_master();
    }
}

#[test]
fn a_change_of_medium_is_told_in_two_steps() {
    let bed = bed(Kind::Cdrom, 400);
    bed.packet(&[0x1e, 0, 0, 0, 1], 0xffff);
    assert_eq!(bed.packet(&[0x1b, 0, 0, 0, 2], 0xffff).0, FAILED, "locked");
    bed.packet(&[0x1e], 0xffff);
    assert_eq!(bed.packet(&[0x1b, 0, 0, 0, 2], 0xffff).0, DONE);
    assert_eq!(bed.packet(&[0x00], 0xffff).0, FAILED, "the tray is open");
    bed.ide.lock().channel(0).unwrap().medium_changed(0, true);
    let mut seen = Vec::new();
    for _ in 0..3 {
        bed.packet(&[0x00], 0xffff);
        let (_, sense) = bed.packet(&[0x03, 0, 0, 0, 18], 0xffff);
        seen.push((sense[2], sense[12]));
    }
    assert_eq!(seen, [(2, 0x3a), (6, 0x28), (0, 0)]);
    let (_, event) = bed.packet(&[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8], 0xffff);
    assert_eq!(event, [0, 4, 4, 0x10, 2, 2, 0, 0]);
}

#[test]
fn a_saved_state_goes_on_where_it_was() {
    let bed = bed(Kind::Disk, 64);
    bed.run(command::READ, 2, 5);
    bed.words(256);
    let state = bed.ide.lock().channel(0).unwrap().state();
    bed.ide.lock().reset();
    assert_eq!(bed.status(), DONE);
    bed.ide.lock().channel(0).unwrap().set_state(state);
    assert_eq!(bed.words(256), [5; 256]);
    bed.settle();
    assert_eq!(bed.words(512), [6; 512]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Commands with any parameters, and any accesses in between: no panic, no end to the medium, and a
    /// reset undoes all of it.
    #[test]
    fn any_access_is_survived_and_undone_by_reset(
        cdrom in any::<bool>(),
        accesses in prop::collection::vec(
            prop_oneof![
                (Just(true), Just(0u32), Just(7u64), Just(0u32), any::<u64>()),
                (any::<bool>(), Just(0u32), 0..8u64, 0..3u32, any::<u64>()),
                (any::<bool>(), prop_oneof![Just(CONTROL), Just(MASTER), Just(TABLE)], 0..4u64, 0..3u32, any::<u64>()),
            ],
            0..150,
        ),
    ) {
        let bed = bed(if cdrom { Kind::Cdrom } else { Kind::Disk }, 64);
        bed.ide.lock().reset();
        let fresh = bed.ide.lock().channel(0).unwrap().state();
        for (write, region, offset, size, value) in accesses {
            if write {
                bed.ide.lock().write(region, offset, 1 << size, value);
            } else {
                bed.ide.lock().read(region, offset, 1 << size);
            }
        }
        bed.graph.drain();
        bed.ide.lock().reset();
        prop_assert_eq!(bed.ide.lock().channel(0).unwrap().state(), fresh);
    }
}
