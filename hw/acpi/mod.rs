//! ACPI hardware: the fixed registers, general-purpose events, the SMI command port.

pub mod apm;
pub mod gpe;
pub mod pm1;
