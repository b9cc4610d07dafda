//! Block devices on virtio, and PCI devices that come and go.

use crate::machine_with_qmp;
use anyhow::{Result, ensure};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use testbed::pc::{devfn, expect};
use testbed::qtest::QTest;
use testbed::vm::Vm;

const PLACE: u8 = devfn(4, 0);
const PORTS: u16 = 0xc000;
const MSIX: u64 = 0xfe00_0000;
const BAR: u64 = 0xfe80_0000;

const RING: u64 = 0x10_0000;
const AVAILABLE: u64 = 0x10_1000;
const USED: u64 = 0x10_2000;
const HEADER: u64 = 0x10_3000;
const DATA: u64 = 0x10_4000;

const HOTPLUG: u16 = 0xae00;
const SECTORS: u64 = 2048;

fn disk(path: &Path) -> Result<()> {
    Ok(fs::File::create(path)?.set_len(SECTORS * 512)?)
}

/// A machine with a block device in slot 4.
fn with_disk(device: &str) -> Result<(Vm, tempfile::TempDir)> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("disk.raw");
    disk(&path)?;
    let drive = format!("if=none,id=d,format=raw,file={}", path.display());
    let device = format!("{device},drive=d,addr=4");
    let mut vm = machine_with_qmp(&["-drive", &drive, "-device", &device])?;
    let test = vm.qtest();
    test.pci_writel(PLACE, 0x10, PORTS.into())?;
    test.pci_writel(PLACE, 0x14, MSIX as u32)?;
    test.pci_writel(PLACE, 0x20, BAR as u32)?;
    test.pci_writew(PLACE, 4, 7)?;
    Ok((vm, directory))
}

/// Up to DRIVER_OK, with `high` as the upper half of the features.
fn start(test: &mut QTest, high: u32) -> Result<()> {
    test.writeb(BAR + 20, 3)?;
    test.writel(BAR + 8, 1)?;
    test.writel(BAR + 12, high)?;
    test.writeb(BAR + 20, 0xb)?;
    expect("features are taken", test.readb(BAR + 20)?, 0xb)?;
    for (at, area) in [(32, RING), (40, AVAILABLE), (48, USED)] {
        test.writel(BAR + at, area as u32)?;
    }
    test.writew(BAR + 28, 1)?;
    test.writeb(BAR + 20, 0xf)
}

/// The three descriptors of a request of one sector; of a packed ring, what has to be in their flags
/// besides.
fn request(test: &mut QTest, kind: u32, sector: u64, packed: Option<u16>) -> Result<()> {
    test.writel(HEADER, kind)?;
    test.writeq(HEADER + 8, sector)?;
    test.writeb(HEADER + 0x10, 0xff)?;
    let data = if kind == 0 { 3 } else { 1 };
    let parts = [(HEADER, 16, 1), (DATA, 512, data), (HEADER + 0x10, 1, 2)];
    // From the last to the first, so that the device sees them all at once.
    for (n, (at, len, flags)) in parts.into_iter().enumerate().rev() {
        let slot = RING + 16 * n as u64;
        test.writeq(slot, at)?;
        test.writel(slot + 8, len)?;
        let (first, second) = match packed {
            Some(more) => (0, flags | more),
            None => (flags, n as u16 + 1),
        };
        test.writew(slot + 12, first)?;
        test.writew(slot + 14, second)?;
    }
    Ok(())
}

/// Waits for memory to become what it will be.
fn wait(test: &mut QTest, at: u64, value: u16) -> Result<()> {
    wait_for(test, at, !0, value)
}

/// Waits for some bits of memory to become what they will be.
fn wait_for(test: &mut QTest, at: u64, mask: u16, value: u16) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while test.readw(at)? & mask != value {
        ensure!(Instant::now() < deadline, "the device does not answer");
    }
    Ok(())
}

fn split(test: &mut QTest, number: u16, kind: u32, sector: u64, legacy: bool) -> Result<u8> {
    request(test, kind, sector, None)?;
    let [available, used] = if legacy { [RING + 0x1000, RING + 0x2000] } else { [AVAILABLE, USED] };
    test.writew(available + 4 + 2 * u64::from(number - 1), 0)?;
    test.writew(available + 2, number)?;
    if legacy {
        test.outw(PORTS + 16, 0)?;
    } else {
        test.writew(BAR + 0x3000, 0)?;
    }
    wait(test, used + 2, number)?;
    test.readb(HEADER + 0x10)
}

