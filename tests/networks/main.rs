//! Guests on networks, with real programs at both ends.
//!
//! What needs addresses and ports of its own runs in a private network ([`private`]); what stands for
//! the rest of the world there is in [`servers`].

mod debian;
mod dumps;
mod flows;
mod hotplug;
mod peers;
mod private;
mod queues;
mod servers;

use testbed::vm::Launch;

/// The program under test as a headless machine on its portable accelerator.
fn machine() -> Launch {
    Launch::headless(testbed::program()).accel()
}
