//! The sources of the structures that threads share without a lock around the whole, compiled
//! against loom: see `models.rs` for what is explored, and docs/concurrency.md for the arguments.
//!
//! Sources name `base::sync` or `crate::sync`; here both are [`sync`].

extern crate self as base;

pub mod clock;
pub mod event_loop;
pub mod kvm;
pub mod memory;
#[path = "../../cpu/signals.rs"]
pub mod signals;
pub mod sync;
