//! The CL-GD5446, driven by registers; and what it and `virtio-vga` say of themselves on the bus.

use crate::machine;
use crate::vga::{CRTC, GRAPHICS, MISC, SEQUENCER, bits, get, set};
use anyhow::{Result, ensure};
use testbed::pc::expect;
use testbed::qtest::QTest;
use testbed::vm::Vm;

const MASK: u16 = 0x3c6;
const FRAMEBUFFER: u64 = 0xf000_0000;
/// Of the aperture that feeds the blitter, of the registers in memory.
const BLITTER: u64 = FRAMEBUFFER + 0x100_0000;
const REGISTERS: u64 = 0xfebf_0000;
const WINDOW: u64 = 0xa_0000;

fn config(test: &mut QTest, at: u32) -> Result<u32> {
    test.outl(0xcf8, 0x8000_1000 | at)?;
    test.inl(0xcfc)
}

fn set_config(test: &mut QTest, at: u32, value: u32) -> Result<()> {
    test.outl(0xcf8, 0x8000_1000 | at)?;
    test.outl(0xcfc, value)
}

fn adapter() -> Result<Vm> {
    let mut vm = machine(&["-device", "cirrus-vga,addr=2"])?;
    let test = vm.qtest();
    set_config(test, 0x10, FRAMEBUFFER as u32)?;
    set_config(test, 0x14, REGISTERS as u32)?;
    set_config(test, 0x04, 7)?;
    test.outb(MISC, 0x67)?;
    Ok(vm)
}

/// Checks what is in memory.
fn holds(test: &mut QTest, what: &str, at: u64, wanted: &[u8]) -> Result<()> {
    let seen = test.read(at, wanted.len())?;
    ensure!(seen == wanted, "{what}: {seen:02x?} instead of {wanted:02x?}");
    Ok(())
}

/// Dwords of the header that say something, and what BARs hold when all bits are written.
#[test]
fn the_bus_sees_what_it_sees_of_qemus() -> Result<()> {
    let header = |device: &str| -> Result<(Vec<u32>, Vec<u32>)> {
        let mut vm = machine(&["-device", &format!("{device},addr=2")])?;
        let test = vm.qtest();
        let words = [0x00, 0x08, 0x0c, 0x2c, 0x34];
        let words = words.into_iter().map(|at| config(test, at)).collect::<Result<_>>()?;
        let mut bars = Vec::new();
        for at in (0x10..0x28).step_by(4).chain([0x30]) {
            set_config(test, at, !0)?;
            bars.push(config(test, at)?);
        }
        Ok((words, bars))
    };
    let (words, bars) = header("cirrus-vga")?;
    ensure!(words == [0x00b8_1013, 0x0300_0000, 0, 0x1100_1af4, 0], "{words:x?}");
    ensure!(bars == [0xfe00_0008, 0xffff_f000, 0, 0, 0, 0, 0xffff_0001], "{bars:x?}");
    let (words, bars) = header("virtio-vga")?;
    ensure!(words == [0x1050_1af4, 0x0300_0001, 0, 0x1100_1af4, 0x98], "{words:x?}");
    let wanted = [0xff80_0008, 0, 0xffff_c00c, !0, 0xffff_f000, 0, 0xffff_0001];
    ensure!(bars == wanted, "{bars:x?}");
    let (_, bars) = header("virtio-vga,page-per-vq=on")?;
    ensure!(bars[2] == 0xff80_000c, "{bars:x?}");
    Ok(())
}

#[test]
fn virtio_has_its_structures_behind_the_registers_of_the_vga() -> Result<()> {
    let mut vm = machine(&["-device", "virtio-vga,addr=2"])?;
    let test = vm.qtest();
    let capability = |test: &mut QTest, at| -> Result<(u32, u32, u32)> {
        Ok((config(test, at)?, config(test, at + 8)?, config(test, at + 12)?))
    };
    for (at, wanted) in [
        (0x40, (0x0110_0009, 0x1000, 0x800)),
        (0x50, (0x0310_4009, 0x1800, 0x800)),
        (0x60, (0x0410_5009, 0x2000, 0x1000)),
        (0x70, (0x0214_6009, 0x3000, 0x1000)),
    ] {
        let seen = capability(test, at)?;
        ensure!(seen == wanted, "{at:x}: {seen:x?}");
    }
    set_config(test, 0x10, FRAMEBUFFER as u32)?;
    set_config(test, 0x18, 0xfe00_0000)?;
    set_config(test, 0x1c, 0)?;
    set_config(test, 0x04, 7)?;
    expect("Bochs' version", test.readw(0xfe00_0500)?, 0xb0c5)?;
    expect("queues", test.readw(0xfe00_1012)?, 2)?;
    test.write(FRAMEBUFFER, &[1, 2, 3])?;
    holds(test, "memory", FRAMEBUFFER, &[1, 2, 3])
}

