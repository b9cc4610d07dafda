//! The qtest protocol itself.

use crate::{machine, machine_with_clock};
use anyhow::{Result, ensure};
use testbed::vm::Launch;

/// Free RAM on the board.
const RAM: u64 = 0x10_0000;

#[test]
fn memory_is_little_endian_at_every_width() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    ensure!(test.endianness()? == "little");
    test.writeq(RAM, 0x1122_3344_5566_7788)?;
    ensure!(test.readb(RAM)? == 0x88);
    ensure!(test.readw(RAM)? == 0x7788);
    ensure!(test.readl(RAM)? == 0x5566_7788);
    ensure!(test.readq(RAM)? == 0x1122_3344_5566_7788);
    test.writeb(RAM + 7, 0xaa)?;
    test.writew(RAM + 4, 0xbbcc)?;
    test.writel(RAM, 0)?;
    ensure!(test.readq(RAM)? == 0xaa22_bbcc_0000_0000);
    Ok(())
}

#[test]
fn runs_of_memory_go_both_ways_in_both_encodings() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    let bytes: Vec<u8> = (0..=255).collect();
    test.write(RAM, &bytes)?;
    ensure!(test.b64read(RAM, 256)? == bytes);
    test.b64write(RAM + 256, &bytes)?;
    ensure!(test.read(RAM + 256, 256)? == bytes);
    test.memset(RAM, 256, 0x5a)?;
    ensure!(test.read(RAM, 256)? == [0x5a; 256]);
    Ok(())
}

#[test]
fn the_clock_moves_only_when_told() -> Result<()> {
    let Some(mut vm) = machine_with_clock(&[])? else { return Ok(()) };
    let test = vm.qtest();
    let begun = test.clock_step(0)?;
    ensure!(test.clock_step(1000)? == begun + 1000);
    ensure!(test.clock_step(0)? == begun + 1000);
    ensure!(test.clock_set(5_000_000_000)? == 5_000_000_000);
    Ok(())
}

#[test]
fn nonsense_is_refused_and_the_connection_survives() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    let error = test.command("no-such-word").unwrap_err().to_string();
    ensure!(error.contains("FAIL Unknown command"), "{error}");
    ensure!(test.endianness()? == "little");
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
    // Counter 0 in mode 3 has a high output at first, in mode 0 a low one until it has counted down.
    for control in [0x36, 0x30] {
        test.outb(0x43, control)?;
        test.outbs(0x40, &[0x00, 0x10])?;
    }
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
