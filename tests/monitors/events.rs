//! Events that a guest causes.

use anyhow::{Result, ensure};
use serde_json::json;
use testbed::qtest::QTest;
use testbed::vm::{Launch, Vm};

/// First port of power management, once it is switched on.
const PM: u16 = 0x600;

/// A PC that a test drives, and that is kept when it powers off.
fn machine() -> Result<Vm> {
    let args = ["-M", "pc", "-m", "16", "-nodefaults", "-no-shutdown"];
    let mut vm = Launch::new(testbed::program()).args(args).qmp().qtest().spawn()?;
    let test = vm.qtest();
    config(test, 0x40, u32::from(PM) | 1)?;
    config(test, 0x80, 1)?;
    Ok(vm)
}

/// Writes a register of the power management function.
fn config(test: &mut QTest, offset: u32, value: u32) -> Result<()> {
    test.outl(0xcf8, 0x8000_0b00 | offset)?;
    test.outl(0xcfc, value)
}

/// Writes PM1 control: a sleep type, and that it is time to sleep.
fn sleep(vm: &mut Vm, sleep_type: u16) -> Result<()> {
    vm.qtest().outw(PM + 4, sleep_type << 10 | 1 << 13)
}

#[test]
fn a_guest_sleeps_wakes_up_and_powers_off() -> Result<()> {
    if testbed::is_reference(&testbed::program()) {
        testbed::skip("this build of QEMU has no qtest accelerator");
        return Ok(());
    }
    let mut vm = machine()?;
    sleep(&mut vm, 1)?;
    vm.qmp().wait_event("SUSPEND")?;
    ensure!(vm.qmp().execute("query-status")?["status"] == "suspended");
    vm.qmp().execute("system_wakeup")?;
    vm.qmp().wait_event("WAKEUP")?;
    ensure!(vm.qmp().execute("query-status")?["status"] == "running");

    vm.qmp().execute("system_powerdown")?;
    vm.qmp().wait_event("POWERDOWN")?;
    sleep(&mut vm, 0)?;
    let event = vm.qmp().wait_event("SHUTDOWN")?;
    ensure!(event["data"] == json!({"guest": true, "reason": "guest-shutdown"}), "{event}");
    vm.qmp().wait_event("STOP")?;
    ensure!(vm.qmp().execute("query-status")?["status"] == "shutdown");
    Ok(())
}

#[test]
fn a_guest_resets_the_machine() -> Result<()> {
    if testbed::is_reference(&testbed::program()) {
        testbed::skip("this build of QEMU has no qtest accelerator");
        return Ok(());
    }
    let mut vm = machine()?;
    vm.qtest().outb(0xcf9, 6)?;
    let event = vm.qmp().wait_event("RESET")?;
    ensure!(event["data"] == json!({"guest": true, "reason": "guest-reset"}), "{event}");
    Ok(())
}

#[test]
fn the_clock_is_named_by_its_path() -> Result<()> {
    if testbed::is_reference(&testbed::program()) {
        testbed::skip("this build of QEMU has no qtest accelerator");
        return Ok(());
    }
    let mut vm = machine()?;
    vm.qtest().outb(0x70, 9)?;
    vm.qtest().outb(0x71, 0x20)?;
    let event = vm.qmp().wait_event("RTC_CHANGE")?;
    let path = event["data"]["qom-path"].clone();
    let kind = vm.qmp().execute_with("qom-get", json!({"path": path, "property": "type"}))?;
    ensure!(kind == "mc146818rtc", "{event}");
    Ok(())
}
