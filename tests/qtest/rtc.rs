//! The MC146818 real-time clock and CMOS memory.

use crate::{machine, machine_with_clock};
use anyhow::{Result, ensure};
use testbed::pc::expect;
use testbed::qtest::QTest;
use testbed::vm::Vm;

const SECONDS: u8 = 0;
const SECONDS_ALARM: u8 = 1;
const MINUTES: u8 = 2;
const MINUTES_ALARM: u8 = 3;
const HOURS: u8 = 4;
const HOURS_ALARM: u8 = 5;
const WEEKDAY: u8 = 6;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const A: u8 = 10;
const B: u8 = 11;
const C: u8 = 12;
const D: u8 = 13;
const CENTURY: u8 = 0x32;
const CENTURY_PS2: u8 = 0x37;

const UPDATING: u8 = 0x80;
const SET: u8 = 0x80;
const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;
const UPDATE_ENDED: u8 = 0x10;
const BINARY: u8 = 4;
const HOURS_24: u8 = 2;
const REQUEST: u8 = 0x80;
const ANY: u8 = 0xc0;

const IRQ: u32 = 8;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1000 * MILLISECOND;

/// A clock on the machine's virtual time, which shows a Friday shortly before a new year.
const BASE: [&str; 2] = ["-rtc", "base=1999-12-31T23:59:58,clock=vm"];

fn time(test: &mut QTest) -> Result<[u8; 8]> {
    let mut time = [0; 8];
    let fields = [CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS, WEEKDAY];
    for (place, field) in time.iter_mut().zip(fields) {
        *place = test.cmos(field)?;
    }
    Ok(time)
}

/// Edges of the clock's interrupt alone.
fn edges(test: &mut QTest) -> Result<Vec<(u32, bool)>> {
    Ok(test.edges()?.into_iter().filter(|&(line, _)| line == IRQ).collect())
}

fn clock_at_new_year() -> Result<Option<Vm>> {
    let mut vm = machine_with_clock(&BASE)?;
    if let Some(vm) = &mut vm {
        // The interval timer shall not make long steps longer.
        vm.qtest().outb(0x43, 0x30)?;
    }
    Ok(vm)
}

#[test]
fn cmos_memory_keeps_every_byte_but_the_clocks() -> Result<()> {
    let mut vm = machine(&BASE)?;
    let test = vm.qtest();
    for index in (0x0e..=0x7f).filter(|index| ![CENTURY, CENTURY_PS2].contains(index)) {
        for value in [0xff, 0, index] {
            test.set_cmos(index, value)?;
            expect(&format!("byte {index:#x}"), test.cmos(index)?, value)?;
        }
    }
    // The top bit of the index masks NMIs and selects nothing; the index itself cannot be read.
    expect("aliased index", test.cmos(0x80 | 0x40)?, 0x40)?;
    expect("index port", test.inb(0x70)?, 0xff)
}

#[test]
fn cmos_describes_the_machine() -> Result<()> {
    let mut vm = machine(&BASE)?;
    let test = vm.qtest();
    for (index, value, what) in [
        (0x10, 0x00, "no floppy drives"),
        (0x14, 0x06, "a coprocessor and a mouse"),
        (0x15, 0x80, "640 KiB"),
        (0x16, 0x02, "640 KiB"),
        (0x17, 0xff, "memory beyond 1 MiB in KiB, at most 65535"),
        (0x18, 0xff, "memory beyond 1 MiB in KiB, at most 65535"),
        (0x30, 0xff, "the same again"),
        (0x31, 0xff, "the same again"),
        (0x34, 0x00, "memory beyond 16 MiB in 64 KiB"),
        (0x35, 0x07, "memory beyond 16 MiB in 64 KiB"),
        (0x38, 0x30, "third boot device, with a check of floppies"),
        (0x3d, 0x12, "disk, then floppy"),
        (0x5b, 0x00, "nothing beyond 4 GiB"),
        (0x5c, 0x00, "nothing beyond 4 GiB"),
        (0x5d, 0x00, "nothing beyond 4 GiB"),
        (0x5f, 0x00, "one processor"),
    ] {
        expect(&format!("byte {index:#x}: {what}"), test.cmos(index)?, value)?;
    }
    let mut vm = machine(&["-m", "5G", "-smp", "3", "-boot", "order=dn"])?;
    let test = vm.qtest();
    for (index, value) in [
        (0x17, 0xff),
        (0x18, 0xff),
        (0x34, 0x00),
        (0x35, 0xbf),
        (0x5b, 0x00),
        (0x5c, 0x80),
        (0x5d, 0x00),
        (0x5f, 0x02),
        (0x38, 0x00),
        (0x3d, 0x43),
    ] {
        expect(&format!("byte {index:#x}"), test.cmos(index)?, value)?;
    }
    Ok(())
}

