//! The translation look-aside buffers.
//!
//! First level: three direct-mapped tables (read, write, fetch), each with a part per privilege
//! [`Context`], whose entries lead straight to host memory; being present means the access is
//! allowed. Translated code looks into the read and write tables by itself. Second level: one
//! direct-mapped table of completed page walks with their permissions, from which the first level is
//! refilled. The read and write tables grow where a guest touches more pages in short time than they
//! have entries, and shrink again when they are emptied.
//!
//! An address space has a *number*. The first level holds a few *sets* of tables, one for each of
//! the numbers used last, so that switching between address spaces keeps what is cached for them.
//! In the second level, tags carry the number in their low twelve bits. Numbers are never used twice
//! until all tables are cleared, so that a CR3 write empties the TLB by taking a new number. Global
//! pages live in the second level under a number of their own and survive that.
//!
//! Guests that this processor virtualizes have *worlds* of their own beside the host's, told apart by
//! their ASIDs, so that going from one to the other keeps what is cached for both.

use super::Context;
use crate::hash::Set;

/// Entries per table and context: of the fetch tables always, of the others at first.
pub(crate) const SIZE: usize = 1024;
/// Most entries of a table that grows: enough for 256 MiB.
const MOST: usize = 1 << 16;
/// How much a table grows at a time.
const GROWTH: usize = 4;
/// A table grows if it lost as many entries as it has to others in less than this many nanoseconds
/// each: ten times what it costs to fill one again.
const CROWDED: u64 = 4_000;
const CONTEXTS: usize = 4;
/// Sets of first-level tables.
const SETS: usize = 4;
/// Worlds that are kept beside the current one: as many as there are ASIDs.
const WORLDS: usize = 16;
const L2_SIZE: usize = 1 << 15;
/// Most pages remembered as fetched from.
const MOST_FETCHED: usize = 1 << 14;
/// Most large regions remembered; if there may be more, any page may be part of one.
const MOST_LARGE: usize = 1 << 16;
/// Address-space numbers fit the page offset.
const NUMBERS: u64 = 0xfff;
/// The bits of a linear address above the page offset.
pub(crate) const PAGE: u64 = !0xfff;

/// The tables of a context among those of an address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Base(usize);

impl Base {
    pub const fn of(context: Context) -> Self {
        Base(context as usize)
    }
}

/// An entry of a first-level table.
pub(crate) trait Entry: Copy {
    /// An entry for the page at linear address `page` that leads nowhere.
    fn empty(page: u64) -> Self;
    /// The linear page it is for.
    fn page(&self) -> u64;
}

/// Whether an access of `size` bytes at `linear` lies in the page that `entry` is for.
#[inline(always)]
pub(crate) fn hit(entry: &impl Entry, linear: u64, size: usize) -> bool {
    linear.wrapping_sub(entry.page()) <= 4096 - size as u64
}

/// A page that may be read, or fetched from. Translated code knows this layout.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct ReadEntry {
    /// The linear page; any page with another index while the entry is empty.
    pub page: u64,
    /// The page's host address.
    pub host: usize,
}

/// A page that may be written. Translated code knows this layout.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct WriteEntry {
    /// As in [`ReadEntry`].
    pub page: u64,
    /// The page's host address.
    pub host: usize,
    /// The page's flag byte in [`base::memory::PageTracking`].
    pub flag: *const std::sync::atomic::AtomicU8,
    /// Guest-physical page.
    pub phys: u64,
}

impl ReadEntry {
    /// The host address of `linear`, which lies in the page.
    #[inline(always)]
    pub fn host(&self, linear: u64) -> usize {
        self.host + (linear & !PAGE) as usize
    }
}

impl Entry for ReadEntry {
    fn empty(page: u64) -> Self {
        ReadEntry { page, host: 0 }
    }
    #[inline(always)]
    fn page(&self) -> u64 {
        self.page
    }
}

impl WriteEntry {
    /// The host address of `linear`, which lies in the page.
    #[inline(always)]
    pub fn host(&self, linear: u64) -> usize {
        self.host + (linear & !PAGE) as usize
    }
}

