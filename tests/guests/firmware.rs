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

/// UEFI firmware runs from one chip and keeps its variables in the other, from one start to the next.
#[test]
fn uefi_keeps_its_variables_in_flash() -> Result<()> {
    let assets = assets::get()?;
    let scratch = tempfile::tempdir()?;
    let vars = scratch.path().join("vars.fd");
    let fresh = std::fs::read(assets.ovmf().join("OVMF_VARS_4M.fd"))?;
    std::fs::write(&vars, &fresh)?;
    let code = assets.ovmf().join("OVMF_CODE_4M.fd");
    let code = format!("if=pflash,format=raw,unit=0,readonly=on,file={}", code.display());
    let drive = format!("if=pflash,format=raw,unit=1,file={}", vars.display());
    let name: Vec<u8> = "BootOrder".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut before = fresh;
    for start in 1..=2 {
        let mut vm = machine().args(["-drive", &code, "-drive", &drive]).qmp().spawn()?;
        vm.expect("BdsDxe: ").with_context(|| format!("start {start}"))?;
        vm.qmp().execute("quit")?;
        ensure!(vm.finish()?.status.success());
        let after = std::fs::read(&vars)?;
        ensure!(after.len() == before.len() && after != before, "start {start}: nothing written");
        let found = after.windows(name.len()).any(|bytes| bytes == name);
        ensure!(found, "start {start}: no boot order");
        before = after;
    }
    Ok(())
}

/// SeaBIOS has drivers of its own for controllers, hubs and keyboards.
#[test]
fn seabios_reads_usb_keyboards() -> Result<()> {
    let assets = assets::get()?;
    for devices in [
        &["-usb", "-device", "usb-kbd"][..],
        &["-device", "qemu-xhci", "-device", "usb-hub", "-device", "usb-kbd,port=1.3"],
    ] {
        let mut vm = machine()
            .args(["-bios".as_ref(), assets.seabios().join("bios-256k.bin").as_os_str()])
            .args(["-boot", "menu=on,splash-time=5000"])
            .args(devices)
            .qmp()
            .spawn()?;
        vm.expect("Press ESC for boot menu.")?;
        vm.qmp().hmp("sendkey esc")?;
        vm.expect("Select boot device:").with_context(|| format!("no key by {devices:?}"))?;
    }
    Ok(())
}

/// An option ROM (PCI firmware specification 3.0, 5.1) that writes a word to the debug port.
fn option_rom(vendor: u16, device: u16, word: &str) -> Vec<u8> {
    const CODE: usize = 0x40;
    const WORD: usize = 0x80;
    let mut rom = vec![0; 512];
    rom[..3].copy_from_slice(&[0x55, 0xaa, 1]); // signature, blocks of 512 bytes
    rom[3..6].copy_from_slice(&[0xe9, CODE as u8 - 6, 0]); // jmp CODE
    rom[0x18] = 0x1c;
    rom[0x1c..0x20].copy_from_slice(b"PCIR");
    rom[0x20..0x22].copy_from_slice(&vendor.to_le_bytes());
    rom[0x22..0x24].copy_from_slice(&device.to_le_bytes());
    rom[0x26] = 0x18; // length of this structure
    rom[0x29..0x2c].copy_from_slice(&[0, 0, 0xff]); // class
    rom[0x2c] = 1; // blocks
    rom[0x31] = 0x80; // the last image
    let code = [
        0x60, // pusha
        0xba, 0x02, 0x04, // mov dx, 402h
        0xbe, WORD as u8, 0, // mov si, WORD
        0x2e, 0xac, // cs lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x03, // jz +3
        0xee, // out dx, al
        0xeb, 0xf7, // jmp to lodsb
        0x61, // popa
        0xcb, // retf
    ];
    rom[CODE..CODE + code.len()].copy_from_slice(&code);
    rom[WORD..WORD + word.len()].copy_from_slice(word.as_bytes());
    let sum = rom.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    rom[511] = 0u8.wrapping_sub(sum);
    rom
}

#[test]
fn seabios_runs_option_roms() -> Result<()> {
    let assets = assets::get()?;
    let scratch = tempfile::tempdir()?;
    let rom = |name: &str, word| -> Result<String> {
        let path = scratch.path().join(name);
        std::fs::write(&path, option_rom(0x1234, 0x11e8, word))?;
        Ok(path.to_string_lossy().into_owned())
    };
    let (bar, file, own) =
        (rom("a", "in a BAR\n")?, rom("b", "in a file\n")?, rom("c", "of its own\n")?);
    let mut vm = machine()
        .args(["-bios".as_ref(), assets.seabios().join("bios-256k.bin").as_os_str()])
        .args(["-serial", "none", "-monitor", "none", "-chardev", "stdio,id=log"])
        .args(["-device", "isa-debugcon,iobase=0x402,chardev=log"])
        .args(["-device", &format!("edu,romfile={bar}")])
        .args(["-device", &format!("edu,romfile={file},rombar=0")])
        .args(["-option-rom", &own])
        .spawn()?;
    vm.expect("No bootable device.")?;
    let output = vm.output();
    for word in ["in a BAR", "in a file", "of its own"] {
        ensure!(output.contains(word), "no ROM {word}:\n{output}");
    }
    Ok(())
}

/// What SeaBIOS leaves in the interrupt controllers, which are the kernel's under KVM unless told
/// otherwise.
#[test]
fn the_monitor_shows_interrupt_controllers_wherever_they_are() -> Result<()> {
    let assets = assets::get()?;
    for accel in ["tcg", "kvm", "kvm,kernel-irqchip=split"] {
        if accel != "tcg" && std::fs::File::options().write(true).open("/dev/kvm").is_err() {
            testbed::skip("/dev/kvm cannot be opened");
            continue;
        }
        let mut vm = Launch::headless(testbed::program())
            .args(["-accel", accel])
            .args(["-bios".as_ref(), assets.seabios().join("bios-256k.bin").as_os_str()])
            .qmp()
            .spawn()?;
        vm.expect("No bootable device.")?;
        let text = vm.qmp().hmp("info pic")?;
        ensure!(text.contains("irq_base=08") && text.contains("irq_base=70"), "{accel}: {text}");
        ensure!(text.contains("imr=8e") && text.contains("elcr=0c"), "{accel}: {text}");
        ensure!(text.contains("\n  pin 23 0x"), "{accel}: {text}");
    }
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
