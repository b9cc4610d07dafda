//! Firmware, and programs that run where an operating system would.

use crate::machine;
use anyhow::{Context, Result, ensure};
use testbed::assets;
use testbed::vm::Launch;

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

/// A Multiboot kernel without vector instructions: says a word on the serial port and ends the
/// machine through isa-debug-exit.
fn small_kernel() -> Vec<u8> {
    const LOAD: u32 = 0x10_0000;
    const MAGIC: u32 = 0x1bad_b002;
    /// The image says itself where it is loaded.
    const ADDRESSES: u32 = 1 << 16;
    const WORD: &[u8] = b"alive";
    let entry = LOAD + 32;
    let mut image = Vec::new();
    let checksum = 0u32.wrapping_sub(MAGIC).wrapping_sub(ADDRESSES);
    for field in [MAGIC, ADDRESSES, checksum, LOAD, LOAD, 0, 0, entry] {
        image.extend(field.to_le_bytes());
    }
    image.extend([0x66, 0xba, 0xf8, 0x03]); // mov dx, 3f8h
    for &letter in WORD {
        image.extend([0xb0, letter, 0xee]); // mov al, letter; out dx, al
    }
    image.extend([0x66, 0xba, 0xf4, 0x00, 0xb0, 0x10, 0xee]); // mov dx, f4h; mov al, 10h; out
    image.extend([0xf4, 0xeb, 0xfd]); // hlt; jmp $-1
    image
}

#[test]
fn a_small_multiboot_kernel_runs_on_every_accelerator() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let kernel = scratch.path().join("kernel");
    std::fs::write(&kernel, small_kernel())?;
    for accel in ["tcg", "tcg,interp=on", "kvm"] {
        if accel == "kvm" && std::fs::File::options().write(true).open("/dev/kvm").is_err() {
            testbed::skip("/dev/kvm cannot be opened");
            continue;
        }
        if accel != "tcg" && testbed::is_reference(&testbed::program()) {
            continue;
        }
        let ended = Launch::headless(testbed::program())
            .args(["-accel", accel, "-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
            .args(["-kernel".as_ref(), kernel.as_os_str()])
            .run()?;
        ensure!(ended.stdout.contains("alive"), "{accel}: {} {}", ended.stdout, ended.stderr);
        ensure!(ended.status.code() == Some(0x21), "{accel}: {}", ended.status);
    }
    Ok(())
}