#[test]
fn sectors_are_written_and_read_by_a_split_ring() -> Result<()> {
    let (mut vm, directory) = with_disk("virtio-blk-pci")?;
    let test = vm.qtest();
    expect("capacity", test.readq(BAR + 0x2000)?, SECTORS)?;
    start(test, 1)?;
    test.memset(DATA, 512, 0x5a)?;
    expect("written", split(test, 1, 1, 7, false)?, 0)?;
    test.memset(DATA, 512, 0)?;
    expect("read", split(test, 2, 0, 7, false)?, 0)?;
    expect("data", test.readl(DATA + 508)?, 0x5a5a_5a5a)?;
    expect("behind the end", split(test, 3, 0, SECTORS, false)?, 1)?;
    expect("no such request", split(test, 4, 77, 0, false)?, 2)?;
    expect("interrupt", test.readb(BAR + 0x1000)?, 1)?;
    let image = fs::read(directory.path().join("disk.raw"))?;
    ensure!(image[7 * 512..8 * 512] == [0x5a; 512] && image[8 * 512] == 0);
    Ok(())
}

#[test]
fn sectors_are_written_by_a_packed_ring() -> Result<()> {
    let (mut vm, directory) = with_disk("virtio-blk-pci,packed=on")?;
    let test = vm.qtest();
    start(test, 1 | 1 << 2)?;
    test.memset(DATA, 512, 0x77)?;
    request(test, 1, 3, Some(1 << 7))?;
    test.writew(BAR + 0x3000, 0)?;
    // Used, of the first lap. Whether something was written is told by us and not by QEMU.
    wait_for(test, RING + 14, 1 << 15 | 1 << 7, 1 << 15 | 1 << 7)?;
    expect("status", test.readb(HEADER + 0x10)?, 0)?;
    let image = fs::read(directory.path().join("disk.raw"))?;
    ensure!(image[3 * 512..4 * 512] == [0x77; 512]);
    Ok(())
}

#[test]
fn sectors_are_written_by_a_legacy_driver() -> Result<()> {
    let (mut vm, directory) = with_disk("virtio-blk-pci,disable-modern=on")?;
    let test = vm.qtest();
    expect("queue size", test.inw(PORTS + 12)?, 256)?;
    test.outb(PORTS + 18, 3)?;
    test.outl(PORTS + 4, 0)?;
    test.outl(PORTS + 8, (RING >> 12) as u32)?;
    test.outb(PORTS + 18, 7)?;
    test.memset(DATA, 512, 0x33)?;
    expect("written", split(test, 1, 1, 2, true)?, 0)?;
    expect("interrupt", test.inb(PORTS + 19)?, 1)?;
    let image = fs::read(directory.path().join("disk.raw"))?;
    ensure!(image[2 * 512..3 * 512] == [0x33; 512]);
    Ok(())
}

#[test]
fn a_ring_that_breaks_the_rules_needs_a_reset() -> Result<()> {
    let (mut vm, _directory) = with_disk("virtio-blk-pci")?;
    let test = vm.qtest();
    start(test, 1)?;
    test.writew(AVAILABLE + 2, 0x7777)?;
    test.writew(BAR + 0x3000, 0)?;
    wait(test, BAR + 20, 0x4f)?;
    test.writeb(BAR + 20, 0)?;
    expect("reset", test.readb(BAR + 20)?, 0)?;
    test.writew(AVAILABLE + 2, 0)?;
    start(test, 1)?;
    expect("it works again", split(test, 1, 0, 0, false)?, 0)
}

