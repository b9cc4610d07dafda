//! Devices of the virtio standard (OASIS, version 1.2), which guests know they have in a virtual
//! machine: queues in guest memory, what all devices have in common, and their places on buses.
//!
//! A device is a [`Model`] and workers. The transport calls the model, with the device locked, when
//! the driver negotiates, configures and resets. A notification takes no lock: it schedules the worker
//! of the queue on an event loop, which takes chains out of the queue and hands requests to back ends;
//! these answer on threads of their own, and the answer goes back through the queue to the driver.

pub mod blk;
mod device;
mod driver;
pub mod features;
pub mod gpu;
pub mod input;
pub mod net;
pub mod pci;
pub mod queue;

pub use device::{Model, Virtio};
pub use driver::{Interrupts, ToDriver};
pub use queue::{Chain, VirtQueue};
