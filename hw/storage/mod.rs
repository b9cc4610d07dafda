//! Disk controllers.

pub mod fdc;
pub mod piix3_ide;
pub mod props;
