//! Stores beside code: lines of pages of code that hold none, known to translated code.
//!
//! A page that code was made from is watched as a whole. Where it is stored to often without hitting
//! code, as data beside it, the lines that code was made from are worked out, and stores to the others
//! are not reported any more until somebody reads code from the page again.

use std::sync::atomic::{AtomicU64, Ordering};

/// Pages that may be known at a time, each at a place of its own.
pub const PAGES: usize = 1 << INDEX_BITS;
const INDEX_BITS: u32 = 10;
/// Bits of an address within a line.
pub const LINE_BITS: u8 = 7;
/// How far an address is shifted down to tell pages of the same place apart by 32 bits.
pub const TAG_SHIFT: u8 = 12 + INDEX_BITS as u8;

/// By page, the lines to which stores are not reported, a bit each, with the page's tag above.
pub struct Quiet(Box<[AtomicU64]>);

fn tag(page: usize) -> u64 {
    u64::from((page >> TAG_SHIFT) as u32) << 32
}

impl Quiet {
    /// No page is known.
    pub fn new() -> Self {
        Quiet((0..PAGES).map(|_| AtomicU64::new(0)).collect())
    }

    /// The first place, for translated code.
    pub fn start(&self) -> *const AtomicU64 {
        self.0.as_ptr()
    }

    fn place(&self, page: usize) -> &AtomicU64 {
        &self.0[page >> 12 & (PAGES - 1)]
    }

    /// From here on, stores to `lines` of the page at host address `page` are not reported.
    pub fn silence(&self, page: usize, lines: u32) {
        self.place(page).store(tag(page) | u64::from(lines), Ordering::SeqCst);
    }

    /// All stores to the page at host address `page` are reported again. Whether some were not.
    pub fn report(&self, page: usize) -> bool {
        let place = self.place(page);
        let word = place.load(Ordering::SeqCst);
        word as u32 != 0
            && word >> 32 << 32 == tag(page)
            && place.compare_exchange(word, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_silenced_until_it_is_to_be_reported() {
        let quiet = Quiet::new();
        let page = 0x7f12_3456_7000;
        assert!(!quiet.report(page));
        quiet.silence(page, 6);
        assert!(!quiet.report(page + (PAGES << 12)), "another page of the same place");
        assert!(quiet.report(page));
        assert!(!quiet.report(page));
    }
}
