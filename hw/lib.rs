//! Device models by bus and kind. Every model is a plain struct that a test can drive without a
//! processor; boards place their regions and connect their lines.

pub mod acpi;
pub mod char;
pub mod display;
pub mod dma;
pub mod firmware;
pub mod input;
pub mod intc;
pub mod isa;
pub mod misc;
pub mod net;
pub mod pci;
pub mod registry;
pub mod storage;
pub mod timer;
pub mod usb;
pub mod virtio;
pub mod watchdog;
