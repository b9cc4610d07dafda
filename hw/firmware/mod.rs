//! What firmware and guests learn about the machine: the configuration device and the tables.

pub mod acpi;
pub mod fw_cfg;
