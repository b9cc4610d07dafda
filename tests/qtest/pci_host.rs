//! Configuration mechanism 1, and the headers of the board's functions.

use crate::machine;
use anyhow::Result;
use testbed::pc::{devfn, expect};

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;

#[test]
fn the_address_register_is_a_doubleword() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    test.outl(ADDRESS, 0x8000_0b04)?;
    expect("address", test.inl(ADDRESS)?, 0x8000_0b04)?;
    test.outb(ADDRESS, 0xff)?;
    test.outw(ADDRESS, 0xffff)?;
    test.outw(ADDRESS + 2, 0xffff)?;
    expect("narrow writes do nothing", test.inl(ADDRESS)?, 0x8000_0b04)?;
    expect("a byte is the lowest", test.inb(ADDRESS + 2)?, 0x04)
}

#[test]
fn byte_lanes_reach_their_bytes() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    test.outl(ADDRESS, ENABLE)?;
    for (lane, byte) in [0x86, 0x80, 0x37, 0x12].into_iter().enumerate() {
        expect("byte", test.inb(DATA + lane as u16)?, byte)?;
    }
    expect("low word", test.inw(DATA)?, 0x8086)?;
    expect("high word", test.inw(DATA + 2)?, 0x1237)
}

#[test]
fn nobody_answers_elsewhere() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    for address in [0, ENABLE | 31 << 11, ENABLE | 7 << 8, ENABLE | 1 << 16, ENABLE | 255 << 16] {
        test.outl(ADDRESS, address)?;
        expect("nobody", test.inl(DATA)?, !0)?;
        expect("nobody", test.inb(DATA + 3)?, !0)?;
        test.outl(DATA, 0)?;
    }
    Ok(())
}

#[test]
fn the_boards_functions_are_there() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    for (place, identity, class, kind) in [
        (devfn(0, 0), 0x1237_8086, 0x0600_0002, 0x00),
        (devfn(1, 0), 0x7000_8086, 0x0601_0000, 0x80),
        (devfn(1, 1), 0x7010_8086, 0x0101_8000, 0x00),
        (devfn(1, 3), 0x7113_8086, 0x0680_0003, 0x00),
    ] {
        expect("identity", test.pci_readl(place, 0)?, identity)?;
        expect("class", test.pci_readl(place, 8)?, class)?;
        expect("header type", test.pci_readb(place, 0xe)?, kind)?;
        // Identity and class are not the guest's to write.
        for offset in [0, 8] {
            test.pci_writel(place, offset, !0)?;
        }
        expect("identity", test.pci_readl(place, 0)?, identity)?;
        expect("class", test.pci_readl(place, 8)?, class)?;
    }
    Ok(())
}

#[test]
fn command_and_interrupt_line_keep_their_bits() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    for place in [devfn(0, 0), devfn(1, 0), devfn(1, 1), devfn(1, 3)] {
        test.pci_writew(place, 4, !0)?;
        expect("command", test.pci_readw(place, 4)?, 0x0507)?;
        test.pci_writew(place, 4, 0)?;
        expect("command", test.pci_readw(place, 4)?, 0)?;
        let pin = test.pci_readb(place, 0x3d)?;
        test.pci_writew(place, 0x3c, 0xff5a)?;
        expect("line", test.pci_readb(place, 0x3c)?, 0x5a)?;
        expect("pin", test.pci_readb(place, 0x3d)?, pin)?;
    }
    Ok(())
}

#[test]
fn bars_show_their_size() -> Result<()> {
    let mut vm = machine(&["-device", "edu,addr=5"])?;
    let test = vm.qtest();
    for (place, offset, sized) in
        [(devfn(5, 0), 0x10, 0xfff0_0000), (devfn(1, 1), 0x20, 0xffff_fff1)]
    {
        test.pci_writel(place, offset, !0)?;
        expect("size", test.pci_readl(place, offset)?, sized)?;
        test.pci_writel(place, offset, 0)?;
        expect("kind", test.pci_readl(place, offset)?, sized & 1)?;
    }
    Ok(())
}
