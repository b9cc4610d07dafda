//! The 8259 pair. Interrupts are made with the serial port's transmitter (4), the parallel port's
//! acknowledge (7) and the IDE channels (14, 15), and taken in poll mode, since there is no CPU to
//! acknowledge them.

use crate::machine;
use anyhow::{Result, ensure};
use testbed::pc::expect;
use testbed::qtest::QTest;
use testbed::vm::Vm;

const PRIMARY: u16 = 0x20;
const SECONDARY: u16 = 0xa0;
const ELCR: u16 = 0x4d0;

/// End of interrupt.
const EOI: u8 = 0x20;
const ROTATE_ON_EOI: u8 = 0xa0;
const SPECIFIC_EOI: u8 = 0x60;
const SET_PRIORITY: u8 = 0xc0;
const READ_IRR: u8 = 0x0a;
const READ_ISR: u8 = 0x0b;
const POLL: u8 = 0x0c;
const SPECIAL_MASK: u8 = 0x68;
const NO_SPECIAL_MASK: u8 = 0x48;

fn initialise(test: &mut QTest, port: u16, icw4: u8) -> Result<()> {
    test.outb(port, 0x11)?;
    let (vectors, cascade) = if port == PRIMARY { (0x08, 4) } else { (0x70, 2) };
    test.outbs(port + 1, &[vectors, cascade, icw4])
}

/// Both initialised as firmware does, with nothing masked but the timer.
fn pair(icw4: u8) -> Result<Vm> {
    let mut vm = machine(&["-serial", "null", "-parallel", "null"])?;
    let test = vm.qtest();
    initialise(test, PRIMARY, icw4)?;
    initialise(test, SECONDARY, icw4)?;
    test.outb(PRIMARY + 1, 1)?;
    Ok(vm)
}

fn irr(test: &mut QTest, port: u16) -> Result<u8> {
    test.outb(port, READ_IRR)?;
    test.inb(port)
}

fn isr(test: &mut QTest, port: u16) -> Result<u8> {
    test.outb(port, READ_ISR)?;
    test.inb(port)
}

fn poll(test: &mut QTest, port: u16) -> Result<u8> {
    test.outb(port, POLL)?;
    test.inb(port)
}

/// Drives input 4 by the first serial port's transmitter interrupt.
fn serial(test: &mut QTest, level: bool) -> Result<()> {
    test.outb(0x3f9, if level { 2 } else { 0 })
}

/// Raises input 7 by having the printer acknowledge; reading its status lowers it.
fn printer(test: &mut QTest) -> Result<()> {
    test.outbs(0x37a, &[0x1d, 0x1c])
}

/// Raises input 14 by a command to an absent drive.
fn disk(test: &mut QTest) -> Result<()> {
    test.outb(0x1f7, 0xec)
}

#[test]
fn at_reset_nothing_waits_and_nothing_is_masked() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    let ports = [PRIMARY, PRIMARY + 1, SECONDARY, SECONDARY + 1, ELCR, ELCR + 1];
    let seen = test.inbs(ports)?;
    ensure!(seen == [0; 6], "{seen:02x?}");
    Ok(())
}

#[test]
fn the_mask_keeps_every_bit_and_the_control_only_what_may_be_level() -> Result<()> {
    let mut vm = pair(1)?;
    vm.qtest().check_masks(&[
        (PRIMARY + 1, 0xff, 0),
        (SECONDARY + 1, 0xff, 0),
        (ELCR, 0xf8, 0),
        (ELCR + 1, 0xde, 0),
    ])
}

#[test]
fn each_initialisation_word_is_waited_for() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    // Command, words that follow. Single controllers have no third word.
    for (command, words) in [(0x11, 3), (0x10, 2), (0x13, 2), (0x12, 1)] {
        test.outb(PRIMARY, command)?;
        expect("cleared mask", test.inb(PRIMARY + 1)?, 0)?;
        for _ in 0..words {
            test.outb(PRIMARY + 1, 0xf8)?;
            expect("still the mask", test.inb(PRIMARY + 1)?, 0)?;
        }
        test.outb(PRIMARY + 1, 0x5a)?;
        expect("a mask at last", test.inb(PRIMARY + 1)?, 0x5a)?;
    }
    Ok(())
}