#[test]
fn devices_come_and_go() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("disk.raw");
    disk(&path)?;
    let node = json!({"driver": "file", "filename": path.to_str(), "node-name": "n"});
    let mut vm = machine_with_qmp(&["-blockdev", &node.to_string()])?;
    let device = json!({"driver": "virtio-blk-pci", "drive": "n", "id": "v", "addr": "6"});
    for round in 0..2 {
        vm.qmp().execute_with("device_add", device.clone())?;
        let test = vm.qtest();
        expect("it comes", test.inl(HOTPLUG)?, 1 << 6)?;
        expect("seen", test.inl(HOTPLUG)?, 0)?;
        expect("identity", test.pci_readl(devfn(6, 0), 0)?, 0x1001_1af4)?;
        let path = json!({"path": "/machine/peripheral/v", "property": "hotplugged"});
        ensure!(vm.qmp().execute_with("qom-get", path)? == true);
        vm.qmp().execute_with("device_del", json!({"id": "v"}))?;
        let refusal = vm.qmp().execute_with("device_del", json!({"id": "v"}));
        let refusal = refusal.err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(refusal.contains("Device v is already in the process of unplug"), "{refusal}");
        let test = vm.qtest();
        expect("it is to go", test.inl(HOTPLUG + 4)?, 1 << 6)?;
        if round == 0 {
            test.outl(HOTPLUG + 8, 1 << 6)?;
        } else {
            vm.qmp().execute("system_reset")?;
        }
        let part = vm.qmp().wait_event("DEVICE_DELETED")?;
        ensure!(part["data"] == json!({"path": "/machine/peripheral/v/virtio-backend"}), "{part}");
        let whole = vm.qmp().wait_event("DEVICE_DELETED")?;
        ensure!(whole["data"] == json!({"device": "v", "path": "/machine/peripheral/v"}));
        expect("nobody is there", vm.qtest().pci_readl(devfn(6, 0), 0)?, !0)?;
    }
    Ok(())
}

/// Words of QEMU 10.0.2.
#[test]
fn what_can_not_come_or_go_is_refused() -> Result<()> {
    let mut vm = machine_with_qmp(&["-device", "edu,id=e,addr=5"])?;
    let mut refusal = |command: &str, arguments| {
        let refused = vm.qmp().execute_with(command, arguments);
        refused.err().map(|error| error.to_string()).unwrap_or_default()
    };
    for (arguments, words) in [
        (json!({"driver": "nope"}), "'nope' is not a valid device model name"),
        (json!({"id": "x"}), "Parameter 'driver' is missing"),
        (json!({"driver": "isa-serial"}), "Bus 'isa.0' does not support hotplugging"),
        (json!({"driver": "vmgenid"}), "Device 'vmgenid' does not support hotplugging"),
        (json!({"driver": "edu", "id": "e"}), "Duplicate device ID 'e'"),
        (json!({"driver": "edu", "bus": "pci.9"}), "Bus 'pci.9' not found"),
        (json!({"driver": "edu", "bus": "isa.0"}), "Device 'edu' can't go on ISA bus"),
        (json!({"driver": "edu", "foo": "bar"}), "Property 'edu.foo' not found"),
        (
            json!({"driver": "edu", "addr": "5"}),
            "PCI: slot 5 function 0 not available for edu, in use by edu,id=e",
        ),
        (
            json!({"driver": "virtio-blk-pci", "drive": "zz"}),
            "Property 'virtio-blk-device.drive' can't find value 'zz'",
        ),
        (json!({"driver": "virtio-blk-pci"}), "drive property not set"),
    ] {
        let seen = refusal("device_add", arguments);
        ensure!(seen.contains(words), "{seen} instead of {words}");
    }
    let seen = refusal("device_del", json!({"id": "nope"}));
    ensure!(seen.contains("Device 'nope' not found"), "{seen}");
    let seen = vm.qmp().hmp("device_add isa-serial")?;
    ensure!(seen.contains("Error: Bus 'isa.0' does not support hotplugging"), "{seen}");
    ensure!(vm.qmp().hmp("device_add edu,id=f")?.is_empty());
    ensure!(vm.qmp().hmp("device_del f")?.is_empty());
    Ok(())
}

#[test]
fn io_threads_serve_disks() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("disk.raw");
    disk(&path)?;
    let drive = format!("if=none,id=d,format=raw,file={}", path.display());
    let device = "virtio-blk-pci,drive=d,addr=4,iothread=io0";
    let mut vm =
        machine_with_qmp(&["-object", "iothread,id=io0", "-drive", &drive, "-device", device])?;
    let threads = vm.qmp().execute("query-iothreads")?;
    ensure!(threads[0]["id"] == "io0" && threads[0]["poll-max-ns"] == 32768, "{threads}");
    ensure!(threads[0]["thread-id"].as_i64().is_some_and(|id| id > 0), "{threads}");
    let test = vm.qtest();
    test.pci_writel(PLACE, 0x20, BAR as u32)?;
    test.pci_writew(PLACE, 4, 7)?;
    start(test, 1)?;
    expect("read", split(test, 1, 0, 0, false)?, 0)
}
