use std::sync::atomic::{AtomicU32, Ordering};

use base::memory::{AddressSpace, RamBlock, Region};
use proptest::prelude::*;

use super::*;
use crate::virtio::Interrupts;
use crate::virtio::features::{EVENT_IDX, INDIRECT_DESC, RING_PACKED, VERSION_1};

const RAM: u64 = 0x10_0000;
const DESCRIPTORS: u64 = 0x1000;
const DRIVER: u64 = 0x4000;
const DEVICE: u64 = 0x5000;
const TABLES: u64 = 0x8000;
const SIZE: u16 = 8;

#[derive(Clone, Default)]
struct Counters(Arc<[AtomicU32; 2]>);

impl Interrupts for Counters {
    fn queue(&self, _: u16) {
        self.0[0].fetch_add(1, Ordering::Relaxed);
    }
    fn config(&self) {
        self.0[1].fetch_add(1, Ordering::Relaxed);
    }
}

struct Bed {
    queue: Arc<VirtQueue>,
    dma: Dma,
    counters: Counters,
    features: u64,
    next: u16,
    wrap: bool,
    used: u16,
    used_wrap: bool,
    /// By id of the buffer: descriptors of the ring.
    slots: [u16; SIZE as usize],
}

/// A chain as the driver makes it: which buffers the device may write.
type Plan = Vec<bool>;

impl Bed {
    fn new(features: u64) -> Self {
        let root = Region::container("root", 1 << 32);
        root.add(&Region::ram(Arc::new(RamBlock::anonymous("ram", RAM).unwrap())), 0, 0);
        let dma = Dma::new(AddressSpace::new("t", root));
        let counters = Counters::default();
        let driver = Arc::new(ToDriver::new(Box::new(counters.clone())));
        driver.set_ready(true);
        let queue = VirtQueue::new(0, SIZE, &dma, &driver);
        queue.configure(|st| {
            (st.descriptors, st.driver_area, st.device_area) = (DESCRIPTORS, DRIVER, DEVICE);
        });
        queue.enable(features);
        Bed {
            queue,
            dma,
            counters,
            features,
            next: 0,
            wrap: true,
            used: 0,
            used_wrap: true,
            slots: [0; SIZE as usize],
        }
    }

    fn is_packed(&self) -> bool {
        self.features & RING_PACKED != 0
    }

    fn interrupts(&self) -> u32 {
        self.counters.0[0].swap(0, Ordering::Relaxed)
    }

    fn descriptor(&self, at: u64, buffer: Buffer, flags: u16, id: u16) {
        self.dma.write_uint(at, 8, buffer.addr);
        self.dma.write_uint(at + 8, 4, buffer.len.into());
        let (first, second) = if self.is_packed() { (id, flags) } else { (flags, id) };
        self.dma.write_uint(at + 12, 2, first.into());
        self.dma.write_uint(at + 14, 2, second.into());
    }

    fn buffer(id: u16, n: usize) -> Buffer {
        Buffer { addr: 0x1_0000 + u64::from(id) * 0x1000 + n as u64 * 0x100, len: 0x10 + n as u32 }
    }

    /// Makes a chain available as number `id`; in a split ring its descriptors are a table's.
    fn offer(&mut self, id: u16, plan: &Plan, indirect: bool) {
        let flags = |n: usize| {
            let next = u16::from(n + 1 < plan.len());
            next | if plan[n] { 2 } else { 0 }
        };
        let table = TABLES + u64::from(id) * 0x400;
        if indirect || !self.is_packed() {
            for n in 0..plan.len() {
                let flags = if self.is_packed() { flags(n) & 2 } else { flags(n) };
                let at = table + 16 * n as u64;
                self.descriptor(at, Self::buffer(id, n), flags, n as u16 + 1);
            }
        }
        let table = Buffer { addr: table, len: 16 * plan.len() as u32 };
        if !self.is_packed() {
            self.descriptor(DESCRIPTORS + 16 * u64::from(id), table, 4, 0);
            self.dma.write_uint(DRIVER + 4 + 2 * u64::from(self.next % SIZE), 2, id.into());
            self.next = self.next.wrapping_add(1);
            self.dma.write_uint(DRIVER + 2, 2, self.next.into());
            return;
        }
        let count = if indirect { 1 } else { plan.len() };
        for n in 0..count {
            let (buffer, mut bits) =
                if indirect { (table, 4) } else { (Self::buffer(id, n), flags(n)) };
            bits |= if self.wrap { 1 << 7 } else { 1 << 15 };
            self.descriptor(DESCRIPTORS + 16 * u64::from(self.next), buffer, bits, id);
            self.next += 1;
            if self.next == SIZE {
                (self.next, self.wrap) = (0, !self.wrap);
            }
        }
        self.slots[usize::from(id)] = count as u16;
    }

