//! The four 16550A serial ports.

use crate::{machine, machine_with_clock};
use anyhow::{Result, ensure};
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::time::Duration;
use testbed::pc::expect;
use testbed::qtest::QTest;

/// Ports and interrupts of COM1 to COM4.
const PORTS: [(u16, u32); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];
const COM1: u16 = 0x3f8;
const COM1_IRQ: u32 = 4;

const DATA: u16 = COM1;
const IER: u16 = COM1 + 1;
const IIR: u16 = COM1 + 2;
const FCR: u16 = COM1 + 2;
const LCR: u16 = COM1 + 3;
const MCR: u16 = COM1 + 4;
const LSR: u16 = COM1 + 5;
const MSR: u16 = COM1 + 6;
const SCRATCH: u16 = COM1 + 7;

const DIVISOR_LATCH: u8 = 0x80;
const LOOPBACK: u8 = 0x10;
const OUT2: u8 = 8;

const RECEIVED: u8 = 1;
const TRANSMITTER: u8 = 2;
const LINE: u8 = 4;
const MODEM: u8 = 8;

const DATA_READY: u8 = 1;
const OVERRUN: u8 = 2;
const EMPTY: u8 = 0x60;

const NULL: [&str; 2] = ["-serial", "null"];

fn loop_back(test: &mut QTest) -> Result<()> {
    test.outb(MCR, LOOPBACK | OUT2)
}

#[test]
fn registers_at_reset() -> Result<()> {
    let serial = NULL.repeat(4);
    let mut vm = machine(&serial)?;
    let test = vm.qtest();
    for (base, _) in PORTS {
        let seen = test.inbs(base + 1..base + 8)?;
        ensure!(seen == [0, 1, 0, OUT2, EMPTY, 0xb0, 0], "{base:x}: {seen:02x?}");
    }
    Ok(())
}

#[test]
fn registers_keep_their_bits() -> Result<()> {
    let mut vm = machine(&NULL)?;
    let test = vm.qtest();
    test.check_masks(&[
        (IER, 0x0f, 0),
        (MCR, 0x1f, 0),
        (SCRATCH, 0xff, 0),
        (LCR, 0xff, 0),
        (LSR, EMPTY, EMPTY),
    ])?;
    test.outb(LCR, DIVISOR_LATCH)?;
    test.check_masks(&[(DATA, 0xff, 0), (IER, 0xff, 0)])?;
    test.outbs(DATA, &[0x34])?;
    test.outbs(IER, &[0x12])?;
    test.outb(LCR, 3)?;
    expect("the divisor is behind its latch", test.inb(IER)?, 0)?;
    test.outb(LCR, DIVISOR_LATCH)?;
    let divisor = test.inbs([DATA, IER])?;
    ensure!(divisor == [0x34, 0x12], "{divisor:02x?}");
    Ok(())
}

#[test]
fn each_port_has_its_interrupt() -> Result<()> {
    let serial = NULL.repeat(4);
    let mut vm = machine(&serial)?;
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    for (base, irq) in PORTS {
        test.outb(base + 1, TRANSMITTER)?;
        ensure!(test.edges()? == [(irq, true)]);
        expect("identification", test.inb(base + 2)?, 2)?;
        // Reading it acknowledges.
        ensure!(test.edges()? == [(irq, false)]);
        expect("no more", test.inb(base + 2)?, 1)?;
        test.outb(base + 1, 0)?;
    }
    Ok(())
}

#[test]
fn modem_outputs_come_back_in_loopback() -> Result<()> {
    let mut vm = machine(&NULL)?;
    let test = vm.qtest();
    expect("nobody is there, but ready", test.inb(MSR)?, 0xb0)?;
    for (outputs, inputs) in [(0, 0), (1, 0x20), (2, 0x10), (4, 0x40), (8, 0x80), (15, 0xf0)] {
        test.outb(MCR, LOOPBACK | outputs)?;
        expect("inputs", test.inb(MSR)? & 0xf0, inputs)?;
    }
    Ok(())
}

#[test]
fn bytes_come_back_in_loopback() -> Result<()> {
    let mut vm = machine(&NULL)?;
    let test = vm.qtest();
    loop_back(test)?;
    for byte in [0x00, 0x55, 0xff] {
        test.outb(DATA, byte)?;
        expect("status", test.inb(LSR)?, EMPTY | DATA_READY)?;
        expect("byte", test.inb(DATA)?, byte)?;
        expect("status", test.inb(LSR)?, EMPTY)?;
        expect("the buffer keeps the byte", test.inb(DATA)?, byte)?;
    }
    Ok(())
}

#[test]
fn overruns_are_told_once() -> Result<()> {
    let mut vm = machine(&NULL)?;
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    loop_back(test)?;
    test.outb(IER, LINE)?;
    test.outbs(DATA, &[1, 2])?;
    ensure!(test.edges()? == [(COM1_IRQ, true)]);
    expect("identification", test.inb(IIR)?, 6)?;
    expect("status", test.inb(LSR)?, EMPTY | DATA_READY | OVERRUN)?;
    ensure!(test.edges()? == [(COM1_IRQ, false)]);
    expect("status", test.inb(LSR)?, EMPTY | DATA_READY)?;
    expect("the later byte has won", test.inb(DATA)?, 2)
}

