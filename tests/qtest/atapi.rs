//! A CD drive on the first channel.

use std::io::Write as _;
use std::time::Instant;

use anyhow::{Result, ensure};
use tempfile::NamedTempFile;
use testbed::DEADLINE;
use testbed::pc::expect;
use testbed::qtest::QTest;
use testbed::vm::Vm;

use crate::machine;

const COMMAND: u16 = 0x1f0;
const ALTERNATE: u16 = 0x3f6;
const IRQ: u32 = 14;

const DONE: u8 = 0x50;
const FAILED: u8 = 0x41;
/// As much as one interrupt can stand for.
const MOST: u16 = 0xfffe;

/// A disc of 100 blocks that are full of their own number.
fn disc() -> Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    for block in 0..100u8 {
        file.write_all(&[block; 2048])?;
    }
    Ok(file)
}

fn with_disc(disc: &NamedTempFile) -> Result<Vm> {
    let drive =
        format!("if=none,id=d,format=raw,media=cdrom,readonly=on,file={}", disc.path().display());
    machine(&["-drive", &drive, "-device", "ide-cd,drive=d,bus=ide.0"])
}

fn settle(test: &mut QTest) -> Result<u8> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let status = test.inb(ALTERNATE)?;
        if status & 0x80 == 0 {
            return Ok(status);
        }
        ensure!(Instant::now() < deadline, "still busy");
    }
}

/// Sends a packet; returns the status in the end, what came, and in which pieces.
fn packet(test: &mut QTest, packet: &[u8], limit: u16) -> Result<(u8, Vec<u8>, Vec<u16>)> {
    let [low, high] = limit.to_le_bytes();
    for (register, value) in [(6, 0xa0), (1, 0), (4, low), (5, high), (7, 0xa0)] {
        test.outb(COMMAND + register, value)?;
    }
    ensure!(settle(test)? == 0x58, "the packet is not wanted");
    expect("what is wanted", test.inb(COMMAND + 2)?, 1)?;
    let mut bytes = [0; 12];
    bytes[..packet.len()].copy_from_slice(packet);
    for pair in bytes.chunks(2) {
        test.outw(COMMAND, u16::from_le_bytes([pair[0], pair[1]]))?;
    }
    let (mut data, mut pieces) = (Vec::new(), Vec::new());
    loop {
        let status = settle(test)?;
        if status & 8 == 0 {
            return Ok((status, data, pieces));
        }
        expect("what is offered", test.inb(COMMAND + 2)?, 2)?;
        let count = u16::from_le_bytes([test.inb(COMMAND + 4)?, test.inb(COMMAND + 5)?]);
        pieces.push(count);
        for _ in 0..count / 2 {
            data.extend(test.inw(COMMAND)?.to_le_bytes());
        }
    }
}

/// Sense key and code of the last failure.
fn sense(test: &mut QTest) -> Result<(u8, u8)> {
    let (_, data, _) = packet(test, &[0x03, 0, 0, 0, 18], MOST)?;
    ensure!(data.len() == 18, "{data:02x?}");
    Ok((data[2], data[12]))
}

#[test]
fn a_drive_says_what_it_is() -> Result<()> {
    let disc = disc()?;
    let mut vm = with_disc(&disc)?;
    let test = vm.qtest();
    ensure!(test.inbs(COMMAND + 1..COMMAND + 7)? == [0, 1, 1, 0x14, 0xeb, 0xa0]);
    test.outb(COMMAND + 6, 0xa0)?;
    test.outb(COMMAND + 7, 0xec)?;
    ensure!(settle(test)? == FAILED);
    ensure!(test.inbs([COMMAND + 4, COMMAND + 5])? == [0x14, 0xeb], "no disk");
    test.outb(COMMAND + 7, 0xa1)?;
    ensure!(settle(test)? == 0x58);
    expect("general configuration", test.inw(COMMAND)?, 0x85c0)?;
    test.outb(COMMAND + 7, 0x08)?;
    ensure!(settle(test)? == 0, "after a reset");
    Ok(())
}