    /// What the driver finds used: id and length.
    fn collect(&mut self) -> Vec<(u16, u32)> {
        let mut found = Vec::new();
        if !self.is_packed() {
            let until = self.dma.read_uint(DEVICE + 2, 2) as u16;
            while self.used != until {
                let at = DEVICE + 4 + 8 * u64::from(self.used % SIZE);
                found
                    .push((self.dma.read_uint(at, 4) as u16, self.dma.read_uint(at + 4, 4) as u32));
                self.used = self.used.wrapping_add(1);
            }
            return found;
        }
        loop {
            let at = DESCRIPTORS + 16 * u64::from(self.used);
            let flags = self.dma.read_uint(at + 14, 2);
            if (flags >> 7 & 1 == 1, flags >> 15 & 1 == 1) != (self.used_wrap, self.used_wrap) {
                return found;
            }
            let id = self.dma.read_uint(at + 12, 2) as u16;
            found.push((id, self.dma.read_uint(at + 8, 4) as u32));
            self.used += self.slots[usize::from(id)];
            if self.used >= SIZE {
                (self.used, self.used_wrap) = (self.used - SIZE, !self.used_wrap);
            }
        }
    }

    /// The driver wants an interrupt when `more` further chains have been used (split rings), or
    /// descriptors (packed ones).
    fn await_used(&self, more: u16) {
        if self.is_packed() {
            let at = self.used + more;
            let (at, wrap) =
                if at >= SIZE { (at - SIZE, !self.used_wrap) } else { (at, self.used_wrap) };
            self.dma.write_uint(DRIVER, 2, (at | u16::from(wrap) << 15).into());
            self.dma.write_uint(DRIVER + 2, 2, 2);
        } else {
            let event = self.used.wrapping_add(more);
            self.dma.write_uint(DRIVER + 4 + 2 * u64::from(SIZE), 2, event.into());
        }
    }
}

const LAYOUTS: [u64; 2] =
    [VERSION_1 | INDIRECT_DESC | EVENT_IDX, VERSION_1 | INDIRECT_DESC | EVENT_IDX | RING_PACKED];

#[test]
fn buffers_are_found_and_written() {
    for features in LAYOUTS {
        let mut bed = Bed::new(features);
        bed.offer(3, &vec![false, false, true, true], true);
        bed.dma.write(Bed::buffer(3, 0).addr, b"0123456789abcdef");
        bed.dma.write(Bed::buffer(3, 1).addr, b"ghijklm");
        let chain = bed.queue.pop().unwrap();
        assert_eq!(chain.readable(), [Bed::buffer(3, 0), Bed::buffer(3, 1)]);
        assert_eq!(chain.writable(), [Bed::buffer(3, 2), Bed::buffer(3, 3)]);
        assert_eq!((chain.readable_len(), chain.writable_len()), (0x21, 0x25));
        let mut bytes = [0; 6];
        assert!(chain.read(13, &mut bytes));
        assert_eq!(&bytes, b"defghi");
        assert!(!chain.read(0x20, &mut bytes));
        assert!(chain.write(0x10, b"xyz"));
        assert!(!chain.write(0x23, b"xyz"));
        let second = bed.dma.read_uint(Bed::buffer(3, 3).addr, 1);
        assert_eq!(second, u64::from(b'z'));
        assert_eq!(bed.queue.in_flight(), 1);
        bed.queue.push(chain, 19);
        assert_eq!((bed.collect(), bed.queue.in_flight()), (vec![(3, 19)], 0));
        assert!(bed.queue.pop().is_none());
    }
}

