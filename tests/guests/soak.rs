//! The same things again and again, for what goes wrong once in a while. Minutes each, so they run
//! with `cargo xtask test --full` only.

use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed::assets;
use testbed::initrd::READY;
use testbed::vm::Vm;

use crate::linux::boots_and_survives_load;
use crate::machine;

/// Numbers without a pattern, the same in each run.
struct Dice(u32);

impl Dice {
    /// A number below `sides`.
    fn throw(&mut self, sides: u32) -> u32 {
        // Constants of the ANSI C example generator, whose high bits are good enough.
        self.0 = self.0.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        (self.0 >> 16) % sides
    }

    /// Waits up to so many milliseconds.
    fn wait(&mut self, most: u32) {
        sleep(Duration::from_millis(self.throw(most).into()));
    }
}

#[test]
#[ignore = "a soak test"]
fn twenty_boots_under_load() -> Result<()> {
    for round in 1..=20 {
        boots_and_survives_load().with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

#[test]
#[ignore = "a soak test"]
fn ten_reboots() -> Result<()> {
    let assets = assets::get()?;
    let mut vm =
        machine().args(["-smp", "2"]).guest(&assets.cloud_kernel(), &assets, "reboot").spawn()?;
    for round in 1..=10 {
        vm.expect(READY).with_context(|| format!("round {round}"))?;
        vm.expect("reboot: Restarting system").with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// Asks a process to end, as an operator does.
fn terminate(vm: &Vm) -> Result<()> {
    let status = Command::new("kill").arg(vm.pid().to_string()).status().context("kill")?;
    ensure!(status.success(), "the process has gone by itself: {}", vm.messages());
    Ok(())
}

/// From its first instruction to the middle of a guest's boot.
#[test]
#[ignore = "a soak test"]
fn ended_at_any_moment_it_leaves_nothing_behind() -> Result<()> {
    let assets = assets::get()?;
    let mut dice = Dice(1);
    let scratch = tempfile::tempdir()?;
    for round in 0..100 {
        let path = |name: &str| scratch.path().join(name);
        let socket = |path: &Path| format!("unix:{},server=on,wait=off", path.display());
        let vm = machine()
            .args(["-pidfile".as_ref(), path("pid").as_os_str()])
            .args(["-qmp", &socket(&path("qmp"))])
            .args(["-serial", &socket(&path("serial"))])
            .guest(&assets.cloud_kernel(), &assets, "")
            .spawn()?;
        // Every other one in the first instants, when most is being made.
        dice.wait(if round % 2 == 0 { 30 } else { 2000 });
        terminate(&vm)?;
        let ended = vm.finish().with_context(|| format!("round {round}"))?;
        let left: Vec<_> = scratch.path().read_dir()?.flatten().map(|file| file.path()).collect();
        ensure!(left.is_empty(), "round {round}: {left:?}, {}: {}", ended.status, ended.stderr);
    }
    Ok(())
}

#[test]
#[ignore = "a soak test"]
fn pauses_at_any_moment_of_a_boot_do_no_harm() -> Result<()> {
    let assets = assets::get()?;
    let mut dice = Dice(2);
    let mut vm = machine()
        .args(["-smp", "4"])
        .guest(&assets.cloud_kernel(), &assets, "stress")
        .qmp()
        .spawn()?;
    let mut pauses = 0;
    while !vm.output().contains("rhea-stress: all 4 cpus done") {
        vm.qmp().execute("stop")?;
        ensure!(vm.qmp().execute("query-status")?["status"] == "paused");
        dice.wait(3);
        vm.qmp().execute("cont")?;
        dice.wait(20);
        pauses += 1;
        for complaint in ["BUG:", "Call Trace:", "rcu: INFO", "wrong"] {
            ensure!(!vm.output().contains(complaint), "pause {pauses}: {}", vm.output());
        }
    }
    ensure!(pauses > 10, "it was over after {pauses} pauses");
    Ok(())
}
