//! What everything stands on: guest memory, interrupt lines, clocks, the shell around devices,
//! properties and saved state.
//!
//! Order of locks, outermost first: device, interrupt controller, vCPU mailbox. Clocks, memory maps
//! and chardevs have inner locks that are never held while calling out.

// The derive macros name this crate as `::base`, also inside it; whether anything here derives does
// not matter.
#[allow(unused_extern_crates)]
extern crate self as base;

pub mod backdoor;
pub mod chardev;
pub mod clock;
pub mod device;
pub mod event_loop;
pub mod fd;
pub mod fdset;
pub mod input;
pub mod interrupt;
pub mod irq;
pub mod log;
pub mod memory;
pub mod object;
pub mod options;
pub mod props;
pub mod report;
pub mod request;
pub mod state;
pub mod sync;
pub mod thread;
pub mod tls;
pub mod trace;