#[test]
fn what_was_taken_before_a_reset_is_not_returned_after_it() {
    for features in LAYOUTS {
        let mut bed = Bed::new(features);
        bed.offer(0, &vec![true], true);
        let chain = bed.queue.pop().unwrap();
        bed.queue.reset();
        assert_eq!(bed.queue.in_flight(), 1);
        bed.queue.push(chain, 1);
        assert_eq!((bed.queue.in_flight(), bed.collect()), (0, vec![]));
        assert_eq!(bed.interrupts(), 0);
    }
}

#[test]
fn a_chain_put_back_is_found_again() {
    for features in LAYOUTS {
        let mut bed = Bed::new(features);
        for round in 0..20 {
            bed.offer(round % SIZE, &vec![false, true], false);
            let chain = bed.queue.pop().unwrap();
            bed.queue.unpop(chain);
            let chain = bed.queue.pop().unwrap();
            bed.queue.push(chain, 0);
            assert_eq!(bed.collect(), [(round % SIZE, 0)]);
        }
    }
}

/// Breaks a split ring and says how it is refused.
fn refusal(breakage: impl FnOnce(&mut Bed)) -> bool {
    let mut bed = Bed::new(VERSION_1 | INDIRECT_DESC);
    breakage(&mut bed);
    while let Some(chain) = bed.queue.pop() {
        std::mem::forget(chain);
    }
    let told = bed.counters.0[1].load(Ordering::Relaxed) == 1;
    bed.queue.driver().is_broken() && told
}

#[test]
fn rings_that_break_the_rules_are_refused() {
    let chain = |bed: &mut Bed| bed.offer(0, &vec![false, true], true);
    let table = TABLES;
    assert!(!refusal(chain), "nothing wrong here");
    assert!(refusal(|bed| bed.dma.write_uint(DRIVER + 2, 2, 9)));
    assert!(refusal(|bed| {
        bed.dma.write_uint(DRIVER + 4, 2, SIZE.into());
        bed.dma.write_uint(DRIVER + 2, 2, 1);
    }));
    let broken = |at: u64, size: u8, value: u64| {
        refusal(|bed| {
            chain(bed);
            bed.dma.write_uint(at, size, value);
        })
    };
    // A table that is no table, is nested, is a loop, leads out of itself.
    assert!(broken(DESCRIPTORS + 8, 4, 0));
    assert!(broken(DESCRIPTORS + 8, 4, 24));
    assert!(broken(DESCRIPTORS + 12, 2, 5));
    assert!(broken(table + 12, 2, 4));
    assert!(broken(table + 16 + 12, 4, 3));
    assert!(broken(table + 14, 2, 7));
    // In no memory; behind the end of all addresses; read after written.
    assert!(broken(DESCRIPTORS, 8, RAM));
    assert!(broken(DESCRIPTORS, 8, !0));
    assert!(broken(table, 8, !0));
    assert!(refusal(|bed| {
        chain(bed);
        bed.dma.write_uint(table + 12, 2, 3);
        bed.dma.write_uint(table + 16 + 12, 2, 0);
    }));
    // A loop of descriptors that are in the ring itself.
    assert!(refusal(|bed| {
        chain(bed);
        bed.descriptor(DESCRIPTORS, Bed::buffer(0, 0), 1, 0);
    }));
    // The same chain again and again, without an end.
    let mut bed = Bed::new(VERSION_1 | INDIRECT_DESC);
    let mut kept = Vec::new();
    for _ in 0..20 {
        bed.offer(0, &vec![true], true);
        kept.extend(bed.queue.pop());
    }
    assert!(kept.len() <= SIZE.into() && bed.queue.driver().is_broken());
}

