//! The PIIX3's IDE function, without drives and with disks.

use std::io::Write as _;
use std::time::Instant;

use crate::machine;
use anyhow::{Result, ensure};
use tempfile::NamedTempFile;
use testbed::DEADLINE;
use testbed::pc::{devfn, expect};
use testbed::qtest::QTest;
use testbed::vm::Vm;

const FUNCTION: u8 = devfn(1, 1);
const BUS_MASTER: u16 = 0xc000;
/// Command block, control register and interrupt of both channels.
const CHANNELS: [(u16, u16, u32); 2] = [(0x1f0, 0x3f6, 14), (0x170, 0x376, 15)];

#[test]
fn empty_channels_read_as_zero() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    for (command, control, _) in CHANNELS {
        for drive in [0xa0, 0xb0] {
            test.outb(command + 6, drive)?;
            let seen = test.inbs((command..command + 8).chain([control]))?;
            ensure!(seen == [0; 9], "{seen:02x?}");
        }
    }
    Ok(())
}

#[test]
fn the_first_place_answers_commands_by_an_interrupt() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    for (command, control, irq) in CHANNELS {
        test.outb(command + 7, 0xec)?;
        ensure!(test.edges()? == [(irq, true)]);
        test.inb(control)?;
        ensure!(test.edges()?.is_empty(), "the alternate status does not acknowledge");
        test.inb(command + 7)?;
        ensure!(test.edges()? == [(irq, false)]);
        test.outb(control, 2)?;
        test.outb(command + 7, 0xec)?;
        ensure!(test.edges()?.is_empty(), "interrupts are off");
    }
    Ok(())
}

#[test]
fn the_bus_master_has_its_registers() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    test.pci_writel(FUNCTION, 0x20, BUS_MASTER.into())?;
    test.pci_writew(FUNCTION, 4, 5)?;
    for channel in [BUS_MASTER, BUS_MASTER + 8] {
        let seen = test.inbs([channel, channel + 2])?;
        ensure!(seen == [0, 0], "{seen:02x?}");
        test.outl(channel + 4, !0)?;
        expect("descriptors", test.inl(channel + 4)?, !3)?;
        test.outb(channel + 2, 0x66)?;
        expect("status", test.inb(channel + 2)?, 0x60)?;
        test.outb(channel, 0xff)?;
        expect("command", test.inb(channel)?, 0x09)?;
        expect("active", test.inb(channel + 2)?, 0x61)?;
        test.outb(channel, 0)?;
        expect("stopped", test.inb(channel + 2)?, 0x60)?;
    }
    Ok(())
}

const COMMAND: u16 = CHANNELS[0].0;
const ALTERNATE: u16 = CHANNELS[0].1;
const IRQ: u32 = CHANNELS[0].2;
const TABLE: u64 = 0x1000;
const DATA: u64 = 0x10_0000;

const BUSY: u8 = 0x80;
const HAS_DATA: u8 = 0x58;
const DONE: u8 = 0x50;
const FAILED: u8 = 0x41;

/// An image of 10 MiB whose first sectors are full of their own number.
fn image() -> Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    for sector in 0..64u8 {
        file.write_all(&[sector; 512])?;
    }
    file.as_file().set_len(10 << 20)?;
    Ok(file)
}

/// The board with a disk, and more properties of that.
fn with_disk(image: &NamedTempFile, device: &str) -> Result<Vm> {
    let drive = format!("if=none,id=d,format=raw,file={}", image.path().display());
    machine(&["-drive", &drive, "-device", &format!("{device},drive=d,bus=ide.0")])
}

/// Waits until the drive is no longer busy.
fn settle(test: &mut QTest) -> Result<u8> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let status = test.inb(ALTERNATE)?;
        if status & BUSY == 0 {
            return Ok(status);
        }
        ensure!(Instant::now() < deadline, "still busy");
    }
}

/// Writes a command with its parameters: features, count, address with 28 bits.
fn begin(test: &mut QTest, code: u8, [features, count]: [u8; 2], lba: u32) -> Result<()> {
    let [low, mid, high, head] = lba.to_le_bytes();
    test.outb(COMMAND + 6, 0xe0 | head)?;
    for (register, value) in (1..).zip([features, count, low, mid, high]) {
        test.outb(COMMAND + register, 0)?;
        test.outb(COMMAND + register, value)?;
    }
    test.outb(COMMAND + 7, code)
}

fn run(test: &mut QTest, code: u8, parameters: [u8; 2], lba: u32) -> Result<u8> {
    begin(test, code, parameters, lba)?;
    settle(test)
}

/// Takes a sector from the data register.
fn take(test: &mut QTest) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    for _ in 0..128 {
        data.extend(test.inl(COMMAND)?.to_le_bytes());
    }
    Ok(data)
}

fn registers(test: &mut QTest) -> Result<Vec<u8>> {
    test.inbs((COMMAND + 1..COMMAND + 7).chain([ALTERNATE]))
}

/// Words of identify data that are not zero.
fn words(data: &[u8]) -> Vec<(usize, u16)> {
    let words = data.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    words.enumerate().filter(|(_, word)| *word != 0).collect()
}

