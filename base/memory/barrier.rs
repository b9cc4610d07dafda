//! A memory barrier on every other thread of the process.
//!
//! Stores to guest RAM are followed by a look at the page's flags. On the store's side only the
//! compiler may not reorder the two; the processor may. Whoever sets a flag therefore makes every
//! other thread pass a full barrier before it trusts the page's content: stores before that barrier
//! are then visible, stores after it see the flag. So the frequent side pays nothing.
#![allow(unsafe_code)] // One system call that no safe wrapper covers.

use std::sync::OnceLock;
use std::sync::atomic::{Ordering, compiler_fence};

const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;
const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: membarrier(2) takes two integers and touches no memory of the caller.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

/// Whether [`on_all_threads`] works here; to be checked once before guest memory is used.
pub(super) fn available() -> bool {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    *REGISTERED.get_or_init(|| membarrier(REGISTER_PRIVATE_EXPEDITED))
}

/// The frequent side of [`on_all_threads`]: no load that comes later may be moved before a store that
/// comes earlier, by the compiler. The processor is the other side's affair.
#[inline(always)]
pub(super) fn on_this_thread() {
    compiler_fence(Ordering::SeqCst);
}

/// Returns after every running thread of the process has executed a full memory barrier.
pub(super) fn on_all_threads() {
    // RAM blocks are only created where registration succeeded, after which the call cannot fail.
    let done = available() && membarrier(PRIVATE_EXPEDITED);
    debug_assert!(done || !available());
}
