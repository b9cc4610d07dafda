//! pci-testdev and edu.

use crate::machine;
use anyhow::{Result, ensure};
use testbed::pc::{devfn, expect};
use testbed::qtest::QTest;
use testbed::vm::Vm;

const BAR: u32 = 0xfe00_0000;
const PORTS: u16 = 0xc000;
const PLACE: u8 = devfn(5, 0);
const RAM: u64 = 0x10_0000;

fn plugged(device: &str) -> Result<Vm> {
    let mut vm = machine(&["-device", &format!("{device},addr=5")])?;
    let test = vm.qtest();
    test.pci_writel(PLACE, 0x10, BAR)?;
    test.pci_writel(PLACE, 0x14, PORTS.into())?;
    test.pci_writew(PLACE, 4, 7)?;
    Ok(vm)
}

#[test]
fn pci_testdev_counts_writes_that_match() -> Result<()> {
    let mut vm = plugged("pci-testdev")?;
    let test = vm.qtest();
    expect("identity", test.pci_readl(PLACE, 0)?, 0x0005_1b36)?;
    test.writeb(BAR.into(), 0)?;
    let header = test.read(BAR.into(), 16)?;
    ensure!(header == [0, 1, 0, 0, 0, 8, 0, 0, 0xfa, 0, 0, 0, 0, 0, 0, 0], "{header:02x?}");
    let base = u64::from(BAR);
    for value in [0xfa, 0xfa, 0x11] {
        test.writeb(base + 0x800, value)?;
    }
    expect("count", test.readb(base + 12)?, 2)?;
    test.outb(PORTS, 0)?;
    let header = test.inbs(PORTS..PORTS + 9)?;
    ensure!(header == [3, 1, 0, 0, 0x83, 0, 0, 0, 0xfa], "{header:02x?}");
    test.outb(PORTS + 0x83, 0xfa)?;
    expect("count", test.inb(PORTS + 12)?, 1)
}

fn edu(offset: u32) -> u64 {
    (BAR + offset).into()
}

fn edu_interrupts(test: &mut QTest) -> Result<u32> {
    test.readl(edu(0x24))
}

#[test]
fn edu_answers_and_computes() -> Result<()> {
    let mut vm = plugged("edu")?;
    let test = vm.qtest();
    expect("identity", test.pci_readl(PLACE, 0)?, 0x11e8_1234)?;
    expect("version", test.readl(edu(0))?, 0x0100_00ed)?;
    test.writel(edu(4), 0x1234_5678)?;
    expect("inverted", test.readl(edu(4))?, 0xedcb_a987)?;
    // The factorial is computed beside the guest.
    test.writel(edu(8), 5)?;
    let deadline = std::time::Instant::now() + testbed::DEADLINE;
    while test.readl(edu(0x20))? & 1 != 0 {
        ensure!(std::time::Instant::now() < deadline, "still computing");
    }
    expect("5!", test.readl(edu(8))?, 120)
}

#[test]
fn edu_interrupts_until_it_is_acknowledged() -> Result<()> {
    let mut vm = plugged("edu")?;
    let test = vm.qtest();
    // Slot 5's INTA# is PIRQA, which goes to interrupt 11 here.
    test.pci_writel(devfn(1, 0), 0x60, 0x0b0b_0b0b)?;
    test.irq_intercept_in("ioapic")?;
    test.writel(edu(0x60), 3)?;
    expect("status", edu_interrupts(test)?, 3)?;
    ensure!(test.edges()? == [(11, true)]);
    test.writel(edu(0x64), 1)?;
    expect("status", edu_interrupts(test)?, 2)?;
    ensure!(test.edges()?.is_empty());
    test.writel(edu(0x64), 2)?;
    expect("status", edu_interrupts(test)?, 0)?;
    ensure!(test.edges()? == [(11, false)]);
    Ok(())
}

#[test]
fn interrupt_disable_holds_the_pin() -> Result<()> {
    let mut vm = plugged("edu")?;
    let test = vm.qtest();
    test.pci_writel(devfn(1, 0), 0x60, 0x0b0b_0b0b)?;
    test.irq_intercept_in("ioapic")?;
    test.pci_writew(PLACE, 4, 0x406)?;
    test.writel(edu(0x60), 1)?;
    ensure!(test.edges()?.is_empty());
    expect("pending in the status", test.pci_readw(PLACE, 6)? & 8, 8)?;
    test.pci_writew(PLACE, 4, 0x006)?;
    ensure!(test.edges()? == [(11, true)]);
    Ok(())
}

#[test]
fn edu_moves_memory() -> Result<()> {
    let Some(mut vm) = crate::machine_with_clock(&["-device", "edu,addr=5"])? else {
        return Ok(());
    };
    let test = vm.qtest();
    test.pci_writel(PLACE, 0x10, BAR)?;
    test.pci_writew(PLACE, 4, 6)?;
    test.write(RAM, b"through the device")?;
    for (source, destination, command) in [(RAM, 0x40000, 1), (0x40000, RAM + 0x1000, 3)] {
        test.writeq(edu(0x80), source)?;
        test.writeq(edu(0x88), destination)?;
        test.writeq(edu(0x90), 18)?;
        test.writeq(edu(0x98), command)?;
        test.clock_step(1_000_000_000)?;
        expect("finished", test.readq(edu(0x98))? & 1, 0)?;
    }
    ensure!(test.read(RAM + 0x1000, 18)? == b"through the device");
    Ok(())
}