#[test]
fn an_edge_is_used_up_by_its_acknowledge() -> Result<()> {
    let mut vm = pair(1)?;
    let test = vm.qtest();
    expect("nothing to poll", poll(test, PRIMARY)?, 0)?;
    serial(test, true)?;
    expect("request", irr(test, PRIMARY)?, 0x10)?;
    expect("poll", poll(test, PRIMARY)?, 0x84)?;
    expect("request taken", irr(test, PRIMARY)?, 0)?;
    expect("in service", isr(test, PRIMARY)?, 0x10)?;
    test.outb(PRIMARY, EOI)?;
    expect("served", isr(test, PRIMARY)?, 0)?;
    expect("no second time", poll(test, PRIMARY)?, 0)?;
    serial(test, false)?;
    serial(test, true)?;
    expect("another edge", poll(test, PRIMARY)?, 0x84)
}

#[test]
fn an_edge_that_goes_away_is_remembered_and_a_level_is_not() -> Result<()> {
    let mut vm = pair(1)?;
    let test = vm.qtest();
    serial(test, true)?;
    serial(test, false)?;
    expect("request", irr(test, PRIMARY)?, 0x10)?;
    expect("poll", poll(test, PRIMARY)?, 0x84)?;
    test.outb(PRIMARY, EOI)?;
    test.outb(ELCR, 0x10)?;
    serial(test, true)?;
    serial(test, false)?;
    expect("request", irr(test, PRIMARY)?, 0)?;
    expect("spurious", poll(test, PRIMARY)?, 0)?;
    expect("not in service", isr(test, PRIMARY)?, 0)
}

#[test]
fn a_level_asks_until_it_is_taken_away() -> Result<()> {
    let mut vm = pair(1)?;
    let test = vm.qtest();
    test.outb(ELCR, 0x10)?;
    serial(test, true)?;
    for _ in 0..2 {
        expect("poll", poll(test, PRIMARY)?, 0x84)?;
        expect("request stays", irr(test, PRIMARY)?, 0x10)?;
        test.outb(PRIMARY, EOI)?;
    }
    // A new initialisation forgets edges, and finds levels again.
    initialise(test, PRIMARY, 1)?;
    expect("after initialisation", irr(test, PRIMARY)?, 0x10)?;
    serial(test, false)?;
    expect("taken away", irr(test, PRIMARY)?, 0)
}

#[test]
fn a_mask_holds_an_edge_back() -> Result<()> {
    let mut vm = pair(1)?;
    let test = vm.qtest();
    test.outb(PRIMARY + 1, 0x11)?;
    serial(test, true)?;
    expect("request", irr(test, PRIMARY)?, 0x10)?;
    expect("masked", poll(test, PRIMARY)?, 0)?;
    test.outb(PRIMARY + 1, 0x01)?;
    expect("unmasked", poll(test, PRIMARY)?, 0x84)
}

#[test]
fn what_is_served_holds_back_lower_priorities() -> Result<()> {
    let mut vm = pair(1)?;
    let test = vm.qtest();
    printer(test)?;
    serial(test, true)?;
    expect("both ask", irr(test, PRIMARY)?, 0x90)?;
    expect("4 is first", poll(test, PRIMARY)?, 0x84)?;
    expect("7 waits", poll(test, PRIMARY)?, 0)?;
    test.outb(PRIMARY, EOI)?;
    expect("7", poll(test, PRIMARY)?, 0x87)?;
    expect(
        "4 is not held back",
        {
            serial(test, false)?;
            serial(test, true)?;
            poll(test, PRIMARY)?
        },
        0x84,
    )?;
    expect("both in service", isr(test, PRIMARY)?, 0x90)?;
    test.outb(PRIMARY, SPECIFIC_EOI | 7)?;
    expect("a named end", isr(test, PRIMARY)?, 0x10)?;
    test.outb(PRIMARY, EOI)?;
    expect("an end of the highest", isr(test, PRIMARY)?, 0)
}

