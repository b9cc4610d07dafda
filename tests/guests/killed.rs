//! Emulators that are killed at any moment lose nothing that a guest was told is on its disk.

use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed::modules;

use crate::machine;

const LEN: u64 = 64 << 20;
const BLOCK: usize = 4096;
/// As in `guest/journal`.
const PLACES: usize = 16384;
const FACTOR: usize = 7919;

fn tool(args: &[&str]) -> Result<i32> {
    let program = testbed::program().with_file_name("qemu-img");
    let output = Command::new(program).args(args).output().context("cannot run qemu-img")?;
    Ok(output.status.code().unwrap_or(-1))
}

/// The records below `end` are all in the image.
fn compare(image: &Path, format: &str, end: usize) -> Result<()> {
    let raw = image.with_extension("flat");
    let (image, raw_name) = (image.display().to_string(), raw.display().to_string());
    // Lost clusters are what may remain; a log is done first.
    let repair = if format == "vhdx" { &["-r", "all"][..] } else { &[] };
    let args: Vec<&str> =
        ["check", "-f", format].iter().chain(repair).chain([&image.as_str()]).copied().collect();
    let verdict = tool(&args)?;
    // The number of blocks in a VDI's header comes behind their table.
    let unchecked = ["raw", "vdi"].contains(&format);
    ensure!(unchecked || matches!(verdict, 0 | 3), "check: {verdict}");
    ensure!(tool(&["convert", "-f", format, "-O", "raw", &image, &raw_name])? == 0, "convert");
    let bytes = std::fs::read(&raw)?;
    for number in 0..end {
        let at = number * FACTOR % PLACES * BLOCK;
        let wanted = format!("record {number:08}\n");
        let found = bytes.get(at..at + wanted.len()).unwrap_or_default();
        ensure!(
            found == wanted.as_bytes(),
            "record {number} of {end} is {:?}",
            String::from_utf8_lossy(found)
        );
    }
    Ok(())
}

fn survives(format: &str, device: &str, rounds: u64) -> Result<()> {
    let guest = modules::get()?;
    let scratch = tempfile::tempdir()?;
    let image = scratch.path().join("disk");
    let (name, len) = (image.display().to_string(), LEN.to_string());
    ensure!(tool(&["create", "-q", "-f", format, &name, &len])? == 0, "cannot make {format}");
    let drive = format!("if=none,id=d,format={format},file={name}");
    let mut next = 0;
    for round in 0..rounds {
        let scripts = format!("modules,journal rhea.first={next}");
        let mut vm = machine()
            .args(["-drive", &drive, "-device", device])
            .kernel(&guest.kernel, &guest.initrd, &scripts)
            .spawn()?;
        vm.expect("rhea-journal: ")?;
        // Any moment will do; they are not the same in each round.
        sleep(Duration::from_millis(100 + round * 137 % 900));
        let pid = vm.pid().to_string();
        ensure!(Command::new("kill").args(["-KILL", &pid]).status()?.success(), "kill");
        let said = vm.finish()?.stdout;
        let told = said.rsplit("rhea-journal: ").find_map(|rest| {
            let (number, _) = rest.split_once('.')?;
            number.parse::<usize>().ok()
        });
        next = told.context("no record")? + 1;
        compare(&image, format, next).with_context(|| format!("{format}, round {round}"))?;
    }
    Ok(())
}

#[test]
fn a_killed_machine_loses_nothing_that_was_flushed() -> Result<()> {
    survives("qcow2", "virtio-blk-pci,drive=d", 2)
}

#[test]
#[ignore = "a soak test"]
fn killed_again_and_again_it_loses_nothing_that_was_flushed() -> Result<()> {
    for (format, device) in [
        ("qcow2", "virtio-blk-pci,drive=d,packed=on"),
        ("raw", "virtio-blk-pci,drive=d"),
        ("vhdx", "virtio-blk-pci,drive=d"),
        ("vmdk", "virtio-blk-pci,drive=d"),
        ("vdi", "virtio-blk-pci,drive=d"),
    ] {
        survives(format, device, 10)?;
    }
    Ok(())
}
