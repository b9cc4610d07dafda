//! Serial and parallel ports, and the debug console.

pub mod uart;