#[test]
fn packets_are_answered() -> Result<()> {
    let disc = disc()?;
    let mut vm = with_disc(&disc)?;
    let test = vm.qtest();
    for (what, command, answer) in [
        ("ready", &[0x00][..], &[][..]),
        ("inquiry", &[0x12, 0, 0, 0, 36], b"\x05\x80\0\x21\x1f\0\0\0QEMU    QEMU DVD-ROM    2.5+"),
        ("capacity", &[0x25], &[0, 0, 0, 99, 0, 0, 8, 0]),
        (
            "contents",
            &[0x43, 2, 0, 0, 0, 0, 0, 0, 252],
            &[0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 2, 0, 0, 0x16, 0xaa, 0, 0, 0, 3, 25],
        ),
        (
            "sessions",
            &[0x43, 0, 0, 0, 0, 0, 0, 0, 12, 0x40],
            &[0, 10, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        (
            "configuration",
            &[0x46, 0, 0, 0, 0, 0, 0, 1, 0],
            &[0, 0, 0, 16, 0, 0, 0, 8, 0, 0, 3, 8, 0, 0x10, 0, 0, 0, 8, 1, 0],
        ),
        ("events", &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8], &[0, 4, 4, 0x10, 0, 2, 0, 0]),
        ("mechanism", &[0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8], &[0, 0, 0, 0, 0, 1, 0, 0]),
        (
            "error page",
            &[0x5a, 0, 1, 0, 0, 0, 0, 0, 128],
            &[0, 14, 0x70, 0, 0, 0, 0, 0, 1, 6, 0, 5, 0, 0, 0, 0],
        ),
    ] {
        let (status, data, _) = packet(test, command, MOST)?;
        expect(what, status, DONE)?;
        ensure!(data == answer, "{what}: {data:02x?}");
    }
    for (what, command, wanted) in [
        ("no such command", &[0xff][..], (5, 0x20)),
        ("no such block", &[0x28, 0, 0, 0, 0, 99, 0, 0, 2], (5, 0x21)),
        ("no such page", &[0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 128], (5, 0x24)),
        ("nothing is saved", &[0x5a, 0, 0xc1, 0, 0, 0, 0, 0, 128], (5, 0x39)),
        ("not a DVD", &[0xad, 0, 0, 0, 0, 0, 0, 0, 16, 0], (5, 0x30)),
    ] {
        let (status, _, _) = packet(test, command, MOST)?;
        expect(what, status, FAILED)?;
        ensure!(sense(test)? == wanted, "{what}");
    }
    Ok(())
}

#[test]
fn blocks_come_in_pieces_of_the_size_asked_for() -> Result<()> {
    let disc = disc()?;
    let mut vm = with_disc(&disc)?;
    let test = vm.qtest();
    test.irq_intercept_in("ioapic")?;
    for (count, limit, wanted) in [
        (1, 2048, &[2048][..]),
        (2, 3000, &[3000, 1096]),
        (40, 0xffff, &[0xfffe, 0x4002]),
        (3, 2048, &[2048; 3]),
    ] {
        let (status, data, pieces) = packet(test, &[0x28, 0, 0, 0, 0, 5, 0, 0, count], limit)?;
        ensure!((status, &pieces[..]) == (DONE, wanted), "{status:02x} {pieces:?}");
        let blocks: Vec<u8> = (5..5 + count).flat_map(|block| [block; 2048]).collect();
        ensure!(data == blocks);
    }
    ensure!(test.edges()?.contains(&(IRQ, true)));
    let (_, raw, _) = packet(test, &[0xbe, 0, 0, 0, 0, 5, 0, 0, 1, 0xf8], MOST)?;
    ensure!(raw.len() == 2352 && raw[12..17] == [0, 2, 5, 1, 5], "{:02x?}", &raw[..20]);
    Ok(())
}

#[test]
fn the_tray_opens_unless_it_is_locked() -> Result<()> {
    let disc = disc()?;
    let mut vm = with_disc(&disc)?;
    let test = vm.qtest();
    const EJECT: [u8; 5] = [0x1b, 0, 0, 0, 2];
    const READY: [u8; 1] = [0x00];
    for (what, command, wanted) in [
        ("lock", &[0x1e, 0, 0, 0, 1][..], None),
        ("locked", &EJECT, Some((2, 0x53))),
        ("unlock", &[0x1e], None),
        ("eject", &EJECT, None),
        ("open", &READY, Some((2, 0x3a))),
        ("load", &[0x1b, 0, 0, 0, 3], None),
        ("shut", &READY, None),
    ] {
        let (status, _, _) = packet(test, command, MOST)?;
        match wanted {
            None => expect(what, status, DONE)?,
            Some(wanted) => {
                expect(what, status, FAILED)?;
                ensure!(sense(test)? == wanted, "{what}");
            }
        }
    }
    Ok(())
}

#[test]
fn an_empty_drive_has_no_medium() -> Result<()> {
    let mut vm = machine(&["-device", "ide-cd,bus=ide.0"])?;
    let test = vm.qtest();
    for command in [&[0x00][..], &[0x25], &[0x28, 0, 0, 0, 0, 0, 0, 0, 1], &[0x43]] {
        ensure!(packet(test, command, MOST)?.0 == FAILED, "{command:02x?}");
        ensure!(sense(test)? == (2, 0x3a), "{command:02x?}");
    }
    let (_, event, _) = packet(test, &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8], MOST)?;
    ensure!(event == [0, 4, 4, 0x10, 0, 0, 0, 0], "{event:02x?}");
    Ok(())
}
