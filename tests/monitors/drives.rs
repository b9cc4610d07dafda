//! Drives as the monitor shows them, and what is complained of, however the operator asks for them: all
//! as under QEMU.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use testbed::vm::Launch;

const IMAGE: &str = "-drive if=none,format=raw,file=a";
const BOTH: &str = "-drive if=none,format=raw,file=a -drive if=none,format=raw,file=b";

/// Ways to get floppy drives, and ways not to.
fn floppies() -> Vec<String> {
    let plain = [
        "",
        "-fda a",
        "-fdb a",
        "-fda a -fdb b",
        "-drive if=floppy -drive if=floppy,index=1",
        "-fda small",
        "-fda odd",
        "-device floppy",
        "-device floppy -device floppy",
        "-device floppy -device floppy -device floppy",
        "-device floppy,unit=0 -device floppy,unit=0",
        "-device floppy,unit=5",
        "-device floppy,drive=nosuch",
        "-device floppy,drive-type=144,share-rw=on,write-cache=off",
        "-device floppy,drive-type=none",
        "-device floppy,drive-type=xyz",
        "-global isa-fdc.fallback=144 -device floppy",
        "-global isa-fdc.fallback=none -device floppy",
        "-global isa-fdc.fallback=auto",
        "-global isa-fdc.fdtypeA=120 -fda a",
        "-global isa-fdc.driveA=none0",
        "-global isa-fdc.bootindexA=0 -global isa-fdc.bootindexB=0",
        "-global isa-fdc.iobase=0x370 -global isa-fdc.dma=1",
        "-fda a -device floppy,unit=0",
    ];
    let one = [
        "-device floppy,drive=none0",
        "-device floppy,drive=none0,unit=1",
        "-device floppy,drive=none0,drive-type=288",
        "-device floppy,drive=none0,logical_block_size=1024",
        "-device floppy,drive=none0,physical_block_size=1024",
        "-device floppy,drive=none0,bootindex=1",
        "-device floppy,drive=none0,werror=stop",
        "-global floppy.drive=none0 -device floppy",
        "-drive if=floppy,format=raw,file=a -device floppy,drive=none0",
    ];
    let two = [
        "-device floppy,drive=none0 -device floppy,drive=none1",
        "-device floppy,drive=none1,unit=1 -device floppy,drive=none0",
        "-global floppy.drive=none0 -device floppy,drive=none1",
    ];
    let with = |images: &'static str| move |way: &str| format!("{images} {way}");
    let plain = plain.into_iter().map(str::to_owned);
    plain.chain(one.into_iter().map(with(IMAGE))).chain(two.into_iter().map(with(BOTH))).collect()
}

/// Ways to get other drives, and ways not to.
fn drives() -> Vec<String> {
    let mut ways = Vec::new();
    for interface in ["ide", "virtio", "floppy", "none", "sd", "pflash", "bogus"] {
        ways.push(format!("-drive if={interface},media=cdrom"));
        ways.push(format!("-drive if={interface},driver=null-co,node-name=null,readonly=on"));
    }
    for device in ["ide-hd", "ide-cd", "virtio-blk-pci"] {
        ways.push(format!("-device {device},id=d"));
        ways.push(format!("-blockdev null-co,node-name=null -device {device},drive=null"));
        ways.push(format!("-drive if=none -device {device},drive=none0,id=d"));
    }
    for image in [
        "format=foo",
        "driver=raw,format=qcow2",
        "format=qcow2,unknown_opt=1234",
        "format=qcow2,lazy-refcounts=42",
        "driver=raw,backing=x",
        "driver=qcow2,file.backing.driver=file,file.backing.filename=a",
        "driver=qcow2,cache=bogus",
        "driver=qcow2,node-name=123foo",
        "driver=qcow2,node-name=ABCDEFGHIJKLMNOPQRSTUVWXYZABCDE",
        "driver=qcow2,node-name=ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF",
        "driver=qcow2,detect-zeroes=unmap",
        "driver=qcow2,detect-zeroes=unmap,discard=unmap",
        "driver=qcow2,detect-zeroes=foo",
        "driver=qcow2,bps=5000,bps_rd=100",
        "driver=qcow2,werror=foo",
        "driver=qcow2,media=foo",
        "driver=qcow2,bus=1,unit=7",
        "driver=qcow2,aio=native",
    ] {
        ways.push(format!("-drive file=image,{image}"));
    }
    let plain = [
        "-hda foo:bar",
        "-cdrom nonexistent",
        "-hda image -drive file=image,index=0",
        "-blockdev qcow2,node-name=a",
        "-object bogus,id=a",
        "-machine pc,foo=bar",
        "-kernel nonexistent",
        "-device nonexistent",
    ];
    ways.extend(plain.map(str::to_owned));
    ways
}

