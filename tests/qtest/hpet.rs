//! The HPET. It offers no delivery by messages, as QEMU's does not by default.

use crate::{machine, machine_with_clock};
use anyhow::{Result, ensure};
use testbed::pc::expect;
use testbed::qtest::QTest;

const BASE: u64 = 0xfed0_0000;
const CONFIG: u64 = BASE + 0x10;
const STATUS: u64 = BASE + 0x20;
const COUNTER: u64 = BASE + 0xf0;

const ENABLE: u64 = 1;
const LEGACY: u64 = 2;

const LEVEL: u64 = 1 << 1;
const INTERRUPT: u64 = 1 << 2;
const PERIODIC: u64 = 1 << 3;
const SET_ACCUMULATOR: u64 = 1 << 6;
const NARROW: u64 = 1 << 8;

/// Nanoseconds of one tick.
const TICK: u64 = 10;

fn timer(n: u64) -> u64 {
    BASE + 0x100 + 0x20 * n
}

fn route(irq: u64) -> u64 {
    irq << 9
}

#[test]
fn it_says_what_it_is() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    expect("three 64-bit timers of 10 ns", test.readq(BASE)?, 0x0098_9680_8086_a201)?;
    test.writeq(BASE, 0)?;
    expect("read-only", test.readl(BASE)?, 0x8086_a201)?;
    for n in 0..3 {
        expect("timer: periodic, wide", test.readl(timer(n))?, 0x30)?;
        expect("routes: interrupt 2", test.readl(timer(n) + 4)?, 4)?;
        expect("comparator", test.readq(timer(n) + 8)?, !0)?;
    }
    for register in [CONFIG, STATUS, COUNTER] {
        expect("at reset", test.readq(register)?, 0)?;
    }
    Ok(())
}

#[test]
fn registers_keep_their_bits() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    test.writel(CONFIG, !ENABLE as u32)?;
    expect("configuration", test.readl(CONFIG)?, LEGACY as u32)?;
    test.writel(CONFIG, 0)?;
    test.writel(CONFIG + 4, !0)?;
    expect("configuration, high half", test.readl(CONFIG + 4)?, 0)?;
    test.writel(STATUS, !0)?;
    expect("status", test.readl(STATUS)?, 0)?;
    for n in 0..3 {
        test.writel(timer(n), !0)?;
        expect("timer", test.readl(timer(n))?, 0x7f7e)?;
        test.writel(timer(n), 0)?;
        expect("timer", test.readl(timer(n))?, 0x30)?;
        test.writel(timer(n) + 4, !0)?;
        expect("routes", test.readl(timer(n) + 4)?, 4)?;
        test.writeq(timer(n) + 8, 0x1234_5678_9abc_def0)?;
        expect("comparator", test.readq(timer(n) + 8)?, 0x1234_5678_9abc_def0)?;
        // Only the low half counts in 32-bit mode.
        test.writel(timer(n), NARROW as u32)?;
        test.writel(timer(n) + 8, 0x55)?;
        expect("narrow comparator", test.readq(timer(n) + 8)?, 0x55)?;
        test.writel(timer(n), 0)?;
        test.writel(timer(n) + 16, 0xfee0_0000)?;
        expect("message", test.readl(timer(n) + 16)?, 0xfee0_0000)?;
    }
    Ok(())
}

#[test]
fn the_counter_is_set_while_it_stands() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    test.writeq(COUNTER, 0x1122_3344_5566_7788)?;
    expect("low", test.readl(COUNTER)?, 0x5566_7788)?;
    expect("high", test.readl(COUNTER + 4)?, 0x1122_3344)?;
    test.writel(COUNTER + 4, 9)?;
    expect("both", test.readq(COUNTER)?, 9 << 32 | 0x5566_7788)
}

#[test]
fn the_counter_counts_only_when_enabled() -> Result<()> {
    let Some(mut vm) = machine_with_clock(&[])? else { return Ok(()) };
    let test = vm.qtest();
    test.clock_step(1000)?;
    expect("stands", test.readq(COUNTER)?, 0)?;
    test.writeq(COUNTER, 7)?;
    test.writeq(CONFIG, ENABLE)?;
    test.clock_step(100 * TICK)?;
    expect("counts", test.readq(COUNTER)?, 107)?;
    test.writeq(CONFIG, 0)?;
    test.clock_step(100 * TICK)?;
    expect("stands again", test.readq(COUNTER)?, 107)
}