impl Entry for WriteEntry {
    fn empty(page: u64) -> Self {
        WriteEntry { page, host: 0, flag: std::ptr::null(), phys: 0 }
    }
    #[inline(always)]
    fn page(&self) -> u64 {
        self.page
    }
}

/// The table of one kind for one address space and context.
struct Part<E> {
    /// A power of two of them.
    entries: Box<[E]>,
    /// Which entries were filled since the table was empty, unless there were more than [`SIZE`].
    filled: Vec<u16>,
    /// How often one was.
    fills: usize,
    /// How often an entry gave way to one for another page, and since when that is counted.
    evicted: usize,
    since: u64,
}

impl<E: Entry> Part<E> {
    fn new(size: usize) -> Self {
        let mut part = Part {
            entries: vec![E::empty(0); size].into(),
            filled: Vec::with_capacity(SIZE),
            fills: 0,
            evicted: 0,
            since: 0,
        };
        part.empty_entry(0);
        part
    }

    #[inline(always)]
    fn index(&self, linear: u64) -> usize {
        (linear >> 12) as usize & (self.entries.len() - 1)
    }

    /// Puts an entry for a page that belongs elsewhere at `index`.
    fn empty_entry(&mut self, index: usize) {
        self.entries[index] = E::empty(if index == 0 { 0x1000 } else { 0 });
    }

    /// Enters a page. Whether many had to give way lately.
    fn fill(&mut self, linear: u64, entry: E) -> bool {
        let index = self.index(linear);
        let old = self.entries[index].page();
        let evicts = self.index(old) == index && old != entry.page();
        self.entries[index] = entry;
        self.fills += 1;
        if self.filled.len() < SIZE {
            self.filled.push(index as u16);
        }
        self.evicted += usize::from(evicts);
        self.evicted > self.entries.len()
    }

    /// Grows if many had to give way in a short time until `now`, in nanoseconds.
    fn relieve(&mut self, now: u64) {
        let time = now.wrapping_sub(self.since);
        if time < self.entries.len() as u64 * CROWDED && self.entries.len() < MOST {
            let larger = Self::new(self.entries.len() * GROWTH);
            let old = std::mem::replace(self, larger);
            for (index, entry) in old.entries.into_iter().enumerate() {
                let page = entry.page();
                if (page >> 12) as usize % (self.entries.len() / GROWTH) == index {
                    self.fill(page, entry);
                }
            }
        }
        (self.evicted, self.since) = (0, now);
    }

    fn clear(&mut self) {
        let size = self.fills.next_power_of_two().clamp(SIZE, self.entries.len());
        if self.entries.len() > size || self.filled.len() == SIZE {
            *self = Self::new(size);
        }
        while let Some(index) = self.filled.pop() {
            self.empty_entry(index.into());
        }
        (self.fills, self.evicted) = (0, 0);
    }

    fn forget(&mut self, linear: u64) {
        self.empty_entry(self.index(linear));
    }
}

/// The tables of one kind for one address space, by context.
type Parts<E> = [Part<E>; CONTEXTS];

/// The first-level tables of one kind.
pub(crate) struct Table<E> {
    current: Parts<E>,
    others: [Option<Parts<E>>; SETS],
}

impl<E: Entry> Table<E> {
    fn new() -> Self {
        Table { current: Self::parts(), others: [const { None }; SETS] }
    }

    fn parts() -> Parts<E> {
        [SIZE; CONTEXTS].map(Part::new)
    }

