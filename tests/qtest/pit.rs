//! The 8254 interval timer and port 61h.

use crate::{machine, machine_with_clock};
use anyhow::{Result, ensure};
use testbed::pc::expect;
use testbed::qtest::QTest;

const COUNTERS: u16 = 0x40;
const CONTROL: u16 = 0x43;
const SPEAKER: u16 = 0x61;

const LOW_THEN_HIGH: u8 = 0x30;
const OUTPUT_2: u8 = 1 << 5;

/// The time of a clock pulse, rounded up to where it has certainly happened.
fn pulse(count: u64) -> u64 {
    (count * 1_000_000_000).div_ceil(1_193_182) + 1
}

fn load(test: &mut QTest, counter: u16, mode: u8, count: u16) -> Result<()> {
    test.outb(CONTROL, (counter as u8) << 6 | LOW_THEN_HIGH | mode << 1)?;
    test.outbs(COUNTERS + counter, &count.to_le_bytes())
}

fn count(test: &mut QTest, counter: u16) -> Result<u16> {
    test.outb(CONTROL, (counter as u8) << 6)?;
    Ok(u16::from_le_bytes([test.inb(COUNTERS + counter)?, test.inb(COUNTERS + counter)?]))
}

fn status(test: &mut QTest, counter: u16) -> Result<u8> {
    test.outb(CONTROL, 0xe0 | 2 << counter)?;
    test.inb(COUNTERS + counter)
}

#[test]
fn control_words_show_in_the_status() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    for mode in 0..4 {
        for (access, bcd) in [(0x10, 0), (0x20, 1), (0x30, 0)] {
            test.outb(CONTROL, 0x80 | access | mode << 1 | bcd)?;
            expect("status", status(test, 2)? & 0x3f, access | mode << 1 | bcd)?;
        }
    }
    // Modes 6 and 7 are shown as they were written by some chips; here they are 2 and 3 again.
    Ok(())
}

#[test]
fn halves_are_read_and_written_as_chosen() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    // Nothing counts yet at time 0, so that the count is what was loaded.
    load(test, 0, 2, 0x1234)?;
    expect("both", count(test, 0)?, 0x1234)?;
    expect("low", test.inb(COUNTERS)?, 0x34)?;
    expect("then high", test.inb(COUNTERS)?, 0x12)?;
    test.outb(CONTROL, 0x14)?;
    test.outb(COUNTERS, 0x56)?;
    expect("low only", test.inb(COUNTERS)?, 0x56)?;
    expect("and again", test.inb(COUNTERS)?, 0x56)?;
    test.outb(CONTROL, 0x24)?;
    test.outb(COUNTERS, 0x78)?;
    expect("high only", test.inb(COUNTERS)?, 0x78)?;
    expect("control reads as nothing", test.inb(CONTROL)?, 0)
}

#[test]
fn a_latched_count_stays_until_it_is_read() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    load(test, 0, 2, 0x1234)?;
    test.outb(CONTROL, 0x00)?;
    test.outbs(COUNTERS, &[0x78, 0x56])?;
    expect("latched low", test.inb(COUNTERS)?, 0x34)?;
    expect("latched high", test.inb(COUNTERS)?, 0x12)?;
    expect("live low", test.inb(COUNTERS)?, 0x78)?;
    expect("live high", test.inb(COUNTERS)?, 0x56)?;
    // Read-back of status and count: the status comes first.
    test.outb(CONTROL, 0xc2)?;
    expect("status", test.inb(COUNTERS)? & 0x3f, 0x34)?;
    expect("count low", test.inb(COUNTERS)?, 0x78)?;
    expect("count high", test.inb(COUNTERS)?, 0x56)
}

#[test]
fn port_61h_gates_the_third_counter() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    for value in [0u8, 1, 2, 3, 0xff] {
        test.outb(SPEAKER, value)?;
        expect("gate and speaker", test.inb(SPEAKER)? & 0xcf, value & 3)?;
    }
    let refresh = test.inb(SPEAKER)? & 0x10;
    ensure!(test.inb(SPEAKER)? & 0x10 != refresh, "the refresh bit stands still");
    Ok(())
}

#[test]
fn mode_0_rises_once() -> Result<()> {
    let Some(mut vm) = machine_with_clock(&[])? else { return Ok(()) };
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    load(test, 0, 0, 100)?;
    ensure!(!test.edges()?.contains(&(0, true)), "the output starts low");
    test.clock_step(pulse(99) - 1)?;
    ensure!(test.edges()?.is_empty());
    expect("status", status(test, 0)? & 0x80, 0)?;
    test.clock_step(pulse(100) - pulse(99) + 1)?;
    ensure!(test.edges()? == [(0, true)]);
    expect("status", status(test, 0)? & 0x80, 0x80)?;
    test.clock_step(pulse(1000))?;
    ensure!(test.edges()?.is_empty(), "once only");
    Ok(())
}

