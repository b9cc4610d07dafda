//! Display adapters.

pub mod edid;
pub mod std_vga;
pub mod vga;