    /// The entry that the page of `linear` may be in.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub fn get(&self, base: Base, linear: u64) -> &E {
        let part = &self.current[base.0 % CONTEXTS];
        // SAFETY: an index is below the number of entries, which is a power of two.
        unsafe { part.entries.get_unchecked(part.index(linear)) }
    }

    /// The table of `base` in the current address space, and how many entries it has, for code that
    /// looks into it by itself: valid until the address space is switched or the table grows.
    pub fn part(&self, base: Base) -> (*const E, usize) {
        let part = &self.current[base.0];
        (part.entries.as_ptr(), part.entries.len())
    }

    /// Enters a page. If many had to give way lately, [`Table::relieve`] is to be called.
    #[must_use]
    pub fn fill(&mut self, base: Base, linear: u64, entry: E) -> bool {
        self.current[base.0].fill(linear, entry)
    }

    /// Lets the table of `base` grow if many entries gave way in a short time until `now`, in
    /// nanoseconds. The page filled last is kept.
    #[cold]
    pub fn relieve(&mut self, base: Base, now: u64) {
        self.current[base.0].relieve(now);
    }

    fn forget(&mut self, linear: u64) {
        let sets = self.others.iter_mut().flatten().chain([&mut self.current]);
        sets.flat_map(|parts| parts.iter_mut()).for_each(|part| part.forget(linear));
    }

    /// Empties all sets.
    pub fn clear(&mut self) {
        let sets = self.others.iter_mut().flatten().chain([&mut self.current]);
        sets.flat_map(|parts| parts.iter_mut()).for_each(Part::clear);
    }

    /// Makes set `to` current, which `from` was, empty if it is for another address space now.
    fn switch(&mut self, from: usize, to: usize, clear: bool) {
        if from != to {
            let next = self.others[to].take().unwrap_or_else(Self::parts);
            self.others[from] = Some(std::mem::replace(&mut self.current, next));
        }
        if clear {
            self.current.iter_mut().for_each(Part::clear);
        }
    }
}

/// What a page walk found out about one 4 KiB page.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Walked {
    /// Guest-physical page, A20 not applied.
    pub phys: u64,
    /// All levels allow writing.
    pub writable: bool,
    /// All levels allow user access.
    pub user: bool,
    /// No level forbids fetching.
    pub executable: bool,
    /// The dirty bit is set (or there is none), and the host's tables allow writing too.
    pub dirty: bool,
    /// The host's tables forbid fetching, which only a walk can tell properly.
    pub fetch_needs_walk: bool,
    pub global: bool,
    /// Bits of linear address the mapping covers, 12 for a small page.
    pub shift: u8,
    /// Protection key.
    pub key: u8,
}

/// Which set of tables is in use, and a number that changes whenever fetch mappings cached for it may
/// no longer hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch {
    pub set: usize,
    number: u64,
}

#[derive(Clone, Copy, Default)]
struct L2Entry {
    tag: u64,
    walked: Walked,
}

/// What translations depend on beside page tables, for [`Tlb::enter_world`].
pub(crate) type Controls = [u64; 9];

/// The address spaces of the host, or of a guest.
struct World {
    /// 0 is the host.
    asid: u32,
    /// The number of each PCID, 0 when it has none.
    numbers: Box<[u16]>,
    global_number: u64,
    /// What held when the world was left.
    controls: Controls,
}

impl World {
    fn new(asid: u32) -> Self {
        let numbers = vec![0; 4096].into();
        World { asid, numbers, global_number: 0, controls: Controls::default() }
    }
}

pub(crate) struct Tlb {
    pub read: Table<ReadEntry>,
    pub write: Table<WriteEntry>,
    pub fetch: Table<ReadEntry>,
    l2: Box<[L2Entry]>,
    /// The number that each set of tables is for.
    sets: [u64; SETS],
    /// The set in use.
    set: usize,
    /// Counts how often mappings of code may have been forgotten, and the set in use was emptied.
    epochs: [u64; SETS],
    /// The same for mappings of global pages.
    global_epoch: u64,
    /// Pages that were entered in a fetch table, with their address space's number.
    fetched: Set<u64>,
    /// The current address-space number.
    number: u64,
    next_number: u64,
    world: World,
    other_worlds: Vec<World>,
    pcid: usize,
    /// Regions that hold fragments of large pages, by address, size as a power of two, and address
    /// space.
    large: Set<(u64, u8, u64)>,
    /// Protection keys of pages that were entered, a bit each.
    keys: u16,
}

#[allow(unsafe_code)]
// SAFETY: the pointers in the entries lead to memory that may be accessed from any thread (guest
// RAM and its page flags, kept alive by the views in `Mmu`); nothing in the table is bound to the
// thread that filled it.
unsafe impl Send for Tlb {}

