//! The floppy disk controller with an empty drive, and without drives.

use crate::{machine, machine_with_clock};
use anyhow::{Result, ensure};
use testbed::pc::expect;
use testbed::qtest::QTest;
use testbed::vm::{Launch, Vm};

const STATUS_B: u16 = 0x3f1;
const OUTPUT: u16 = 0x3f2;
const TAPE: u16 = 0x3f3;
const MAIN_STATUS: u16 = 0x3f4;
const RATE: u16 = 0x3f4;
const FIFO: u16 = 0x3f5;
const INPUT: u16 = 0x3f7;
const IRQ: u32 = 6;

const SENSE_INTERRUPT: u8 = 0x08;
const DUMP: u8 = 0x0e;

/// A machine with what it has by default, of which a floppy drive is a part.
fn with_drive() -> Result<Vm> {
    Launch::new(testbed::program())
        .args(["-M", "pc", "-m", "128", "-vga", "none", "-nic", "none"])
        .qtest()
        .spawn()
}

/// Sends a command and returns its result.
fn run(test: &mut QTest, bytes: &[u8]) -> Result<Vec<u8>> {
    for &byte in bytes {
        expect("ready for the command", test.inb(MAIN_STATUS)? & 0xc0, 0x80)?;
        test.outb(FIFO, byte)?;
    }
    let mut result = Vec::new();
    while test.inb(MAIN_STATUS)? & 0xc0 == 0xc0 && result.len() < 32 {
        result.push(test.inb(FIFO)?);
    }
    expect("idle", test.inb(MAIN_STATUS)?, 0x80)?;
    Ok(result)
}

/// Commands with their results.
fn converse(test: &mut QTest, talk: &[(&[u8], &[u8])]) -> Result<()> {
    for (command, wanted) in talk {
        let result = run(test, command)?;
        ensure!(result == *wanted, "{command:02x?}: {result:02x?} instead of {wanted:02x?}");
    }
    Ok(())
}

fn reset(test: &mut QTest) -> Result<()> {
    test.outbs(OUTPUT, &[0x00, 0x1c])
}

#[test]
fn registers_at_reset_and_their_bits() -> Result<()> {
    let mut vm = with_drive()?;
    let test = vm.qtest();
    let seen = test.inbs((0x3f0..=0x3f5).chain([INPUT]))?;
    ensure!(seen == [0xff, 0xc0, 0x0c, 0x00, 0x80, 0x00, 0x80], "{seen:02x?}");
    for (output, status) in [(0x1c, 0xc1), (0x2d, 0xe2), (0x3e, 0xc3), (0x4e, 0xc0)] {
        test.outb(OUTPUT, output)?;
        expect("output", test.inb(OUTPUT)?, output)?;
        expect("status B", test.inb(STATUS_B)?, status)?;
    }
    test.outb(TAPE, 0xff)?;
    expect("tape", test.inb(TAPE)?, 4)
}

#[test]
fn cmos_and_the_board_know_the_drive() -> Result<()> {
    let mut vm = with_drive()?;
    expect("one drive of 2.88 MB", vm.qtest().cmos(0x10)?, 0x50)?;
    let mut vm = machine(&[])?;
    expect("no drive", vm.qtest().cmos(0x10)?, 0)?;
    expect("but a controller", vm.qtest().inb(MAIN_STATUS)?, 0x80)
}

#[test]
fn a_reset_interrupts_and_is_sensed_four_times() -> Result<()> {
    let mut vm = with_drive()?;
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    reset(test)?;
    ensure!(test.edges()? == [(IRQ, true)]);
    converse(
        test,
        &[
            (&[SENSE_INTERRUPT], &[0xc0, 0]),
            (&[SENSE_INTERRUPT], &[0xc1, 0]),
            (&[SENSE_INTERRUPT], &[0xc2, 0]),
            (&[SENSE_INTERRUPT], &[0xc3, 0]),
            (&[SENSE_INTERRUPT], &[0x80]),
        ],
    )?;
    ensure!(test.edges()? == [(IRQ, false)]);
    for value in [0x80, 0x40] {
        test.outb(RATE, value)?;
        ensure!(test.edges()? == [(IRQ, true)], "by the rate register: {value:02x}");
        expect("motors are off", test.inb(OUTPUT)?, 0x0c)?;
        run(test, &[SENSE_INTERRUPT])?;
        test.edges()?;
    }
    Ok(())
}

