//! Linux and what people type and point with: events that go in come out in the guest.

use crate::machine;
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use testbed::modules;
use testbed::qmp::Qmp;
use testbed::vm::Vm;

const EVENT_KEY: u32 = 1;
const EVENT_REL: u32 = 2;
const EVENT_ABS: u32 = 3;

/// A guest that tells of its input devices, of which there are so many beside the PS/2 keyboard.
fn guest(args: &[&str], devices: usize) -> Result<Vm> {
    let guest = modules::input()?;
    let scripts = format!("input rhea.devices={devices}");
    let mut vm =
        machine().args(args).kernel(&guest.kernel, &guest.initrd, &scripts).qmp().spawn()?;
    vm.expect("rhea-input: ready")?;
    ensure!(!vm.output().contains("rhea-input: no "), "{}", vm.output());
    Ok(vm)
}

fn send(qmp: &mut Qmp, events: Value) -> Result<()> {
    qmp.execute_with("input-send-event", json!({ "events": events })).map(drop)
}

/// A tablet, a mouse and a keyboard of these names report what happens.
fn reports_arrive(vm: &mut Vm, tablet: &str, mouse: &str, keyboard: &str) -> Result<()> {
    let event = |kind: &str, axis: &str, value: i32| json!({"type": kind, "data": {"axis": axis, "value": value}});
    let button = |down: bool| json!({"type": "btn", "data": {"button": "left", "down": down}});
    let press = |key: &str, down: bool| json!({"type": "key", "data": {"key": {"type": "qcode", "data": key}, "down": down}});
    send(vm.qmp(), json!([event("abs", "x", 0x1234), event("abs", "y", 0x7fff)]))?;
    vm.expect(&format!("{tablet}: {EVENT_ABS} 0 4660"))?;
    vm.expect(&format!("{tablet}: {EVENT_ABS} 1 32767"))?;
    send(vm.qmp(), json!([event("rel", "x", 7), event("rel", "y", -300)]))?;
    vm.expect(&format!("{mouse}: {EVENT_REL} 0 7"))?;
    vm.expect(&format!("{mouse}: {EVENT_REL} 1 -"))?;
    // Whichever of the two pointers was used last has the buttons.
    send(vm.qmp(), json!([button(true)]))?;
    vm.expect(&format!(": {EVENT_KEY} 272 1"))?;
    send(vm.qmp(), json!([press("a", true)]))?;
    vm.expect(&format!("{keyboard}: {EVENT_KEY} 30 1"))?;
    send(vm.qmp(), json!([press("a", false)]))?;
    vm.expect(&format!("{keyboard}: {EVENT_KEY} 30 0"))?;
    vm.qmp().hmp("sendkey shift-b")?;
    vm.expect(&format!("{keyboard}: {EVENT_KEY} 42 1"))?;
    vm.expect(&format!("{keyboard}: {EVENT_KEY} 48 1"))?;
    Ok(())
}

const TABLET: &str = "QEMU QEMU USB Tablet";
const MOUSE: &str = "QEMU QEMU USB Mouse";
const KEYBOARD: &str = "QEMU QEMU USB Keyboard";

#[test]
fn devices_behind_uhci_and_a_hub_report() -> Result<()> {
    let devices = ["-usb", "-device", "usb-tablet", "-device", "usb-hub"];
    let behind = ["-device", "usb-kbd,port=2.1", "-device", "usb-mouse,port=2.2"];
    let mut vm = guest(&[&devices[..], &behind].concat(), 3)?;
    for (name, port) in [(TABLET, "1"), (KEYBOARD, "2.1"), (MOUSE, "2.2")] {
        let line = format!("{name} at usb-0000:00:01.2-{port}/input0");
        ensure!(vm.output().contains(&line), "no {line:?}:\n{}", vm.output());
    }
    reports_arrive(&mut vm, TABLET, MOUSE, KEYBOARD)?;
    let usb = vm.qmp().hmp("info usb")?;
    ensure!(usb.contains(", Port 2.1, Speed 12 Mb/s, Product QEMU USB Keyboard\n"), "{usb}");
    ensure!(!usb.contains("Device 0.0,"), "all have addresses:\n{usb}");
    Ok(())
}

#[test]
fn devices_behind_xhci_and_a_hub_report_and_go() -> Result<()> {
    let devices = ["-device", "qemu-xhci,id=x", "-device", "usb-tablet", "-device", "usb-hub"];
    let behind = ["-device", "usb-kbd,port=2.1,id=k", "-device", "usb-mouse"];
    let mut vm = guest(&[&devices[..], &behind].concat(), 3)?;
    reports_arrive(&mut vm, TABLET, MOUSE, KEYBOARD)?;
    vm.qmp().execute_with("device_del", json!({"id": "k"}))?;
    let event = vm.qmp().wait_event("DEVICE_DELETED")?;
    ensure!(event["data"]["device"] == "k", "{event}");
    // The PS/2 keyboard has the keys again.
    vm.qmp().hmp("sendkey c")?;
    vm.expect("AT Translated Set 2 keyboard: 1 46 1")?;
    vm.qmp().execute_with("device_add", json!({"driver": "usb-mouse", "id": "m"}))?;
    // The guest gives it an address.
    let started = Instant::now();
    while vm.qmp().hmp("info usb")?.contains("Device 0.0,") {
        ensure!(started.elapsed() < testbed::DEADLINE, "the guest takes no notice");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

#[test]
fn virtio_devices_report() -> Result<()> {
    let devices = ["virtio-tablet-pci", "virtio-mouse-pci", "virtio-keyboard-pci,serial=abc"];
    let mut vm = guest(&devices.map(|device| ["-device", device]).concat(), 3)?;
    let (tablet, mouse) = ("QEMU Virtio Tablet", "QEMU Virtio Mouse");
    reports_arrive(&mut vm, tablet, mouse, "QEMU Virtio Keyboard")
}