/// What the monitor shows of the controller and of the drives, what is complained of, and how it ends.
fn shown(program: PathBuf, place: &Path, way: &str) -> Result<(String, String, Option<i32>)> {
    let mut vm = Launch::new(program)
        .in_dir(place)
        .args(["-M", "pc", "-S", "-m", "16", "-display", "none", "-vga", "none", "-nic", "none"])
        .args(["-serial", "none", "-parallel", "none", "-monitor", "stdio"])
        .args(way.split_whitespace())
        .spawn()?;
    // Whoever refuses to start may be gone already.
    let _ = vm.send("info qtree\ninfo block\nquit\n");
    let ended = vm.finish()?;
    let mut lines = Vec::new();
    let mut controller = None;
    for line in ended.stdout.lines() {
        let indent = line.len() - line.trim_start().len();
        if line.trim_start().starts_with("dev: isa-fdc,") {
            controller = Some(indent);
        } else if indent <= controller.unwrap_or(usize::MAX) {
            controller = None;
        }
        let of_drive = ["Attached to:", "Removable device:", "Cache mode:", "Backing file:"];
        let told = of_drive.iter().any(|start| line.trim_start().starts_with(start));
        if controller.is_some() || told || indent == 0 && !line.starts_with("bus: ") {
            lines.push(without_number(line));
        }
    }
    Ok((lines.join("\n"), ended.stderr, ended.status.code()))
}

/// Names that nodes get by themselves differ.
fn without_number(line: &str) -> String {
    match line.split_once("#block") {
        Some((start, end)) => {
            format!("{start}#block{}", end.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None => line.to_owned(),
    }
}

/// Compares both programs, if there are two, in a directory with images.
fn compare(ways: &[String]) -> Result<()> {
    let qemu = match testbed::reference_qemu() {
        Ok(qemu) => qemu,
        Err(reason) => {
            testbed::skip(&reason);
            return Ok(());
        }
    };
    let place = tempfile::tempdir()?;
    for (name, sectors) in [("a", 1440), ("b", 1440), ("small", 2400), ("odd", 5000)] {
        std::fs::File::create(place.path().join(name))?.set_len(sectors * 512)?;
    }
    let created = Command::new(testbed::program().with_file_name("qemu-img"))
        .current_dir(place.path())
        .args(["create", "-q", "-f", "qcow2", "image", "64M"])
        .status()?;
    ensure!(created.success());
    for way in ways {
        let ours = shown(testbed::program(), place.path(), way).context(way.clone())?;
        let theirs = shown(qemu.clone(), place.path(), way).context(way.clone())?;
        ensure!(ours == theirs, "{way}:\n{ours:#?}\nunder QEMU:\n{theirs:#?}");
    }
    Ok(())
}

#[test]
fn floppies_are_what_they_are_under_qemu() -> Result<()> {
    compare(&floppies())
}

#[test]
fn drives_are_what_they_are_under_qemu() -> Result<()> {
    compare(&drives())
}