#[test]
fn special_mask_mode_lets_lower_priorities_in() -> Result<()> {
    let mut vm = pair(1)?;
    let test = vm.qtest();
    serial(test, true)?;
    expect("4", poll(test, PRIMARY)?, 0x84)?;
    printer(test)?;
    expect("7 waits", poll(test, PRIMARY)?, 0)?;
    test.outb(PRIMARY + 1, 0x11)?;
    test.outb(PRIMARY, SPECIAL_MASK)?;
    expect("7 passes what is masked", poll(test, PRIMARY)?, 0x87)?;
    test.outb(PRIMARY, NO_SPECIAL_MASK)?;
    expect("both in service", isr(test, PRIMARY)?, 0x90)
}

#[test]
fn priorities_rotate() -> Result<()> {
    let mut vm = pair(1)?;
    let test = vm.qtest();
    // 4 becomes the lowest: 7 goes first.
    test.outb(PRIMARY, SET_PRIORITY | 4)?;
    serial(test, true)?;
    printer(test)?;
    expect("7 is higher now", poll(test, PRIMARY)?, 0x87)?;
    test.outb(PRIMARY, ROTATE_ON_EOI)?;
    expect("7 served", isr(test, PRIMARY)?, 0)?;
    expect("4", poll(test, PRIMARY)?, 0x84)?;
    test.outb(PRIMARY, 0xe0 | 4)?;
    expect("4 served", isr(test, PRIMARY)?, 0)
}

#[test]
fn automatic_end_of_interrupt_leaves_nothing_in_service() -> Result<()> {
    let mut vm = pair(3)?;
    let test = vm.qtest();
    serial(test, true)?;
    expect("4", poll(test, PRIMARY)?, 0x84)?;
    expect("in service", isr(test, PRIMARY)?, 0)?;
    // Rotation in that mode: 4 becomes the lowest as it is taken.
    test.outb(PRIMARY, 0x80)?;
    serial(test, false)?;
    serial(test, true)?;
    expect("4 again", poll(test, PRIMARY)?, 0x84)?;
    serial(test, false)?;
    serial(test, true)?;
    printer(test)?;
    expect("7 is higher now", poll(test, PRIMARY)?, 0x87)
}

#[test]
fn the_secondary_asks_through_the_cascade() -> Result<()> {
    let mut vm = pair(1)?;
    let test = vm.qtest();
    disk(test)?;
    expect("secondary", irr(test, SECONDARY)?, 0x40)?;
    expect("primary", irr(test, PRIMARY)?, 4)?;
    expect("poll of the primary", poll(test, PRIMARY)?, 0x82)?;
    expect("poll of the secondary", poll(test, SECONDARY)?, 0x86)?;
    expect("in service there", isr(test, SECONDARY)?, 0x40)?;
    test.outb(SECONDARY, EOI)?;
    test.outb(PRIMARY, EOI)?;
    expect("nothing left", isr(test, PRIMARY)? | isr(test, SECONDARY)?, 0)?;
    test.outb(SECONDARY + 1, 0x40)?;
    test.inb(0x1f7)?;
    disk(test)?;
    expect("masked at the secondary", irr(test, PRIMARY)?, 0)
}

#[test]
fn the_level_bit_of_icw1_does_nothing() -> Result<()> {
    let mut vm = pair(1)?;
    let test = vm.qtest();
    serial(test, true)?;
    test.outb(PRIMARY, 0x19)?;
    test.outbs(PRIMARY + 1, &[0x08, 4, 1])?;
    expect("an edge from before", irr(test, PRIMARY)?, 0)
}
