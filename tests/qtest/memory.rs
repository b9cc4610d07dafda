//! The memory map: RAM, holes, the BIOS and its shadow, PAM and SMRAM.

use crate::{machine, on_reference};
use anyhow::{Result, ensure};
use testbed::pc::{devfn, expect};
use testbed::qtest::QTest;

const HOST: u8 = devfn(0, 0);
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const PATTERN: u32 = 0x1122_3344;
const OTHER: u32 = 0x5566_7788;

fn is_ram(test: &mut QTest, address: u64) -> Result<bool> {
    test.writel(address, PATTERN)?;
    let kept = test.readl(address)? == PATTERN;
    test.writel(address, 0)?;
    Ok(kept && test.readl(address)? == 0)
}

/// The PAM register and nibble of each segment of 16 KiB, and of the BIOS's 64 KiB.
fn segments() -> impl Iterator<Item = (u64, u8, u8)> {
    let upper = (0u8..12).map(|n| (0xc_0000 + u64::from(n) * 0x4000, 0x5a + n / 2, n % 2 * 4));
    upper.chain([(0xf_0000, 0x59, 4)])
}

fn set_segment(test: &mut QTest, register: u8, shift: u8, attributes: u8) -> Result<()> {
    let kept = test.pci_readb(HOST, register)? & !(0xf << shift);
    test.pci_writeb(HOST, register, kept | attributes << shift)
}

#[test]
fn ram_ends_where_it_should() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    for (address, ram) in [
        (0, true),
        (0x9_fffc, true),
        (MIB, true),
        (128 * MIB - 4, true),
        (128 * MIB, false),
        (0xfe00_0000, false),
        (4 * GIB, false),
    ] {
        ensure!(is_ram(test, address)? == ram, "{address:#x}");
    }
    Ok(())
}

#[test]
fn memory_beyond_the_hole_goes_on_at_4_gib() -> Result<()> {
    let mut vm = machine(&["-m", "4G"])?;
    let test = vm.qtest();
    for (address, ram) in [
        (3 * GIB - 4, true),
        (3 * GIB, false),
        (4 * GIB, true),
        (5 * GIB - 4, true),
        (5 * GIB, false),
    ] {
        ensure!(is_ram(test, address)? == ram, "{address:#x}");
    }
    Ok(())
}

#[test]
fn the_bios_is_read_only_and_shows_twice() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    // The reset vector: a far jump.
    expect("at 4 GiB", test.readb(0xffff_fff0)?, 0xea)?;
    expect("at 1 MiB", test.readb(0xf_fff0)?, 0xea)?;
    ensure!(test.read(0xffff_0000, 0x1_0000)? == test.read(0xf_0000, 0x1_0000)?);
    test.writel(0xffff_fff0, 0)?;
    expect("still", test.readb(0xffff_fff0)?, 0xea)?;
    // The last 128 KiB show below 1 MiB.
    ensure!(test.read(0xfffe_0000, 0x1_0000)? == test.read(0xe_0000, 0x1_0000)?);
    Ok(())
}

#[test]
fn attributes_turn_segments_into_ram() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    for (address, register, shift) in segments() {
        let rom = test.readl(address)?;
        set_segment(test, register, shift, 3)?;
        test.writel(address, PATTERN)?;
        expect(&format!("{address:#x}: RAM"), test.readl(address)?, PATTERN)?;
        test.writel(address + 0x3ffc, OTHER)?;
        expect(&format!("{address:#x}: its end"), test.readl(address + 0x3ffc)?, OTHER)?;
        set_segment(test, register, shift, 1)?;
        expect(&format!("{address:#x}: read-only"), test.readl(address)?, PATTERN)?;
        // What QEMU's test protocol writes goes through, unlike a processor's writes.
        if !on_reference() {
            test.writel(address, OTHER)?;
            expect(&format!("{address:#x}: read-only"), test.readl(address)?, PATTERN)?;
        }
        set_segment(test, register, shift, 0)?;
        expect(&format!("{address:#x}: the bus again"), test.readl(address)?, rom)?;
        set_segment(test, register, shift, 2)?;
        expect(&format!("{address:#x}: write-only is RAM"), test.readl(address)?, PATTERN)?;
        set_segment(test, register, shift, 0)?;
    }
    Ok(())
}

#[test]
fn pam_registers_keep_every_bit() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    for register in 0x59..=0x5f {
        expect("at reset", test.pci_readb(HOST, register)?, 0)?;
        test.pci_writeb(HOST, register, 0xff)?;
        expect("ones", test.pci_readb(HOST, register)?, 0xff)?;
    }
    expect("SMRAM at reset", test.pci_readb(HOST, 0x72)?, 0x02)
}

/// Without a display adapter nobody answers where SMRAM is while it is closed.
#[test]
fn smram_keeps_what_was_stored_while_it_was_open() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    test.pci_writeb(HOST, 0x72, 0x4a)?;
    test.writel(0xa_0000, PATTERN)?;
    test.writel(0xb_fffc, OTHER)?;
    test.pci_writeb(HOST, 0x72, 0x0a)?;
    test.pci_writeb(HOST, 0x72, 0x4a)?;
    expect("its start", test.readl(0xa_0000)?, PATTERN)?;
    expect("its end", test.readl(0xb_fffc)?, OTHER)?;
    // QEMU's bridge has no lock; ours keeps what the data sheet promises to firmware.
    if !on_reference() {
        test.pci_writeb(HOST, 0x72, 0x1a)?;
        test.pci_writeb(HOST, 0x72, 0x4a)?;
        expect("locked", test.pci_readb(HOST, 0x72)?, 0x1a)?;
    }
    Ok(())
}
