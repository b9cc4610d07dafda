//! Guests that firmware boots from disks, CDs and floppies.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testbed::media;
use testbed::vm::Vm;

use crate::machine;

/// A boot sector that reads the sector after it by the BIOS, and prints what is there on the serial
/// port.
fn boot_sector(drive_of_firmware: u8) -> Vec<u8> {
    let mut code = vec![
        0x31,
        0xc0, // xor ax, ax
        0x8e,
        0xd8, // mov ds, ax
        0x8e,
        0xc0, // mov es, ax
        0x8e,
        0xd0, // mov ss, ax
        0xbc,
        0x00,
        0x7c, // mov sp, 7c00h
        0xb8,
        0x01,
        0x02, // mov ax, 0201h: read one sector
        0xbb,
        0x00,
        0x80, // mov bx, 8000h
        0xb9,
        0x02,
        0x00, // mov cx, 2: cylinder 0, sector 2
        0xb6,
        0x00, // mov dh, 0
        0xb2,
        drive_of_firmware, // mov dl, drive
        0xcd,
        0x13, // int 13h
        0x72,
        0x10, // jc end
        0xfa, // cli: firmware prints, too, when its clock ticks
        0xbe,
        0x00,
        0x80, // mov si, 8000h
        0xac, // next: lodsb
        0x84,
        0xc0, // test al, al
        0x74,
        0x06, // jz end
        0xba,
        0xf8,
        0x03, // mov dx, 3f8h
        0xee, // out dx, al
        0xeb,
        0xf5, // jmp next
        0xf4, // end: hlt
        0xeb,
        0xfd, // jmp end
    ];
    code.resize(510, 0);
    code.extend([0x55, 0xaa]);
    code
}

/// A disk of some megabytes that says a word when it is booted.
fn talking_disk(path: &Path, word: &str, drive: u8, len: u64) -> Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(&boot_sector(drive))?;
    file.write_all(word.as_bytes())?;
    file.set_len(len).context("no room for a disk")
}

#[test]
fn firmware_boots_what_it_is_told_to() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let path = |name: &str| scratch.path().join(name).display().to_string();
    let (first, second, floppy) = (path("first"), path("second"), path("floppy"));
    talking_disk(first.as_ref(), "the first disk", 0x80, 10 << 20)?;
    talking_disk(second.as_ref(), "the second disk", 0x80, 20 << 20)?;
    talking_disk(floppy.as_ref(), "the floppy disk", 0x00, 1440 << 10)?;
    let hda = format!("file={first},format=raw,if=ide,index=0");
    let hdb = format!("file={second},format=raw,if=none,id=second");
    let fda = format!("file={floppy},format=raw,if=floppy");
    let all = ["-drive", &hda, "-drive", &hdb, "-drive", &fda, "-device"];
    let last = "ide-hd,drive=second,bus=ide.1,unit=1";
    let chosen = format!("{last},bootindex=0");
    for (more, word) in [
        (&[last][..], "the first disk"),
        (&[&*chosen], "the second disk"),
        (&[last, "-boot", "a"], "the floppy disk"),
        (&[last, "-boot", "once=a,order=c"], "the floppy disk"),
    ] {
        let mut vm = machine().args(all).args(more).spawn()?;
        vm.expect(word).with_context(|| format!("{more:?}"))?;
    }
    Ok(())
}

/// A qcow2 image made from a raw one by the tools under test.
fn as_qcow2(raw: &Path, qcow2: &Path) -> Result<()> {
    let program = testbed::program().with_file_name("qemu-img");
    let mut convert = Command::new(program);
    let status = convert.args(["convert", "-f", "raw", "-O", "qcow2"]).arg(raw).arg(qcow2).status();
    ensure!(status.context("cannot run qemu-img")?.success(), "qemu-img failed");
    Ok(())
}

#[test]
fn a_qcow2_image_boots() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let (raw, qcow2) = (scratch.path().join("raw"), scratch.path().join("disk.qcow2"));
    talking_disk(&raw, "from qcow2", 0x80, 10 << 20)?;
    as_qcow2(&raw, &qcow2)?;
    let mut vm = machine().args(["-hda".as_ref(), qcow2.as_os_str()]).spawn()?;
    vm.expect("from qcow2").map(drop)
}

#[test]
fn grub_boots_from_a_cd() -> Result<()> {
    let cd = media::rescue_cd()?;
    let mut vm =
        machine().args(["-cdrom".as_ref(), cd.as_os_str()]).args(["-boot", "d"]).spawn()?;
    vm.expect("rhea rescue")?;
    vm.send("\n")?;
    vm.expect("rhea: chosen").map(drop)
}

