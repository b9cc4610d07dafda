//! Devices driven without a CPU, and the protocol that drives them.
//!
//! One file for each device of the PC board. What they assert has been seen on QEMU 10.0 as well,
//! where they run with `RHEA_BIN`; assertions about which it differs on purpose say so and ask
//! [`on_reference`].

mod atapi;
mod cirrus;
mod debug_ports;
mod dma;
mod flash;
mod floppy;
mod fw_cfg;
mod graphics;
mod guest_notes;
mod hotplug;
mod hpet;
mod ide;
mod ioapic;
mod keyboard;
mod memory;
mod network_cards;
mod parallel;
mod pci_host;
mod pic;
mod piix3;
mod pit;
mod power;
mod protocol;
mod pvpanic;
mod rtc;
mod smbus;
mod test_devices;
mod uart;
mod usb;
mod vga;
mod virtio;
mod virtio_devices;

use anyhow::Result;
use testbed::vm::{Launch, Vm};

fn launch(extra: &[&str]) -> Launch {
    Launch::new(testbed::program())
        .args(["-M", "pc", "-m", "128", "-nodefaults"])
        .args(extra)
        .qtest()
}

/// The PC board with nothing on it but what is part of it, and what `extra` asks for.
fn machine(extra: &[&str]) -> Result<Vm> {
    launch(extra).spawn()
}

/// The same with a QMP client.
fn machine_with_qmp(extra: &[&str]) -> Result<Vm> {
    launch(extra).qmp().spawn()
}

/// Whether this is QEMU in our place.
fn on_reference() -> bool {
    testbed::is_reference(&testbed::program())
}

/// The board where the test needs to step the clock, which distributions' builds of QEMU cannot do.
fn machine_with_clock(extra: &[&str]) -> Result<Option<Vm>> {
    if on_reference() {
        testbed::skip("this build of QEMU has no qtest accelerator");
        return Ok(None);
    }
    machine(extra).map(Some)
}
