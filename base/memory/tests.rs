//! Address spaces against a byte-by-byte oracle.

use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;

const SIZE: u64 = 64;

/// A device that answers with its own number and remembers what it was called with.
#[derive(Default)]
struct Recorder {
    calls: Mutex<Vec<(u64, u8, u64)>>,
}

impl IoHandler for Recorder {
    fn read(&self, offset: u64, size: u8) -> u64 {
        self.calls.lock().push((offset, size, 0));
        0x8877_6655_4433_2211
    }
    fn write(&self, offset: u64, size: u8, value: u64) {
        self.calls.lock().push((offset, size, value));
    }
}

#[derive(Clone, Debug)]
struct Plan {
    offset: u64,
    size: u64,
    priority: i32,
    enabled: bool,
    read_only: bool,
    /// Which earlier region this is a window onto, and from where.
    alias: Option<(usize, u64)>,
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let plan =
        (0..SIZE, 1..SIZE, -2..3i32, any::<bool>(), any::<bool>(), any::<Option<u8>>(), 0..16u64);
    prop::collection::vec(plan, 1..10).prop_map(|plans| {
        plans
            .into_iter()
            .enumerate()
            .map(|(n, (offset, size, priority, enabled, read_only, alias, at))| Plan {
                offset,
                size,
                priority,
                enabled,
                read_only,
                alias: alias.filter(|_| n > 0).map(|target| (target as usize % n, at)),
            })
            .collect()
    })
}

struct Bed {
    space: AddressSpace,
    root: Region,
    regions: Vec<Region>,
}

fn build(plans: &[Plan]) -> Bed {
    let root = Region::container("root", SIZE.into());
    let mut regions: Vec<Region> = Vec::new();
    for (n, plan) in plans.iter().enumerate() {
        let region = match plan.alias {
            Some((target, at)) => Region::alias("alias", &regions[target], at, plan.size.into()),
            None => {
                let block = RamBlock::anonymous("block", plan.size).unwrap();
                block.fill(0, plan.size, n as u8 + 1);
                Region::ram(Arc::new(block))
            }
        };
        region.configure(plan.enabled, plan.read_only);
        regions.push(region);
    }
    let space = AddressSpace::with_unassigned("test", root.clone(), 0xff);
    for (plan, region) in plans.iter().zip(&regions) {
        root.add(region, plan.offset, plan.priority);
    }
    Bed { space, root, regions }
}

/// The block that answers at `at` of region `n`: its number and offset, and whether it is writable.
fn inside(plans: &[Plan], n: usize, at: u64) -> Option<(usize, u64, bool)> {
    let plan = &plans[n];
    if !plan.enabled || at >= plan.size {
        return None;
    }
    match plan.alias {
        None => Some((n, at, !plan.read_only)),
        Some((target, from)) => {
            let (block, at, writable) = inside(plans, target, from + at)?;
            Some((block, at, writable && !plan.read_only))
        }
    }
}

fn oracle(plans: &[Plan], addr: u64) -> Option<(usize, u64, bool)> {
    let mut order: Vec<usize> = (0..plans.len()).collect();
    order.sort_by_key(|&n| (std::cmp::Reverse(plans[n].priority), std::cmp::Reverse(n)));
    order.into_iter().find_map(|n| inside(plans, n, addr.checked_sub(plans[n].offset)?))
}

fn agree(bed: &Bed, plans: &[Plan]) -> Result<(), TestCaseError> {
    for addr in 0..SIZE {
        let expected = oracle(plans, addr);
        let view = bed.space.view();
        let byte = view.read_uint(addr, 1);
        prop_assert_eq!(byte, expected.map_or(0xff, |(block, ..)| block as u64 + 1), "at {}", addr);
        match (view.lookup(addr).kind, expected) {
            (LookupKind::Ram { offset, writable, .. }, Some((_, at, may_write))) => {
                prop_assert_eq!((offset, writable), (at, may_write));
            }
            (LookupKind::Unassigned, None) => {}
            _ => prop_assert!(false, "another kind at {}", addr),
        }
        let wide = view.read_uint(addr, 8);
        let bytes = (0..8).rev().fold(0, |value, i| value << 8 | view.read_uint(addr + i, 1));
        prop_assert_eq!(wide, bytes);
    }
    Ok(())
}

proptest! {
    #[test]
    fn views_agree_with_the_oracle(
        mut plans in plans(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..SIZE, any::<bool>()), 0..6),
    ) {
        let bed = build(&plans);
        agree(&bed, &plans)?;
        for (which, offset, enabled) in changes {
            let n = which.index(plans.len());
            plans[n].enabled = enabled;
            bed.regions[n].set_enabled(enabled);
            // Moving puts a region in front of its equals: only the last one may move without that
            // changing the oracle's order.
            let last = plans.len() - 1;
            plans[last].offset = offset;
            bed.root.move_child(&bed.regions[last], offset);
            agree(&bed, &plans)?;
        }
    }

    #[test]
    fn writes_reach_exactly_what_is_writable(plans in plans(), addr in 0..SIZE - 8, len in 1usize..8) {
        let bed = build(&plans);
        let mut before = [0; SIZE as usize];
        bed.space.read(0, &mut before);
        bed.space.write(addr, &vec![0xee; len]);
        let written: Vec<_> = (addr..addr + len as u64)
            .filter_map(|at| oracle(&plans, at))
            .filter(|&(.., writable)| writable)
            .map(|(block, at, _)| (block, at))
            .collect();
        for at in 0..SIZE {
            let hit = oracle(&plans, at).is_some_and(|(block, at, _)| written.contains(&(block, at)));
            let expected = if hit { 0xee } else { before[at as usize].into() };
            prop_assert_eq!(bed.space.read_uint(at, 1), expected);
        }
    }
}

