//! Display adapters.

pub mod cirrus;
pub mod edid;
pub mod pixels;
pub mod ramfb;
pub mod std_vga;
pub mod vga;
