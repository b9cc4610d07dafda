//! The PC with i440FX host bridge and PIIX3 south bridge.

pub mod board;
pub mod cmos;
pub mod memory;
pub mod onboard;
pub mod props;
pub mod roms;
pub mod setup;
pub mod tables;