#[test]
fn it_says_what_it_is_and_keeps_its_settings() -> Result<()> {
    let mut vm = with_drive()?;
    let test = vm.qtest();
    reset(test)?;
    converse(
        test,
        &[
            (&[0x10], &[0x90]),
            (&[0x18], &[0x41]),
            (&[DUMP], &[0, 0, 0, 0, 0, 1, 0xff, 0, 0x60, 0]),
            (&[0x13, 0x00, 0x57, 0x22], &[]),
            (&[0x03, 0xdf, 0x02], &[]),
            (&[0x12, 0x87], &[]),
            (&[0x94], &[0x10]),
            (&[DUMP], &[0, 0, 0, 0, 0x0d, 3, 0xff, 0x9c, 0x57, 0x22]),
            (&[0x2e], &[0, 0, 0, 0, 0, 0, 0x0d, 1, 0xff, 0x9c, 0x57, 0x22, 0, 0, 0]),
            (&[0x14], &[0]),
            (&[0x33, 0], &[]),
            // Commands that there are not.
            (&[0x00], &[0x80]),
            (&[0x1f], &[0x80]),
        ],
    )
}

#[test]
fn seeks_interrupt_and_move_the_head() -> Result<()> {
    let mut vm = with_drive()?;
    let test = vm.qtest();
    reset(test)?;
    for _ in 0..4 {
        run(test, &[SENSE_INTERRUPT])?;
    }
    test.irq_intercept_in("ioapic")?;
    for (command, status, track) in [
        (&[0x0f, 0x00, 0x05][..], 0x20, 5),
        (&[0xcf, 0x00, 0x02], 0x20, 7),
        (&[0x8f, 0x00, 0x03], 0x20, 4),
        (&[0x07, 0x00], 0x20, 0),
        // The second drive is not there.
        (&[0x0f, 0x01, 0x05], 0x21, 0),
    ] {
        converse(test, &[(command, &[])])?;
        ensure!(test.edges()? == [(IRQ, true)], "{command:02x?}");
        converse(test, &[(&[SENSE_INTERRUPT], &[status, track])])?;
        ensure!(test.edges()? == [(IRQ, false)], "{command:02x?}");
    }
    converse(test, &[(&[0x04, 0x00], &[0x78]), (&[0x04, 0x04], &[0x7c]), (&[0x04, 0x01], &[0x79])])
}

#[test]
fn transfers_fail_as_without_a_disk() -> Result<()> {
    let mut vm = with_drive()?;
    let test = vm.qtest();
    reset(test)?;
    for _ in 0..4 {
        run(test, &[SENSE_INTERRUPT])?;
    }
    test.irq_intercept_in("ioapic")?;
    for (code, status) in [(0xe6, 0x40), (0xc5, 0x40), (0xcc, 0x60), (0xc9, 0x60), (0x42, 0x40)] {
        let command = [code, 0x00, 0x00, 0x00, 0x01, 0x02, 0x12, 0x1b, 0xff];
        converse(test, &[(&command, &[status, 0, 0, 0, 0, 1, 2])])?;
        let edges = test.edges()?;
        ensure!(edges == [(IRQ, true), (IRQ, false)], "{code:02x}: {edges:?}");
    }
    let command = [0x46, 0x00, 0x03, 0x01, 0x05, 0x02, 0x12, 0x1b, 0xff];
    converse(test, &[(&command, &[0x40, 0, 0, 3, 1, 5, 2])])?;
    // A drive that is not there has not even the sector.
    let command = [0x46, 0x01, 0, 0, 1, 2, 0x12, 0x1b, 0xff];
    converse(test, &[(&command, &[0x41, 0x80, 0, 0, 0, 1, 2])])?;
    expect("the disk was changed", test.inb(INPUT)?, 0x80)
}

#[test]
fn a_search_for_an_identifier_takes_a_turn() -> Result<()> {
    let Some(mut vm) = machine_with_clock(&[])? else { return Ok(()) };
    let test = vm.qtest();
    reset(test)?;
    test.irq_intercept_in("ioapic")?;
    test.outbs(FIFO, &[0x4a, 0x00])?;
    expect("busy", test.inb(MAIN_STATUS)?, 0x10)?;
    test.clock_step(20_000_000)?;
    ensure!(test.edges()?.contains(&(IRQ, false)) || test.inb(MAIN_STATUS)? == 0xd0);
    converse(test, &[(&[], &[0x40, 0, 0, 0, 0, 0, 2])])
}
