//! What everything stands on.

pub mod memory;
