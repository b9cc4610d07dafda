//! The firmware configuration device.

use crate::{machine, machine_with_qmp};
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use testbed::pc::expect;
use testbed::qtest::QTest;

const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
const DMA: u16 = 0x514;

const DIRECTORY: u16 = 0x19;

const ERROR: u32 = 1;
const READ: u32 = 2;
const SKIP: u32 = 4;
const SELECT: u32 = 8;
const WRITE: u32 = 16;

/// Where commands and data go.
const COMMAND: u64 = 0x10_0000;
const BUFFER: u64 = 0x10_1000;

fn item(test: &mut QTest, number: u16, length: usize) -> Result<Vec<u8>> {
    test.outw(SELECTOR, number)?;
    test.inbs(std::iter::repeat_n(DATA, length))
}

fn word(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |word, &byte| word << 8 | u32::from(byte))
}

/// Number and size of a file.
fn file(test: &mut QTest, wanted: &str) -> Result<(u16, u32)> {
    let count = word(&item(test, DIRECTORY, 4)?);
    for _ in 0..count {
        let entry = test.inbs(std::iter::repeat_n(DATA, 64))?;
        let name = entry[8..].split(|&byte| byte == 0).next().unwrap_or_default();
        if name == wanted.as_bytes() {
            return Ok((word(&entry[4..6]) as u16, word(&entry[..4])));
        }
    }
    None.with_context(|| format!("there is no file {wanted}"))
}

/// Runs a DMA command and returns what is left of its control word.
pub fn dma(test: &mut QTest, control: u32, length: u32, address: u64) -> Result<u32> {
    let mut command = control.to_be_bytes().to_vec();
    command.extend(length.to_be_bytes());
    command.extend(address.to_be_bytes());
    test.write(COMMAND, &command)?;
    test.outl(DMA + 4, (COMMAND as u32).swap_bytes())?;
    Ok(test.readl(COMMAND)?.swap_bytes())
}

/// Selects an item by DMA.
fn select(number: u16) -> u32 {
    u32::from(number) << 16 | SELECT
}

#[test]
fn it_says_what_it_is() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    ensure!(item(test, 0, 6)? == b"QEMU\0\0");
    ensure!(item(test, 1, 5)? == [3, 0, 0, 0, 0], "files and DMA");
    expect("DMA signature", test.inl(DMA)?.swap_bytes(), u32::from_be_bytes(*b"QEMU"))?;
    expect("DMA signature", test.inl(DMA + 4)?.swap_bytes(), u32::from_be_bytes(*b" CFG"))
}

#[test]
fn items_describe_the_machine() -> Result<()> {
    let mut vm =
        machine(&["-smp", "2,maxcpus=4", "-uuid", "00112233-4455-6677-8899-aabbccddeeff"])?;
    let test = vm.qtest();
    ensure!(item(test, 2, 4)? == [0x00, 0x11, 0x22, 0x33], "UUID");
    ensure!(item(test, 3, 8)? == (128u64 << 20).to_le_bytes(), "RAM size");
    ensure!(item(test, 5, 2)? == [2, 0], "processors");
    ensure!(item(test, 0xf, 2)? == [4, 0], "possible processors");
    let hpet = item(test, 0x8004, 16)?;
    ensure!(hpet == [1, 1, 0xa2, 0x86, 0x80, 0, 0, 0xd0, 0xfe, 0, 0, 0, 0, 0, 0, 0], "{hpet:02x?}");
    ensure!(item(test, 0x7777, 4)? == [0; 4], "an item that is not there");
    Ok(())
}

#[test]
fn the_selector_reads_as_the_data() -> Result<()> {
    let mut vm = machine(&[])?;
    let test = vm.qtest();
    test.outw(SELECTOR, 0)?;
    let seen = test.inbs([SELECTOR, DATA, SELECTOR, DATA])?;
    ensure!(seen == *b"QEMU", "{seen:02x?}");
    test.outb(DATA, 0x55)?;
    ensure!(item(test, 0, 4)? == b"QEMU", "data is not written");
    Ok(())
}

#[test]
fn files_are_found_in_the_directory() -> Result<()> {
    let mut vm = machine(&["-fw_cfg", "name=opt/test,string=hello"])?;
    let test = vm.qtest();
    for name in ["etc/acpi/tables", "etc/e820", "etc/smbios/smbios-tables", "etc/table-loader"] {
        ensure!(file(test, name)?.1 > 0, "{name}");
    }
    let (number, size) = file(test, "opt/test")?;
    expect("size", size, 5)?;
    ensure!(item(test, number, 7)? == b"hello\0\0");
    Ok(())
}

