//! What devices on virtio show behind PCI before a driver has come, as on QEMU 10.0 (virtio 1.2, 4.1.4).

use crate::{machine, on_reference};
use anyhow::{Context, Result};
use testbed::pc::{devfn, expect};
use testbed::qtest::QTest;

const PLACE: u8 = devfn(5, 0);
/// The fourth BAR, and its parts.
const BAR: u64 = 0xfe00_0000;
const DEVICE_FEATURE_SELECT: u64 = BAR;
const DEVICE_FEATURE: u64 = BAR + 4;
const DRIVER_FEATURE_SELECT: u64 = BAR + 8;
const DRIVER_FEATURE: u64 = BAR + 0xc;
const CONFIG_VECTOR: u64 = BAR + 0x10;
const QUEUES: u64 = BAR + 0x12;
const STATUS: u64 = BAR + 0x14;
const QUEUE_SELECT: u64 = BAR + 0x16;
const QUEUE_SIZE: u64 = BAR + 0x18;
const QUEUE_NOTIFY_OFFSET: u64 = BAR + 0x1e;
const OWN: u64 = BAR + 0x2000;

/// Whoever has no interrupt has this one.
const NO_VECTOR: u16 = 0xffff;

/// A device, as it is after power-up.
struct Shown<'a> {
    device: &'a str,
    /// Vendor and device; class and revision.
    identity: [u32; 2],
    features: u64,
    queues: &'a [u16],
    /// Its own configuration, from the begin.
    own: &'a [u8],
}

fn features(test: &mut QTest) -> Result<u64> {
    let mut features = 0;
    for word in [1, 0] {
        test.writel(DEVICE_FEATURE_SELECT, word)?;
        features = features << 32 | u64::from(test.readl(DEVICE_FEATURE)?);
    }
    Ok(features)
}

/// Compares, and resets what was written.
fn check(shown: &Shown<'_>) -> Result<()> {
    let mut vm = machine(&["-device", &format!("{},addr=5", shown.device)])?;
    let test = vm.qtest();
    for (offset, wanted) in [0, 8].into_iter().zip(shown.identity) {
        expect("identity", test.pci_readl(PLACE, offset)?, wanted)?;
    }
    test.pci_writel(PLACE, 0x20, BAR as u32)?;
    test.pci_writel(PLACE, 0x24, 0)?;
    test.pci_writew(PLACE, 4, 6)?;
    expect("features", features(test)?, shown.features)?;
    expect("vector", test.readw(CONFIG_VECTOR)?, NO_VECTOR)?;
    expect("number of queues", test.readw(QUEUES)?, shown.queues.len() as u16)?;
    for (number, size) in (0..).zip(shown.queues) {
        test.writew(QUEUE_SELECT, number)?;
        expect(&format!("size of queue {number}"), test.readw(QUEUE_SIZE)?, *size)?;
        expect("where it is notified", test.readw(QUEUE_NOTIFY_OFFSET)?, number)?;
    }
    test.writew(QUEUE_SELECT, shown.queues.len() as u16)?;
    expect("size of a queue that is not there", test.readw(QUEUE_SIZE)?, 0)?;
    let own = test.read(OWN, shown.own.len())?;
    anyhow::ensure!(own == shown.own, "its own configuration: {own:x?}");

    // A driver takes what it is offered, and nothing else.
    test.writeb(STATUS, 3)?;
    for word in [0, 1] {
        test.writel(DRIVER_FEATURE_SELECT, word)?;
        test.writel(DRIVER_FEATURE, (shown.features >> (32 * word)) as u32)?;
    }
    test.writeb(STATUS, 0xb)?;
    expect("the driver's features are taken", test.readb(STATUS)?, 0xb)?;
    test.writew(CONFIG_VECTOR, 1)?;
    expect("the vector is taken", test.readw(CONFIG_VECTOR)?, 1)?;
    test.writeb(STATUS, 0)?;
    expect("status after a reset", test.readb(STATUS)?, 0)?;
    expect("vector after a reset", test.readw(CONFIG_VECTOR)?, NO_VECTOR)?;
    test.writel(DEVICE_FEATURE_SELECT, u32::MAX)?;
    expect("no more features", test.readl(DEVICE_FEATURE)?, 0)
}

fn check_all(devices: &[Shown<'_>]) -> Result<()> {
    devices.iter().try_for_each(|shown| check(shown).with_context(|| shown.device.to_owned()))
}

#[test]
fn network_card() -> Result<()> {
    // Ours has checksums and segments at any network, QEMU's where the network has.
    let features = if on_reference() { 0x101_30bf_8024 } else { 0x01c0_0101_30bf_ffe7 };
    check_all(&[Shown {
        device: "virtio-net-pci,romfile=",
        identity: [0x1000_1af4, 0x0200_0000],
        features,
        queues: &[256, 256, 64],
        own: &[0x52, 0x54, 0, 0x12, 0x34, 0x56, 1, 0],
    }])
}

#[test]
fn what_people_type_and_point_with() -> Result<()> {
    let devices = [
        ("virtio-keyboard-pci", 0x0900_0001),
        ("virtio-mouse-pci", 0x0902_0001),
        ("virtio-tablet-pci", 0x0980_0001),
    ];
    check_all(&devices.map(|(device, class)| Shown {
        device,
        identity: [0x1052_1af4, class],
        features: 0x101_3000_0000,
        queues: &[64, 64],
        own: &[0; 8],
    }))
}

#[test]
fn display() -> Result<()> {
    check_all(&[Shown {
        device: "virtio-gpu-pci",
        identity: [0x1050_1af4, 0x0380_0001],
        features: 0x101_3000_0002,
        queues: &[64, 16],
        own: &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
    }])
}
