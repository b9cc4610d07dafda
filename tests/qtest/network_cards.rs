//! Network cards behind PCI: what configuration space and registers show after power-up, as on QEMU 10.0.

use crate::{machine, on_reference};
use anyhow::{Context, Result};
use testbed::pc::expect;
use testbed::qtest::QTest;

const SLOT: u32 = 5;
const PORTS: u16 = 0xc000;
const MEMORY: u64 = 0xfe00_0000;

fn config(test: &mut QTest, offset: u32) -> Result<u16> {
    test.outl(0xcf8, 1 << 31 | SLOT << 11 | offset & 0xfc)?;
    Ok(0xcfc)
}

/// Configuration space after power-up: the words of it that are not 0.
fn header(words: &[(usize, u32)]) -> [u32; 16] {
    let mut header = [0; 16];
    words.iter().for_each(|&(index, value)| header[index] = value);
    header
}

/// A machine with one card whose ports and memory are at known places.
fn with_card(
    card: &str,
    header: [u32; 16],
    sizes: [u32; 2],
    check: impl FnOnce(&mut QTest) -> Result<()>,
) -> Result<()> {
    let device = format!("{card},addr={SLOT},romfile=");
    let mut vm = machine(&["-device", &device])?;
    let test = vm.qtest();
    for (n, expected) in (0..).zip(header) {
        let port = config(test, 4 * n)?;
        expect(&format!("{card}, configuration at {:#x}", 4 * n), test.inl(port)?, expected)?;
    }
    for (n, size) in (0..).zip(sizes) {
        let port = config(test, 0x10 + 4 * n)?;
        test.outl(port, u32::MAX)?;
        expect(&format!("{card}, BAR {n}"), test.inl(port)?, size)?;
        test.outl(port, if size & 1 != 0 { PORTS.into() } else { MEMORY as u32 })?;
    }
    let port = config(test, 4)?;
    test.outl(port, 7)?;
    check(test).with_context(|| card.to_owned())
}

#[test]
fn e1000() -> Result<()> {
    let header =
        header(&[(0, 0x100e_8086), (2, 0x0200_0003), (5, 1), (11, 0x1100_1af4), (15, 0x100)]);
    with_card("e1000", header, [0xfffe_0000, 0xffff_ffc1], |test| {
        let shown = [
            ("control", 0, 0x14_0240),
            ("status", 8, 0x8008_0783),
            ("EEPROM", 0x10, 0x188),
            ("VLAN's type", 0x38, 0x8100),
            ("lights", 0xe00, 0x602),
            ("packet buffer", 0x1000, 0x10_0030),
            ("address", 0x5400, 0x1200_5452),
            ("address, and that it is one", 0x5404, 0x8000_5634),
        ];
        for (what, at, expected) in shown {
            expect(what, test.readl(MEMORY + at)?, expected)?;
        }
        // The transceiver, by the register for that (MDIC): its identity.
        test.writel(MEMORY + 0x20, 2 << 26 | 1 << 21 | 2 << 16)?;
        expect("transceiver", test.readl(MEMORY + 0x20)?, 0x1822_0141)?;
        // Causes are set and masked by registers of their own, and reading acknowledges.
        test.writel(MEMORY + 0xd0, 0x84)?;
        expect("mask", test.readl(MEMORY + 0xd0)?, 0x84)?;
        test.writel(MEMORY + 0xd8, 0x80)?;
        expect("less of it", test.readl(MEMORY + 0xd0)?, 4)?;
        test.writel(MEMORY + 0xc8, 4)?;
        expect("causes", test.readl(MEMORY + 0xc0)?, 4)?;
        expect("acknowledged", test.readl(MEMORY + 0xc0)?, 0)?;
        // Rings: what there is of them.
        for (at, expected) in [(0x2808, 0xf_ff80), (0x2810, 0xffff)] {
            test.writel(MEMORY + at, u32::MAX)?;
            expect(&format!("ring, {at:#x}"), test.readl(MEMORY + at)?, expected)?;
        }
        if on_reference() {
            // It has no ports, lower bits of addresses, and no reset by software.
            return Ok(());
        }
        test.outl(PORTS, 8)?;
        expect("status by ports", test.inl(PORTS + 4)?, 0x8008_0783)?;
        test.writel(MEMORY + 0x2800, u32::MAX)?;
        expect("where the ring is", test.readl(MEMORY + 0x2800)?, 0xffff_fff0)?;
        test.writel(MEMORY, 0x400_0000)?;
        expect("a reset", test.readl(MEMORY + 0x2808)?, 0)
    })
}

