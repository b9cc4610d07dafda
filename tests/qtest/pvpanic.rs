//! The panic devices, on the ISA and on the PCI bus.

use crate::{machine_with_qmp, on_reference};
use anyhow::{Result, ensure};
use testbed::pc::{devfn, expect};

const PANICKED: u8 = 1;
const CRASH_LOADED: u8 = 2;

#[test]
fn events_of_the_isa_device_are_told() -> Result<()> {
    let mut vm = machine_with_qmp(&["-device", "pvpanic", "-action", "panic=pause"])?;
    let test = vm.qtest();
    expect("offered", test.inb(0x505)?, 7)?;
    test.outb(0x505, CRASH_LOADED)?;
    let event = vm.qmp().wait_event("GUEST_CRASHLOADED")?;
    ensure!(event["data"]["action"] == "run", "{event}");
    vm.qtest().outb(0x505, PANICKED)?;
    let event = vm.qmp().wait_event("GUEST_PANICKED")?;
    ensure!(event["data"]["action"] == "pause", "{event}");
    let status = vm.qmp().execute("query-status")?;
    // A machine that was never started stays so.
    let wanted = if on_reference() { "prelaunch" } else { "guest-panicked" };
    ensure!(status["status"] == wanted, "{status}");
    Ok(())
}

#[test]
fn port_and_events_can_be_chosen() -> Result<()> {
    let mut vm = machine_with_qmp(&["-device", "pvpanic,ioport=0x700,events=2"])?;
    let test = vm.qtest();
    expect("offered", test.inb(0x700)?, CRASH_LOADED)?;
    test.outb(0x700, CRASH_LOADED)?;
    vm.qmp().wait_event("GUEST_CRASHLOADED")?;
    Ok(())
}

#[test]
fn the_pci_device_is_the_same_in_memory() -> Result<()> {
    const BAR: u32 = 0xfe00_0000;
    let mut vm = machine_with_qmp(&["-device", "pvpanic-pci,addr=5", "-action", "panic=pause"])?;
    let test = vm.qtest();
    let place = devfn(5, 0);
    expect("identity", test.pci_readl(place, 0)?, 0x0011_1b36)?;
    expect("class and revision", test.pci_readl(place, 8)?, 0x0880_0001)?;
    test.pci_writel(place, 0x10, BAR)?;
    test.pci_writew(place, 4, 2)?;
    expect("offered", test.readb(BAR.into())?, 7)?;
    test.writeb(BAR.into(), PANICKED)?;
    vm.qmp().wait_event("GUEST_PANICKED")?;
    Ok(())
}