fn text(data: &[u8], first: usize, count: usize) -> String {
    let pairs = data[2 * first..2 * (first + count)].chunks(2);
    pairs.flat_map(|pair| [pair[1] as char, pair[0] as char]).collect()
}

#[test]
fn a_disk_says_what_it_is() -> Result<()> {
    let image = image()?;
    let mut vm =
        with_disk(&image, "ide-hd,serial=S123,model=MODEL,ver=1.0,wwn=0x5000c50015ea71aa")?;
    let test = vm.qtest();
    ensure!(registers(test)? == [0, 1, 1, 0, 0, 0xa0, DONE]);
    ensure!(run(test, 0xec, [0, 0], 0)? == HAS_DATA);
    let data = take(test)?;
    ensure!(test.inb(ALTERNATE)? == DONE);
    let words = words(&data);
    for wanted in [
        (0, 0x0040),
        (1, 20),
        (3, 16),
        (6, 63),
        (47, 0x8010),
        (49, 0x0b00),
        (59, 0x0110),
        (60, 0x5000),
        (63, 0x0007),
        (83, 0x7400),
        (84, 0x4100),
        (85, 0x4021),
        (88, 0x203f),
        (93, 0x6001),
        (100, 0x5000),
        (106, 0x6000),
        (108, 0x5000),
        (111, 0x71aa),
        (169, 1),
    ] {
        ensure!(words.contains(&wanted), "word {} is not {:#06x}", wanted.0, wanted.1);
    }
    ensure!(text(&data, 10, 10) == "S123                ");
    ensure!(text(&data, 23, 4) == "1.0     ");
    ensure!(text(&data, 27, 20).trim_end() == "MODEL");
    Ok(())
}

#[test]
fn sectors_are_read_and_written_by_the_processor() -> Result<()> {
    let image = image()?;
    let mut vm = with_disk(&image, "ide-hd")?;
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    ensure!(run(test, 0x20, [0, 2], 7)? == HAS_DATA);
    ensure!(test.edges()? == [(IRQ, true)]);
    ensure!(registers(test)? == [0, 1, 8, 0, 0, 0xe0, HAS_DATA]);
    test.inb(COMMAND + 7)?;
    ensure!(take(test)? == [7; 512]);
    ensure!(settle(test)? == HAS_DATA);
    ensure!(take(test)? == [8; 512]);
    ensure!(settle(test)? == DONE);
    // With a block of four sectors.
    ensure!(run(test, 0xc6, [0, 4], 0)? == DONE);
    begin(test, 0xc5, [0, 5], 0x100)?;
    for sector in 0..5u32 {
        ensure!(settle(test)? == HAS_DATA, "sector {sector}");
        (0..128).try_for_each(|_| test.outl(COMMAND, 0x0101_0101 * (sector + 1)))?;
    }
    ensure!(settle(test)? == DONE);
    ensure!(registers(test)? == [0, 0, 5, 1, 0, 0xe0, DONE]);
    ensure!(run(test, 0xe7, [0, 0], 0)? == DONE);
    let file = std::fs::read(image.path())?;
    ensure!(file[0x100 * 512] == 1 && file[0x104 * 512 + 511] == 5 && file[0x105 * 512] == 0);
    Ok(())
}

#[test]
fn commands_that_cannot_be_are_aborted() -> Result<()> {
    let image = image()?;
    let mut vm = with_disk(&image, "ide-hd")?;
    let test = vm.qtest();
    for (code, parameters, lba) in [
        (0x20, [0, 1], 0x5000), // beyond the end
        (0xc6, [0, 3], 0),      // not a power of two
        (0xef, [3, 0x80], 0),   // no such transfer mode
        (0xef, [0x77, 0], 0),   // no such feature
        (0xa1, [0, 0], 0),      // for packet devices
        (0xb0, [0xd8, 0], 0),   // SMART without its key
        (0x06, [0, 1], 0),      // not TRIM
        (0x00, [0, 0], 0),
    ] {
        ensure!(run(test, code, parameters, lba)? == FAILED, "{code:02x} {parameters:02x?}");
        ensure!(test.inb(COMMAND + 1)? == 4, "{code:02x} {parameters:02x?}");
    }
    ensure!(run(test, 0xf8, [0, 0], 0)? == DONE);
    ensure!(registers(test)?[2..5] == [0xff, 0x4f, 0], "the last sector");
    ensure!(run(test, 0xe5, [0, 0], 0)? == DONE);
    expect("active", test.inb(COMMAND + 2)?, 0xff)?;
    ensure!(run(test, 0xb0, [0xda, 0], 0xc2_4f00)? == DONE);
    ensure!(registers(test)?[3..5] == [0x4f, 0xc2], "in good health");
    Ok(())
}

