//! Serial and parallel ports, and the debug console.

pub mod debugcon;
pub mod parallel;
pub mod pci_serial;
pub mod serial;
pub mod uart;
