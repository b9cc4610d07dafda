//! Does a guest see the machine that it sees under QEMU?
//!
//! tests/golden holds what a guest saw under the reference release, so that
//! the question can be answered where QEMU is not installed.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::PathBuf;
use testbed::assets::{self, Assets};
use testbed::report::{COMPLETE, Report, difference};
use testbed::vm::Launch;

/// What has to be the same. Other golden files are for people to read: they
/// show the order of QEMU's objects, the model of its CPU, or which clock the
/// guest had come to trust by then.
const COMPARED: [&str; 5] = ["acpi.txt", "interrupts.txt", "iomem.txt", "ioports.txt", "pci.txt"];

/// A row that only QEMU's way of starting a kernel leaves: its setup code takes a board without a
/// display for one with a CGA.
const LEFT_BY_FIRMWARE: [&str; 1] = [" : cga"];

fn compared(text: &str) -> String {
    let rows = text.lines().filter(|row| !LEFT_BY_FIRMWARE.iter().any(|left| row.contains(left)));
    rows.flat_map(|row| [row, "\n"]).collect()
}

fn report(machine: Launch, kernel: fn(&Assets) -> PathBuf) -> Result<Report> {
    let assets = assets::get()?;
    let mut vm = machine.guest(&kernel(&assets), &assets, "report").spawn()?;
    vm.expect(COMPLETE)?;
    Report::parse(&vm.output())
}

fn golden(machine: &str, name: &str) -> Result<String> {
    let path = [env!("CARGO_MANIFEST_DIR"), "tests/golden", machine, name];
    let path: PathBuf = path.iter().collect();
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Under QEMU there may be more, but not less to complain about.
fn no_new_warnings(report: &Report, machine: &str, name: &str) -> Result<()> {
    let (known, seen) = (golden(machine, name)?, report.warnings()?);
    let new: Vec<&str> = seen.lines().filter(|line| !known.lines().any(|k| k == *line)).collect();
    ensure!(new.is_empty(), "warnings that QEMU's guest does not print:\n{}", new.join("\n"));
    Ok(())
}

fn compare(machine: Launch, directory: &str) -> Result<()> {
    let report = report(machine, Assets::cloud_kernel)?;
    let seen = report.comparable()?;
    let mut differences = String::new();
    for name in COMPARED {
        let wanted = golden(directory, name)?;
        if let Some(lines) = difference(&compared(&wanted), &compared(&seen[name])) {
            differences += &format!("{directory}/{name}:\n{lines}");
        }
    }
    ensure!(differences.is_empty(), "differs from QEMU:\n{differences}");
    no_new_warnings(&report, directory, "warnings.txt")
}

#[test]
fn the_generic_kernel_complains_about_no_more_than_under_qemu() -> Result<()> {
    let report = report(crate::machine().args(["-smp", "4"]), Assets::generic_kernel)?;
    no_new_warnings(&report, "pc-smp4", "warnings-generic.txt")
}

#[test]
fn one_cpu_sees_the_machine_it_sees_under_qemu() -> Result<()> {
    compare(crate::machine(), "pc-smp1")
}

#[test]
fn four_cpus_see_the_machine_they_see_under_qemu() -> Result<()> {
    compare(crate::machine().args(["-smp", "4"]), "pc-smp4")
}

#[test]
fn the_golden_files_are_what_qemu_shows() -> Result<()> {
    match testbed::reference_qemu() {
        Ok(qemu) => compare(Launch::headless(qemu).args(["-accel", "tcg"]), "pc-smp1"),
        Err(reason) => {
            testbed::skip(&reason);
            Ok(())
        }
    }
}