/// Prepares the bus master: ranges of memory, the last of which is marked.
fn descriptors(test: &mut QTest, ranges: &[(u64, u32)]) -> Result<()> {
    test.pci_writel(FUNCTION, 0x20, BUS_MASTER.into())?;
    test.pci_writew(FUNCTION, 4, 5)?;
    for (index, &(at, len)) in ranges.iter().enumerate() {
        let last = u32::from(index + 1 == ranges.len()) << 31;
        test.writel(TABLE + 8 * index as u64, at as u32)?;
        test.writel(TABLE + 8 * index as u64 + 4, len | last)?;
    }
    test.outb(BUS_MASTER, 0)?;
    test.outb(BUS_MASTER + 2, 6)?;
    test.outl(BUS_MASTER + 4, TABLE as u32)
}

/// Waits until the drive neither is busy nor has data to move.
fn transferred(test: &mut QTest) -> Result<u8> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let status = settle(test)?;
        if status & 8 == 0 {
            return Ok(status);
        }
        ensure!(Instant::now() < deadline, "nothing moves");
    }
}

#[test]
fn the_bus_master_moves_sectors() -> Result<()> {
    const READ: u8 = 0xc8;
    const WRITE: u8 = 0xca;
    const TRIM: u8 = 0x06;
    const ACTIVE: u8 = 1;
    const INTERRUPT: u8 = 4;
    let image = image()?;
    let mut vm = with_disk(&image, "ide-hd")?;
    let test = vm.qtest();
    test.write(DATA + 0x8000, &[(20u64 | 1 << 48).to_le_bytes(), [0; 8]].concat())?;
    let far = DATA + 0x1000;
    let list = DATA + 0x8000;
    for (what, ranges, code, parameters, lba, status, master) in [
        ("in two pieces", &[(DATA, 512), (far, 1024)][..], READ, [0, 3], 5, DONE, INTERRUPT),
        ("memory left over", &[(DATA, 4096)], READ, [0, 1], 9, DONE, ACTIVE | INTERRUPT),
        ("memory is short", &[(DATA, 512)], READ, [0, 2], 11, DONE, 0),
        ("beyond the end", &[(DATA, 1024)], READ, [0, 2], 0x4fff, FAILED, INTERRUPT),
        ("to the disk", &[(far, 1024)], WRITE, [0, 2], 40, DONE, INTERRUPT),
        ("trim", &[(list, 512)], TRIM, [1, 1], 0, DONE, INTERRUPT),
    ] {
        descriptors(test, ranges)?;
        ensure!(run(test, code, parameters, lba)? == HAS_DATA, "{what}");
        test.outb(BUS_MASTER, if code == READ { 9 } else { 1 })?;
        expect(what, transferred(test)?, status)?;
        expect(what, test.inb(BUS_MASTER + 2)?, master)?;
        test.inb(COMMAND + 7)?;
        test.outb(BUS_MASTER, 0)?;
    }
    ensure!(test.read(DATA, 2)? == [9, 9]);
    ensure!(test.read(far + 511, 2)? == [6, 7]);
    let file = std::fs::read(image.path())?;
    ensure!(file[40 * 512] == 6 && file[41 * 512] == 7 && file[42 * 512] == 42);
    Ok(())
}

#[test]
fn a_reset_leaves_the_signature() -> Result<()> {
    let image = image()?;
    let mut vm = with_disk(&image, "ide-hd")?;
    let test = vm.qtest();
    begin(test, 0x20, [0, 1], 3)?;
    settle(test)?;
    test.outb(ALTERNATE, 4)?;
    test.outb(ALTERNATE, 0)?;
    settle(test)?;
    ensure!(registers(test)? == [1, 1, 1, 0, 0, 0xa0, DONE]);
    // What was written before last.
    for (register, values) in [(2, [0x11, 0x12]), (3, [0x21, 0x22]), (5, [0x31, 0x32])] {
        test.outbs(COMMAND + register, &values)?;
    }
    ensure!(test.inbs([2, 3, 5].map(|register| COMMAND + register))? == [0x12, 0x22, 0x32]);
    test.outb(ALTERNATE, 0x80)?;
    ensure!(test.inbs([2, 3, 5].map(|register| COMMAND + register))? == [0x11, 0x21, 0x31]);
    Ok(())
}

#[test]
fn cmos_tells_of_disks() -> Result<()> {
    let image = image()?;
    let mut vm = with_disk(&image, "ide-hd")?;
    let test = vm.qtest();
    for (index, value) in (0x1b..).zip([20, 0, 16, 0xff, 0xff, 0xc8, 20, 0, 63]).chain([
        (0x12, 0xf0),
        (0x19, 47),
        (0x39, 0),
    ]) {
        expect(&format!("CMOS {index:#x}"), test.cmos(index)?, value)?;
    }
    let given = "ide-hd,cyls=2000,heads=8,secs=32,bios-chs-trans=large";
    drop(vm);
    let mut vm = with_disk(&image, given)?;
    let test = vm.qtest();
    for (index, value) in [(0x1b, 0xd0), (0x1c, 7), (0x1d, 8), (0x20, 0xc0), (0x23, 32), (0x39, 2)]
    {
        expect(&format!("CMOS {index:#x}"), test.cmos(index)?, value)?;
    }
    Ok(())
}
