//! The VGA and Bochs' extension of it, driven by registers.

use crate::machine;
use anyhow::{Context, Result, ensure};
use testbed::pc::expect;
use testbed::qtest::QTest;
use testbed::vm::Vm;

const ATTRIBUTE: u16 = 0x3c0;
pub const MISC: u16 = 0x3c2;
const MISC_READ: u16 = 0x3cc;
pub const SEQUENCER: u16 = 0x3c4;
pub const GRAPHICS: u16 = 0x3ce;
pub const CRTC: u16 = 0x3d4;
const CRTC_MONO: u16 = 0x3b4;
const STATUS: u16 = 0x3da;
const DAC_STATE: u16 = 0x3c7;
const DAC_WRITE: u16 = 0x3c8;
const DAC_DATA: u16 = 0x3c9;
const VBE_INDEX: u16 = 0x1ce;
const VBE_DATA: u16 = 0x1cf;

/// Miscellaneous output: colour addresses, memory enabled.
const COLOR: u8 = 0x67;
const WINDOW: u64 = 0xa_0000;

/// Where the test puts the BARs.
const FRAMEBUFFER: u64 = 0xfd00_0000;
const REGISTERS: u64 = 0xfebf_0000;

fn adapter(device: &str) -> Result<Vm> {
    let mut vm = machine(&["-device", &format!("{device},addr=2")])?;
    let test = vm.qtest();
    let mut config = |offset: u32, value: u32| -> Result<()> {
        test.outl(0xcf8, 0x8000_1000 | offset)?;
        test.outl(0xcfc, value)
    };
    config(0x10, FRAMEBUFFER as u32)?;
    config(0x18, REGISTERS as u32)?;
    config(0x04, 7)?;
    Ok(vm)
}

/// Writes a register behind an index port.
pub fn set(test: &mut QTest, port: u16, index: u8, value: u8) -> Result<()> {
    test.outb(port, index)?;
    test.outb(port + 1, value)
}

/// Reads one.
pub fn get(test: &mut QTest, port: u16, index: u8) -> Result<u8> {
    test.outb(port, index)?;
    test.inb(port + 1)
}

fn set_vbe(test: &mut QTest, index: u16, value: u16) -> Result<()> {
    test.outw(VBE_INDEX, index)?;
    test.outw(VBE_DATA, value)
}

fn vbe(test: &mut QTest, index: u16) -> Result<u16> {
    test.outw(VBE_INDEX, index)?;
    test.inw(VBE_DATA)
}

/// The bits that hold what is written, of registers behind an index port.
pub fn bits(test: &mut QTest, port: u16, count: u8) -> Result<Vec<u8>> {
    let mut found = Vec::new();
    for index in 0..count {
        let old = get(test, port, index)?;
        test.outb(port + 1, 0xff)?;
        found.push(test.inb(port + 1)?);
        test.outb(port + 1, old)?;
    }
    Ok(found)
}

#[test]
fn registers_have_the_bits_they_have() -> Result<()> {
    let mut vm = adapter("VGA")?;
    let test = vm.qtest();
    test.outb(MISC, 0xff)?;
    expect("miscellaneous output", test.inb(MISC_READ)?, 0xef)?;
    test.outb(MISC, COLOR)?;
    let seen = bits(test, SEQUENCER, 8)?;
    ensure!(seen == [0x03, 0x3d, 0x0f, 0x3f, 0x0e, 0, 0, 0xff], "sequencer: {seen:02x?}");
    let seen = bits(test, GRAPHICS, 9)?;
    let graphics = [0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff];
    ensure!(seen == graphics, "graphics: {seen:02x?}");
    ensure!(bits(test, CRTC, 0x19)? == [0xff; 0x19], "CRT controller");
    set(test, CRTC, 0x11, 0x80)?;
    let seen = bits(test, CRTC, 9)?;
    ensure!(seen == [0, 0, 0, 0, 0, 0, 0, 0x10, 0xff], "protected: {seen:02x?}");
    Ok(())
}

#[test]
fn the_attribute_controller_has_one_port_for_index_and_data() -> Result<()> {
    let mut vm = adapter("VGA")?;
    let test = vm.qtest();
    test.outb(MISC, COLOR)?;
    let expected = [0x3f; 16].into_iter().chain([0xef, 0xff, 0x3f, 0x0f, 0x0f]);
    for (index, bits) in (0..).zip(expected) {
        test.inb(STATUS)?;
        test.outb(ATTRIBUTE, index)?;
        test.outb(ATTRIBUTE, 0xff)?;
        test.outb(ATTRIBUTE, index)?;
        expect(&format!("attribute {index:#x}"), test.inb(ATTRIBUTE + 1)?, bits)?;
        test.outb(ATTRIBUTE, 0)?;
    }
    test.inb(STATUS)?;
    test.outb(ATTRIBUTE, 0xe5)?;
    expect("while data are expected", test.inb(ATTRIBUTE)?, 0)?;
    test.inb(STATUS)?;
    expect("the index", test.inb(ATTRIBUTE)?, 0x25)
}

