//! The PIIX3: routes of PCI interrupts and reset control.

use crate::{machine, machine_with_qmp};
use anyhow::{Result, ensure};
use testbed::pc::{devfn, expect};
use testbed::qtest::QTest;

const BRIDGE: u8 = devfn(1, 0);
const ROUTES: u8 = 0x60;
const RESET_CONTROL: u16 = 0xcf9;
const BAR: u32 = 0xfe00_0000;

/// Makes the edu device in a slot interrupt, or stop.
fn pull(test: &mut QTest, slot: u8, level: bool) -> Result<()> {
    let base = u64::from(BAR) + (u64::from(slot) << 20);
    test.pci_writel(devfn(slot, 0), 0x10, base as u32)?;
    test.pci_writew(devfn(slot, 0), 4, 2)?;
    test.writel(base + if level { 0x60 } else { 0x64 }, 1)
}

#[test]
fn each_slot_has_its_link() -> Result<()> {
    let devices = ["-device", "edu,addr=4", "-device", "edu,addr=5", "-device", "edu,addr=6"];
    let mut vm = machine(&[&devices[..], &["-device", "edu,addr=7"]].concat())?;
    let test = vm.qtest();
    test.pci_writel(BRIDGE, ROUTES, 0x0c0b_0a05)?;
    test.irq_intercept_in("ioapic")?;
    // Slot 1 starts with PIRQA: 4 has D, 5 A, 6 B, 7 C.
    for (slot, irq) in [(4, 12), (5, 5), (6, 10), (7, 11)] {
        pull(test, slot, true)?;
        ensure!(test.edges()? == [(irq, true)], "slot {slot}");
        pull(test, slot, false)?;
        ensure!(test.edges()? == [(irq, false)], "slot {slot}");
    }
    Ok(())
}

#[test]
fn shared_links_stay_high_until_all_let_go() -> Result<()> {
    let mut vm = machine(&["-device", "edu,addr=5", "-device", "edu,addr=9"])?;
    let test = vm.qtest();
    test.pci_writel(BRIDGE, ROUTES, 0x0b0b_0b0b)?;
    test.irq_intercept_in("ioapic")?;
    pull(test, 5, true)?;
    pull(test, 9, true)?;
    ensure!(test.edges()? == [(11, true)]);
    pull(test, 5, false)?;
    ensure!(test.edges()?.is_empty());
    pull(test, 9, false)?;
    ensure!(test.edges()? == [(11, false)]);
    Ok(())
}

#[test]
fn a_route_can_change_under_a_level() -> Result<()> {
    let mut vm = machine(&["-device", "edu,addr=5"])?;
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    for register in ROUTES..ROUTES + 4 {
        expect("routed nowhere", test.pci_readb(BRIDGE, register)?, 0x80)?;
    }
    pull(test, 5, true)?;
    ensure!(test.edges()?.is_empty());
    test.pci_writeb(BRIDGE, ROUTES, 0x0a)?;
    ensure!(test.edges()? == [(10, true)]);
    test.pci_writeb(BRIDGE, ROUTES, 0x80)?;
    ensure!(test.edges()? == [(10, false)]);
    Ok(())
}

#[test]
fn a_routed_interrupt_reaches_the_pic_as_a_level() -> Result<()> {
    let mut vm = machine(&["-device", "edu,addr=5"])?;
    let test = vm.qtest();
    test.outb(0x4d1, 0x08)?;
    test.pci_writeb(BRIDGE, ROUTES, 0x0b)?;
    pull(test, 5, true)?;
    test.outb(0xa0, 0x0a)?;
    expect("request", test.inb(0xa0)?, 0x08)?;
    pull(test, 5, false)?;
    expect("taken back", test.inb(0xa0)?, 0)
}

#[test]
fn reset_control_resets_by_its_middle_bit() -> Result<()> {
    let mut vm = machine_with_qmp(&[])?;
    let test = vm.qtest();
    expect("at reset", test.inb(RESET_CONTROL)?, 0)?;
    for (written, kept) in [(0xfb, 0x02), (0x00, 0x00), (0x02, 0x02)] {
        test.outb(RESET_CONTROL, written)?;
        expect("kept", test.inb(RESET_CONTROL)?, kept)?;
    }
    test.outb(RESET_CONTROL, 0x06)?;
    let event = vm.qmp().wait_event("RESET")?;
    ensure!(event["data"]["reason"] == "guest-reset", "{event}");
    Ok(())
}
