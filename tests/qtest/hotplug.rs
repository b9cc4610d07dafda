//! The registers by which guests take part in hot-plugging processors and PCI devices.

use crate::machine;
use anyhow::{Result, ensure};
use testbed::pc::expect;

const CPU: u16 = 0xaf00;
const PCI: u16 = 0xae00;

#[test]
fn the_cpu_registers_begin_in_the_old_way() -> Result<()> {
    let mut vm = machine(&["-smp", "2,maxcpus=4"])?;
    let test = vm.qtest();
    // A bit for each processor that is there, until the guest asks for the new interface.
    expect("present", test.inb(CPU)?, 0b11)?;
    test.outb(CPU, 0)?;
    // The new one: flags and selection.
    test.outl(CPU, 0)?;
    expect("the first: there", test.inb(CPU + 4)? & 1, 1)?;
    test.outl(CPU, 2)?;
    expect("the third: not there", test.inb(CPU + 4)? & 1, 0)?;
    // Its identity in the command data.
    test.outb(CPU + 5, 3)?;
    expect("identity", test.inl(CPU + 8)?, 2)
}

#[test]
fn the_pci_registers_tell_of_nothing() -> Result<()> {
    let mut vm = machine(&["-device", "edu,addr=5"])?;
    let test = vm.qtest();
    test.outl(PCI + 0x10, 0)?;
    expect("nothing comes", test.inl(PCI)?, 0)?;
    expect("nothing goes", test.inl(PCI + 4)?, 0)?;
    let removable = test.inl(PCI + 0xc)?;
    ensure!(removable & 3 == 0, "the board's own slots stay: {removable:#x}");
    expect("slot 5 may go", removable >> 5 & 1, 1)?;
    expect("bus", test.inl(PCI + 0x10)?, 0)
}