fn device(sizes: AccessSizes) -> (AddressSpace, Arc<Recorder>, Region) {
    struct Sized(Arc<Recorder>, AccessSizes);
    impl IoHandler for Sized {
        fn read(&self, offset: u64, size: u8) -> u64 {
            self.0.read(offset, size)
        }
        fn write(&self, offset: u64, size: u8, value: u64) {
            self.0.write(offset, size, value);
        }
        fn sizes(&self) -> AccessSizes {
            self.1
        }
    }
    let recorder = Arc::new(Recorder::default());
    let root = Region::container("root", 0x100);
    root.add(&Region::io("io", 16, Arc::new(Sized(recorder.clone(), sizes))), 0x10, 0);
    (AddressSpace::new("test", root.clone()), recorder, root)
}

#[test]
fn accesses_are_split_and_widened_to_what_the_device_takes() {
    let (space, recorder, _) = device(AccessSizes { min: 2, max: 4 });
    assert_eq!(space.read_uint(0x10, 8), 0x4433_2211_4433_2211);
    space.write_uint(0x18, 8, 0x0807_0605_0403_0201);
    space.write_uint(0x1f, 1, 0x7f);
    assert_eq!(space.read_uint(0x13, 1), 0x22);
    let calls = recorder.calls.lock();
    assert_eq!(calls[..2], [(0, 4, 0), (4, 4, 0)]);
    assert_eq!(calls[2..4], [(8, 4, 0x0403_0201), (12, 4, 0x0807_0605)]);
    assert_eq!(calls[4..], [(15, 2, 0x7f), (2, 2, 0)]);
}

#[test]
fn a_wide_access_goes_to_the_device_it_begins_in() {
    let (space, recorder, root) = device(AccessSizes::ANY);
    let other = Arc::new(Recorder::default());
    root.add(&Region::io("inner", 1, other.clone()), 0x11, 1);
    space.write_uint(0x10, 4, 0x1234_5678);
    space.write_uint(0x11, 1, 0x9a);
    assert_eq!(*recorder.calls.lock(), [(0, 4, 0x1234_5678)]);
    assert_eq!(*other.calls.lock(), [(0, 1, 0x9a)]);
}

#[test]
fn listeners_see_every_change_once() {
    struct Counter(Mutex<Vec<(usize, usize)>>);
    impl ViewListener for Counter {
        fn view_changed(&self, old: &FlatView, new: &FlatView) {
            self.0.lock().push((old.ranges().len(), new.ranges().len()));
        }
    }
    let (space, _, root) = device(AccessSizes::ANY);
    let counter = Arc::new(Counter(Mutex::default()));
    space.listen(counter.clone());
    let extra = Region::ram(Arc::new(RamBlock::anonymous("extra", 0x10).unwrap()));
    root.add(&extra, 0x40, 0);
    extra.set_enabled(true);
    extra.set_enabled(false);
    assert_eq!(*counter.0.lock(), [(0, 1), (1, 2), (2, 1)]);
}

/// A frame buffer behind a BAR shows through the legacy window as well.
#[test]
fn a_region_that_is_taken_out_may_be_seen_elsewhere() {
    let root = Region::container("root", 0x1_0000);
    let block = Arc::new(RamBlock::anonymous("vram", 0x1000).unwrap());
    let memory = Region::ram(block);
    root.add(&memory, 0x8000, 0);
    root.add(&Region::alias("window", &memory, 0, 0x1000), 0, 0);
    let space = AddressSpace::new("memory", root.clone());
    root.remove(&memory);
    space.write(0x10, &[7]);
    let mut bytes = [0; 1];
    space.read(0x8010, &mut bytes);
    assert_eq!(bytes, [0]);
    space.read(0x10, &mut bytes);
    assert_eq!(bytes, [7]);
}

#[test]
fn devices_reach_memory_only() {
    let (space, recorder, root) = device(AccessSizes::ANY);
    root.add(&Region::ram(Arc::new(RamBlock::anonymous("ram", 0x10).unwrap())), 0, 0);
    let dma = Dma::new(space);
    assert!(dma.write(0x0c, &[1, 2, 3, 4]));
    assert!(!dma.write(0x0e, &[5; 8]), "the end lies in a device");
    let mut bytes = [0; 6];
    assert!(!dma.read(0x0c, &mut bytes));
    assert_eq!(bytes, [1, 2, 5, 5, 0xff, 0xff]);
    assert_eq!((dma.dropped(), recorder.calls.lock().len()), (2, 0));
    dma.set_enabled(false);
    assert!(!dma.write(0, &[9]));
    assert_eq!(dma.read_uint(0, 1), 0xff);
}
