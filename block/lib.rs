//! Disk images: the graph of nodes, asynchronous I/O, formats, and the tools on top of them.
//!
//! A [`Node`](node::Node) is a driver with a name and children. Whoever uses a node says what it needs
//! and what it lets others do ([`node::Permissions`]); a second writer is refused when it attaches.
//! Drivers ([`driver::Driver`]) answer positioned, vectored requests with futures. A request owns the
//! memory it moves ([`vector::Vector`]), so a dropped future never leaves the kernel writing into
//! memory that is gone. The only place that blocks is [`engine`], below the protocol drivers.

pub mod backend;
pub mod blkdebug;
pub mod blkverify;
pub mod commit;
pub mod copy_on_read;
pub mod creation;
pub mod dirty;
pub mod driver;
pub mod engine;
mod error;
pub mod file;
pub mod format;
pub mod formats;
pub mod graph;
pub mod info;
pub mod job;
mod lock;
pub mod luks;
pub mod media;
mod name;
pub mod node;
pub mod null;
pub mod objects;
pub mod open;
pub mod options;
pub mod preallocate;
pub mod qcow2;
pub mod raw;
mod reopen;
pub mod schema;
pub mod secret;
pub mod throttle;
pub mod tools;
pub mod vector;

pub use error::{Error, Result};
