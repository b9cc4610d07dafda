//! The PC with i440FX host bridge and PIIX3 south bridge.

pub mod cmos;
pub mod memory;
