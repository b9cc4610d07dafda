//! The PIIX4's power management: timer, events, sleep states, general-purpose events, APM ports.

use crate::{machine, machine_with_clock, machine_with_qmp, on_reference};
use anyhow::{Result, ensure};
use testbed::pc::{devfn, expect};
use testbed::qtest::QTest;

const FUNCTION: u8 = devfn(1, 3);
const BASE: u16 = 0x600;
const STATUS: u16 = BASE;
const ENABLE: u16 = BASE + 2;
const CONTROL: u16 = BASE + 4;
const TIMER: u16 = BASE + 8;
const GPE: u16 = 0xafe0;
const APM: u16 = 0xb2;

const TIMER_EVENT: u16 = 1;
const POWER_BUTTON: u16 = 1 << 8;
const WAKE: u16 = 1 << 15;
const SLEEP: u16 = 1 << 13;
const SCI: u32 = 9;

fn set_up(test: &mut QTest) -> Result<()> {
    test.pci_writel(FUNCTION, 0x40, u32::from(BASE) | 1)?;
    test.pci_writeb(FUNCTION, 0x80, 1)
}

#[test]
fn the_guest_places_the_registers() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    expect("not placed", test.inl(STATUS)?, !0)?;
    set_up(test)?;
    expect("control", test.inw(CONTROL)?, 0)?;
    test.pci_writel(FUNCTION, 0x40, 0xffff_ffff)?;
    expect("what the base keeps", test.pci_readl(FUNCTION, 0x40)? & 0xffc0, 0xffc0)?;
    expect("gone from there", test.inl(STATUS)?, !0)?;
    set_up(test)?;
    test.pci_writeb(FUNCTION, 0x80, 0)?;
    expect("not decoded", test.inl(STATUS)?, !0)
}

#[test]
fn registers_keep_their_bits_and_leave_holes() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    set_up(test)?;
    test.outw(ENABLE, 0xffff)?;
    expect("enable", test.inw(ENABLE)?, 0xffff)?;
    expect("status and enable", test.inl(STATUS)? >> 16, 0xffff)?;
    // QEMU drops a byte for the upper half.
    if !on_reference() {
        test.outb(ENABLE + 1, 0)?;
        expect("enable by bytes", test.inw(ENABLE)?, 0x00ff)?;
    }
    test.outw(CONTROL, 0x1c01)?;
    expect("control", test.inw(CONTROL)?, 0x1c01)?;
    for hole in [BASE + 6, BASE + 0xc, BASE + 0x20, BASE + 0x3f] {
        expect("hole", test.inb(hole)?, 0xff)?;
    }
    test.outw(STATUS, 0xffff)?;
    Ok(())
}

#[test]
fn the_timer_runs_at_3_58_mhz_and_wraps() -> Result<()> {
    let Some(mut vm) = machine_with_clock(&[])? else { return Ok(()) };
    let test = vm.qtest();
    set_up(test)?;
    expect("at the start", test.inl(TIMER)?, 0)?;
    test.clock_set(1_000_000_000)?;
    expect("after a second", test.inl(TIMER)?, 3_579_545)?;
    test.clock_set(5_000_000_000)?;
    expect("24 bits", test.inl(TIMER)?, (5 * 3_579_545) & 0xff_ffff)
}

#[test]
fn the_timers_top_bit_interrupts() -> Result<()> {
    let Some(mut vm) = machine_with_clock(&[])? else { return Ok(()) };
    let test = vm.qtest();
    set_up(test)?;
    test.irq_intercept_in("ioapic")?;
    expect("set from the start", test.inw(STATUS)? & TIMER_EVENT, TIMER_EVENT)?;
    test.outw(STATUS, TIMER_EVENT)?;
    test.outw(ENABLE, TIMER_EVENT)?;
    test.outw(CONTROL, 1)?;
    let sci = |test: &mut QTest| -> Result<Vec<bool>> {
        let edges = test.edges()?;
        Ok(edges.iter().filter(|edge| edge.0 == SCI).map(|edge| edge.1).collect())
    };
    sci(test)?;
    // 2^23 ticks are 2.343 s.
    test.clock_set(2_343_000_000)?;
    ensure!(sci(test)?.is_empty());
    test.clock_set(2_344_000_000)?;
    ensure!(sci(test)? == [true]);
    test.outw(STATUS, TIMER_EVENT)?;
    ensure!(sci(test)? == [false]);
    Ok(())
}

#[test]
fn the_power_button_raises_the_sci() -> Result<()> {
    let mut vm = machine_with_qmp(&[])?;
    let test = vm.qtest();
    set_up(test)?;
    test.irq_intercept_in("ioapic")?;
    test.outw(STATUS, !0)?;
    test.outw(ENABLE, POWER_BUTTON)?;
    test.outw(CONTROL, 1)?;
    vm.qmp().execute("system_powerdown")?;
    vm.qmp().wait_event("POWERDOWN")?;
    let test = vm.qtest();
    expect("status", test.inw(STATUS)? & POWER_BUTTON, POWER_BUTTON)?;
    ensure!(test.edges()?.contains(&(SCI, true)));
    test.outw(STATUS, POWER_BUTTON)?;
    ensure!(test.edges()?.contains(&(SCI, false)));
    Ok(())
}

#[test]
fn s5_shuts_down() -> Result<()> {
    let mut vm = machine_with_qmp(&["-no-shutdown"])?;
    let test = vm.qtest();
    set_up(test)?;
    test.outw(CONTROL, SLEEP)?;
    let event = vm.qmp().wait_event("SHUTDOWN")?;
    ensure!(event["data"]["guest"] == true, "{event}");
    ensure!(event["data"]["reason"] == "guest-shutdown", "{event}");
    Ok(())
}

#[test]
fn s3_suspends_until_woken() -> Result<()> {
    // A machine that was never started does not suspend in QEMU.
    if on_reference() {
        testbed::skip("the machine must run, which takes the qtest accelerator");
        return Ok(());
    }
    let mut vm = machine_with_qmp(&[])?;
    let test = vm.qtest();
    set_up(test)?;
    test.outw(CONTROL, SLEEP | 1 << 10)?;
    vm.qmp().wait_event("SUSPEND")?;
    let status = vm.qmp().execute("query-status")?;
    ensure!(status["status"] == "suspended", "{status}");
    vm.qmp().execute("system_wakeup")?;
    vm.qmp().wait_event("WAKEUP")?;
    let test = vm.qtest();
    set_up(test)?;
    expect("status", test.inw(STATUS)? & WAKE, WAKE)
}

#[test]
fn general_purpose_events_have_four_bytes() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    test.check_masks(&[(GPE, 0, 0), (GPE + 1, 0, 0), (GPE + 2, 0xff, 0), (GPE + 3, 0xff, 0)])
}

#[test]
fn apm_commands_turn_acpi_on_and_off() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    set_up(test)?;
    test.outb(APM, 0xf1)?;
    expect("ACPI is on", test.inw(CONTROL)? & 1, 1)?;
    test.outb(APM, 0xf0)?;
    expect("ACPI is off", test.inw(CONTROL)? & 1, 0)?;
    test.outb(APM + 1, 0x5a)?;
    let seen = test.inbs([APM, APM + 1])?;
    ensure!(seen == [0xf0, 0x5a], "{seen:02x?}");
    Ok(())
}
