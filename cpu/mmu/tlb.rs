//! The translation look-aside buffers.
//!
//! First level: three direct-mapped tables (read, write, fetch), each with a part per privilege
//! [`Context`], whose entries lead straight to host memory; being present means the access is
//! allowed. Second level: one direct-mapped table of completed page walks with their permissions,
//! from which the first level is refilled when the context changes.
//!
//! Tags carry an *address-space number* in their low twelve bits. Numbers are never used twice until
//! all tables are cleared, so that a CR3 write empties the TLB by taking a new number. Global pages
//! live in the second level under a number of their own and survive that.

use super::Context;

/// Entries per table and context.
pub(crate) const SIZE: usize = 1024;
const CONTEXTS: usize = 4;
const L2_SIZE: usize = 8192;
/// Address-space numbers fit the page offset.
const NUMBERS: u64 = 0xfff;
/// The bits of a linear address above the page offset.
pub(crate) const PAGE: u64 = !0xfff;

/// Where a context begins in the first-level tables: always a multiple of [`SIZE`] within them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Base(usize);

impl Base {
    pub const fn of(context: Context) -> Self {
        Base(context as usize * SIZE)
    }
}

/// A first-level table.
pub(crate) struct Table<E>(Box<[E]>);

impl<E: Copy> Table<E> {
    fn new(empty: E) -> Self {
        Table(vec![empty; SIZE * CONTEXTS].into())
    }

    #[inline(always)]
    fn index(base: Base, linear: u64) -> usize {
        (linear >> 12) as usize & (SIZE - 1) | base.0
    }

    /// The entry that the page of `linear` may be in.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub fn get(&self, base: Base, linear: u64) -> &E {
        // SAFETY: a `Base` is at most `SIZE * (CONTEXTS - 1)`, and what is added is below `SIZE`;
        // the table never changes its length.
        unsafe { self.0.get_unchecked(Self::index(base, linear)) }
    }

    pub fn get_mut(&mut self, base: Base, linear: u64) -> &mut E {
        &mut self.0[Self::index(base, linear)]
    }
}

/// A page that may be read, or fetched from: adding `addend` to a linear address in it gives the
/// host address.
#[derive(Clone, Copy, Default)]
pub(crate) struct ReadEntry {
    pub tag: u64,
    pub addend: usize,
}

/// A page that may be written.
#[derive(Clone, Copy)]
pub(crate) struct WriteEntry {
    pub tag: u64,
    pub addend: usize,
    /// The page's flag byte in [`base::memory::PageTracking`].
    pub flag: *const std::sync::atomic::AtomicU8,
    /// Guest-physical page.
    pub phys: u64,
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
    /// The dirty bit is set (or there is none).
    pub dirty: bool,
    pub global: bool,
    /// Bits of linear address the mapping covers, 12 for a small page.
    pub shift: u8,
    /// Protection key.
    pub key: u8,
}

#[derive(Clone, Copy, Default)]
struct L2Entry {
    tag: u64,
    walked: Walked,
}

pub(crate) struct Tlb {
    pub read: Table<ReadEntry>,
    pub write: Table<WriteEntry>,
    pub fetch: Table<ReadEntry>,
    l2: Box<[L2Entry]>,
    /// The current address-space number.
    pub number: u64,
    global_number: u64,
    next_number: u64,
    /// The number of each PCID, 0 when it has none.
    numbers: Box<[u16]>,
    pcid: usize,
    /// 2 MiB regions (hashed) that hold fragments of large pages.
    large: [u64; 16],
    /// 1 GiB regions (hashed) that hold fragments of pages above 4 MiB.
    huge: u64,
}

// SAFETY: the pointers in the entries lead to memory that may be accessed from any thread (guest
// RAM and its page flags, kept alive by the views in `Mmu`); nothing in the table is bound to the
// thread that filled it.
#[allow(unsafe_code)]
unsafe impl Send for Tlb {}

const NO_WRITE: WriteEntry = WriteEntry { tag: 0, addend: 0, flag: std::ptr::null(), phys: 0 };

impl Tlb {
    pub fn new() -> Self {
        Tlb {
            read: Table::new(ReadEntry::default()),
            write: Table::new(NO_WRITE),
            fetch: Table::new(ReadEntry::default()),
            l2: vec![L2Entry::default(); L2_SIZE].into(),
            number: 1,
            global_number: 2,
            next_number: 3,
            numbers: vec![0; 4096].into(),
            pcid: 0,
            large: [0; 16],
            huge: 0,
        }
    }