#[test]
fn fifos_hold_sixteen_bytes() -> Result<()> {
    let mut vm = machine(&NULL)?;
    let test = vm.qtest();
    loop_back(test)?;
    test.outb(FCR, 1)?;
    expect("FIFOs show", test.inb(IIR)?, 0xc1)?;
    let bytes: Vec<u8> = (1..=17).collect();
    test.outbs(DATA, &bytes)?;
    expect("one too many", test.inb(LSR)?, EMPTY | DATA_READY | OVERRUN)?;
    for wanted in 1..=16 {
        expect("byte", test.inb(DATA)?, wanted)?;
    }
    expect("drained", test.inb(LSR)?, EMPTY)?;
    expect("an empty FIFO", test.inb(DATA)?, 0)?;
    test.outb(DATA, 9)?;
    test.outb(FCR, 3)?;
    expect("emptied", test.inb(LSR)?, EMPTY)?;
    test.outb(DATA, 9)?;
    test.outb(FCR, 0)?;
    expect("emptied by the switch", test.inb(LSR)?, EMPTY)?;
    expect("no FIFOs", test.inb(IIR)?, 1)
}

#[test]
fn the_receiver_interrupts_at_its_trigger_level() -> Result<()> {
    let mut vm = machine(&NULL)?;
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    loop_back(test)?;
    for (select, level) in [(0x01, 1), (0x41, 4), (0x81, 8), (0xc1, 14)] {
        test.outb(FCR, select | 2)?;
        test.outb(IER, RECEIVED)?;
        test.edges()?;
        test.outbs(DATA, &vec![0x41; level - 1])?;
        ensure!(test.edges()?.is_empty(), "level {level}: too early");
        test.outb(DATA, 0x42)?;
        ensure!(test.edges()? == [(COM1_IRQ, true)], "level {level}");
        expect("identification", test.inb(IIR)?, 0xc4)?;
        test.inb(DATA)?;
        ensure!(test.edges()? == [(COM1_IRQ, false)], "level {level}: one less");
        test.outb(FCR, 0)?;
    }
    Ok(())
}

#[test]
fn bytes_below_the_trigger_level_time_out() -> Result<()> {
    let Some(mut vm) = machine_with_clock(&NULL)? else { return Ok(()) };
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    // 9600 bits a second, ten bits a character: four take 4.17 ms.
    test.outb(LCR, DIVISOR_LATCH | 3)?;
    test.outbs(DATA, &[12])?;
    test.outb(IER, 0)?;
    test.outb(LCR, 3)?;
    loop_back(test)?;
    test.outb(FCR, 0x81)?;
    test.outb(IER, RECEIVED)?;
    test.outb(DATA, 0x41)?;
    test.clock_step(4_000_000)?;
    ensure!(test.edges()?.is_empty());
    test.clock_step(200_000)?;
    ensure!(test.edges()? == [(COM1_IRQ, true)]);
    expect("identification", test.inb(IIR)?, 0xcc)?;
    test.inb(DATA)?;
    ensure!(test.edges()? == [(COM1_IRQ, false)]);
    Ok(())
}

#[test]
fn higher_interrupts_hide_lower_ones() -> Result<()> {
    let mut vm = machine(&NULL)?;
    let test = vm.qtest();
    loop_back(test)?;
    test.outb(IER, RECEIVED | TRANSMITTER | LINE)?;
    test.outbs(DATA, &[1, 2])?;
    expect("line status", test.inb(IIR)?, 6)?;
    test.inb(LSR)?;
    expect("received data", test.inb(IIR)?, 4)?;
    test.inb(DATA)?;
    expect("transmitter", test.inb(IIR)?, 2)?;
    expect("nothing", test.inb(IIR)?, 1)
}

/// A serial port on a socket of the test's.
fn on_socket() -> Result<(tempfile::TempDir, UnixListener, [String; 2])> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("serial");
    let listener = UnixListener::bind(&path)?;
    let arguments = ["-serial".to_owned(), format!("unix:{}", path.display())];
    Ok((directory, listener, arguments))
}

#[test]
fn bytes_go_out_and_come_in() -> Result<()> {
    let (_directory, listener, arguments) = on_socket()?;
    let mut vm = machine(&arguments.each_ref().map(String::as_str))?;
    let (mut peer, _) = listener.accept()?;
    peer.set_read_timeout(Some(testbed::DEADLINE))?;
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    test.outb(IER, RECEIVED)?;
    test.outbs(DATA, b"out")?;
    let mut seen = [0; 3];
    peer.read_exact(&mut seen)?;
    ensure!(&seen == b"out", "{seen:?}");
    // Without FIFOs one byte is taken at a time, and none is lost.
    peer.write_all(b"coming in")?;
    let deadline = std::time::Instant::now() + testbed::DEADLINE;
    let mut received = Vec::new();
    while received.len() < 9 && std::time::Instant::now() < deadline {
        if test.inb(LSR)? & DATA_READY != 0 {
            received.push(test.inb(DATA)?);
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    ensure!(received == b"coming in", "{received:?}");
    let edges = test.edges()?;
    let raised = edges.iter().filter(|&&edge| edge == (COM1_IRQ, true)).count();
    ensure!(raised == 9, "an interrupt for each byte: {edges:?}");
    Ok(())
}

#[test]
fn modem_status_interrupts_are_enabled_apart() -> Result<()> {
    let mut vm = machine(&NULL)?;
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    test.outb(IER, MODEM)?;
    ensure!(test.edges()?.is_empty(), "nothing has changed");
    expect("no interrupt", test.inb(IIR)?, 1)?;
    expect("no delta", test.inb(MSR)? & 0xf, 0)
}
