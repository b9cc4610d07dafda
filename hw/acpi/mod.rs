//! ACPI hardware: the fixed registers, general-purpose events, the SMI command port.

pub mod apm;
pub mod cpu_hotplug;
pub mod gpe;
pub mod pci_hotplug;
pub mod pm1;
