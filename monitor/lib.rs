//! How people and programs control a machine: QMP, the human monitor, and the test protocol.
//!
//! - [`qapi`]: types of the protocol, which know their own schema;
//! - [`qmp`]: the protocol itself, its commands and events;
//! - [`hmp`]: the `(qemu)` prompt;
//! - [`qtest`]: a machine without a processor, driven from outside;
//! - [`WebHost`]: what the web console's page does to the machine.
//!
//! Everything here runs on the main loop.

pub mod hmp;
mod json;
mod paging;
mod port;
pub mod qapi;
pub mod qmp;
mod qom;
pub mod qtest;
mod target;
mod web;

pub use target::Target;
pub use web::WebHost;
