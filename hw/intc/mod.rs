//! Interrupt controllers.

pub mod gsi;
pub mod i8259;
pub mod ioapic;
