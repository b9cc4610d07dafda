//! Which pages were written since somebody last looked.
//!
//! Every page has one byte of flags. A set bit means: this client believes the page unchanged since
//! it looked, and wants to know of the next store. A store that finds a bit set clears it. So
//! "dirty" is "bit clear", pages that nobody watches cost one load and compare per store, and all
//! clients share the same byte. See [`super::barrier`] for why no store is missed.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering, compiler_fence};

use parking_lot::Mutex;

use super::{PAGE_SIZE, barrier};

/// Who watches pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Client {
    /// Code was decoded from the page.
    Code = 1,
    /// A display adapter redraws what changed.
    Display = 2,
    /// Migration and snapshots send what changed.
    Migration = 4,
}

/// Flags and code generations of all pages of a RAM block.
pub struct PageTracking {
    flags: Box<[AtomicU8]>,
    generations: Box<[AtomicU32]>,
    /// Held while a page becomes watched for code: who finds the flag set under this lock knows that
    /// the barrier behind it has been passed.
    protecting: Mutex<()>,
}

impl PageTracking {
    pub(super) fn new(len: u64) -> Self {
        let pages = len.div_ceil(PAGE_SIZE) as usize;
        // Zeroed vectors of atomics come from calloc: untouched pages cost no memory.
        PageTracking {
            flags: zeroed(pages),
            generations: zeroed(pages),
            protecting: Mutex::new(()),
        }
    }

    /// The flags of a page; non-zero means that a store must be reported with [`Self::written`].
    #[inline(always)]
    pub fn flags(&self, page: usize) -> &AtomicU8 {
        &self.flags[page]
    }

    /// The code generation of a page: changes when a page from which code was decoded is written.
    #[inline(always)]
    pub fn generation(&self, page: usize) -> &AtomicU32 {
        &self.generations[page]
    }

    /// Starts watching a page for [`Client::Code`]. Bytes read after this call belong to the
    /// returned generation or a later one.
    pub fn protect_code(&self, page: usize) -> u32 {
        let _guard = self.protecting.lock();
        let generation = self.generations[page].load(Ordering::Acquire);
        if self.flags[page].fetch_or(Client::Code as u8, Ordering::SeqCst) & Client::Code as u8 == 0
        {
            barrier::on_all_threads();
        }
        generation
    }

    /// Reports a completed store. Cheap when nobody watches.
    #[inline]
    pub fn written(&self, offset: u64, len: u64) {
        compiler_fence(Ordering::SeqCst);
        if len == 0 {
            return;
        }
        let first = (offset / PAGE_SIZE) as usize;
        let last = ((offset + (len - 1)) / PAGE_SIZE) as usize;
        for page in first..=last.min(self.flags.len().saturating_sub(1)) {
            if self.flags[page].load(Ordering::Relaxed) != 0 {
                self.page_written(page);
            }
        }
    }

    #[cold]
    fn page_written(&self, page: usize) {
        let before = self.flags[page].swap(0, Ordering::SeqCst);
        if before & Client::Code as u8 != 0 {
            self.generations[page].fetch_add(1, Ordering::Release);
        }
    }

    /// Calls `dirty` for each page of the range that was written since the client's last call (or
    /// was never looked at), and watches them from now on.
    pub fn take_dirty(&self, client: Client, offset: u64, len: u64, mut dirty: impl FnMut(u64)) {
        let first = offset / PAGE_SIZE;
        let last = (offset + len).div_ceil(PAGE_SIZE).min(self.flags.len() as u64);
        let mut found = Vec::new();
        for page in first..last {
            let bit = client as u8;
            if self.flags[page as usize].fetch_or(bit, Ordering::SeqCst) & bit == 0 {
                found.push(page);
            }
        }
        if !found.is_empty() {
            barrier::on_all_threads();
        }
        found.into_iter().for_each(|page| dirty(page * PAGE_SIZE));
    }

    /// Stops watching for a client.
    pub fn forget(&self, client: Client) {
        for flags in &self.flags {
            flags.fetch_and(!(client as u8), Ordering::Relaxed);
        }
    }
}

fn zeroed<T: Default>(count: usize) -> Box<[T]> {
    std::iter::repeat_with(T::default).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirty(tracking: &PageTracking, client: Client) -> Vec<u64> {
        let mut pages = Vec::new();
        tracking.take_dirty(client, 0, 4 * PAGE_SIZE, |page| pages.push(page));
        pages
    }

    #[test]
    fn clients_see_each_write_once() {
        let tracking = PageTracking::new(4 * PAGE_SIZE);
        assert_eq!(dirty(&tracking, Client::Display).len(), 4, "everything is new at first");
        assert_eq!(dirty(&tracking, Client::Display), [0_u64; 0]);
        assert_eq!(dirty(&tracking, Client::Migration).len(), 4);
        tracking.written(PAGE_SIZE - 1, 2);
        assert_eq!(dirty(&tracking, Client::Display), [0, PAGE_SIZE]);
        assert_eq!(dirty(&tracking, Client::Migration), [0, PAGE_SIZE]);
        assert_eq!(dirty(&tracking, Client::Migration), [0_u64; 0]);
    }

    #[test]
    fn writing_code_changes_its_generation() {
        let tracking = PageTracking::new(4 * PAGE_SIZE);
        let before = tracking.protect_code(2);
        tracking.written(PAGE_SIZE, 16);
        assert_eq!(tracking.generation(2).load(Ordering::Relaxed), before);
        tracking.written(2 * PAGE_SIZE + 5, 1);
        assert_ne!(tracking.generation(2).load(Ordering::Relaxed), before);
        assert_eq!(tracking.flags(2).load(Ordering::Relaxed), 0, "no longer watched");
    }
}