#[test]
fn the_crt_controller_moves_with_the_colour_bit() -> Result<()> {
    let mut vm = adapter("VGA")?;
    let test = vm.qtest();
    expect("colour", test.inb(CRTC)?, 0xff)?;
    set(test, CRTC_MONO, 0x0f, 0x5a)?;
    test.outb(MISC, COLOR)?;
    expect("monochrome", test.inb(CRTC_MONO + 1)?, 0xff)?;
    expect("the same register", get(test, CRTC, 0x0f)?, 0x5a)?;
    // Who waits for a retrace finds one, and its end.
    let looks = [test.inb(STATUS)? & 8, test.inb(STATUS)? & 8];
    ensure!(looks[0] != looks[1], "{looks:?}");
    Ok(())
}

#[test]
fn colours_go_in_threes() -> Result<()> {
    let mut vm = adapter("VGA")?;
    let test = vm.qtest();
    test.outb(DAC_WRITE, 0xff)?;
    for value in [1, 2, 3, 0x3f, 0x20] {
        test.outb(DAC_DATA, value)?;
    }
    expect("state", test.inb(DAC_STATE)?, 0)?;
    expect("next entry", test.inb(DAC_WRITE)?, 0)?;
    test.outb(DAC_STATE, 0xff)?;
    expect("state", test.inb(DAC_STATE)?, 3)?;
    let seen: Vec<_> = (0..6).map(|_| test.inb(DAC_DATA)).collect::<Result<_>>()?;
    ensure!(seen == [1, 2, 3, 0, 0, 0], "the last entry was not completed: {seen:?}");
    Ok(())
}

#[test]
fn planes_are_reached_by_write_and_read_modes() -> Result<()> {
    let mut vm = adapter("VGA")?;
    let test = vm.qtest();
    set(test, SEQUENCER, 2, 0x0f)?;
    set(test, SEQUENCER, 4, 0x06)?;
    set(test, GRAPHICS, 6, 0x05)?;
    set(test, GRAPHICS, 8, 0xff)?;
    let planes = |test: &mut QTest, mode: u8, value: u8| -> Result<Vec<u8>> {
        test.write(FRAMEBUFFER, &[0x10, 0x11, 0x12, 0x13])?;
        set(test, GRAPHICS, 5, mode)?;
        test.readb(WINDOW)?;
        test.writeb(WINDOW, value)?;
        test.read(FRAMEBUFFER, 4)
    };
    ensure!(planes(test, 0, 0xa7)? == [0xa7; 4], "as it is");
    set(test, GRAPHICS, 0, 0x05)?;
    set(test, GRAPHICS, 1, 0x03)?;
    set(test, GRAPHICS, 3, 0x0b)?;
    set(test, GRAPHICS, 8, 0x3c)?;
    ensure!(planes(test, 0, 0xa7)? == [0x10, 0x01, 0x12, 0x13], "rotated, and'ed, masked");
    ensure!(planes(test, 1, 0xa7)? == [0x10, 0x11, 0x12, 0x13], "latches");
    ensure!(planes(test, 2, 0xa7)? == [0x10, 0x11, 0x12, 0x03], "a colour");
    ensure!(planes(test, 3, 0xa7)? == [0x10, 0x01, 0x12, 0x03], "set and reset");
    // Reading: a plane, and the pixels of a colour.
    test.write(FRAMEBUFFER, &[0x0f, 0x33, 0x55, 0x00])?;
    set(test, GRAPHICS, 5, 0)?;
    for (plane, wanted) in [(0, 0x0f), (1, 0x33), (2, 0x55), (3, 0)] {
        set(test, GRAPHICS, 4, plane)?;
        expect("plane", test.readb(WINDOW)?, wanted)?;
    }
    set(test, GRAPHICS, 5, 8)?;
    set(test, GRAPHICS, 2, 0b0101)?;
    set(test, GRAPHICS, 7, 0b0111)?;
    expect("pixels of colour 5", test.readb(WINDOW)?, 0x0f & !0x33 & 0x55)
}

