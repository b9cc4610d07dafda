//! The PIIX4's SMBus host and the eight EEPROMs behind it.

use crate::machine;
use anyhow::Result;
use testbed::pc::{devfn, expect};
use testbed::qtest::QTest;

const FUNCTION: u8 = devfn(1, 3);
const BASE: u16 = 0x700;
const STATUS: u16 = BASE;
const CONTROL: u16 = BASE + 2;
const COMMAND: u16 = BASE + 3;
const ADDRESS: u16 = BASE + 4;
const DATA0: u16 = BASE + 5;
const DATA1: u16 = BASE + 6;

const START: u8 = 0x40;
const BYTE: u8 = 1;
const BYTE_DATA: u8 = 2;
const WORD_DATA: u8 = 3;
const DONE: u8 = 2;
const DEVICE_ERROR: u8 = 4;

fn set_up(test: &mut QTest) -> Result<()> {
    test.pci_writel(FUNCTION, 0x90, u32::from(BASE) | 1)?;
    test.pci_writeb(FUNCTION, 0xd2, 1)?;
    test.pci_writew(FUNCTION, 4, 1)
}

fn transfer(test: &mut QTest, address: u8, command: u8, protocol: u8) -> Result<u8> {
    test.outb(STATUS, 0xff)?;
    test.outb(ADDRESS, address)?;
    test.outb(COMMAND, command)?;
    test.outb(CONTROL, START | protocol << 2)?;
    while test.inb(STATUS)? & 1 != 0 {}
    test.inb(STATUS)
}

#[test]
fn registers_keep_their_bits() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    set_up(test)?;
    test.check_masks(&[(COMMAND, 0xff, 0), (ADDRESS, 0xff, 0), (DATA0, 0xff, 0), (DATA1, 0xff, 0)])
}

#[test]
fn memories_answer_at_their_addresses_alone() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    set_up(test)?;
    for address in [0x50, 0x57] {
        expect("a memory", transfer(test, address << 1 | 1, 0, BYTE_DATA)?, DONE)?;
    }
    for address in [0x4f, 0x58] {
        expect("nobody", transfer(test, address << 1 | 1, 0, BYTE_DATA)?, DEVICE_ERROR)?;
    }
    Ok(())
}

#[test]
fn a_memory_keeps_what_is_written() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    set_up(test)?;
    let (write, read) = (0xa0, 0xa1);
    test.outbs(DATA0, &[0x12])?;
    test.outbs(DATA1, &[0x34])?;
    expect("written", transfer(test, write, 0x20, WORD_DATA)?, DONE)?;
    expect("read", transfer(test, read, 0x20, BYTE_DATA)?, DONE)?;
    expect("first byte", test.inb(DATA0)?, 0x12)?;
    expect("read on", transfer(test, read, 0, BYTE)?, DONE)?;
    expect("second byte", test.inb(DATA0)?, 0x34)
}
