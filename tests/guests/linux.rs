//! Debian's kernels, booted directly.

use crate::machine;
use anyhow::{Result, ensure};
use std::time::Duration;
use testbed::assets;
use testbed::initrd::{READY, SHELL};
use testbed::vm::{Finished, Launch};

/// Runs a guest that powers itself off, and looks for what it must have printed.
fn powers_off(guest: Launch, printed: &[&str]) -> Result<Finished> {
    let ended = guest.run()?;
    for text in printed {
        ensure!(ended.stdout.contains(text), "no {text:?}:\n{}{}", ended.stdout, ended.stderr);
    }
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(ended)
}

/// A machine with an accelerator that only Rhea has.
fn with_engine(accelerator: &str) -> Option<Launch> {
    let program = testbed::program();
    if testbed::is_reference(&program) {
        testbed::skip("the reference emulator has one engine for all");
        return None;
    }
    Some(Launch::headless(program).args(["-accel", accelerator]))
}

#[test]
fn the_cloud_kernel_boots_and_powers_off() -> Result<()> {
    let assets = assets::get()?;
    let guest = machine().guest(&assets.cloud_kernel(), &assets, "poweroff");
    powers_off(guest, &[READY, "reboot: Power down"]).map(drop)
}

#[test]
fn the_interpreter_boots_two_processors_and_powers_off() -> Result<()> {
    let Some(machine) = with_engine("tcg,interp=on") else { return Ok(()) };
    let assets = assets::get()?;
    let guest = machine.args(["-smp", "2"]).guest(&assets.cloud_kernel(), &assets, "poweroff");
    powers_off(guest, &[READY]).map(drop)
}

/// Each line with the same time stamp: nothing of the host gets in.
#[test]
fn counted_processors_boot_the_same_again() -> Result<()> {
    let assets = assets::get()?;
    let boot = || {
        let counted = machine()
            .args(["-cpu", "max", "-smp", "2", "-icount", "shift=4,sleep=off", "-seed", "1"])
            .args(["-rtc", "base=2026-01-01,clock=vm"]);
        powers_off(counted.guest(&assets.cloud_kernel(), &assets, "poweroff"), &[READY])
    };
    let (first, second) = (boot()?.stdout, boot()?.stdout);
    let different = first.lines().zip(second.lines()).find(|(one, other)| one != other);
    ensure!(first == second, "{different:?}");
    Ok(())
}

#[test]
#[ignore = "a soak test"]
fn the_engines_agree_about_a_whole_boot() -> Result<()> {
    let Some(machine) = with_engine("tcg,check=on") else { return Ok(()) };
    let assets = assets::get()?;
    let guest = machine.args(["-cpu", "max"]).guest(&assets.cloud_kernel(), &assets, "poweroff");
    // Every block is executed twice and compared.
    const PATIENCE: Duration = Duration::from_secs(2 * 3600);
    let mut vm = guest.spawn()?;
    for text in [READY, "reboot: Power down"] {
        vm.expect_within(text, PATIENCE)?;
    }
    let ended = vm.finish()?;
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(())
}

/// Each of these has the translator do without something.
#[test]
#[ignore = "a soak test"]
fn a_translator_with_little_room_and_processors_in_turn_boot() -> Result<()> {
    for accelerator in ["tcg,tb-size=1", "tcg,thread=single"] {
        let Some(machine) = with_engine(accelerator) else { return Ok(()) };
        let assets = assets::get()?;
        let guest = machine.args(["-smp", "2"]).guest(&assets.cloud_kernel(), &assets, "poweroff");
        powers_off(guest, &[READY])?;
    }
    Ok(())
}

#[test]
fn the_generic_kernel_boots_and_powers_off() -> Result<()> {
    let assets = assets::get()?;
    let guest = machine().guest(&assets.generic_kernel(), &assets, "poweroff");
    powers_off(guest, &[READY]).map(drop)
}

/// Nobody but the display's own ROM makes the text mode that the kernel finds.
#[test]
fn a_display_is_set_up_before_the_kernel_starts() -> Result<()> {
    let assets = assets::get()?;
    let display = machine().args(["-device", "VGA"]);
    let guest = display.guest(&assets.cloud_kernel(), &assets, "poweroff");
    powers_off(guest, &["Console: colour VGA+ 80x25"]).map(drop)
}

/// Whoever names firmware wants it to run.
#[test]
fn a_kernel_starts_behind_firmware() -> Result<()> {
    let assets = assets::get()?;
    let firmware = machine().args(["-bios", "bios-256k.bin"]);
    let guest = firmware.guest(&assets.cloud_kernel(), &assets, "poweroff");
    powers_off(guest, &["SeaBIOS", READY]).map(drop)
}

/// The kernel's own setup code has the display's BIOS make the mode.
#[test]
fn a_kernel_is_given_a_video_mode() -> Result<()> {
    let assets = assets::get()?;
    let display = machine().args(["-device", "VGA"]);
    let guest = display.guest(&assets.generic_kernel(), &assets, "poweroff vga=791");
    powers_off(guest, &["vesafb: mode is 1024x768x16"]).map(drop)
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
    let guest = machine().args(["-no-reboot"]).guest(&assets.cloud_kernel(), &assets, "reboot");
    let ended = powers_off(guest, &[READY])?;
    ensure!(ended.stdout.matches(READY).count() == 1, "restarted:\n{}", ended.stdout);
    Ok(())
}

#[test]
fn four_cpus_survive_load() -> Result<()> {
    boots_and_survives_load()
}

/// Boots four processors, gives them work, and powers off.
pub fn boots_and_survives_load() -> Result<()> {
    let assets = assets::get()?;
    let machine = machine().args(["-smp", "4"]);
    let guest = machine.guest(&assets.cloud_kernel(), &assets, "stress,poweroff");
    let ended = powers_off(guest, &["rhea-stress: all 4 cpus done"])?;
    for complaint in ["BUG:", "WARNING:", "Call Trace:", "rcu: INFO"] {
        ensure!(!ended.stdout.contains(complaint), "{complaint}\n{}", ended.stdout);
    }
    Ok(())
}

#[test]
fn a_suspended_machine_is_woken_up_by_its_clock() -> Result<()> {
    let assets = assets::get()?;
    let machine = machine().args(["-smp", "2"]);
    let guest = machine.guest(&assets.cloud_kernel(), &assets, "nap,poweroff");
    let ended = powers_off(guest, &["CPU1 is up"])?;
    // The kernel's words never stand amid others. It says these only where power was gone.
    let woken = ended.stdout.matches("ACPI: PM: Waking up from system sleep state S3").count();
    ensure!(woken == 2, "{}", ended.stdout);
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
