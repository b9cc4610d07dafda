//! Which pages were written since somebody last looked.
//!
//! Every page has one byte of flags. A set bit means: this client believes the page unchanged since
//! it looked, and wants to know of the next store. A store that finds a bit set clears it. So
//! "dirty" is "bit clear", pages that nobody watches cost one load and compare per store, and all
//! clients share the same byte. See [`super::barrier`] for why no store is missed.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::{PAGE_SIZE, barrier};
use crate::sync::{AtomicU8, AtomicU32, Mutex, Ordering};

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

/// Who is told of stores to pages of code at once, by the thread that stores.
///
/// Such a page stays watched until [`PageTracking::release_code`].
pub trait CodeWatcher: Send + Sync {
    /// Bytes `range` of page `page` were written.
    fn code_written(&self, page: usize, range: Range<u32>);
    /// Somebody is about to read code from page `page`: whoever is in the know of this watcher reports
    /// every store to it from here on. Whether some stores were not reported until now.
    fn code_read(&self, page: usize) -> bool;
}

/// Knows of stores that nobody reports: those of a guest whose memory the host's kernel maps.
pub trait StoreLog: Send + Sync {
    /// Reports all stores since the last call with [`PageTracking::written`].
    fn report(&self);
}

/// Flags and code generations of all pages of a RAM block.
pub struct PageTracking {
    flags: Box<[AtomicU8]>,
    generations: Box<[AtomicU32]>,
    /// Held while a page becomes watched for code: who finds the flag set under this lock knows that
    /// the barrier behind it has been passed.
    protecting: Mutex<()>,
    watcher: OnceLock<Arc<dyn CodeWatcher>>,
    log: OnceLock<Box<dyn StoreLog>>,
}

impl PageTracking {
    pub(super) fn new(len: u64) -> Self {
        let pages = len.div_ceil(PAGE_SIZE) as usize;
        // Zeroed vectors of atomics come from calloc: untouched pages cost no memory.
        PageTracking {
            flags: zeroed(pages),
            generations: zeroed(pages),
            protecting: Mutex::new(()),
            watcher: OnceLock::new(),
            log: OnceLock::new(),
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
        let code = Client::Code as u8;
        let is_new = self.flags[page].fetch_or(code, Ordering::SeqCst) & code == 0;
        let was_silent = self.watcher.get().is_some_and(|watcher| watcher.code_read(page));
        if is_new || was_silent {
            barrier::on_all_threads();
        }
        generation
    }

    /// Lets everybody who has read code from a page, but its watcher, read it anew: the watcher lets
    /// stores go unreported that it knows to concern nobody else.
    pub fn renew_code(&self, page: usize) {
        self.generations[page].fetch_add(1, Ordering::Release);
    }

    /// Stops watching a page for [`Client::Code`]. Its generation changes, for those who still rely
    /// on it.
    pub fn release_code(&self, page: usize) {
        let _guard = self.protecting.lock();
        self.generations[page].fetch_add(1, Ordering::Release);
        self.flags[page].fetch_and(!(Client::Code as u8), Ordering::SeqCst);
    }

    /// Appoints who is told of stores to code, made by `make`; the one appointed first stays.
    pub fn watch_code(&self, make: impl FnOnce() -> Arc<dyn CodeWatcher>) {
        self.watcher.get_or_init(make);
    }

    /// Has stores looked up in a log before anybody asks for dirty pages; the log given first stays.
    pub fn consult(&self, log: Box<dyn StoreLog>) {
        self.log.get_or_init(|| log);
    }

    /// Reports a completed store. Cheap when nobody watches.
    #[inline]
    pub fn written(&self, offset: u64, len: u64) {
        barrier::on_this_thread();
        if len == 0 {
            return;
        }
        let end = offset.saturating_add(len);
        let first = (offset / PAGE_SIZE) as usize;
        let last = ((end - 1) / PAGE_SIZE) as usize;
        for page in first..=last.min(self.flags.len().saturating_sub(1)) {
            if self.flags[page].load(Ordering::Relaxed) != 0 {
                let start = page as u64 * PAGE_SIZE;
                let from = offset.max(start) - start;
                self.page_written(page, from as u32..(end - start).min(PAGE_SIZE) as u32);
            }
        }
    }

    #[cold]
    fn page_written(&self, page: usize, range: Range<u32>) {
        let code = Client::Code as u8;
        let watcher = self.watcher.get();
        let keep = if watcher.is_some() { code } else { 0 };
        if self.flags[page].fetch_and(keep, Ordering::SeqCst) & code != 0 {
            self.generations[page].fetch_add(1, Ordering::Release);
            if let Some(watcher) = watcher {
                watcher.code_written(page, range);
            }
        }
    }

    /// Calls `dirty` for each page of the range that was written since the client's last call (or
    /// was never looked at), and watches them from now on.
    pub fn take_dirty(&self, client: Client, offset: u64, len: u64, mut dirty: impl FnMut(u64)) {
        if let Some(log) = self.log.get() {
            log.report();
        }
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

    #[derive(Default)]
    struct Log(Mutex<Vec<(usize, Range<u32>)>>);

    impl CodeWatcher for Log {
        fn code_written(&self, page: usize, range: Range<u32>) {
            self.0.lock().push((page, range));
        }
        fn code_read(&self, _: usize) -> bool {
            false
        }
    }

    #[test]
    fn a_watcher_is_told_until_it_releases_the_page() {
        let tracking = PageTracking::new(4 * PAGE_SIZE);
        let log = Arc::new(Log::default());
        tracking.watch_code(|| log.clone());
        let before = tracking.protect_code(1);
        tracking.written(PAGE_SIZE - 2, 4);
        tracking.written(2 * PAGE_SIZE - 1, 8);
        tracking.release_code(1);
        tracking.written(PAGE_SIZE, 4);
        assert_eq!(*log.0.lock(), [(1, 0..2), (1, 4095..4096)]);
        assert_ne!(tracking.generation(1).load(Ordering::Relaxed), before);
    }

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
