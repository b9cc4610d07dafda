//! What operators type and point at, as the PS/2 controller shows it to a guest that does nothing.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::qmp::Qmp;
use testbed::vm::{Launch, Vm};

/// A machine whose processor halts at once, so that nobody but the monitor reads the keyboard.
fn idle_machine() -> Result<Vm> {
    let directory = tempfile::tempdir()?;
    let firmware = directory.path().join("halt.bin");
    let mut image = vec![0; 65536];
    // CLI, HLT, and back should it wake up.
    image[0xfff0..0xfff4].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]);
    std::fs::write(&firmware, image)?;
    let bios = firmware.to_str().context("the path is text")?;
    let vm = Launch::new(testbed::program())
        .accel()
        .args(["-M", "pc", "-m", "16", "-nodefaults", "-display", "none", "-bios", bios])
        .qmp()
        .spawn()?;
    Ok(vm)
}

fn port(qmp: &mut Qmp, port: u16) -> Result<u8> {
    let printed = qmp.hmp(&format!("i /b {port:#x}"))?;
    let digits = printed.trim().rsplit("0x").next().unwrap_or_default();
    Ok(u8::from_str_radix(digits, 16)?)
}

/// Reads until the controller is empty; bytes of the mouse are marked.
fn drain(qmp: &mut Qmp) -> Result<String> {
    let mut bytes = Vec::new();
    while bytes.len() < 64 {
        let status = port(qmp, 0x64)?;
        if status & 1 == 0 {
            break;
        }
        let mark = if status & 0x20 != 0 { "m" } else { "" };
        bytes.push(format!("{mark}{:02x}", port(qmp, 0x60)?));
    }
    Ok(bytes.join(" "))
}

fn to_mouse(qmp: &mut Qmp, bytes: &[u8]) -> Result<()> {
    for byte in bytes {
        qmp.hmp("o /b 0x64 0xd4")?;
        qmp.hmp(&format!("o /b 0x60 {byte}"))?;
        drain(qmp)?;
    }
    Ok(())
}

fn events(qmp: &mut Qmp, events: Value) -> Result<Value> {
    let request = json!({"execute": "input-send-event", "arguments": {"events": events}});
    let reply = qmp.call(&request)?;
    Ok(reply["error"]["desc"].clone())
}

fn relative(axis: &str, value: i32) -> Value {
    json!({"type": "rel", "data": {"axis": axis, "value": value}})
}

fn button(name: &str, down: bool) -> Value {
    json!({"type": "btn", "data": {"button": name, "down": down}})
}

fn key(name: &str, down: bool) -> Value {
    json!({"type": "key", "data": {"down": down, "key": {"type": "qcode", "data": name}}})
}

#[test]
fn keys_arrive_in_order() -> Result<()> {
    let mut vm = idle_machine()?;
    let qmp = vm.qmp();
    for (keys, wanted) in [
        ("a", "1c f0 1c"),
        ("ctrl-alt-delete", "14 11 e0 71 e0 f0 71 f0 11 f0 14"),
        ("0x1e-<", "1c 61 f0 61 f0 1c"),
    ] {
        ensure!(qmp.hmp(&format!("sendkey {keys} 1"))?.is_empty());
        let mut typed = String::new();
        while typed.len() < wanted.len() {
            typed = format!("{typed} {}", drain(qmp)?).trim().to_owned();
        }
        ensure!(typed == wanted, "{keys}: {typed}");
    }
    ensure!(qmp.hmp("sendkey foo-a")? == "invalid parameter: foo\n");
    ensure!(qmp.hmp("sendkey a-")? == "invalid parameter: \n");
    ensure!(qmp.hmp("sendkey a x")?.starts_with("invalid char 'x' in expression\n"));
    ensure!(qmp.hmp("sendkey")?.starts_with("sendkey: string expected\n"));
    Ok(())
}