#[test]
fn disks_have_their_place_in_the_boot_order() -> Result<()> {
    let mut vm = machine(&[
        "-drive",
        "if=none,id=a,driver=null-co",
        "-device",
        "virtio-blk-pci,drive=a,bootindex=7,addr=0x15",
        "-drive",
        "if=none,id=b,driver=null-co",
        "-device",
        "ide-hd,drive=b,bootindex=0",
    ])?;
    let test = vm.qtest();
    let (number, size) = file(test, "bootorder")?;
    let order = item(test, number, size as usize)?;
    let expected = b"/pci@i0cf8/ide@1,1/drive@1/disk@0\n/pci@i0cf8/scsi@15/disk@0,0\0";
    ensure!(order == expected, "{:?}", String::from_utf8_lossy(&order));
    Ok(())
}

/// Also where their controller was moved, which answers there and no longer at its usual place.
#[test]
fn floppy_drives_have_their_place_in_the_boot_order() -> Result<()> {
    let mut vm = machine(&[
        "-global",
        "isa-fdc.iobase=0x370",
        "-global",
        "isa-fdc.bootindexA=4",
        "-global",
        "isa-fdc.bootindexB=3",
    ])?;
    let test = vm.qtest();
    let (number, size) = file(test, "bootorder")?;
    let order = item(test, number, size as usize)?;
    let path = "/pci@i0cf8/isa@1/fdc@0370/floppy@";
    let expected = format!("{path}1\n{path}0\0");
    ensure!(order == expected.as_bytes(), "{:?}", String::from_utf8_lossy(&order));
    ensure!(test.inb(0x374)? == 0x80 && test.inb(0x3f4)? == 0xff, "where the controller is");
    Ok(())
}

#[test]
fn a_disk_that_is_plugged_is_booted_at_the_next_start() -> Result<()> {
    let mut vm = machine_with_qmp(&[
        "-drive",
        "if=none,id=a,driver=null-co",
        "-drive",
        "if=none,id=b,driver=null-co",
        "-device",
        "virtio-blk-pci,drive=a,bootindex=2,addr=0x15",
    ])?;
    let mut device = json!({"driver": "virtio-blk-pci", "drive": "b", "addr": "0x16", "id": "x"});
    device["bootindex"] = 2.into();
    let Err(refusal) = vm.qmp().execute_with("device_add", device.clone()) else {
        bail!("a place in the order was given twice");
    };
    let refusal = format!("{refusal:#}");
    ensure!(refusal.contains("The bootindex 2 has already been used"), "{refusal}");
    device["bootindex"] = 1.into();
    vm.qmp().execute_with("device_add", device)?;
    vm.qmp().execute("system_reset")?;
    vm.qmp().wait_event("RESET")?;
    let test = vm.qtest();
    let (number, size) = file(test, "bootorder")?;
    let order = item(test, number, size as usize)?;
    let expected = b"/pci@i0cf8/scsi@16/disk@0,0\n/pci@i0cf8/scsi@15/disk@0,0\0";
    ensure!(order == expected, "{:?}", String::from_utf8_lossy(&order));
    Ok(())
}

#[test]
fn dma_reads_skips_and_pads() -> Result<()> {
    let mut vm = machine(&["-fw_cfg", "name=opt/test,string=hello"])?;
    let test = vm.qtest();
    let (number, _) = file(test, "opt/test")?;
    test.memset(BUFFER, 16, 0xee)?;
    expect("control", dma(test, select(number) | READ, 8, BUFFER)?, 0)?;
    ensure!(test.read(BUFFER, 9)? == b"hello\0\0\0\xee");
    expect("control", dma(test, select(number) | SKIP, 2, 0)?, 0)?;
    expect("control", dma(test, READ, 3, BUFFER)?, 0)?;
    ensure!(test.read(BUFFER, 3)? == b"llo");
    // The ports go on where DMA has stopped.
    dma(test, select(number) | SKIP, 1, 0)?;
    expect("the next byte", test.inb(DATA)?, b'e')?;
    // The upper half of the address counts.
    test.outl(DMA, 1u32.swap_bytes())?;
    test.writel(COMMAND, 0x1234)?;
    test.outl(DMA + 4, (COMMAND as u32).swap_bytes())?;
    expect("nothing there to run", test.readl(COMMAND)?, 0x1234)
}

#[test]
fn only_some_files_are_written() -> Result<()> {
    let mut vm = machine(&["-fw_cfg", "name=opt/test,string=hello", "-device", "vmcoreinfo"])?;
    let test = vm.qtest();
    let (fixed, _) = file(test, "opt/test")?;
    let (open, size) = file(test, "etc/vmcoreinfo")?;
    expect("size", size, 16)?;
    test.write(BUFFER, &[0x5a; 16])?;
    expect("a fixed file", dma(test, select(fixed) | WRITE, 5, BUFFER)?, ERROR)?;
    ensure!(item(test, fixed, 5)? == b"hello");
    expect("too much", dma(test, select(open) | WRITE, 17, BUFFER)?, ERROR)?;
    expect("a file that is open", dma(test, select(open) | WRITE, 16, BUFFER)?, 0)?;
    ensure!(item(test, open, 16)? == [0x5a; 16]);
    Ok(())
}
