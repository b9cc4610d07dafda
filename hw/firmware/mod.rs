//! What firmware and guests learn about the machine: the configuration device and the tables.

pub mod acpi;
pub mod e820;
pub mod fw_cfg;
pub mod mptable;
pub mod pirq;
pub mod smbios;
