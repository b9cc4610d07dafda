//! `-boot`, `-rtc`, `-global`, watchdogs and the properties of the machine, as a machine without a
//! running processor shows them.

use anyhow::{Result, ensure};
use testbed::qtest::QTest;
use testbed::vm::{Launch, Vm};

fn machine(args: &[&str]) -> Result<Vm> {
    let usual = ["-M", "pc", "-m", "128", "-vga", "none", "-nic", "none"];
    Launch::new(testbed::program()).args(usual).args(args).qtest().qmp().spawn()
}

fn cmos(test: &mut QTest, index: u8) -> Result<u8> {
    test.outb(0x70, index)?;
    test.inb(0x71)
}

/// A fw_cfg item, or the first bytes of it.
fn item(test: &mut QTest, selector: u16, length: usize) -> Result<Vec<u8>> {
    test.outw(0x510, selector)?;
    (0..length).map(|_| test.inb(0x511)).collect()
}

/// A fw_cfg file.
fn file(test: &mut QTest, name: &str) -> Result<Option<Vec<u8>>> {
    const DIRECTORY: u16 = 0x19;
    const ENTRY: usize = 64;
    let count = item(test, DIRECTORY, 4)?;
    let count = u32::from_be_bytes([count[0], count[1], count[2], count[3]]) as usize;
    let directory = item(test, DIRECTORY, 4 + ENTRY * count)?;
    for entry in directory[4..].chunks(ENTRY) {
        let (number, text) = entry.split_at(8);
        if text.split(|byte| *byte == 0).next() == Some(name.as_bytes()) {
            let size = u32::from_be_bytes([number[0], number[1], number[2], number[3]]);
            let selector = u16::from_be_bytes([number[4], number[5]]);
            return Ok(Some(item(test, selector, size as usize)?));
        }
    }
    Ok(None)
}

#[test]
fn boot_order_is_for_once() -> Result<()> {
    let mut vm = machine(&["-boot", "once=d,order=c"])?;
    ensure!(cmos(vm.qtest(), 0x3d)? == 0x03, "the CD-ROM drive first");
    vm.qmp().execute("system_reset")?;
    vm.qmp().wait_event("RESET")?;
    ensure!(cmos(vm.qtest(), 0x3d)? == 0x02, "the disk from then on");
    Ok(())
}

#[test]
fn firmware_is_told_what_boot_says() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let picture = scratch.path().join("picture.jpg");
    let mut content = vec![0xff, 0xd8];
    content.resize(40, 7);
    std::fs::write(&picture, &content)?;
    let splash = format!("splash={}", picture.display());
    let boot = format!("menu=on,splash-time=500,reboot-timeout=5000,{splash}");
    let mut vm = machine(&["-boot", &boot])?;
    let test = vm.qtest();
    ensure!(item(test, 0x0e, 2)? == [1, 0]);
    ensure!(file(test, "etc/boot-menu-wait")? == Some(500u16.to_le_bytes().to_vec()));
    ensure!(file(test, "etc/boot-fail-wait")? == Some(5000u32.to_le_bytes().to_vec()));
    ensure!(file(test, "bootsplash.jpg")? == Some(content));
    let mut vm = machine(&[])?;
    ensure!(file(vm.qtest(), "etc/boot-fail-wait")? == Some(vec![0xff; 4]));
    Ok(())
}

#[test]
fn chips_of_the_board_have_properties() -> Result<()> {
    let args = ["PIIX4_PM.disable_s3=1", "PIIX4_PM.s4_val=3", "fw_cfg_io.dma_enabled=off"];
    let args: Vec<&str> = args.iter().flat_map(|global| ["-global", *global]).collect();
    let mut vm = machine(&args)?;
    let test = vm.qtest();
    ensure!(file(test, "etc/system-states")? == Some(vec![0x80, 0, 0, 0x01, 0x83, 0x80]));
    ensure!(item(test, 1, 4)? == [1, 0, 0, 0]);
    let mut vm = machine(&["-global", "mc146818rtc.iobase=0x270"])?;
    vm.qtest().outb(0x270, 0x0d)?;
    ensure!(vm.qtest().inb(0x271)? == 0x80);
    Ok(())
}