#[test]
fn one_shot_matches_once() -> Result<()> {
    let Some(mut vm) = machine_with_clock(&[])? else { return Ok(()) };
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    test.writeq(timer(0), INTERRUPT | route(2))?;
    test.writeq(timer(0) + 8, 1000)?;
    test.writeq(CONFIG, ENABLE)?;
    test.edges()?;
    test.clock_step(999 * TICK)?;
    ensure!(test.edges()?.is_empty());
    test.clock_step(TICK)?;
    ensure!(test.edges()?.contains(&(2, true)));
    expect("edges leave no status", test.readl(STATUS)?, 0)?;
    test.clock_step(5000 * TICK)?;
    ensure!(test.edges()?.is_empty());
    Ok(())
}

#[test]
fn a_level_stays_until_its_status_is_cleared() -> Result<()> {
    let Some(mut vm) = machine_with_clock(&[])? else { return Ok(()) };
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    test.writeq(timer(1), LEVEL | INTERRUPT | route(2))?;
    test.writeq(timer(1) + 8, 100)?;
    test.writeq(CONFIG, ENABLE)?;
    test.edges()?;
    test.clock_step(200 * TICK)?;
    ensure!(test.edges()? == [(2, true)]);
    expect("status", test.readl(STATUS)?, 2)?;
    test.writel(STATUS, 1)?;
    ensure!(test.edges()?.is_empty(), "another timer's bit");
    test.writel(STATUS, 2)?;
    ensure!(test.edges()? == [(2, false)]);
    expect("status", test.readl(STATUS)?, 0)
}

fn periodic(test: &mut QTest, n: u64, config: u64, period: u64) -> Result<()> {
    test.writeq(timer(n), PERIODIC | SET_ACCUMULATOR | INTERRUPT | config)?;
    test.writeq(timer(n) + 8, period)?;
    test.writeq(timer(n) + 8, period)?;
    test.writeq(CONFIG, ENABLE)
}

#[test]
fn periodic_matches_go_on() -> Result<()> {
    let Some(mut vm) = machine_with_clock(&[])? else { return Ok(()) };
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    periodic(test, 0, route(2), 100_000)?;
    test.edges()?;
    for n in 1..=4 {
        test.clock_step(100_000 * TICK)?;
        let raised = test.edges()?.iter().filter(|&&edge| edge == (2, true)).count();
        expect("interrupts", raised, 1)?;
        expect("comparator", test.readq(timer(0) + 8)?, (n + 1) * 100_000)?;
    }
    Ok(())
}

#[test]
fn narrow_timers_match_when_the_low_half_comes_round() -> Result<()> {
    let Some(mut vm) = machine_with_clock(&[])? else { return Ok(()) };
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    test.writeq(COUNTER, 0xffff_ff00)?;
    test.writeq(timer(0), NARROW | INTERRUPT | route(2))?;
    test.writeq(timer(0) + 8, 0x100)?;
    test.writeq(CONFIG, ENABLE)?;
    test.edges()?;
    test.clock_step(0x1ff * TICK)?;
    ensure!(test.edges()?.is_empty());
    test.clock_step(TICK)?;
    ensure!(test.edges()?.contains(&(2, true)));
    Ok(())
}

#[test]
fn legacy_replacement_takes_the_timers_interrupts() -> Result<()> {
    let Some(mut vm) = machine_with_clock(&[])? else { return Ok(()) };
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    // Both would interrupt on their own.
    test.outb(0x43, 0x34)?;
    test.outbs(0x40, &[0, 1])?;
    test.set_cmos(0x0b, 0x42)?;
    test.writeq(CONFIG, LEGACY)?;
    test.cmos(0x0c)?;
    test.edges()?;
    test.clock_step(10_000_000)?;
    let edges = test.edges()?;
    ensure!(!edges.contains(&(0, true)) && !edges.contains(&(8, true)), "{edges:?}");
    test.writeq(timer(0), INTERRUPT)?;
    test.writeq(timer(0) + 8, 100)?;
    test.writeq(timer(1), INTERRUPT)?;
    test.writeq(timer(1) + 8, 200)?;
    test.writeq(CONFIG, LEGACY | ENABLE)?;
    test.edges()?;
    test.clock_step(100 * TICK)?;
    let edges = test.edges()?;
    ensure!(edges.iter().any(|&(pin, level)| level && (pin == 0 || pin == 2)), "{edges:?}");
    test.clock_step(100 * TICK)?;
    ensure!(test.edges()?.contains(&(8, true)), "the clock's interrupt");
    test.writeq(CONFIG, 0)?;
    test.clock_step(10_000_000)?;
    let edges = test.edges()?;
    ensure!(edges.contains(&(0, true)), "the timer has its interrupt back: {edges:?}");
    Ok(())
}