#[test]
fn mode_1_waits_for_its_gate() -> Result<()> {
    let Some(mut vm) = machine_with_clock(&[])? else { return Ok(()) };
    let test = vm.qtest();
    test.outb(SPEAKER, 0)?;
    load(test, 2, 1, 100)?;
    test.clock_step(pulse(200))?;
    test.outb(SPEAKER, 1)?;
    expect("low at the trigger", test.inb(SPEAKER)? & OUTPUT_2, 0)?;
    test.clock_step(pulse(101))?;
    expect("high after the count", test.inb(SPEAKER)? & OUTPUT_2, OUTPUT_2)?;
    test.outb(SPEAKER, 0)?;
    test.outb(SPEAKER, 1)?;
    expect("triggered again", test.inb(SPEAKER)? & OUTPUT_2, 0)
}

#[test]
fn mode_2_pulses_at_its_rate() -> Result<()> {
    let Some(mut vm) = machine_with_clock(&[])? else { return Ok(()) };
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    load(test, 0, 2, 1193)?;
    test.edges()?;
    for _ in 0..3 {
        test.clock_step(pulse(1193))?;
        let edges = test.edges()?;
        ensure!(edges.iter().filter(|&&edge| edge == (0, true)).count() == 1, "{edges:?}");
    }
    Ok(())
}

#[test]
fn mode_2_counts_from_its_count_to_one() -> Result<()> {
    let Some(mut vm) = machine_with_clock(&[])? else { return Ok(()) };
    let test = vm.qtest();
    load(test, 0, 2, 10)?;
    let begun = test.clock_step(0)?;
    for n in 0..25 {
        test.clock_set(begun + pulse(n))?;
        expect("count", count(test, 0)?, 10 - (n % 10) as u16)?;
    }
    Ok(())
}

#[test]
fn mode_3_is_a_square_wave() -> Result<()> {
    let Some(mut vm) = machine_with_clock(&[])? else { return Ok(()) };
    let test = vm.qtest();
    test.outb(SPEAKER, 1)?;
    load(test, 2, 3, 9)?;
    let begun = test.clock_step(0)?;
    for n in 0..27 {
        test.clock_set(begun + pulse(n))?;
        // Of an odd count the high half is the longer one.
        let wanted = if n % 9 < 5 { OUTPUT_2 } else { 0 };
        expect(&format!("output at {n}"), test.inb(SPEAKER)? & OUTPUT_2, wanted)?;
    }
    Ok(())
}

#[test]
fn modes_4_and_5_strobe_low_for_one_pulse() -> Result<()> {
    // QEMU has the output of these modes the wrong way round.
    let Some(mut vm) = machine_with_clock(&[])? else { return Ok(()) };
    let test = vm.qtest();
    for mode in [4, 5] {
        test.outb(SPEAKER, 0)?;
        load(test, 2, mode, 20)?;
        test.outb(SPEAKER, 1)?;
        let begun = test.clock_step(0)?;
        for n in [0, 19, 20, 21, 100] {
            test.clock_set(begun + pulse(n))?;
            let wanted = if n == 20 { 0 } else { OUTPUT_2 };
            expect(&format!("mode {mode} at {n}"), test.inb(SPEAKER)? & OUTPUT_2, wanted)?;
        }
    }
    Ok(())
}

#[test]
fn decimal_counters_count_in_tens() -> Result<()> {
    let Some(mut vm) = machine_with_clock(&[])? else { return Ok(()) };
    let test = vm.qtest();
    test.outb(CONTROL, 0x35)?;
    test.outbs(COUNTERS, &[0x00, 0x01])?;
    let begun = test.clock_step(0)?;
    test.clock_set(begun + pulse(1))?;
    expect("99", count(test, 0)?, 0x0099)?;
    test.clock_set(begun + pulse(51))?;
    expect("49", count(test, 0)?, 0x0049)
}

#[test]
fn zero_counts_longest() -> Result<()> {
    let Some(mut vm) = machine_with_clock(&[])? else { return Ok(()) };
    let test = vm.qtest();
    load(test, 0, 2, 0)?;
    let begun = test.clock_step(0)?;
    test.clock_set(begun + pulse(1))?;
    expect("the second count", count(test, 0)?, 0xffff)?;
    test.clock_set(begun + pulse(65535))?;
    expect("the last count", count(test, 0)?, 1)
}
