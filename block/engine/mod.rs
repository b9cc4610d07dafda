//! How requests get to the host and back.
//!
//! A protocol driver hands a [`HostOp`] to a [`HostIo`] and awaits the result. [`Pool`] does it on worker
//! threads, [`Inline`] in place, for programs that have nothing else to do. io_uring is one more
//! [`HostIo`]: an operation is data, not code, so it can go to the kernel as it is.

mod host;
mod pool;
mod task;

pub use host::{HostIo, HostOp, Inline};
pub use pool::Pool;
pub use task::{block_on, spawn};
