//! The PIIX3's IDE function without drives.

use crate::machine;
use anyhow::{Result, ensure};
use testbed::pc::{devfn, expect};

const FUNCTION: u8 = devfn(1, 1);
const BUS_MASTER: u16 = 0xc000;
/// Command block, control register and interrupt of both channels.
const CHANNELS: [(u16, u16, u32); 2] = [(0x1f0, 0x3f6, 14), (0x170, 0x376, 15)];

#[test]
fn empty_channels_read_as_zero() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    for (command, control, _) in CHANNELS {
        for drive in [0xa0, 0xb0] {
            test.outb(command + 6, drive)?;
            let seen = test.inbs((command..command + 8).chain([control]))?;
            ensure!(seen == [0; 9], "{seen:02x?}");
        }
    }
    Ok(())
}

#[test]
fn the_first_place_answers_commands_by_an_interrupt() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    for (command, control, irq) in CHANNELS {
        test.outb(command + 7, 0xec)?;
        ensure!(test.edges()? == [(irq, true)]);
        test.inb(control)?;
        ensure!(test.edges()?.is_empty(), "the alternate status does not acknowledge");
        test.inb(command + 7)?;
        ensure!(test.edges()? == [(irq, false)]);
        test.outb(control, 2)?;
        test.outb(command + 7, 0xec)?;
        ensure!(test.edges()?.is_empty(), "interrupts are off");
    }
    Ok(())
}

#[test]
fn the_bus_master_has_its_registers() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    test.pci_writel(FUNCTION, 0x20, BUS_MASTER.into())?;
    test.pci_writew(FUNCTION, 4, 5)?;
    for channel in [BUS_MASTER, BUS_MASTER + 8] {
        let seen = test.inbs([channel, channel + 2])?;
        ensure!(seen == [0, 0], "{seen:02x?}");
        test.outl(channel + 4, !0)?;
        expect("descriptors", test.inl(channel + 4)?, !3)?;
        test.outb(channel + 2, 0x66)?;
        expect("status", test.inb(channel + 2)?, 0x60)?;
        test.outb(channel, 0xff)?;
        expect("command", test.inb(channel)?, 0x09)?;
        expect("active", test.inb(channel + 2)?, 0x61)?;
        test.outb(channel, 0)?;
        expect("stopped", test.inb(channel + 2)?, 0x60)?;
    }
    Ok(())
}
