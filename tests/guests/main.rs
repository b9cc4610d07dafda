//! Real guests, from power-on to power-off.

mod debian;
mod disks;
mod firmware;
mod input;
mod killed;
mod linux;
mod nested;
mod network;
mod pxe;
mod sameness;
mod soak;
mod virtio;

use testbed::vm::Launch;

/// The program under test as a headless machine on its portable accelerator.
fn machine() -> Launch {
    Launch::headless(testbed::program()).accel()
}