#[test]
fn what_happens_at_once_is_one_report() -> Result<()> {
    let mut vm = idle_machine()?;
    let qmp = vm.qmp();
    // The wheel, and reports.
    to_mouse(qmp, &[0xf3, 200, 0xf3, 100, 0xf3, 80, 0xf4])?;
    for (command, wanted) in [
        ("mouse_move 1 2", "m28 m01 mfe m00"),
        ("mouse_move 0 0 -1", "m08 m00 m00 m01 m08 m00 m00 m00"),
        ("mouse_move 0x10 -0x10", "m08 m10 m10 m00"),
        ("mouse_move a b", "m08 m00 m00 m00"),
        ("mouse_button 1", "m09 m00 m00 m00"),
        ("mouse_button 3", "m0b m00 m00 m00"),
        ("mouse_button 6", "m0e m00 m00 m00"),
        ("mouse_button 0", "m08 m00 m00 m00"),
    ] {
        ensure!(qmp.hmp(command)?.is_empty());
        let report = drain(qmp)?;
        ensure!(report == wanted, "{command}: {report}");
    }
    for (sent, wanted) in [
        (json!([relative("x", 5), relative("y", 6), button("left", true)]), "m29 m05 mfa m00"),
        (json!([button("left", true), button("left", false)]), "m08 m00 m00 m00"),
        (json!([relative("x", 5), relative("x", 5)]), "m08 m0a m00 m00"),
        (json!([key("a", true)]), "1c"),
        (json!([key("a", false)]), "f0 1c"),
        (json!([]), ""),
        (json!([button("touch", true)]), "m08 m00 m00 m00"),
    ] {
        ensure!(events(qmp, sent.clone())?.is_null());
        let report = drain(qmp)?;
        ensure!(report == wanted, "{sent}: {report}");
    }
    let place = json!({"type": "abs", "data": {"axis": "x", "value": 5}});
    let refused = events(qmp, json!([relative("x", 5), place]))?;
    ensure!(refused == "Input handler not found for event type abs", "{refused}");
    ensure!(drain(qmp)?.is_empty(), "nothing was sent");
    qmp.execute("stop")?;
    ensure!(events(qmp, json!([]))? == "VM not running");
    qmp.hmp("sendkey b")?;
    qmp.execute("cont")?;
    ensure!(drain(qmp)?.is_empty(), "nobody was there");
    Ok(())
}

#[test]
fn mice_are_listed_and_chosen() -> Result<()> {
    let mut vm = idle_machine()?;
    let qmp = vm.qmp();
    let mice = qmp.execute("query-mice")?;
    let mouse = json!([
        {"index": 2, "name": "QEMU PS/2 Mouse", "current": true, "absolute": false}
    ]);
    ensure!(mice == mouse, "{mice}");
    ensure!(qmp.hmp("info mice")? == "* Mouse #2: QEMU PS/2 Mouse\n");
    for (index, answer) in [
        ("2", ""),
        ("1", "Error: Input device 'QEMU PS/2 Keyboard' is not a mouse\n"),
        ("99", "Error: Mouse at index '99' not found\n"),
    ] {
        let printed = qmp.hmp(&format!("mouse_set {index}"))?;
        ensure!(printed == answer, "{index}: {printed}");
    }
    Ok(())
}

#[test]
fn refusals_name_the_place() -> Result<()> {
    let mut vm = idle_machine()?;
    let qmp = vm.qmp();
    let key = |key: Value| json!([{"type": "key", "data": {"down": true, "key": key}}]);
    for (sent, wanted) in [
        (json!([{}]), "Parameter 'events[0].type' is missing"),
        (json!([{"type": "key"}]), "Parameter 'events[0].data' is missing"),
        (key(json!({})), "Parameter 'events[0].data.key.type' is missing"),
        (key(json!({"type": "number"})), "Parameter 'events[0].data.key.data' is missing"),
        (
            key(json!({"type": "number", "data": "x"})),
            "Invalid parameter type for 'events[0].data.key.data', expected: integer",
        ),
        (
            key(json!({"type": "qcode", "data": "foo"})),
            "Parameter 'data' does not accept value 'foo'",
        ),
        (json!([relative("z", 1)]), "Parameter 'axis' does not accept value 'z'"),
        (json!([button("foo", true)]), "Parameter 'button' does not accept value 'foo'"),
        (
            json!([{"type": "mtt", "data": {"type": "begin"}}]),
            "Parameter 'events[0].data.slot' is missing",
        ),
    ] {
        let refusal = events(qmp, sent.clone())?;
        ensure!(refusal == wanted, "{sent}: {refusal}");
    }
    let nowhere = json!({"device": "foo", "events": []});
    let reply = qmp.call(&json!({"execute": "input-send-event", "arguments": nowhere}))?;
    ensure!(reply["error"]["class"] == "DeviceNotFound", "{reply}");
    ensure!(reply["error"]["desc"] == "Device 'foo' not found", "{reply}");
    Ok(())
}