impl Tlb {
    pub fn new() -> Self {
        Tlb {
            read: Table::new(),
            write: Table::new(),
            fetch: Table::new(),
            l2: vec![L2Entry::default(); L2_SIZE].into(),
            sets: [1, 0, 0, 0],
            set: 0,
            epochs: [0; SETS],
            global_epoch: 0,
            fetched: Set::default(),
            number: 1,
            next_number: 3,
            world: World { global_number: 2, ..World::new(0) },
            other_worlds: Vec::new(),
            pcid: 0,
            large: Set::default(),
            keys: 0,
        }
    }

    fn new_number(&mut self) -> u64 {
        if self.next_number == NUMBERS {
            self.clear();
        }
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    /// Physically empties everything and starts numbering anew.
    fn clear(&mut self) {
        self.l2.fill(L2Entry::default());
        self.other_worlds.clear();
        self.world.numbers.fill(0);
        self.sets = [0; SETS];
        self.large.clear();
        self.fetched.clear();
        self.forget_jumps();
        self.keys = 0;
        self.world.global_number = 1;
        self.next_number = 2;
    }

    /// Makes `number` the current address space.
    fn select(&mut self, number: u64) {
        self.number = number;
        self.world.numbers[self.pcid] = number as u16;
        let found = self.sets.iter().position(|n| *n == number);
        let set = found.unwrap_or((self.set + 1) % SETS);
        let clear = found.is_none();
        self.read.switch(self.set, set, clear);
        self.write.switch(self.set, set, clear);
        self.fetch.switch(self.set, set, clear);
        self.sets[set] = number;
        self.epochs[set] += u64::from(clear);
        self.set = set;
    }

    /// Until when fetch mappings of the present address space hold.
    pub fn fetch_epoch(&self) -> Epoch {
        Epoch { set: self.set, number: self.epochs[self.set] }
    }

    /// A number that changes whenever fetch mappings of global pages may no longer hold.
    pub fn global_epoch(&self) -> u64 {
        self.global_epoch
    }

    /// Forgets everything. From here on no entry made before can match: its number is not used
    /// again before the tables were cleared.
    pub fn flush_all(&mut self) {
        self.other_worlds.clear();
        self.large.clear();
        self.fetched.clear();
        self.flush_world();
    }

    /// Forgets everything of the current world.
    fn flush_world(&mut self) {
        self.global_epoch += 1;
        self.world.numbers.fill(0);
        self.world.global_number = self.new_number();
        let number = self.new_number();
        self.select(number);
    }

    /// Rights of protection keys changed, two bits each: pages of these keys are looked up anew. The
    /// second level leaves the decision about them to who asks, and fetches do not depend on them.
    pub fn rights_changed(&mut self, changed: u32) {
        let concerns = |key: u32| self.keys >> key & 1 != 0 && changed >> (2 * key) & 3 != 0;
        if (0..16).any(concerns) {
            self.read.clear();
            self.write.clear();
        }
    }

    /// Back to the host's world, with nothing in it.
    pub fn reset(&mut self) {
        self.world.asid = 0;
        self.pcid = 0;
        self.flush_all();
    }

    /// Forgets everything of the world of `asid`, which is not the current one.
    pub fn forget_world(&mut self, asid: u32) {
        self.other_worlds.retain(|world| world.asid != asid);
    }

    /// Makes the world of `asid` current, with its address space `pcid`. Under `left` the current one
    /// was at the end, under `entered` the other goes on: what was cached for it is kept if it was
    /// left under the same.
    pub fn enter_world(&mut self, asid: u32, pcid: u16, left: Controls, entered: Controls) {
        self.pcid = usize::from(pcid & 0xfff);
        let found = self.other_worlds.iter().position(|world| world.asid == asid);
        let world = match found {
            Some(index) => self.other_worlds.swap_remove(index),
            None => World::new(asid),
        };
        // What is global is so in its world.
        self.global_epoch += 1;
        let mut before = std::mem::replace(&mut self.world, world);
        before.controls = left;
        if self.other_worlds.len() == WORLDS {
            self.other_worlds.remove(0);
        }
        self.other_worlds.push(before);
        if found.is_some() && self.world.controls == entered {
            self.switch_to(pcid);
        } else {
            self.flush_world();
        }
    }

    /// Forgets all pages of `pcid` that are not global.
    pub fn flush_pcid(&mut self, pcid: u16) {
        let pcid = usize::from(pcid & 0xfff);
        if pcid == self.pcid {
            let number = self.new_number();
            self.select(number);
        } else {
            self.world.numbers[pcid] = 0;
        }
    }

    /// The PCID in use.
    pub fn current_pcid(&self) -> u16 {
        self.pcid as u16
    }

    /// Makes `pcid` current, keeping what is cached for it.
    pub fn switch_to(&mut self, pcid: u16) {
        self.pcid = usize::from(pcid & 0xfff);
        let number = match self.world.numbers[self.pcid] {
            0 => self.new_number(),
            number => u64::from(number),
        };
        self.select(number);
    }

    /// Enters a page that may be fetched from, whose walk was remembered.
    pub fn fill_fetch(&mut self, base: Base, linear: u64, entry: ReadEntry) {
        if self.fetched.len() >= MOST_FETCHED {
            self.fetched.clear();
            // Or they would have pages that are not among those fetched.
            self.fetch.clear();
            self.forget_jumps();
        }
        let global = self.walked(linear).is_some_and(|walked| walked.global);
        self.fetched.insert(linear & PAGE | self.number_of(global));
        // Code is seldom so large that a table of this kind were better off growing.
        let _ = self.fetch.fill(base, linear, entry);
    }

    /// The number that stands for the current address space, or for all.
    fn number_of(&self, global: bool) -> u64 {
        if global { self.world.global_number } else { self.number }
    }

    /// Fetch mappings may no longer hold, of whatever address space.
    fn forget_jumps(&mut self) {
        self.global_epoch += 1;
        self.epochs.iter_mut().for_each(|epoch| *epoch += 1);
    }

    /// Forgets the page at `linear` in every context, of the current address space or global.
    pub fn flush_page(&mut self, linear: u64) {
        let [own, global] = [false, true].map(|global| self.number_of(global));
        let large = |number: u64| {
            [21, 30].iter().any(|&shift| self.large.contains(&(linear >> shift, shift, number)))
        };
        if large(global) || self.large.len() >= MOST_LARGE {
            return self.flush_all();
        }
        if large(own) {
            self.flush_pcid(self.current_pcid());
        }
        self.read.forget(linear);
        self.write.forget(linear);
        self.fetch.forget(linear);
        if self.fetched.contains(&(linear & PAGE | global)) {
            self.forget_jumps();
        } else if self.fetched.contains(&(linear & PAGE | own)) {
            self.epochs[self.set] += 1;
        }
        let entry = &mut self.l2[(linear >> 12) as usize % L2_SIZE];
        if entry.tag & PAGE == linear & PAGE {
            entry.tag = 0;
        }
    }

    /// Forgets the page at `linear` in every address space.
    pub fn flush_page_everywhere(&mut self, linear: u64) {
        self.flush_page(linear);
        if self.large.iter().any(|(region, shift, _)| *region == linear >> shift) {
            self.flush_all();
        }
        self.forget_jumps();
    }

    /// The completed walk for `linear`, if one is remembered.
    pub fn walked(&self, linear: u64) -> Option<Walked> {
        let entry = &self.l2[(linear >> 12) as usize % L2_SIZE];
        let page = linear & PAGE;
        (entry.tag == page | self.number || entry.tag == page | self.world.global_number)
            .then_some(entry.walked)
    }

    /// Remembers a completed walk.
    pub fn remember(&mut self, linear: u64, walked: Walked) {
        let number = self.number_of(walked.global);
        let mut note = |linear: u64, shift: u8| {
            if self.large.len() < MOST_LARGE {
                self.large.insert((linear >> shift, shift, number));
            }
        };
        match walked.shift {
            12 => {}
            21 => note(linear, 21),
            // A 4 MiB page is two regions; an address in either may be invalidated.
            22 => [linear, linear ^ 1 << 21].into_iter().for_each(|linear| note(linear, 21)),
            _ => note(linear, 30),
        }
        self.keys |= 1 << (walked.key & 15);
        self.l2[(linear >> 12) as usize % L2_SIZE] =
            L2Entry { tag: linear & PAGE | number, walked };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FETCHED: u64 = 0x40_0000;

    fn tlb() -> Tlb {
        let mut tlb = Tlb::new();
        tlb.switch_to(0);
        let entry = ReadEntry { page: FETCHED, host: 0x1000 };
        tlb.fill_fetch(Base::of(Context::User), FETCHED, entry);
        tlb
    }

    #[test]
    fn only_pages_of_code_end_the_epochs_of_jumps() {
        let mut tlb = tlb();
        let before = (tlb.fetch_epoch(), tlb.global_epoch());
        // Addresses that would meet in a small table of bits.
        for page in 1..5_000_u64 {
            tlb.flush_page(FETCHED + (page << 12));
        }
        assert_eq!((tlb.fetch_epoch(), tlb.global_epoch()), before);
        tlb.flush_page(FETCHED + 0xfff);
        assert_ne!(tlb.fetch_epoch(), before.0);
        assert_eq!(tlb.global_epoch(), before.1);
    }

    /// Programs that are mapped at the same addresses are told apart.
    #[test]
    fn pages_of_code_elsewhere_end_no_epoch() {
        let mut tlb = tlb();
        let first = tlb.fetch_epoch();
        tlb.switch_to(1);
        let second = tlb.fetch_epoch();
        tlb.flush_page(FETCHED);
        assert_eq!(tlb.fetch_epoch(), second);
        tlb.switch_to(0);
        assert_eq!(tlb.fetch_epoch(), first);
        tlb.flush_page_everywhere(FETCHED);
        assert_ne!(tlb.fetch_epoch(), first);
    }

    #[test]
    fn global_pages_of_code_end_the_epochs_of_all() {
        let mut tlb = tlb();
        let page = FETCHED + 0x1000;
        tlb.remember(page, Walked { global: true, ..Walked::default() });
        tlb.fill_fetch(Base::of(Context::User), page, ReadEntry { page, host: 0x1000 });
        let before = (tlb.fetch_epoch(), tlb.global_epoch());
        tlb.switch_to(1);
        tlb.flush_page(page);
        assert_ne!(tlb.global_epoch(), before.1);
        tlb.switch_to(0);
        assert_ne!(tlb.fetch_epoch(), before.0);
    }

    #[test]
    fn rights_of_keys_concern_the_pages_that_have_them() {
        let mut tlb = tlb();
        let base = Base::of(Context::User);
        let known = |tlb: &Tlb| hit(tlb.read.get(base, 0x5000), 0x5000, 8);
        tlb.remember(0x5000, Walked { user: true, key: 3, ..Walked::default() });
        let _ = tlb.read.fill(base, 0x5000, ReadEntry { page: 0x5000, host: 0x1000 });
        let before = (tlb.fetch_epoch(), tlb.global_epoch());
        tlb.rights_changed(0xffff_ff3f);
        assert!(known(&tlb));
        tlb.rights_changed(0x80);
        assert!(!known(&tlb));
        assert_eq!((tlb.fetch_epoch(), tlb.global_epoch()), before);
        assert!(tlb.walked(0x5000).is_some());
    }

    #[test]
    fn only_parts_of_large_pages_empty_everything() {
        let mut tlb = tlb();
        let large = Walked { shift: 21, ..Walked::default() };
        (0..512).for_each(|region| tlb.remember(0x8000_0000 + (region << 21), large));
        let before = tlb.fetch_epoch();
        (0..512).for_each(|region| tlb.flush_page(0x1_8000_0000 + (region << 21)));
        assert_eq!(tlb.fetch_epoch(), before);
        tlb.switch_to(1);
        tlb.flush_page(0x8000_0000 + (3 << 21) + 0x5000);
        tlb.switch_to(0);
        assert_eq!(tlb.fetch_epoch(), before);
        tlb.flush_page(0x8000_0000 + (3 << 21) + 0x5000);
        assert_ne!(tlb.fetch_epoch(), before);
    }
}
