//! Formats of other programs: those with one table of large blocks share [`blocks`].

mod blocks;
mod bytes;
pub mod parallels;
pub mod qcow1;
pub mod qed;
pub mod vdi;
pub mod vhdx;
pub mod vmdk;
pub mod vpc;
