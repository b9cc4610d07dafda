//! What everything stands on.

pub mod clock;
pub mod device;
pub mod irq;
pub mod memory;
pub mod request;
