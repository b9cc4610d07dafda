//! The I/O APIC.

use crate::machine;
use anyhow::{Result, ensure};
use testbed::pc::expect;
use testbed::qtest::QTest;

const SELECT: u64 = 0xfec0_0000;
const WINDOW: u64 = 0xfec0_0010;
const EOI: u64 = 0xfec0_0040;

const ID: u8 = 0;
const VERSION: u8 = 1;
const ARBITRATION: u8 = 2;
const ENTRIES: u8 = 0x10;
const PINS: u8 = 24;

const REMOTE_IRR: u32 = 1 << 14;
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;

fn read(test: &mut QTest, register: u8) -> Result<u32> {
    test.writel(SELECT, register.into())?;
    test.readl(WINDOW)
}

fn write(test: &mut QTest, register: u8, value: u32) -> Result<()> {
    test.writel(SELECT, register.into())?;
    test.writel(WINDOW, value)
}

fn entry(pin: u8) -> u8 {
    ENTRIES + 2 * pin
}

fn set_input(test: &mut QTest, pin: u8, level: u8) -> Result<()> {
    test.set_irq_in("ioapic", "unnamed-gpio-in", pin.into(), level)
}

#[test]
fn it_says_what_it_is() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    expect("version 20h, 24 entries", read(test, VERSION)?, 0x0017_0020)?;
    expect("identity at reset", read(test, ID)?, 0)?;
    write(test, ID, !0)?;
    expect("identity", read(test, ID)?, 0x0f00_0000)?;
    expect("arbitration", read(test, ARBITRATION)?, 0x0f00_0000)?;
    write(test, VERSION, 0)?;
    expect("version is not written", read(test, VERSION)?, 0x0017_0020)?;
    write(test, 0x55, !0)?;
    expect("a register that is not there", read(test, 0x55)?, 0)?;
    test.writel(SELECT, 0x1_23)?;
    expect("the selector has eight bits", test.readl(SELECT)?, 0x23)
}

#[test]
fn entries_keep_all_but_the_status_bits() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    for pin in 0..PINS {
        expect("masked at reset", read(test, entry(pin))?, MASKED)?;
        expect("no destination", read(test, entry(pin) + 1)?, 0)?;
        write(test, entry(pin), !0)?;
        expect("ones", read(test, entry(pin))?, !(1 << 12 | REMOTE_IRR))?;
        write(test, entry(pin) + 1, !0)?;
        expect("destination", read(test, entry(pin) + 1)?, !0)?;
        write(test, entry(pin), MASKED)?;
        expect("zeros", read(test, entry(pin))?, MASKED)?;
    }
    Ok(())
}

#[test]
fn a_level_is_in_service_until_its_end() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    write(test, entry(10), LEVEL | 0x52)?;
    set_input(test, 10, 1)?;
    expect("in service", read(test, entry(10))?, LEVEL | REMOTE_IRR | 0x52)?;
    write(test, entry(10), LEVEL | 0x52)?;
    expect("not by writing", read(test, entry(10))? & REMOTE_IRR, REMOTE_IRR)?;
    test.writel(EOI, 0x51)?;
    expect("another vector's end", read(test, entry(10))? & REMOTE_IRR, REMOTE_IRR)?;
    test.writel(EOI, 0x52)?;
    expect("still high: again in service", read(test, entry(10))? & REMOTE_IRR, REMOTE_IRR)?;
    set_input(test, 10, 0)?;
    expect("until the end", read(test, entry(10))? & REMOTE_IRR, REMOTE_IRR)?;
    test.writel(EOI, 0x52)?;
    expect("over", read(test, entry(10))? & REMOTE_IRR, 0)
}

#[test]
fn a_masked_level_waits() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    write(test, entry(11), MASKED | LEVEL | 0x53)?;
    set_input(test, 11, 1)?;
    expect("masked", read(test, entry(11))? & REMOTE_IRR, 0)?;
    write(test, entry(11), LEVEL | 0x53)?;
    expect("unmasked", read(test, entry(11))? & REMOTE_IRR, REMOTE_IRR)
}

#[test]
fn an_edge_is_never_in_service() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    write(test, entry(4), 0x34)?;
    set_input(test, 4, 1)?;
    expect("sent and gone", read(test, entry(4))?, 0x34)?;
    // What was in service as a level is not any more as an edge.
    write(test, entry(5), LEVEL | 0x35)?;
    set_input(test, 5, 1)?;
    write(test, entry(5), 0x35)?;
    expect("as an edge", read(test, entry(5))?, 0x35)
}

#[test]
fn isa_interrupts_arrive_at_their_pins() -> Result<()> {
    let mut vm = machine(&["-serial", "null", "-serial", "null"])?;
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    for (port, irq) in [(0x3f9, 4), (0x2f9, 3)] {
        test.outb(port, 2)?;
        ensure!(test.edges()? == [(irq, true)]);
        test.outb(port, 0)?;
        ensure!(test.edges()? == [(irq, false)]);
    }
    // The timer is on pin 2.
    test.outb(0x43, 0x30)?;
    let edges = test.edges()?;
    ensure!(edges.iter().all(|&(pin, _)| pin == 2 || pin == 0), "{edges:?}");
    Ok(())
}
