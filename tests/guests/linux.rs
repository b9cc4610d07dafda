//! Debian's kernels, booted directly.

use crate::machine;
use anyhow::{Result, ensure};
use testbed::assets;
use testbed::initrd::{READY, SHELL};
use testbed::vm::Launch;

#[test]
fn the_cloud_kernel_boots_and_powers_off() -> Result<()> {
    let assets = assets::get()?;
    let ended = machine().guest(&assets.cloud_kernel(), &assets, "poweroff").run()?;

    ensure!(ended.stdout.contains(READY), "no user space:\n{}", ended.stdout);
    ensure!(ended.stdout.contains("reboot: Power down"), "not powered off:\n{}", ended.stdout);
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(())
}

#[test]
fn the_interpreter_boots_two_processors_and_powers_off() -> Result<()> {
    let program = testbed::program();
    if testbed::is_reference(&program) {
        testbed::skip("the reference emulator has one engine for all");
        return Ok(());
    }
    let assets = assets::get()?;
    let ended = Launch::headless(program)
        .args(["-accel", "tcg,interp=on", "-smp", "2"])
        .guest(&assets.cloud_kernel(), &assets, "poweroff")
        .run()?;
    ensure!(ended.stdout.contains(READY), "no user space:\n{}", ended.stdout);
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(())
}

#[test]
#[ignore = "a soak test"]
fn the_engines_agree_about_a_whole_boot() -> Result<()> {
    let program = testbed::program();
    if testbed::is_reference(&program) {
        testbed::skip("the reference emulator has one engine for all");
        return Ok(());
    }
    let assets = assets::get()?;
    let ended = Launch::headless(program)
        .args(["-accel", "tcg,check=on", "-cpu", "max"])
        .guest(&assets.cloud_kernel(), &assets, "poweroff")
        .run()?;
    ensure!(ended.stdout.contains(READY), "no user space:\n{}{}", ended.stdout, ended.stderr);
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(())
}

#[test]
fn the_generic_kernel_boots_and_powers_off() -> Result<()> {
    let assets = assets::get()?;
    let ended = machine().guest(&assets.generic_kernel(), &assets, "poweroff").run()?;

    ensure!(ended.stdout.contains(READY), "no user space:\n{}", ended.stdout);
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(())
}

/// Nobody but the display's own ROM makes the text mode that the kernel finds.
#[test]
fn a_display_is_set_up_before_the_kernel_starts() -> Result<()> {
    let assets = assets::get()?;
    let display = machine().args(["-device", "VGA"]);
    let ended = display.guest(&assets.cloud_kernel(), &assets, "poweroff").run()?;

    ensure!(ended.stdout.contains("Console: colour VGA+ 80x25"), "no console:\n{}", ended.stdout);
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(())
}

/// Whoever names firmware wants it to run.
#[test]
fn a_kernel_starts_behind_firmware() -> Result<()> {
    let assets = assets::get()?;
    let firmware = machine().args(["-bios", "bios-256k.bin"]);
    let ended = firmware.guest(&assets.cloud_kernel(), &assets, "poweroff").run()?;

    ensure!(ended.stdout.contains("SeaBIOS"), "no firmware:\n{}", ended.stdout);
    ensure!(ended.stdout.contains(READY), "no user space:\n{}", ended.stdout);
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(())
}

/// The kernel's own setup code has the display's BIOS make the mode.
#[test]
fn a_kernel_is_given_a_video_mode() -> Result<()> {
    let assets = assets::get()?;
    let display = machine().args(["-device", "VGA"]);
    let ended = display.guest(&assets.generic_kernel(), &assets, "poweroff vga=791").run()?;

    ensure!(ended.stdout.contains("vesafb: mode is 1024x768x16"), "no mode:\n{}", ended.stdout);
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(())
}

#[test]
fn the_shell_takes_what_is_typed_and_reboot_restarts() -> Result<()> {
    let assets = assets::get()?;
    let mut vm = machine().guest(&assets.cloud_kernel(), &assets, "").spawn()?;
    vm.expect(SHELL)?;
    vm.expect("# ")?;
    vm.send("echo $((6 * 7)) is the answer\n")?;
    vm.expect("\n42 is the answer")?;
    vm.send("reboot -f\n")?;
    vm.expect("reboot: Restarting system")?;
    vm.expect(READY)?;
    Ok(())
}

#[test]
fn no_reboot_turns_a_restart_into_the_end() -> Result<()> {
    let assets = assets::get()?;
    let ended =
        machine().args(["-no-reboot"]).guest(&assets.cloud_kernel(), &assets, "reboot").run()?;

    ensure!(ended.stdout.matches(READY).count() == 1, "restarted:\n{}", ended.stdout);
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(())
}

#[test]
fn four_cpus_survive_load() -> Result<()> {
    boots_and_survives_load()
}

/// Boots four processors, gives them work, and powers off.
pub fn boots_and_survives_load() -> Result<()> {
    let assets = assets::get()?;
    let ended = machine()
        .args(["-smp", "4"])
        .guest(&assets.cloud_kernel(), &assets, "stress,poweroff")
        .run()?;

    ensure!(ended.stdout.contains("rhea-stress: all 4 cpus done"), "{}", ended.stdout);
    for complaint in ["BUG:", "WARNING:", "Call Trace:", "rcu: INFO"] {
        ensure!(!ended.stdout.contains(complaint), "{complaint}\n{}", ended.stdout);
    }
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(())
}

#[test]
fn a_suspended_machine_is_woken_up_by_its_clock() -> Result<()> {
    let assets = assets::get()?;
    let ended = machine()
        .args(["-smp", "2"])
        .guest(&assets.cloud_kernel(), &assets, "nap,poweroff")
        .run()?;
    ensure!(ended.stdout.matches("rhea-guest: awake").count() == 2, "{}", ended.stdout);
    ensure!(ended.stdout.contains("CPU1 is up"), "one CPU is missing:\n{}", ended.stdout);
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(())
}

#[test]
fn a_suspended_machine_wakes_up_where_it_was() -> Result<()> {
    let assets = assets::get()?;
    let mut vm = machine()
        .args(["-smp", "2"])
        .guest(&assets.cloud_kernel(), &assets, "suspend,poweroff")
        .qmp()
        .spawn()?;
    vm.qmp().wait_event("SUSPEND")?;
    ensure!(vm.qmp().execute("query-status")?["status"] == "suspended");
    vm.qmp().execute("system_wakeup")?;
    vm.qmp().wait_event("WAKEUP")?;
    vm.expect("rhea-guest: awake")?;
    let ended = vm.finish()?;
    ensure!(ended.stdout.contains("CPU1 is up"), "one CPU is missing:\n{}", ended.stdout);
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(())
}