#[test]
fn rtl8139() -> Result<()> {
    let header = header(&[
        (0, 0x8139_10ec),
        (2, 0x0200_0020),
        (4, 1),
        (11, 0x1100_1af4),
        (13, 0xdc),
        (15, 0x100),
    ]);
    with_card("rtl8139", header, [0xffff_ff01, 0xffff_ff00], |test| {
        expect("address", test.inl(PORTS)?, 0x1200_5452)?;
        expect("the same by memory", test.readl(MEMORY)?, 0x1200_5452)?;
        expect("command", test.inb(PORTS + 0x37)?, 0x11)?;
        expect("chip", test.inl(PORTS + 0x40)?, 0x7480_0000)?;
        expect("read pointer", test.inw(PORTS + 0x38)?, 0xfff0)?;
        expect("status of the transceiver", test.inw(PORTS + 0x64)?, 0x782d)?;
        // The transmitter's configuration can be written while it is on.
        test.outl(PORTS + 0x40, u32::MAX)?;
        expect("off", test.inl(PORTS + 0x40)?, 0x7480_0000)?;
        test.outb(PORTS + 0x37, 0x0c)?;
        test.outl(PORTS + 0x40, u32::MAX)?;
        expect("on", test.inl(PORTS + 0x40)?, 0x778f_07f0)?;
        test.outb(PORTS + 0x37, 0x10)?;
        expect("reset", test.inb(PORTS + 0x37)?, 1)
    })
}

#[test]
fn ne2k_pci() -> Result<()> {
    let header =
        header(&[(0, 0x8029_10ec), (2, 0x0200_0000), (4, 1), (11, 0x1100_1af4), (15, 0x100)]);
    with_card("ne2k_pci", header, [0xffff_ff01, 0], |test| {
        test.outb(PORTS, 0x21)?;
        expect("a reset is under way", test.inb(PORTS + 7)?, 0x80)?;
        expect("chip", test.inb(PORTS + 0xa)?, 0x50)?;
        expect("chip", test.inb(PORTS + 0xb)?, 0x43)?;
        // The address, each byte twice: 12 bytes from the begin, in words.
        test.outb(PORTS + 0xe, 1)?;
        for (port, value) in [(8, 0), (9, 0), (0xa, 12), (0xb, 0), (0, 0x0a)] {
            test.outb(PORTS + port, value)?;
        }
        for expected in [0x5252, 0x5454, 0, 0x1212, 0x3434, 0x5656] {
            expect("address", test.inw(PORTS + 0x10)?, expected)?;
        }
        expect("done", test.inb(PORTS + 7)?, 0x40)?;
        expect("nothing else is there", test.inw(PORTS + 0x20)?, 0xffff)
    })
}

#[test]
fn pcnet() -> Result<()> {
    let header =
        header(&[(0, 0x2000_1022), (1, 0x0280_0000), (2, 0x0200_0010), (4, 1), (15, 0xff06_0100)]);
    with_card("pcnet", header, [0xffff_ffe1, 0xffff_ffe0], |test| {
        let prom = [0x52, 0x54, 0, 0x12, 0x34, 0x56, 0, 0, 0, 0x11, 0, 0, 1, 2, 0x57, 0x57];
        for (at, expected) in (0..).zip(prom) {
            expect("PROM", test.inb(PORTS + at)?, expected)?;
        }
        expect("not this wide yet", test.inl(PORTS)?, u32::MAX)?;
        for (number, expected) in [(0, 4), (4, 0x115), (58, 0x200), (88, 0x1003), (89, 0x262)] {
            test.outw(PORTS + 0x12, number)?;
            expect(&format!("register {number}"), test.inw(PORTS + 0x10)?, expected)?;
        }
        for (number, expected) in [(4, 0x80c0), (18, 0x9001), (20, 0x200), (22, 0xff06)] {
            test.outw(PORTS + 0x12, number)?;
            expect(&format!("bus register {number}"), test.inw(PORTS + 0x16)?, expected)?;
        }
        test.outl(PORTS + 0x10, 0)?;
        expect("now it is", test.inl(PORTS)?, 0x1200_5452)?;
        test.outl(PORTS + 0x14, 88)?;
        expect("chip", test.inl(PORTS + 0x10)?, 0x1003)?;
        expect("a reset", test.inl(PORTS + 0x18)?, 0)?;
        expect("narrow again", test.inw(PORTS + 0x10)?, 4)
    })
}
