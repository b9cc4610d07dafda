//! The parallel port with its printer.

use crate::machine;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use testbed::pc::expect;

const DATA: u16 = 0x378;
const STATUS: u16 = 0x379;
const CONTROL: u16 = 0x37a;
const IRQ: u32 = 7;

const STROBE: u8 = 1;
const NO_INIT: u8 = 4;
const SELECT: u8 = 8;
const INTERRUPT: u8 = 0x10;
const INPUT: u8 = 0x20;

#[test]
fn registers_at_reset_and_their_bits() -> Result<()> {
    let mut vm = machine(&["-parallel", "null"])?;
    let test = vm.qtest();
    let seen = test.inbs(DATA..DATA + 8)?;
    ensure!(seen == [0xff, 0xd9, 0xcc, 0xff, 0xff, 0xff, 0xff, 0xff], "{seen:02x?}");
    test.check_masks(&[(DATA, 0xff, 0), (CONTROL, 0xff, 0xc0)])?;
    test.outb(CONTROL, INPUT)?;
    test.outb(DATA, 0x55)?;
    expect("data lines as inputs", test.inb(DATA)?, 0xff)?;
    test.outb(CONTROL, 0)?;
    expect("data lines as outputs", test.inb(DATA)?, 0x55)
}

#[test]
fn a_printed_byte_is_acknowledged_by_an_interrupt() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let paper = directory.path().join("paper");
    let chardev = format!("file:{}", paper.display());
    let mut vm = machine(&["-parallel", &chardev])?;
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    test.outb(CONTROL, 0)?;
    expect("initialised", test.inb(STATUS)?, 0xd8)?;
    for &byte in b"Hi" {
        test.outb(DATA, byte)?;
        test.outb(CONTROL, INTERRUPT | SELECT | NO_INIT | STROBE)?;
        expect("busy", test.inb(STATUS)?, 0x58)?;
        test.outb(CONTROL, INTERRUPT | SELECT | NO_INIT)?;
        ensure!(test.edges()? == [(IRQ, true)]);
        expect("still busy", test.inb(STATUS)?, 0x58)?;
        ensure!(test.edges()? == [(IRQ, false)], "a look at the status acknowledges");
        expect("acknowledging", test.inb(STATUS)?, 0x18)?;
        expect("ready", test.inb(STATUS)?, 0xd8)?;
    }
    let deadline = Instant::now() + testbed::DEADLINE;
    while std::fs::read(&paper).context("nothing was printed")? != b"Hi" {
        ensure!(Instant::now() < deadline, "not what was sent");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