#[test]
fn the_window_moves_and_shows_chained_memory_as_it_lies() -> Result<()> {
    let mut vm = adapter("VGA")?;
    let test = vm.qtest();
    set(test, SEQUENCER, 2, 0x0f)?;
    set(test, GRAPHICS, 8, 0xff)?;
    test.write(FRAMEBUFFER, &(0x10..0x20).collect::<Vec<u8>>())?;
    for (misc, answers) in [(0x05, 0xa_0000), (0x09, 0xb_0000), (0x0d, 0xb_8000_u64)] {
        set(test, GRAPHICS, 6, misc)?;
        for (mode, second) in [(0x0e, 0x11), (0x06, 0x14)] {
            set(test, SEQUENCER, 4, mode)?;
            for place in [0xa_0000, 0xb_0000, 0xb_8000] {
                let wanted = if place == answers { second } else { 0xff };
                expect(&format!("{misc:#x} {mode:#x} {place:#x}"), test.readb(place + 1)?, wanted)?;
            }
        }
    }
    // Odd and even addresses are odd and even planes.
    set(test, SEQUENCER, 4, 0x02)?;
    set(test, GRAPHICS, 5, 0x10)?;
    test.write(0xb_8000, &[1, 2, 3, 4])?;
    let seen = test.read(FRAMEBUFFER, 8)?;
    ensure!(seen == [1, 2, 1, 2, 3, 4, 3, 4], "{seen:?}");
    set(test, SEQUENCER, 2, 0x03)?;
    test.write(0xb_8000, &[5, 6])?;
    ensure!(test.read(FRAMEBUFFER, 4)? == [5, 6, 1, 2], "characters and attributes only");
    Ok(())
}

#[test]
fn the_extension_settles_its_registers() -> Result<()> {
    let mut vm = adapter("VGA")?;
    let test = vm.qtest();
    test.outb(MISC, COLOR)?;
    expect("version", vbe(test, 0)?, 0xb0c5)?;
    expect("memory", vbe(test, 10)?, 0x100)?;
    set_vbe(test, 4, 2)?;
    let most = [vbe(test, 1)?, vbe(test, 2)?, vbe(test, 3)?];
    ensure!(most == [16000, 12000, 32], "{most:?}");
    test.memset(FRAMEBUFFER, 4 << 20, 0x77)?;
    for (index, value) in [(4, 0), (1, 805), (2, 600), (3, 32), (4, 0x41)] {
        set_vbe(test, index, value)?;
    }
    let seen: Vec<_> = (1..10).map(|index| vbe(test, index)).collect::<Result<_>>()?;
    ensure!(seen == [800, 600, 32, 0x41, 0, 800, 5242, 0, 0], "{seen:?}");
    expect("last byte cleared", test.readb(FRAMEBUFFER + 800 * 600 * 4 - 1)?, 0)?;
    expect("not cleared", test.readb(FRAMEBUFFER + 800 * 600 * 4)?, 0x77)?;
    let crtc: Vec<_> = [1, 7, 0x12, 0x13]
        .map(|index| get(test, CRTC, index))
        .into_iter()
        .collect::<Result<_>>()?;
    ensure!(crtc == [99, 0x50, 0x57, 0x90], "VGA registers follow: {crtc:02x?}");
    set_vbe(test, 5, 2)?;
    test.writeb(WINDOW + 3, 0x99)?;
    expect("through the second bank", test.readb(FRAMEBUFFER + 0x2_0003)?, 0x99)?;
    set_vbe(test, 6, 1000)?;
    set_vbe(test, 8, 10)?;
    set_vbe(test, 9, 0xffff)?;
    let seen = [vbe(test, 6)?, vbe(test, 8)?, vbe(test, 9)?];
    ensure!(seen == [1000, 10, 0], "beyond memory is nothing to be shown: {seen:?}");
    Ok(())
}

#[test]
fn registers_are_in_memory_too() -> Result<()> {
    for device in ["VGA", "secondary-vga", "bochs-display"] {
        let mut vm = adapter(device)?;
        let test = vm.qtest();
        let header = test.read(REGISTERS, 10)?;
        ensure!(header == [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x49, 0x14], "{header:02x?}");
        expect("version", test.readw(REGISTERS + 0x500)?, 0xb0c5)?;
        test.writew(REGISTERS + 0x502, 640)?;
        expect("width", test.readw(REGISTERS + 0x502)?, 640)?;
        expect("size of the rest", test.readl(REGISTERS + 0x600)?, 8)?;
        expect("byte order", test.readl(REGISTERS + 0x604)?, 0x1e1e_1e1e)?;
        test.writel(REGISTERS + 0x604, 0xbebe_bebe)?;
        expect("byte order", test.readl(REGISTERS + 0x604)?, 0xbebe_bebe)?;
        if device != "bochs-display" {
            test.writeb(REGISTERS + 0x404, 2)?;
            test.writeb(REGISTERS + 0x405, 0x0a)?;
            expect("map mask", test.readb(REGISTERS + 0x405)?, 0x0a)?;
        }
        let ports = if device == "VGA" { 0x0a } else { 0xff };
        test.outb(SEQUENCER, 2).context(device)?;
        expect(device, test.inb(SEQUENCER + 1)?, ports)?;
    }
    Ok(())
}