#[test]
fn sizes_and_places_that_can_not_be_are_refused() {
    for (features, size, at, sound) in [
        (VERSION_1, 8, DESCRIPTORS, true),
        (VERSION_1, 6, DESCRIPTORS, false),
        (VERSION_1 | RING_PACKED, 6, DESCRIPTORS, true),
        (VERSION_1, 0, DESCRIPTORS, false),
        (VERSION_1, 8, !0, false),
    ] {
        let bed = Bed::new(0);
        bed.queue.reset();
        bed.queue.configure(|st| (st.size, st.descriptors) = (size, at));
        bed.queue.enable(features);
        assert_eq!(bed.queue.driver().is_broken(), !sound, "size {size}");
    }
}

#[test]
fn without_bus_mastering_nothing_happens_and_nothing_breaks() {
    let mut bed = Bed::new(LAYOUTS[0]);
    bed.offer(0, &vec![true], true);
    bed.dma.set_enabled(false);
    assert!(bed.queue.pop().is_none());
    bed.dma.set_enabled(true);
    assert!(bed.queue.pop().is_some());
    assert!(!bed.queue.driver().is_broken());
}

proptest! {
    /// Chains of all forms, returned in any order: the driver gets each back once, and an interrupt
    /// when it has asked for one.
    #[test]
    fn chains_come_back_once(
        packed: bool,
        rounds in prop::collection::vec(
            (prop::collection::vec((1usize..4, any::<bool>()), 1..3), any::<u64>(), 0u16..3), 1..40
        )
    ) {
        let mut bed = Bed::new(LAYOUTS[usize::from(packed)]);
        for (plans, order, more) in rounds {
            bed.await_used(more);
            let mut expected = Vec::new();
            let mut slots = 0;
            for (id, (len, indirect)) in plans.iter().enumerate() {
                let plan: Plan = (0..*len).map(|n| n + 1 == *len).collect();
                bed.offer(id as u16, &plan, *indirect);
                expected.push((id as u16, (*len as u32) * 3));
            }
            let mut chains: Vec<Chain> = std::iter::from_fn(|| bed.queue.pop()).collect();
            prop_assert_eq!(chains.len(), plans.len());
            let mut interrupts = 0;
            if order & 1 != 0 {
                chains.reverse();
                expected.reverse();
            }
            for chain in chains {
                let bytes = chain.writable().len() + chain.readable().len();
                // Split: one entry each. Packed: as many places as descriptors.
                let takes = if packed { bed.slots[usize::from(chain.id)] } else { 1 };
                interrupts += u32::from((slots..slots + takes).contains(&more));
                slots += takes;
                bed.queue.push(chain, bytes as u32 * 3);
            }
            prop_assert_eq!(bed.interrupts(), interrupts);
            prop_assert_eq!(bed.collect(), expected);
            prop_assert!(!bed.queue.driver().is_broken());
        }
    }

    /// Whatever lies in memory: no panic, and no more chains than descriptors.
    #[test]
    fn any_memory_is_survived(
        packed: bool,
        event_idx: bool,
        bytes in prop::collection::vec(any::<u8>(), 0x100..0x400),
        pokes in prop::collection::vec((0u64..0x200, 0u64..0x30), 0..20),
    ) {
        let mut features = VERSION_1 | INDIRECT_DESC;
        if packed { features |= RING_PACKED; }
        if event_idx { features |= EVENT_IDX; }
        let bed = Bed::new(features);
        for area in [DESCRIPTORS, DRIVER, DEVICE, TABLES] {
            bed.dma.write(area, &bytes);
        }
        for (at, value) in pokes {
            bed.dma.write_uint(DESCRIPTORS + at, 1, value);
            bed.dma.write_uint(DRIVER + at % 32, 1, value % 9);
        }
        let mut kept = Vec::new();
        while let Some(chain) = bed.queue.pop() {
            prop_assert!(chain.readable().len() + chain.writable().len() <= 1024);
            kept.push(chain);
            prop_assert!(kept.len() <= SIZE.into());
        }
        kept.into_iter().for_each(|chain| bed.queue.push(chain, 7));
        bed.queue.ask_for_notifications(true);
        let saved = bed.queue.state();
        bed.queue.restore(saved);
        bed.queue.reset();
        prop_assert_eq!(bed.queue.in_flight(), 0);
    }
}