#[test]
fn control_registers_keep_their_bits() -> Result<()> {
    let mut vm = machine(&BASE)?;
    let test = vm.qtest();
    expect("A at start", test.cmos(A)?, 0x26)?;
    expect("B at start", test.cmos(B)?, HOURS_24)?;
    test.set_cmos(B, SET | HOURS_24)?;
    test.set_cmos(A, 0xff)?;
    expect("A", test.cmos(A)?, 0x7f)?;
    test.set_cmos(A, 0x26)?;
    test.set_cmos(B, 0xff)?;
    expect("B without update-ended while it is set", test.cmos(B)?, !UPDATE_ENDED)?;
    test.set_cmos(D, 0)?;
    expect("D: the battery is good", test.cmos(D)?, 0x80)?;
    test.cmos(C)?;
    test.set_cmos(C, 0xff)?;
    expect("C is not written", test.cmos(C)?, 0)
}

#[test]
fn the_date_is_shown_in_both_codes() -> Result<()> {
    let mut vm = machine(&BASE)?;
    let test = vm.qtest();
    let decimal = time(test)?;
    ensure!(decimal == [0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58, 6], "{decimal:02x?}");
    expect("the century again", test.cmos(CENTURY_PS2)?, 0x19)?;
    test.set_cmos(B, HOURS_24 | BINARY)?;
    let binary = time(test)?;
    ensure!(binary == [19, 99, 12, 31, 23, 59, 58, 6], "{binary:?}");
    test.set_cmos(B, BINARY)?;
    expect("in the evening", test.cmos(HOURS)?, 11 | 0x80)?;
    test.set_cmos(B, 0)?;
    expect("in the evening", test.cmos(HOURS)?, 0x11 | 0x80)
}

#[test]
fn a_time_is_set_while_the_clock_stands() -> Result<()> {
    let mut vm = machine(&BASE)?;
    let test = vm.qtest();
    test.set_cmos(B, SET | HOURS_24)?;
    let wanted = [0x20, 0x24, 0x02, 0x28, 0x13, 0x45, 0x07, 4];
    let fields = [CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS, WEEKDAY];
    for (field, value) in fields.into_iter().zip(wanted) {
        test.set_cmos(field, value)?;
    }
    let seen = time(test)?;
    ensure!(seen == wanted, "{seen:02x?}");
    test.set_cmos(B, HOURS_24)?;
    let seen = time(test)?;
    ensure!(seen == wanted, "{seen:02x?}");
    Ok(())
}

#[test]
fn twelve_hours_have_no_zero() -> Result<()> {
    let mut vm = machine(&BASE)?;
    let test = vm.qtest();
    for (hours, shown) in [(0, 12), (1, 1), (11, 11), (12, 0x8c), (13, 0x81), (23, 0x8b)] {
        test.set_cmos(B, SET | HOURS_24 | BINARY)?;
        test.set_cmos(HOURS, hours)?;
        test.set_cmos(MINUTES, 30)?;
        test.set_cmos(B, HOURS_24 | BINARY)?;
        test.set_cmos(B, BINARY)?;
        expect(&format!("{hours}:00"), test.cmos(HOURS)?, shown)?;
    }
    Ok(())
}

#[test]
fn the_date_rolls_over() -> Result<()> {
    let Some(mut vm) = clock_at_new_year()? else { return Ok(()) };
    let test = vm.qtest();
    test.clock_step(2 * SECOND)?;
    let seen = time(test)?;
    ensure!(seen == [0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00, 7], "{seen:02x?}");
    // 2000 is a leap year.
    test.set_cmos(MONTH, 2)?;
    test.set_cmos(DAY, 0x28)?;
    test.set_cmos(HOURS, 0x23)?;
    test.clock_step(3600 * SECOND)?;
    let seen = time(test)?;
    ensure!(seen == [0x20, 0x00, 0x02, 0x29, 0x00, 0x00, 0x00, 3], "{seen:02x?}");
    Ok(())
}

