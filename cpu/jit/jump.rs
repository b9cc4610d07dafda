//! Where indirect jumps find their targets: a table from guest address to translated code for each
//! address space and privilege that a processor was in lately.
#![allow(unsafe_code)]
// Unsafe: translated code reads the tables, and other threads empty them, both by atomic words.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Entries of a table.
pub const ENTRIES: usize = 1 << 15;
/// What the low half of an address is multiplied with; the product's upper half selects the entry.
pub const HASH: i32 = 0x61c8_8647_u32 as i32;
/// How far the product is shifted down so that [`INDEX`] cuts out an entry's offset.
pub const SHIFT: u8 = 13;
/// Distance from an address's entry to its other one, to be combined by XOR.
pub const OTHER: i8 = 16;
/// See [`SHIFT`].
pub const INDEX: i32 = (ENTRIES as i32 - 1) << 4;

/// A guest address and the translated code for it.
#[repr(C, align(16))]
pub struct Entry {
    rip: AtomicU64,
    code: AtomicUsize,
}

/// The two entries of an address. Translated code goes from one to the other by XOR of their
/// addresses, so a pair is aligned to its size.
#[repr(C, align(32))]
struct Pair([Entry; 2]);

const _: () = assert!(align_of::<Pair>() == 2 * size_of::<Entry>());
const _: () = assert!(OTHER as usize == size_of::<Entry>());

/// A table in which every address has two entries. The one it was given last comes first.
pub struct Table {
    pairs: Box<[Pair]>,
    /// Which entries were set since the table was empty; as many as [`MOST_SET`] stand for all.
    set: parking_lot::Mutex<Vec<u16>>,
}

const MOST_SET: usize = ENTRIES / 2;

fn index(rip: u64) -> usize {
    let product = (rip as u32).wrapping_mul(HASH as u32);
    (product >> SHIFT) as usize >> 4 & (ENTRIES - 1)
}

/// An address that belongs elsewhere.
fn absent(index: usize) -> u64 {
    u64::from(index < 2)
}

impl Table {
    /// An empty table.
    pub fn new() -> Self {
        let entry = |i| Entry { rip: AtomicU64::new(absent(i)), code: AtomicUsize::new(0) };
        let pair = |i| Pair([entry(2 * i), entry(2 * i + 1)]);
        Table { pairs: (0..ENTRIES / 2).map(pair).collect(), set: Default::default() }
    }

    /// Its first entry, for translated code.
    pub fn start(&self) -> *mut Entry {
        self.pairs.as_ptr().cast_mut().cast()
    }

    fn entry(&self, slot: usize) -> &Entry {
        &self.pairs[slot / 2].0[slot % 2]
    }

    /// The code for `rip`, if known.
    pub fn get(&self, rip: u64) -> Option<usize> {
        self.slot(rip).map(|slot| self.entry(slot).code.load(Ordering::Relaxed))
    }

    /// The entry for `rip`.
    fn slot(&self, rip: u64) -> Option<usize> {
        let first = index(rip);
        let is_there = |slot: &usize| self.entry(*slot).rip.load(Ordering::Relaxed) == rip;
        [first, first ^ 1].into_iter().find(is_there)
    }

    /// Enters a target. Only the owner does so, and it holds the lock under which translations are
    /// taken back, so that the two words belong together.
    pub fn set(&self, rip: u64, code: usize) {
        let first = index(rip);
        let mut set = self.set.lock();
        let mut enter = |slot: usize, rip: u64, code: usize| {
            if set.len() < MOST_SET {
                set.push(slot as u16);
            }
            let entry = self.entry(slot);
            entry.rip.store(absent(slot), Ordering::Relaxed);
            entry.code.store(code, Ordering::Relaxed);
            entry.rip.store(rip, Ordering::Release);
        };
        if let Some(slot) = self.slot(rip) {
            self.entry(slot).rip.store(absent(slot), Ordering::Relaxed);
        }
        // Who was there goes to the other entry.
        let before = self.entry(first);
        let old = before.rip.load(Ordering::Relaxed);
        if index(old) ^ 1 == first || index(old) == first {
            enter(first ^ 1, old, before.code.load(Ordering::Relaxed));
        }
        enter(first, rip, code);
    }

    /// Forgets that `rip` leads to `code`.
    fn remove(&self, rip: u64, code: usize) {
        if let Some(slot) = self.slot(rip)
            && self.entry(slot).code.load(Ordering::Relaxed) == code
        {
            self.entry(slot).rip.store(absent(slot), Ordering::Relaxed);
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        let empty = |slot: usize| self.entry(slot).rip.store(absent(slot), Ordering::Relaxed);
        let mut set = self.set.lock();
        if set.len() < MOST_SET {
            set.drain(..).for_each(|slot| empty(slot.into()));
        } else {
            set.clear();
            (0..ENTRIES).for_each(empty);
        }
    }
}

/// The tables of one processor: by set of TLB tables and privilege.
#[derive(Default)]
pub struct Tables(parking_lot::Mutex<Vec<Arc<Table>>>);

impl Tables {
    /// A new table, which is emptied together with the others.
    pub fn add(&self) -> Arc<Table> {
        let table = Arc::new(Table::new());
        self.0.lock().push(table.clone());
        table
    }

    /// Forgets targets in all tables, under the lock that [`Table::set`] is called under.
    pub fn remove(&self, targets: &[(u64, usize)]) {
        for table in self.0.lock().iter() {
            targets.iter().for_each(|(rip, code)| table.remove(*rip, *code));
        }
    }

    /// Empties all tables.
    pub fn clear(&self) {
        self.0.lock().iter().for_each(|table| table.clear());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_table_knows_nothing() {
        let table = Table::new();
        for rip in [0, 1, 0x1000, !0, 0x8000_0000_0000_0000] {
            assert_eq!(table.get(rip), None);
            table.set(rip, 7);
            assert_eq!(table.get(rip), Some(7));
        }
        table.remove(!0, 8);
        assert_eq!(table.get(!0), Some(7), "leads elsewhere");
        table.remove(!0, 7);
        assert_eq!(table.get(!0), None);
        table.clear();
        assert_eq!(table.get(0), None);
        assert!(index(1) > 1, "an address for the empty first entries");
    }

    #[test]
    fn two_addresses_of_one_place_are_both_known() {
        let table = Table::new();
        let of_one_place: Vec<u64> = (0..).filter(|rip| index(*rip) == 77).take(3).collect();
        for (code, rip) in of_one_place.iter().enumerate() {
            table.set(*rip, code);
        }
        let known: Vec<_> = of_one_place.iter().map(|rip| table.get(*rip)).collect();
        assert_eq!(known, [None, Some(1), Some(2)]);
        table.remove(of_one_place[1], 1);
        assert_eq!(table.get(of_one_place[1]), None);
        table.set(of_one_place[1], 1);
        table.clear();
        assert!(of_one_place.iter().all(|rip| table.get(*rip).is_none()));
    }
}
