//! Firmware, boot loaders and programs.

use crate::Guest;
use anyhow::{Result, ensure};
use testbed::{assets, media, program, reference_qemu, skip};

fn args(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// The words are QEMU's, at their place; the font is another.
#[test]
fn before_a_guest_shows_anything_there_are_words() -> Result<()> {
    let reference = match reference_qemu() {
        Ok(reference) => reference,
        Err(reason) => {
            skip(&reason);
            return Ok(());
        }
    };
    for adapter in
        ["VGA", "cirrus-vga", "virtio-vga", "virtio-gpu-pci", "bochs-display", "ramfb", "isa-vga"]
    {
        let guest = Guest { args: args(&["-S", "-device", adapter]), ..Guest::default() };
        let look = |program| guest.look(&mut guest.start(program)?);
        let (theirs, ours) = (look(&reference)?, look(&program())?);
        let size = (theirs.width, theirs.height);
        ensure!(size == (ours.width, ours.height), "{adapter}: another size");
        ensure!(!theirs.is_black() && theirs.characters() == ours.characters(), "{adapter}");
    }
    Ok(())
}

#[test]
fn seabios() -> Result<()> {
    // With a disk, so that both try the same places in the same order.
    let directory = tempfile::tempdir()?;
    let disk = directory.path().join("disk");
    std::fs::write(&disk, vec![0; 1 << 20])?;
    let drive = format!("file={},format=raw,file.locking=off", disk.display());
    for adapter in [
        ["-vga", "std"],
        ["-vga", "cirrus"],
        ["-vga", "virtio"],
        ["-device", "VGA,vgamem_mb=4"],
        ["-device", "isa-vga"],
        ["-device", "isa-cirrus-vga"],
    ] {
        let mut words = args(&adapter);
        words.extend(args(&["-drive", &drive]));
        Guest { args: words, ..Guest::default() }.looks_the_same("seabios")?;
    }
    Ok(())
}

#[test]
fn grub_menu() -> Result<()> {
    let assets = assets::get()?;
    let cd = media::graphical_cd(&assets.memtest())?;
    let cd = cd.display().to_string();
    for adapter in ["std", "cirrus", "virtio"] {
        let args = args(&["-vga", adapter, "-cdrom", &cd, "-cpu", "qemu64"]);
        let name = |what: &str| format!("grub-{adapter}-{what}");
        let first = Guest { args: args.clone(), graphical: true, ..Guest::default() };
        first.looks_the_same(&name("menu"))?;
        let second = Guest { args, keys: &["down"], graphical: true, ..Guest::default() };
        second.looks_the_same(&name("second-entry"))?;
    }
    Ok(())
}

#[test]
fn memtest() -> Result<()> {
    // How fast the processor is; how far the test has come, and with what; since when; how often.
    let masked = [(90, 16, 162, 16), (261, 16, 459, 80), (396, 112, 324, 16), (459, 128, 72, 16)];
    let cd = media::graphical_cd(&assets::get()?.memtest())?.display().to_string();
    for adapter in ["std", "cirrus", "virtio"] {
        let args = args(&["-vga", adapter, "-cdrom", &cd, "-cpu", "qemu64"]);
        let guest =
            Guest { args, keys: &["t"], masked: &masked, graphical: true, ..Guest::default() };
        guest.looks_the_same(&format!("memtest-{adapter}"))?;
    }
    Ok(())
}

#[test]
fn syslinux_menu() -> Result<()> {
    let floppy = media::vesa_floppy()?;
    let drive = format!("if=floppy,format=raw,file={},readonly=on", floppy.display());
    for adapter in ["std", "cirrus", "virtio"] {
        let args = args(&["-vga", adapter, "-drive", &drive, "-boot", "a"]);
        let name = |what: &str| format!("vesamenu-{adapter}{what}");
        let first = Guest { args: args.clone(), graphical: true, ..Guest::default() };
        first.looks_the_same(&name(""))?;
        let second = Guest { args, keys: &["down"], graphical: true, ..Guest::default() };
        second.looks_the_same(&name("-second"))?;
    }
    Ok(())
}

#[test]
fn ovmf() -> Result<()> {
    let firmware = assets::get()?.ovmf().join("OVMF_CODE.fd").display().to_string();
    for adapter in ["std", "cirrus", "virtio"] {
        let args = args(&["-vga", adapter, "-m", "256", "-bios", &firmware]);
        // Before the shell there is a picture for a while, in another mode.
        let guest = Guest { args, says: Some("Shell> "), ..Guest::default() };
        guest.looks_the_same(&format!("ovmf-{adapter}"))?;
    }
    Ok(())
}