#[test]
fn an_update_is_announced_and_ends_with_an_interrupt() -> Result<()> {
    let Some(mut vm) = clock_at_new_year()? else { return Ok(()) };
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    test.cmos(C)?;
    test.set_cmos(B, HOURS_24 | UPDATE_ENDED)?;
    expect("no update yet", test.cmos(A)? & UPDATING, 0)?;
    // 244 us before.
    test.clock_step(SECOND - 200_000)?;
    expect("an update comes", test.cmos(A)? & UPDATING, UPDATING)?;
    ensure!(edges(test)?.is_empty());
    test.clock_step(200_000)?;
    expect("and is over", test.cmos(A)? & UPDATING, 0)?;
    ensure!(edges(test)? == [(IRQ, true)]);
    expect("flags", test.cmos(C)? & !PERIODIC, REQUEST | UPDATE_ENDED)?;
    ensure!(edges(test)? == [(IRQ, false)]);
    expect("flags are read once", test.cmos(C)?, 0)
}

#[test]
fn an_alarm_goes_off_at_its_time() -> Result<()> {
    let Some(mut vm) = clock_at_new_year()? else { return Ok(()) };
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    // Hour, minute and second of the alarm, and when it goes off after 23:59:58.
    for (hour, minute, second, after) in [
        (0x00, 0x00, 0x05, 7),
        (0x00, 0x01, ANY, 62),
        (0x01, 0x00, 0x00, 3602),
        (ANY, 0x30, 0x00, 30 * 60 + 2),
        (ANY, ANY, 0x10, 12),
        (ANY, ANY, ANY, 1),
        (0x23, 0x59, 0x57, 86_399),
    ] {
        vm_alarm(test, [hour, minute, second], after)?;
    }
    Ok(())
}

fn vm_alarm(test: &mut QTest, alarm: [u8; 3], after: u64) -> Result<()> {
    // Back to the evening, on a full second of the virtual clock.
    let now = test.clock_step(0)?;
    test.clock_set(now.next_multiple_of(SECOND))?;
    test.set_cmos(B, SET | HOURS_24)?;
    for (field, value) in [(HOURS, 0x23), (MINUTES, 0x59), (SECONDS, 0x58)] {
        test.set_cmos(field, value)?;
    }
    for (field, value) in [HOURS_ALARM, MINUTES_ALARM, SECONDS_ALARM].into_iter().zip(alarm) {
        test.set_cmos(field, value)?;
    }
    test.set_cmos(B, HOURS_24 | ALARM)?;
    test.cmos(C)?;
    edges(test)?;
    test.clock_step(after * SECOND - MILLISECOND)?;
    ensure!(edges(test)?.is_empty(), "{alarm:02x?} goes off too early");
    test.clock_step(2 * MILLISECOND)?;
    ensure!(edges(test)? == [(IRQ, true)], "{alarm:02x?} does not go off");
    expect("flags", test.cmos(C)? & (REQUEST | ALARM), REQUEST | ALARM)?;
    test.set_cmos(B, HOURS_24)
}

#[test]
fn periodic_interrupts_come_at_every_rate() -> Result<()> {
    let Some(mut vm) = clock_at_new_year()? else { return Ok(()) };
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    for rate in 1..=15u8 {
        // Rates 1 and 2 are those of 8 and 9 with a 32 kHz crystal.
        let ticks = 1u64 << if rate < 3 { rate + 6 } else { rate - 1 };
        let period = ticks * SECOND / 32_768;
        test.set_cmos(A, 0x20 | rate)?;
        test.set_cmos(B, HOURS_24 | PERIODIC)?;
        test.cmos(C)?;
        edges(test)?;
        for _ in 0..3 {
            test.clock_step(period + 1)?;
            ensure!(edges(test)? == [(IRQ, true)], "rate {rate}");
            expect("flags", test.cmos(C)? & (REQUEST | PERIODIC), REQUEST | PERIODIC)?;
            ensure!(edges(test)? == [(IRQ, false)], "rate {rate}");
        }
        test.set_cmos(B, HOURS_24)?;
    }
    test.set_cmos(A, 0x20)?;
    test.set_cmos(B, HOURS_24 | PERIODIC)?;
    test.clock_step(SECOND / 2)?;
    ensure!(edges(test)?.is_empty(), "rate 0 is none");
    Ok(())
}

#[test]
fn a_clock_held_in_reset_stands() -> Result<()> {
    let Some(mut vm) = clock_at_new_year()? else { return Ok(()) };
    let test = vm.qtest();
    test.set_cmos(A, 0x76)?;
    let before = time(test)?;
    test.clock_step(10 * SECOND)?;
    ensure!(time(test)? == before);
    test.set_cmos(A, 0x26)?;
    test.clock_step(SECOND)?;
    ensure!(time(test)? != before);
    Ok(())
}
