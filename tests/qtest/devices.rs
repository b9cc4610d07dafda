//! The board's own devices, as far as guests depend on them everywhere.

use crate::{machine, machine_with_clock};
use anyhow::{Result, ensure};
use testbed::qtest::QTest;
use testbed::vm::Launch;

fn config_read(test: &mut QTest, device: u32, function: u32, offset: u32) -> Result<u32> {
    test.outl(0xcf8, 0x8000_0000 | device << 11 | function << 8 | offset)?;
    test.inl(0xcfc)
}

#[test]
fn the_i440fx_and_piix3_answer_configuration_reads() -> Result<()> {
    let mut vm = machine()?;
    let test = vm.qtest();
    ensure!(config_read(test, 0, 0, 0)? == 0x1237_8086, "440FX");
    ensure!(config_read(test, 1, 0, 0)? == 0x7000_8086, "PIIX3");
    ensure!(config_read(test, 1, 3, 0)? == 0x7113_8086, "PIIX4 PM");
    ensure!(config_read(test, 31, 0, 0)? == 0xffff_ffff, "an empty slot");
    Ok(())
}

#[test]
fn cmos_tells_the_size_of_memory() -> Result<()> {
    let mut vm = machine()?;
    let test = vm.qtest();
    let mut cmos = |index| -> Result<u16> {
        test.outb(0x70, index)?;
        Ok(test.inb(0x71)?.into())
    };
    // Memory between 16 MiB and 4 GiB, in units of 64 KiB.
    let above = cmos(0x34)? | cmos(0x35)? << 8;
    ensure!(above == (128 - 16) * 16, "{above:#x}");
    Ok(())
}

#[test]
fn the_timer_raises_irq_0_when_the_clock_says_so() -> Result<()> {
    let Some(mut vm) = machine_with_clock()? else { return Ok(()) };
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    // Counter 0, low then high byte, mode 2: a pulse every 1193 ticks, about 1 ms.
    test.outb(0x43, 0x34)?;
    test.outb(0x40, (1193 & 0xff) as u8)?;
    test.outb(0x40, (1193 >> 8) as u8)?;
    test.take_edges();
    test.clock_step(3_000_000)?;
    test.endianness()?;
    let edges = test.take_edges();
    ensure!(edges.iter().any(|&(line, level)| level && line <= 2), "{edges:?}");
    Ok(())
}

#[test]
fn a_uart_in_loopback_returns_what_is_sent() -> Result<()> {
    let Some(mut vm) = machine_with_clock()? else { return Ok(()) };
    let test = vm.qtest();
    let uart = 0x3f8;
    test.outb(uart + 4, 0x10)?; // loopback
    for byte in [0x00, 0x55, 0xff] {
        test.outb(uart, byte)?;
        // A character takes at most 11 bits at 9600 baud.
        test.clock_step(2_000_000)?;
        ensure!(test.inb(uart + 5)? & 1 == 1, "no data ready");
        ensure!(test.inb(uart)? == byte);
    }
    Ok(())
}

#[test]
fn interrupts_are_watched_where_devices_send_and_receive_them() -> Result<()> {
    let args = ["-M", "pc", "-m", "16", "-nodefaults"];
    let mut vm = Launch::new(testbed::program()).args(args).qtest().spawn()?;
    let test = vm.qtest();
    // The interval timer, whose output is the only one.
    test.irq_intercept_out("/machine/unattached/device[7]")?;
    let error = test.irq_intercept_in("ioapic").unwrap_err().to_string();
    ensure!(error.contains("FAIL IRQ intercept already enabled"), "{error}");
    // Counter 0 in mode 0 has a low output until it has counted down, in mode 2 a high one.
    test.outb(0x43, 0x34)?;
    test.outb(0x43, 0x30)?;
    test.endianness()?;
    let edges = test.take_edges();
    ensure!(edges.contains(&(0, true)) && edges.last() == Some(&(0, false)), "{edges:?}");
    Ok(())
}

#[test]
fn inputs_are_driven_from_outside() -> Result<()> {
    let args = ["-M", "pc", "-m", "16", "-nodefaults"];
    let mut vm = Launch::new(testbed::program()).args(args).qtest().spawn()?;
    let test = vm.qtest();
    let pic = "/machine/unattached/device[4]";
    test.irq_intercept_in(pic)?;
    test.set_irq_in(pic, "unnamed-gpio-in", 5, 1)?;
    test.endianness()?;
    ensure!(test.take_edges() == [(5, true)]);
    // OCW3: what is requested.
    test.outb(0x20, 0x0a)?;
    ensure!(test.inb(0x20)? == 1 << 5);
    let error = test.irq_intercept_in("/machine/nope").unwrap_err().to_string();
    ensure!(error.contains("FAIL Unknown device"), "{error}");
    Ok(())
}
