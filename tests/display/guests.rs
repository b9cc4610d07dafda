//! Firmware, boot loaders and programs.

use crate::Guest;
use anyhow::Result;
use testbed::{assets, media};

fn args(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

#[test]
fn seabios() -> Result<()> {
    // With a disk, so that both try the same places in the same order.
    let directory = tempfile::tempdir()?;
    let disk = directory.path().join("disk");
    std::fs::write(&disk, vec![0; 1 << 20])?;
    let drive = format!("file={},format=raw,file.locking=off", disk.display());
    for adapter in [["-vga", "std"], ["-device", "VGA,vgamem_mb=4"], ["-device", "isa-vga"]] {
        let mut words = args(&adapter);
        words.extend(args(&["-drive", &drive]));
        Guest { args: words, ..Guest::default() }.looks_the_same("seabios")?;
    }
    Ok(())
}

#[test]
fn grub_menu_and_memtest() -> Result<()> {
    let assets = assets::get()?;
    let cd = media::graphical_cd(&assets.memtest())?;
    let args = args(&["-vga", "std", "-cdrom", &cd.display().to_string(), "-cpu", "qemu64"]);
    Guest { args: args.clone(), ..Guest::default() }.looks_the_same("grub-menu")?;
    Guest { args, keys: &["down"], ..Guest::default() }.looks_the_same("grub-second-entry")
}

#[test]
fn syslinux_menu() -> Result<()> {
    let floppy = media::vesa_floppy()?;
    let drive = format!("if=floppy,format=raw,file={},readonly=on", floppy.display());
    let args = args(&["-vga", "std", "-drive", &drive, "-boot", "a"]);
    Guest { args: args.clone(), ..Guest::default() }.looks_the_same("vesamenu")?;
    Guest { args, keys: &["down"], ..Guest::default() }.looks_the_same("vesamenu-second")
}