/// Messages of QEMU 10.0.2.
#[test]
fn globals_are_judged() -> Result<()> {
    for (global, message) in [
        (
            "PIIX4_PM.disable_s3=300",
            "can't apply global PIIX4_PM.disable_s3=300: Parameter 'disable_s3' expects uint8_t",
        ),
        ("i440FX.foo=1", "can't apply global i440FX.foo=1: Property 'i440FX.foo' not found"),
        (
            "mc146818rtc.lost_tick_policy=x",
            "can't apply global mc146818rtc.lost_tick_policy=x: Parameter 'lost_tick_policy' does \
             not accept value 'x'",
        ),
    ] {
        let done = Launch::headless(testbed::program()).args(["-global", global]).run()?;
        ensure!(done.stderr == format!("qemu-system-x86_64: {message}\n"), "{}", done.stderr);
        ensure!(done.status.code() == Some(1));
    }
    let mut vm = machine(&["-global", "nonsense.x=1"])?;
    vm.qmp().execute("quit")?;
    let said = vm.finish()?.stderr;
    ensure!(said.contains("warning: global nonsense.x has invalid class name"), "{said}");
    Ok(())
}

#[test]
fn the_wall_clock_may_be_local() -> Result<()> {
    let hours = |base: &str| -> Result<u8> {
        let mut vm = machine(&["-rtc", base])?;
        let value = cmos(vm.qtest(), 4)?;
        Ok((value >> 4) * 10 + (value & 0xf))
    };
    let offset = std::process::Command::new("date").arg("+%z").output()?;
    let offset: i32 = String::from_utf8(offset.stdout)?.trim().parse()?;
    if offset % 100 != 0 {
        testbed::skip("the time zone is not whole hours off UTC");
        return Ok(());
    }
    // The hour may pass between two looks.
    let near = |a: i32, b: i32| (a - b).rem_euclid(24) <= 1;
    let (utc, local) = (hours("base=utc")?, hours("base=localtime")?);
    ensure!(near(i32::from(local), i32::from(utc) + offset / 100), "{local} {utc}");
    Ok(())
}

/// Gives no sign of life for as long as the IB700 waits.
fn hang(vm: &mut Vm) -> Result<()> {
    const SECONDS_2: u8 = 0x0e;
    vm.qtest().outb(0x443, SECONDS_2)?;
    vm.qtest().clock_step(2_000_000_000)?;
    let event = vm.qmp().wait_event("WATCHDOG")?;
    ensure!(event["data"]["action"].is_string(), "{event}");
    Ok(())
}

/// A machine whose clock can be stepped; QEMU as distributions build it has none.
fn watched(args: &[&str]) -> Result<Option<Vm>> {
    if testbed::is_reference(&testbed::program()) {
        testbed::skip("needs -accel qtest");
        return Ok(None);
    }
    machine(&[&["-device", "ib700"][..], args].concat()).map(Some)
}

#[test]
fn a_watchdog_does_what_was_chosen() -> Result<()> {
    let Some(mut vm) = watched(&["-action", "watchdog=reset"])? else { return Ok(()) };
    hang(&mut vm)?;
    vm.qmp().wait_event("RESET")?;
    let Some(mut vm) = watched(&["-watchdog-action", "pause"])? else { return Ok(()) };
    hang(&mut vm)?;
    vm.qmp().wait_event("STOP")?;
    let status = vm.qmp().execute("query-status")?;
    ensure!(status["status"] == "watchdog", "{status}");
    let Some(mut vm) = watched(&["-watchdog-action", "poweroff"])? else { return Ok(()) };
    vm.qtest().outb(0x443, 0x0e)?;
    // It may be gone before it answers.
    let _ = vm.qtest().clock_step(2_000_000_000);
    ensure!(vm.finish()?.status.success());
    let Some(mut vm) = watched(&["-watchdog-action", "none"])? else { return Ok(()) };
    hang(&mut vm)?;
    let status = vm.qmp().execute("query-status")?;
    ensure!(status["status"] == "running", "{status}");
    Ok(())
}

#[test]
fn the_6300esb_is_on_the_bus() -> Result<()> {
    let mut vm = machine(&["-device", "i6300esb,addr=4"])?;
    let test = vm.qtest();
    let mut read = |offset: u32| -> Result<u32> {
        test.outl(0xcf8, 0x8000_2000 | offset)?;
        test.inl(0xcfc)
    };
    ensure!(read(0)? == 0x25ab_8086);
    ensure!(read(8)? == 0x0880_0000);
    ensure!(read(0x2c)? == 0x1100_1af4);
    Ok(())
}

#[test]
fn without_graphics_firmware_is_told_so() -> Result<()> {
    const NO_GRAPHIC: u16 = 4;
    for (machine_option, told) in [("pc", [0, 0]), ("pc,graphics=off", [1, 0])] {
        let mut vm = machine(&["-M", machine_option])?;
        ensure!(item(vm.qtest(), NO_GRAPHIC, 2)? == told, "{machine_option}");
    }
    Ok(())
}
