//! How requests get to the host and back.
//!
//! A protocol driver hands a [`HostOp`] to a [`HostIo`] and awaits the result. [`Pool`] does it on worker
//! threads, [`Uring`] by the kernel's io_uring, [`Inline`] in place, for programs that have nothing else
//! to do. An operation is data, not code, so it can go to the kernel as it is.

mod host;
mod pool;
mod task;
mod uring;

pub use host::{HostIo, HostOp, Inline};
pub use pool::Pool;
pub use task::{block_on, spawn};
pub use uring::Uring;
