//! Firmware, and programs that run where an operating system would.

use crate::machine;
use anyhow::{Context, Result, ensure};
use testbed::assets;

/// Debian builds the small image without debug output, so both are watched on
/// the console: `-nographic` has SeaBIOS print there (etc/sercon-port).
#[test]
fn seabios_says_that_nothing_is_bootable() -> Result<()> {
    let assets = assets::get()?;
    for image in ["bios.bin", "bios-256k.bin"] {
        let mut vm = machine()
            .args(["-bios".as_ref(), assets.seabios().join(image).as_os_str()])
            .qmp()
            .spawn()?;
        vm.expect("No bootable device.").with_context(|| format!("{image} did not get there"))?;
        vm.qmp().execute("quit")?;
        ensure!(vm.finish()?.status.success());
    }
    Ok(())
}

#[test]
fn seabios_logs_to_its_debug_port() -> Result<()> {
    let assets = assets::get()?;
    let mut vm = machine()
        .args(["-bios".as_ref(), assets.seabios().join("bios-256k.bin").as_os_str()])
        .args(["-serial", "none", "-monitor", "none", "-chardev", "stdio,id=log"])
        .args(["-device", "isa-debugcon,iobase=0x402,chardev=log"])
        .spawn()?;
    vm.expect("SeaBIOS (version ")?;
    vm.expect("No bootable device.")?;
    Ok(())
}

#[test]
fn memtest_starts() -> Result<()> {
    let assets = assets::get()?;
    let mut vm = machine()
        .args(["-kernel".as_ref(), assets.memtest().as_os_str()])
        .args(["-append", "console=ttyS0,115200"])
        .spawn()?;
    vm.expect("Memtest86+")?;
    // Its first test is under way once the pass counter is drawn.
    vm.expect("Pass")?;
    Ok(())
}

/// The last test of a pass waits for minutes whether bits fade, by the clock.
#[test]
#[ignore = "takes four minutes"]
fn memtest_completes_a_pass_without_errors() -> Result<()> {
    let assets = assets::get()?;
    let mut vm = machine()
        .args(["-m", "8", "-kernel"])
        .args([assets.memtest().as_os_str()])
        .args(["-append", "console=ttyS0,115200"])
        .spawn()?;
    vm.expect("Bit fade test")?;
    vm.expect("Pass:  1")?;
    // On the same row of the screen.
    vm.expect("Errors: 0")?;
    Ok(())
}