/// `qemu-img` under test: whether it succeeds, and what it says on standard error.
fn image_tool(args: &[&str]) -> Result<(bool, String)> {
    let program = testbed::program().with_file_name("qemu-img");
    let output = Command::new(program).args(args).output().context("cannot run qemu-img")?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// As tutorials have it: a CD first, once; a disk that runs is looked at with `-U` only.
#[test]
fn a_disk_in_use_is_locked_for_the_tools() -> Result<()> {
    let cd = media::rescue_cd()?.display().to_string();
    let scratch = tempfile::tempdir()?;
    let disk = scratch.path().join("disk.qcow2").display().to_string();
    ensure!(image_tool(&["create", "-f", "qcow2", &disk, "10G"])?.0, "no disk");
    let drive = format!("file={disk},format=qcow2,if=virtio,media=disk");
    let plain = ["-boot", "once=d", "-cdrom", &cd, &disk];
    for args in [&plain[..], &["-boot", "d", "-cdrom", &cd, "-drive", &drive]] {
        let mut vm = machine().args(args).spawn()?;
        vm.expect("rhea rescue").with_context(|| format!("{args:?}"))?;
        let locked = format!(
            "qemu-img: Could not open '{disk}': Failed to get shared \"write\" lock\n\
             Is another process using the image [{disk}]?\n"
        );
        ensure!(image_tool(&["info", &disk])? == (false, locked), "{args:?}: not locked");
        ensure!(image_tool(&["info", "-U", &disk])? == (true, String::new()), "{args:?}: -U");
    }
    Ok(())
}

#[test]
fn syslinux_boots_from_a_floppy() -> Result<()> {
    let floppy = media::floppy()?;
    let drive = format!("file={},format=raw,if=floppy,snapshot=on", floppy.display());
    let mut vm = machine().args(["-drive", &drive, "-boot", "a"]).spawn()?;
    vm.expect("boot: ").map(drop)
}

/// To the login prompt, and down again.
fn logs_in(mut vm: Vm) -> Result<()> {
    vm.expect("login: ")?;
    vm.send("root\n")?;
    vm.expect("# ")?;
    vm.send("systemctl --failed --no-legend; echo checked; sync\n")?;
    vm.expect("checked\r\n").or_else(|_| vm.expect("checked"))?;
    vm.send("systemctl poweroff\n")?;
    let ended = vm.finish()?;
    for complaint in ["BUG:", "Call Trace:", "I/O error", "EXT4-fs error", "failed command"] {
        ensure!(!ended.stdout.contains(complaint), "{complaint}\n{}", ended.stdout);
    }
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    Ok(())
}

fn debian_on(interface: &str) -> Result<()> {
    let disk = media::debian_disk()?;
    let drive = format!("file={},format=raw,if={interface},snapshot=on", disk.display());
    logs_in(machine().args(["-m", "1024", "-cpu", "max", "-drive", &drive]).spawn()?)
}

#[test]
#[ignore = "a soak test"]
fn debian_boots_from_an_ide_disk() -> Result<()> {
    debian_on("ide")
}

#[test]
#[ignore = "a soak test"]
fn debian_boots_from_a_virtio_disk() -> Result<()> {
    debian_on("virtio")
}

/// What a guest wrote to a qcow2 disk is read back and compared; afterwards the image is sound.
fn fio_finds_what_it_wrote(interface: &str, device: &str) -> Result<()> {
    let system = media::debian_disk()?;
    let scratch = tempfile::tempdir()?;
    let disk = scratch.path().join("disk.qcow2").display().to_string();
    ensure!(image_tool(&["create", "-q", "-f", "qcow2", &disk, "256M"])?.0, "no disk");
    let system = format!("file={},format=raw,if=none,id=system,snapshot=on", system.display());
    let data = format!("file={disk},format=qcow2,if={interface}");
    let mut vm = machine()
        .args(["-m", "1024", "-cpu", "max", "-drive", &system, "-drive", &data])
        .args(["-device", "virtio-blk-pci,drive=system,bootindex=0"])
        .spawn()?;
    vm.expect("login: ")?;
    vm.send("root\n")?;
    vm.expect("# ")?;
    vm.send(&format!(
        "fio --name=x --filename={device} --rw=randwrite --bsrange=512-64k --size=64M \
         --verify=crc32c --verify_fatal=1 --ioengine=libaio --direct=1 --iodepth=16 > /tmp/log \
         2>&1; echo fio ended: $?; tail -n 20 /tmp/log; sync; poweroff -f\n"
    ))?;
    vm.expect("fio ended: 0")?;
    let ended = vm.finish()?;
    ensure!(!ended.stdout.contains("verify: bad"), "{}", ended.stdout);
    ensure!(image_tool(&["check", "-q", &disk])?.0, "the image is damaged");
    Ok(())
}

#[test]
#[ignore = "a soak test"]
fn fio_finds_what_it_wrote_by_ide() -> Result<()> {
    fio_finds_what_it_wrote("ide", "/dev/sda")
}

#[test]
#[ignore = "a soak test"]
fn fio_finds_what_it_wrote_by_virtio() -> Result<()> {
    fio_finds_what_it_wrote("virtio", "/dev/vdb")
}
