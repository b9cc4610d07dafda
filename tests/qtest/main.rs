//! Devices driven without a CPU, and the protocol that drives them.

mod devices;
mod protocol;

use anyhow::Result;
use testbed::vm::{Launch, Vm};

/// The PC board with nothing on it but what is part of it.
fn machine() -> Result<Vm> {
    Launch::new(testbed::program())
        .args(["-M", "pc", "-m", "128", "-vga", "none", "-nic", "none"])
        .qtest()
        .spawn()
}

/// The same where the test needs to step the clock, which distributions'
/// builds of QEMU cannot do.
fn machine_with_clock() -> Result<Option<Vm>> {
    if testbed::is_reference(&testbed::program()) {
        testbed::skip("this build of QEMU has no qtest accelerator");
        return Ok(None);
    }
    machine().map(Some)
}
