//! The machine protocol, on machines that do not run.

mod creation;
mod disks;
mod network;

use anyhow::{Result, ensure};
use serde_json::json;
use testbed::vm::{Launch, Vm};

fn machine(args: &[&str]) -> Result<Vm> {
    Launch::new(testbed::program()).accel().args(args).args(["-display", "none"]).qmp().spawn()
}

#[test]
fn the_greeting_names_the_reference_release() -> Result<()> {
    let mut vm = machine(&["-M", "none"])?;
    let version = &vm.qmp().greeting()["QMP"]["version"]["qemu"];
    ensure!(version["major"] == 10 && version["minor"] == 0, "{version}");
    ensure!(vm.qmp().execute("query-version")?["qemu"]["major"] == 10);
    Ok(())
}

#[test]
fn quit_ends_the_program_with_success() -> Result<()> {
    let mut vm = machine(&["-M", "none"])?;
    vm.qmp().execute("quit")?;
    let event = vm.qmp().wait_event("SHUTDOWN")?;
    ensure!(event["data"] == json!({"guest": false, "reason": "host-qmp-quit"}), "{event}");
    ensure!(vm.finish()?.status.success());
    Ok(())
}

#[test]
fn a_machine_stops_and_continues() -> Result<()> {
    let mut vm = machine(&["-M", "pc", "-S", "-vga", "none", "-nic", "none"])?;
    let qmp = vm.qmp();
    let status = qmp.execute("query-status")?;
    ensure!(status["status"] == "prelaunch" && status["running"] == false, "{status}");

    qmp.execute("cont")?;
    qmp.wait_event("RESUME")?;
    ensure!(qmp.execute("query-status")?["status"] == "running");

    qmp.execute("stop")?;
    qmp.wait_event("STOP")?;
    ensure!(qmp.execute("query-status")?["status"] == "paused");

    qmp.execute("system_reset")?;
    let event = qmp.wait_event("RESET")?;
    ensure!(event["data"] == json!({"guest": false, "reason": "host-qmp-system-reset"}), "{event}");
    Ok(())
}

#[test]
fn errors_carry_qemus_classes_and_words() -> Result<()> {
    let mut vm = machine(&["-M", "none"])?;
    let error = vm.qmp().execute("no-such-command").unwrap_err().to_string();
    ensure!(error == "CommandNotFound: The command no-such-command has not been found", "{error}");

    let reply = vm.qmp().call(&json!({"execute": "query-status", "id": 7}))?;
    ensure!(reply["id"] == 7, "the id comes back: {reply}");

    let error = vm.qmp().execute_with("stop", json!({"x": 1})).unwrap_err().to_string();
    ensure!(error == "GenericError: Parameter 'x' is unexpected", "{error}");
    Ok(())
}

#[test]
fn what_is_listed_includes_what_tests_use() -> Result<()> {
    let mut vm = machine(&["-M", "none"])?;
    let commands = vm.qmp().execute("query-commands")?.to_string();
    for name in ["query-status", "query-version", "stop", "cont", "quit", "system_powerdown"] {
        ensure!(commands.contains(&format!("\"name\":\"{name}\"")), "{name} is not listed");
    }
    Ok(())
}
