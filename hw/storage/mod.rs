//! Disk controllers.

pub mod ata;
pub mod fdc;
pub mod floppy;
pub mod geometry;
pub mod ide;
pub mod pflash;
pub mod piix3_ide;
pub mod props;
