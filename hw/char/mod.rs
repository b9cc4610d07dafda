//! Serial and parallel ports, and the debug console.

pub mod debugcon;
pub mod serial;
pub mod uart;
