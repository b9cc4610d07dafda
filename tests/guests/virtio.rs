//! Linux with disks on virtio.

use crate::machine;
use anyhow::{Result, ensure};
use serde_json::json;
use std::fs;
use testbed::modules;
use testbed::vm::Launch;

const DISK: u64 = 64 << 20;
const TEXT: &[u8] = b"written by a guest\n";

/// A machine with a disk of zeroes, its device given.
fn with_disk(device: &str) -> Result<(Launch, tempfile::TempDir)> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("disk.raw");
    fs::File::create(&path)?.set_len(DISK)?;
    let drive = format!("if=none,id=d,format=raw,file={}", path.display());
    Ok((machine().args(["-drive", &drive, "-device", device]), directory))
}

fn a_disk_keeps_what_is_written(device: &str) -> Result<String> {
    let guest = modules::get()?;
    let (machine, directory) = with_disk(device)?;
    let ended = machine
        .args(["-smp", "2", "-object", "iothread,id=io0"])
        .kernel(&guest.kernel, &guest.initrd, "modules,disk,poweroff")
        .run()?;
    for line in ["rhea-disk: cached", "rhea-disk: direct", "rhea-disk: discarded"] {
        ensure!(ended.stdout.contains(line), "no {line:?}:\n{}", ended.stdout);
    }
    let image = fs::read(directory.path().join("disk.raw"))?;
    for at in [0, 8 << 20] {
        let text = TEXT.iter().cycle().take(4 << 20);
        ensure!(image[at..].iter().zip(text).all(|(seen, byte)| seen == byte), "at {at:#x}");
    }
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(ended.stdout)
}

#[test]
fn linux_writes_and_reads_a_disk() -> Result<()> {
    let output = a_disk_keeps_what_is_written("virtio-blk-pci,drive=d,serial=rhea-1")?;
    ensure!(output.contains("rhea-disk: serial rhea-1, 2 queues"), "{output}");
    Ok(())
}

#[test]
fn linux_writes_and_reads_a_disk_by_packed_rings() -> Result<()> {
    a_disk_keeps_what_is_written("virtio-blk-pci,drive=d,packed=on,iothread=io0").map(drop)
}

#[test]
fn linux_writes_and_reads_a_disk_by_legacy_registers() -> Result<()> {
    a_disk_keeps_what_is_written("virtio-blk-pci,drive=d,disable-modern=on,vectors=0").map(drop)
}

#[test]
fn disks_come_and_go_under_load() -> Result<()> {
    const ROUNDS: usize = 3;
    let guest = modules::get()?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("disk.raw");
    fs::File::create(&path)?.set_len(DISK)?;
    let node = json!({"driver": "file", "filename": path.to_str(), "node-name": "n"});
    let scripts = format!("modules,hotplug rhea.rounds={ROUNDS}");
    let mut vm = machine()
        .args(["-smp", "2", "-object", "iothread,id=io0", "-blockdev", &node.to_string()])
        .kernel(&guest.kernel, &guest.initrd, &scripts)
        .qmp()
        .spawn()?;
    vm.expect("rhea-hotplug: ready")?;
    for round in 1..=ROUNDS {
        let mut device = json!({"driver": "virtio-blk-pci", "drive": "n", "id": "v"});
        if round % 2 == 0 {
            device["iothread"] = "io0".into();
        }
        vm.qmp().execute_with("device_add", device)?;
        vm.expect(&format!("rhea-hotplug: busy {round}"))?;
        vm.qmp().execute_with("device_del", json!({"id": "v"}))?;
        while vm.qmp().wait_event("DEVICE_DELETED")?["data"]["device"] != "v" {}
        vm.expect(&format!("rhea-hotplug: gone {round}"))?;
    }
    // Not before: the disk goes from the guest's /dev some time before the guest ejects the device.
    vm.expect("rhea-guest: shell")?;
    vm.send("poweroff -f\n")?;
    let ended = vm.finish()?;
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(())
}
