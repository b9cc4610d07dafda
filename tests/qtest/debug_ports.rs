//! The debug console and the port that ends the program.

use crate::{launch, machine};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use testbed::pc::expect;

#[test]
fn what_is_written_to_the_console_port_comes_out() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("log");
    let chardev = format!("file:{}", path.display());
    let mut vm = machine(&["-debugcon", &chardev])?;
    let test = vm.qtest();
    expect("guests know it by its value", test.inb(0xe9)?, 0xe9)?;
    test.outbs(0xe9, b"debug\n")?;
    let deadline = Instant::now() + testbed::DEADLINE;
    while std::fs::read(&path).context("nothing came out")? != b"debug\n" {
        ensure!(Instant::now() < deadline, "not what was written");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[test]
fn the_console_port_can_be_elsewhere_and_read_otherwise() -> Result<()> {
    let device = "isa-debugcon,iobase=0x402,chardev=x,readback=0x11";
    let mut vm = machine(&["-chardev", "null,id=x", "-device", device])?;
    let test = vm.qtest();
    expect("chosen value", test.inb(0x402)?, 0x11)?;
    expect("nobody at the usual place", test.inb(0xe9)?, 0xff)
}

#[test]
fn the_exit_port_makes_the_exit_status() -> Result<()> {
    for (device, port, value, status) in [
        ("isa-debug-exit", 0x501, 0, 1),
        ("isa-debug-exit", 0x501, 0x10, 0x21),
        ("isa-debug-exit,iobase=0xf4,iosize=4", 0xf4, 1, 3),
    ] {
        let mut vm = launch(&["-device", device]).spawn()?;
        let test = vm.qtest();
        expect("reads as nothing", test.inb(port)?, 0)?;
        // The program may end before it answers.
        let _ = test.outb(port, value);
        let finished = vm.finish()?;
        ensure!(finished.status.code() == Some(status), "{device}: {}", finished.status);
    }
    Ok(())
}
