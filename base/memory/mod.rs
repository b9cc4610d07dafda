//! Guest memory: RAM blocks, the tree of regions that describes who answers at which address, and
//! the flat, immutable views that processors and devices look addresses up in.
//!
//! A board builds a tree of [`Region`]s (RAM, ROM, device registers, containers, aliases) with
//! priorities where they overlap. An [`AddressSpace`] renders the tree below its root into a
//! [`FlatView`]: a sorted list of ranges that never changes. When somebody changes the tree (a BAR
//! moves, a PAM register is written), a new view is rendered and swapped in atomically; whoever
//! holds the old one finishes with it.
//!
//! The same machinery serves memory and the 64 KiB of I/O ports.

pub mod backend;
mod barrier;
mod dma;
mod flat;
mod host;
mod pieces;
mod ram;
mod region;
mod space;
/// Tells the host's kernel that barriers on all threads will be asked for. Guest RAM does it as well;
/// while there is one thread only, it costs next to nothing, and some 20 ms later.
pub fn announce_barriers() {
    barrier::available();
}

#[cfg(test)]
mod tests;
mod tracking;
mod tree;

pub use dma::Dma;
pub use flat::{FlatRange, FlatView, Lookup, LookupKind};
pub use host::Advice;
pub use pieces::RamPiece;
pub use ram::{Mapping, RamBlock, RamError};
pub use region::{AccessSizes, IoHandler, Region};
pub use space::{AddressSpace, ViewListener};
pub use tracking::{Client, CodeWatcher, PageTracking, StoreLog};
pub use tree::{describe, describe_flat};

/// Size of the pages that dirtiness is tracked by.
pub const PAGE_SIZE: u64 = 4096;