    /// The tag that an entry for an access of `size` bytes at `linear` has. An access that crosses
    /// a page matches nothing: its tag is of the next page, which maps to another index.
    #[inline(always)]
    pub fn tag(&self, linear: u64, size: usize) -> u64 {
        linear.wrapping_add(size as u64 - 1) & PAGE | self.number
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
        self.read.0.fill(ReadEntry::default());
        self.write.0.fill(NO_WRITE);
        self.fetch.0.fill(ReadEntry::default());
        self.l2.fill(L2Entry::default());
        self.numbers.fill(0);
        self.large = [0; 16];
        self.huge = 0;
        self.number = 1;
        self.global_number = 2;
        self.next_number = 3;
        self.numbers[self.pcid] = 1;
    }

    /// Forgets everything. From here on no entry made before can match: its number is not used
    /// again before the tables were cleared.
    pub fn flush_all(&mut self) {
        self.numbers.fill(0);
        self.large = [0; 16];
        self.huge = 0;
        self.global_number = self.new_number();
        self.number = self.new_number();
        self.numbers[self.pcid] = self.number as u16;
    }

    /// Forgets all pages of `pcid` that are not global.
    pub fn flush_pcid(&mut self, pcid: u16) {
        let pcid = usize::from(pcid & 0xfff);
        if pcid == self.pcid {
            self.number = self.new_number();
            self.numbers[pcid] = self.number as u16;
        } else {
            self.numbers[pcid] = 0;
        }
    }

    /// The PCID in use.
    pub fn current_pcid(&self) -> u16 {
        self.pcid as u16
    }

    /// Makes `pcid` current, keeping what is cached for it.
    pub fn switch_to(&mut self, pcid: u16) {
        self.pcid = usize::from(pcid & 0xfff);
        self.number = match self.numbers[self.pcid] {
            0 => self.new_number(),
            number => u64::from(number),
        };
        self.numbers[self.pcid] = self.number as u16;
    }

    fn region(linear: u64) -> (usize, u64) {
        let hash = linear >> 21 ^ linear >> 31;
        (hash as usize >> 6 & 15, 1 << (hash & 63))
    }

    fn huge_bit(linear: u64) -> u64 {
        1 << (linear >> 30 & 63)
    }

    fn note_large(&mut self, linear: u64) {
        let (word, bit) = Self::region(linear);
        self.large[word] |= bit;
    }

    /// Forgets the page at `linear` in every context and address space.
    pub fn flush_page(&mut self, linear: u64) {
        let (word, bit) = Self::region(linear);
        if self.large[word] & bit != 0 || self.huge & Self::huge_bit(linear) != 0 {
            return self.flush_all();
        }
        for context in 0..CONTEXTS {
            let base = Base(context * SIZE);
            self.read.get_mut(base, linear).tag = 0;
            self.write.get_mut(base, linear).tag = 0;
            self.fetch.get_mut(base, linear).tag = 0;
        }
        let entry = &mut self.l2[(linear >> 12) as usize % L2_SIZE];
        if entry.tag & PAGE == linear & PAGE {
            entry.tag = 0;
        }
    }

    /// The completed walk for `linear`, if one is remembered.
    pub fn walked(&self, linear: u64) -> Option<Walked> {
        let entry = &self.l2[(linear >> 12) as usize % L2_SIZE];
        let page = linear & PAGE;
        (entry.tag == page | self.number || entry.tag == page | self.global_number)
            .then_some(entry.walked)
    }

    /// Remembers a completed walk.
    pub fn remember(&mut self, linear: u64, walked: Walked) {
        match walked.shift {
            12 => {}
            21 => self.note_large(linear),
            // A 4 MiB page is two regions; an address in either may be invalidated.
            22 => {
                self.note_large(linear);
                self.note_large(linear ^ 1 << 21);
            }
            _ => self.huge |= Self::huge_bit(linear),
        }
        let number = if walked.global { self.global_number } else { self.number };
        self.l2[(linear >> 12) as usize % L2_SIZE] =
            L2Entry { tag: linear & PAGE | number, walked };
    }
}
