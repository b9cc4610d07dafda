//! Flash memory that firmware is in.

use std::path::Path;

use anyhow::{Result, ensure};
use testbed::pc::expect;
use testbed::vm::Vm;

use crate::machine_with_qmp;

const CODE_LEN: u64 = 1 << 20;
const VARS_LEN: u64 = 528 << 10;
const CODE: u64 = (1 << 32) - CODE_LEN;
const VARS: u64 = CODE - VARS_LEN;

/// Two chips, the first with a pattern.
fn machine(directory: &Path, more: &[&str]) -> Result<Vm> {
    let (code, vars) = (directory.join("code"), directory.join("vars"));
    if !code.exists() {
        let pattern: Vec<u8> = (0..CODE_LEN).map(|at| (at >> 8) as u8 ^ at as u8).collect();
        std::fs::write(&code, pattern)?;
        std::fs::write(&vars, vec![0x5a; VARS_LEN as usize])?;
    }
    let code = format!("if=pflash,format=raw,readonly=on,file={}", code.display());
    let vars = format!("if=pflash,format=raw,unit=1,file={}", vars.display());
    let mut args = vec!["-drive", &code, "-drive", &vars];
    args.extend(more);
    machine_with_qmp(&args)
}

#[test]
fn chips_lie_below_4_gib_and_answer_commands() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut vm = machine(scratch.path(), &[])?;
    let test = vm.qtest();
    expect("the first chip's end", test.readl(0xffff_fff0)?, 0x0c0d_0e0f)?;
    expect("and as a BIOS", test.readl(0xf_fff0)?, 0x0c0d_0e0f)?;
    expect("array", test.readb(VARS)?, 0x5a)?;
    test.writeb(VARS, 0x70)?;
    expect("status", test.readb(VARS + 77)?, 0)?;
    test.writeb(VARS, 0x50)?;
    expect("array again", test.readb(VARS)?, 0x5a)?;
    // A byte, then four at once.
    for value in [0x10, 0xa5] {
        test.writeb(VARS + 16, value)?;
    }
    expect("status of programming", test.readl(VARS)?, 0x80_0080)?;
    test.writeb(VARS, 0xff)?;
    for value in [0x4040_4040, 0x0403_0201] {
        test.writel(VARS + 32, value)?;
    }
    test.writeb(VARS, 0xff)?;
    expect("a byte", test.readl(VARS + 16)?, 0x5a5a_5aa5)?;
    expect("four bytes", test.readl(VARS + 32)?, 0x0403_0201)?;
    for value in [0x20, 0xd0] {
        test.writeb(VARS + 0x1008, value)?;
    }
    expect("status of erasing", test.readb(VARS + 0x1000)?, 0x80)?;
    test.writeb(VARS, 0xff)?;
    expect("erased", test.readl(VARS + 0x1000)?, u32::MAX)?;
    expect("not erased", test.readl(VARS + 0x2000)?, 0x5a5a_5a5a)?;
    test.writeb(VARS, 0x98)?;
    expect("query", test.readb(VARS + 0x10)?, b'Q')?;
    expect("log of its size", test.readb(VARS + 0x27)?, 14)?;
    expect("blocks", test.readb(VARS + 0x2d)?, 0x83)?;
    test.writeb(VARS, 0xff)?;
    Ok(())
}

#[test]
fn what_is_written_reaches_the_image_unless_it_is_protected() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut vm = machine(scratch.path(), &[])?;
    let test = vm.qtest();
    for base in [VARS, CODE] {
        for value in [0x40, 0x11] {
            test.writeb(base + 3, value)?;
        }
        test.writeb(base, 0xff)?;
    }
    expect("written", test.readb(VARS + 3)?, 0x11)?;
    expect("protected", test.readb(CODE + 3)?, 3)?;
    vm.qmp().execute("quit")?;
    vm.finish()?;
    ensure!(std::fs::read(scratch.path().join("vars"))?[2..5] == [0x5a, 0x11, 0x5a]);
    ensure!(std::fs::read(scratch.path().join("code"))?[2..5] == [2, 3, 4]);
    Ok(())
}

#[test]
fn nodes_can_be_flash_memory() -> Result<()> {
    let scratch = tempfile::NamedTempFile::new()?;
    scratch.as_file().set_len(CODE_LEN)?;
    let node = format!("driver=file,node-name=code,filename={}", scratch.path().display());
    let mut vm = machine_with_qmp(&["-blockdev", &node, "-machine", "pflash0=code"])?;
    expect("memory", vm.qtest().readl(CODE)?, 0)?;
    let drives = vm.qmp().execute("query-block")?;
    let found = &drives[0];
    ensure!(found["qdev"] == "/machine/system.flash0", "{drives}");
    ensure!(found["inserted"]["node-name"] == "code", "{drives}");
    Ok(())
}
