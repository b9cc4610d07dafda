//! Monitors in a whole program: several at once, clients that come and go, people at a prompt.

mod dialogue;
mod drives;
mod events;

mod input;
mod prompt;
mod python;
mod reference;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::os::unix::net::UnixStream;
use std::path::Path;
use testbed::qmp::Qmp;
use testbed::vm::{Launch, Vm};

/// The machine without anything, paused, with a QMP server that clients connect to.
fn server() -> Result<(Vm, std::path::PathBuf, tempfile::TempDir)> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("control");
    let socket = format!("unix:{},server=on,wait=off", path.display());
    let vm = Launch::new(testbed::program())
        .args(["-M", "none", "-S", "-nodefaults", "-display", "none", "-qmp", &socket])
        .qmp()
        .spawn()?;
    Ok((vm, path, directory))
}

fn connect(path: &Path) -> Result<Qmp> {
    Qmp::new(UnixStream::connect(path).context("cannot connect")?)
}

#[test]
fn an_event_reaches_every_client() -> Result<()> {
    let (mut vm, path, _directory) = server()?;
    let mut other = connect(&path)?;
    vm.qmp().execute("cont")?;
    vm.qmp().wait_event("RESUME")?;
    other.wait_event("RESUME")?;
    ensure!(other.execute("query-status")?["status"] == "running");
    Ok(())
}

#[test]
fn a_client_that_hangs_up_leaves_nothing_behind() -> Result<()> {
    let (mut vm, path, _directory) = server()?;
    for _ in 0..3 {
        let mut stream = UnixStream::connect(&path)?;
        // Half a message, and gone.
        std::io::Write::write_all(&mut stream, b"{\"execute\": \"qmp_cap")?;
        drop(stream);
    }
    let mut next = connect(&path)?;
    ensure!(next.execute("query-status")?["status"] == "prelaunch");
    vm.qmp().execute("quit")?;
    next.wait_event("SHUTDOWN")?;
    ensure!(vm.finish()?.status.success());
    ensure!(!path.exists(), "the socket is left behind");
    Ok(())
}

#[test]
fn reset_becomes_shutdown_when_so_asked() -> Result<()> {
    let (mut vm, ..) = server()?;
    vm.qmp().execute_with("set-action", json!({"reboot": "shutdown"}))?;
    vm.qmp().execute("system_reset")?;
    let event = vm.qmp().wait_event("SHUTDOWN")?;
    ensure!(event["data"]["reason"] == "host-qmp-system-reset", "{event}");
    ensure!(vm.finish()?.status.success());
    Ok(())
}

#[test]
fn ring_buffers_are_written_and_read() -> Result<()> {
    let mut vm = Launch::new(testbed::program())
        .args(["-M", "none", "-S", "-nodefaults", "-display", "none"])
        .args(["-chardev", "ringbuf,id=ring,size=16"])
        .qmp()
        .spawn()?;
    let qmp = vm.qmp();
    qmp.execute_with("ringbuf-write", json!({"device": "ring", "data": "hello"}))?;
    let base64 = json!({"device": "ring", "data": "IHlvdQ==", "format": "base64"});
    qmp.execute_with("ringbuf-write", base64)?;
    let read = qmp.execute_with("ringbuf-read", json!({"device": "ring", "size": 100}))?;
    ensure!(read == "hello you", "{read}");
    Ok(())
}

#[test]
fn a_guest_that_sets_its_clock_often_is_reported_once_at_a_time() -> Result<()> {
    let mut vm = Launch::new(testbed::program())
        .args(["-M", "pc", "-m", "16", "-accel", "qtest", "-nodefaults", "-display", "none"])
        .qmp()
        .qtest()
        .spawn()?;
    for year in [0x12, 0x13, 0x14] {
        vm.qtest().outb(0x70, 9)?;
        vm.qtest().outb(0x71, year)?;
    }
    let offset = |event: serde_json::Value| event["data"]["offset"].as_i64().context("no offset");
    let first = offset(vm.qmp().wait_event("RTC_CHANGE")?)?;
    let second = offset(vm.qmp().wait_event("RTC_CHANGE")?)?;
    // 2012 at once, then, 2013 having been overtaken, 2014.
    let days = (second - first) / 86_400;
    ensure!((729..=732).contains(&days), "{first} {second}");
    Ok(())
}
