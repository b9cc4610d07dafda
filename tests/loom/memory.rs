//! `base/memory`: page tracking.

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;

/// membarrier(2) cannot run in a model. Together with the compiler fence on the frequent side it is
/// an asymmetric fence, which allows what two sequentially consistent fences allow.
mod barrier {
    use crate::sync::{Ordering, fence};

    pub(super) fn on_this_thread() {
        fence(Ordering::SeqCst);
    }

    pub(super) fn on_all_threads() {
        fence(Ordering::SeqCst);
    }
}

#[path = "../../base/memory/tracking.rs"]
mod tracking;

pub use tracking::{Client, PageTracking};

/// The tracking of one page.
pub fn one_page() -> PageTracking {
    PageTracking::new(PAGE_SIZE)
}