#[test]
fn registers_have_the_bits_they_have() -> Result<()> {
    let mut vm = adapter()?;
    let test = vm.qtest();
    expect("locked", get(test, SEQUENCER, 6)?, 0x0f)?;
    for (key, answer) in [(0x12, 0x12), (0x13, 0x0f), (0x92, 0x12)] {
        set(test, SEQUENCER, 6, key)?;
        expect(&format!("key {key:x}"), test.inb(SEQUENCER + 1)?, answer)?;
    }
    let reset: Vec<u8> = [0x0f, 0x15, 0x17, 0x1f]
        .iter()
        .map(|at| get(test, SEQUENCER, *at))
        .collect::<Result<_>>()?;
    ensure!(reset == [0x98, 0x04, 0x20, 0x2d], "{reset:x?}");
    let mut wanted = vec![0xff; 0x20];
    wanted[..7].copy_from_slice(&[0x03, 0x3d, 0x0f, 0x3f, 0x0e, 0, 0x0f]);
    wanted[0x17] = 0xe7;
    let seen = bits(test, SEQUENCER, 0x20)?;
    ensure!(seen == wanted, "sequencer: {seen:02x?}");
    let seen = bits(test, GRAPHICS, 0x31)?;
    let wanted = [
        0xff, 0xff, 0x0f, 0x1f, 0x03, 0x7f, 0x0f, 0x0f, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x0f, 0, 0, 0, 0, 0, 0, 0, 0xff, 0x1f, 0xff, 0x1f,
        0xff, 0x1f, 0xff, 0x1f, 0xff, 0xff, 0x3f, 0, 0xff, 0xff, 0x3f, 0xff, 0xff,
    ];
    ensure!(seen == wanted, "graphics: {seen:02x?}");
    let seen = bits(test, CRTC, 0x28)?[0x19..].to_vec();
    let wanted = [255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 255, 0, 0, 0, 0xb8];
    ensure!(seen == wanted, "CRT controller: {seen:02x?}");
    // The index of the pointer's place has its lowest bits.
    test.outb(SEQUENCER, 0x70)?;
    test.outb(SEQUENCER + 1, 0x55)?;
    expect("index", test.inb(SEQUENCER)?, 0x70)?;
    expect("place", get(test, SEQUENCER, 0x10)?, 0x55)
}

#[test]
fn the_dac_hides_a_register() -> Result<()> {
    let mut vm = adapter()?;
    let test = vm.qtest();
    test.outb(MASK, 0xff)?;
    let four = |test: &mut QTest| -> Result<()> {
        for _ in 0..4 {
            expect("mask", test.inb(MASK)?, 0xff)?;
        }
        Ok(())
    };
    four(test)?;
    test.outb(MASK, 0xc5)?;
    four(test)?;
    expect("hidden", test.inb(MASK)?, 0xc5)?;
    expect("mask again", test.inb(MASK)?, 0xff)
}

#[test]
fn banks_show_parts_of_memory() -> Result<()> {
    let mut vm = adapter()?;
    let test = vm.qtest();
    set(test, SEQUENCER, 7, 1)?;
    for page in 0..0x40_u8 {
        test.write(FRAMEBUFFER + u64::from(page) * 0x1000, &[page, 0xa5])?;
    }
    set(test, GRAPHICS, 9, 3)?;
    holds(test, "bank", WINDOW, &[3, 0xa5])?;
    holds(test, "its other half", WINDOW + 0x8000, &[11])?;
    set(test, GRAPHICS, 0x0b, 0x20)?;
    holds(test, "large units", WINDOW, &[12])?;
    set(test, GRAPHICS, 0x0b, 1)?;
    set(test, GRAPHICS, 0x0a, 0x11)?;
    holds(test, "first of two", WINDOW, &[3])?;
    holds(test, "second of two", WINDOW + 0x8000, &[0x11])?;
    set(test, GRAPHICS, 0x0a, 0x20)?;
    test.write(WINDOW + 0x8000 + 5, &[0x77])?;
    holds(test, "a store", FRAMEBUFFER + 0x2_0005, &[0x77])
}

#[test]
fn the_blitter_is_driven_through_memory() -> Result<()> {
    let mut vm = adapter()?;
    let test = vm.qtest();
    set(test, SEQUENCER, 7, 1)?;
    // A solid rectangle of 4 by 2 at 100h, 16 bytes from row to row.
    let registers = REGISTERS + 0x100;
    for (at, bytes) in [
        (0x04, &[0x5a][..]),
        (0x08, &[3, 0, 1, 0]),
        (0x0c, &[16, 0]),
        (0x10, &[0, 1, 0]),
        (0x18, &[0xc0]),
        (0x1a, &[0x0d, 0x04]),
        (0x40, &[0x02]),
    ] {
        test.write(registers + at, bytes)?;
    }
    holds(test, "done", registers + 0x40, &[0])?;
    let rows = test.read(FRAMEBUFFER + 0x100, 20)?;
    let wanted = [[0x5a; 4].as_slice(), &[0; 12], &[0x5a; 4]].concat();
    ensure!(rows == wanted, "{rows:x?}");
    expect("the same registers", get(test, GRAPHICS, 0x24)?, 16)?;
    // What the processor sends, two rows of three bytes, each filled up to four.
    for (at, bytes) in [(0x08, &[2, 0][..]), (0x18, &[0x04]), (0x1b, &[0]), (0x40, &[0x02])] {
        test.write(registers + at, bytes)?;
    }
    holds(test, "under way", registers + 0x40, &[3])?;
    test.write(BLITTER, &[1, 2, 3, 0xff])?;
    test.write(WINDOW, &[4, 5, 6, 0xff])?;
    holds(test, "done", registers + 0x40, &[0])?;
    holds(test, "first row", FRAMEBUFFER + 0x100, &[1, 2, 3, 0x5a])?;
    holds(test, "second row", FRAMEBUFFER + 0x110, &[4, 5, 6, 0x5a])?;
    holds(test, "no store", FRAMEBUFFER, &[0; 4])
}
