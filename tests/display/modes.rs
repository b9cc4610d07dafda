//! The modes of the BIOS, and those that programs make of them.

use crate::Guest;
use crate::boot_sector::BootSector;
use anyhow::{Context, Result};

const COLOR_TEXT: u16 = 0xb800;
const MONO_TEXT: u16 = 0xb000;
const GRAPHICS: u16 = 0xa000;
const CRTC: u16 = 0x3d4;
const SEQUENCER: u16 = 0x3c4;

fn show(name: &str, sector: BootSector) -> Result<()> {
    show_on("std", name, sector)
}

/// Shows what a boot sector does with an adapter.
pub fn show_on(adapter: &str, name: &str, sector: BootSector) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let disk = directory.path().join("disk");
    std::fs::write(&disk, sector.disk())?;
    let drive = format!("file={},format=raw,file.locking=off", disk.display());
    let args = ["-vga", adapter, "-drive", &drive].map(str::to_owned).into();
    Guest { args, ..Guest::default() }.looks_the_same(name).with_context(|| name.to_owned())
}

/// A mode of the BIOS.
pub fn mode(number: u16) -> BootSector {
    BootSector::new().video(number, 0, 0)
}

/// Without a cursor, and with bright backgrounds rather than blinking.
pub fn text(number: u16) -> BootSector {
    mode(number).video(0x0100, 0, 0x2000).video(0x1003, 0, 0)
}

/// A mode of VESA's.
pub fn vesa(number: u16) -> BootSector {
    BootSector::new().video(0x4f02, number, 0)
}

#[test]
fn text_modes() -> Result<()> {
    show("text-40", text(1).fill(COLOR_TEXT, 2000, 7))?;
    show("text-80", text(3).fill(COLOR_TEXT, 2000, 7))?;
    show("text-mono", text(7).fill(MONO_TEXT, 2000, 7))?;
    show("text-8-dots", text(3).fill(COLOR_TEXT, 2000, 7).register(SEQUENCER, 1, 1))?;
    show("text-second-font", text(3).fill(COLOR_TEXT, 2000, 7).register(SEQUENCER, 3, 4))?;
    // The font of 8 lines makes 50 rows.
    show("text-50-rows", text(3).video(0x1112, 0, 0).fill(COLOR_TEXT, 4000, 7))
}

#[test]
fn cga_modes() -> Result<()> {
    [4, 5, 6].into_iter().try_for_each(|number| {
        show(&format!("cga-{number}"), mode(number).fill(COLOR_TEXT, 8192, 7))
    })
}

#[test]
fn planar_modes() -> Result<()> {
    for number in [0x0d, 0x0e, 0x0f, 0x10, 0x11, 0x12] {
        show(&format!("planar-{number:x}"), mode(number).fill_planes(GRAPHICS, 19200))?;
    }
    let high = || mode(0x12).fill_planes(GRAPHICS, 19200);
    show("planar-panned", high().attribute(0x13, 3))?;
    show("planar-masked", high().attribute(0x12, 5))?;
    show("planar-selected", high().attribute(0x14, 1).attribute(0x10, 0x81))?;
    show("planar-wide", high().register(CRTC, 0x13, 50))?;
    let split = high().register(CRTC, 0x18, 100).register(CRTC, 7, 0x2e).register(CRTC, 9, 0);
    show("planar-split", split)
}

#[test]
fn modes_of_256_colours() -> Result<()> {
    show("chained", mode(0x13).fill(GRAPHICS, 32000, 7))?;
    let scrolled = mode(0x13).register(CRTC, 0x0d, 0x55).register(CRTC, 0x0c, 1);
    show("chained-scrolled", scrolled.fill(GRAPHICS, 32000, 7))?;
    let unchained =
        mode(0x13).register(SEQUENCER, 4, 6).register(CRTC, 0x14, 0).register(CRTC, 0x17, 0xe3);
    show("unchained", unchained.fill_planes(GRAPHICS, 16000))
}

#[test]
fn vesa_modes() -> Result<()> {
    // 8, 15, 16, 24 and 32 bits.
    for number in [0x101, 0x110, 0x111, 0x112, 0x142] {
        show(&format!("vesa-{number:x}"), vesa(number).fill(GRAPHICS, 32768, 7))?;
    }
    Ok(())
}
