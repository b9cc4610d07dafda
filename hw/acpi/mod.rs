//! ACPI hardware: the fixed registers, general-purpose events, the SMI command port, the SMBus host.

pub mod apm;
pub mod cpu_hotplug;
pub mod gpe;
pub mod pci_hotplug;
pub mod pm1;
pub mod smbus;
