//! Disk controllers.

pub mod piix3_ide;
