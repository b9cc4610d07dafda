//! vncdotool, a client that people automate machines with: it types, and takes pictures.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use testbed::vm::Vm;
use testbed::{DEADLINE, program, skip};

/// Between looks at the screen.
const POLL: Duration = Duration::from_millis(100);

/// A boot sector that hides the cursor and shows what is typed.
const ECHO: &[u8] = &[
    0xb4, 0x01, 0xb9, 0x00, 0x20, 0xcd, 0x10, // mov ah, 1; mov cx, 2000h; int 10h
    0xb8, b'>', 0x0e, 0xcd, 0x10, // mov ax, 0e00h + '>'; int 10h
    0xb4, 0x00, 0xcd, 0x16, // again: mov ah, 0; int 16h
    0xb4, 0x0e, 0xcd, 0x10, // mov ah, 0eh; int 10h
    0xeb, 0xf6, // jmp again
];

/// Types, takes a picture of what is seen, and compares it with the machine's own.
const SCRIPT: &str = r#"
import sys
from PIL import Image
from vncdotool import api

address, seen, own = sys.argv[1:4]
client = api.connect(address, timeout=60)
if own == 'type':
    for key in 'hello':
        client.keyPress(key)
    client.keyDown('shift')
    client.keyPress('1')
    client.keyUp('shift')
else:
    client.captureScreen(seen)
    one, other = Image.open(seen).convert('RGB'), Image.open(own).convert('RGB')
    assert one.size == other.size, (one.size, other.size)
    assert one.tobytes() == other.tobytes(), 'another picture'
client.disconnect()
api.shutdown()
"#;

/// The characters of the text screen.
fn text(vm: &mut Vm) -> Result<String> {
    let path = vm.scratch().join("text");
    let argument = json!({"val": 0xb8000, "size": 4000, "filename": path});
    vm.qmp().execute_with("pmemsave", argument)?;
    let bytes = std::fs::read(&path).context("no picture of the text")?;
    Ok(bytes.chunks(2).map(|cell| char::from(cell[0])).collect())
}

fn until_shown(vm: &mut Vm, wanted: &str) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < DEADLINE {
        if text(vm)?.contains(wanted) {
            return Ok(());
        }
        sleep(POLL);
    }
    bail!("{wanted:?} was never shown: {}", text(vm)?)
}

fn vncdo(arguments: &[&str]) -> Result<()> {
    let python = testbed::python::program();
    let output = Command::new(python).args(["-c", SCRIPT]).args(arguments).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn it_types_and_sees() -> Result<()> {
    let python = testbed::python::program();
    let found = Command::new(python).args(["-c", "import vncdotool, PIL"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        skip("no Python with vncdotool (`cargo xtask assets` installs one)");
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let disk = directory.path().join("disk");
    let mut sector = ECHO.to_vec();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector.resize(64 << 10, 0);
    std::fs::write(&disk, sector)?;
    let drive = format!("file={},format=raw,if=ide", disk.display());
    let mut vm = crate::serve(&program(), directory.path(), "", &["-drive", &drive])?;
    until_shown(&mut vm, ">")?;
    let address = directory.path().join("vnc").display().to_string();
    vncdo(&[&address, "", "type"])?;
    until_shown(&mut vm, ">hello!")?;
    let own = directory.path().join("own.png").display().to_string();
    vm.qmp().execute_with("screendump", json!({"filename": own, "format": "png"}))?;
    let seen = directory.path().join("seen.png").display().to_string();
    vncdo(&[&address, &seen, &own])
}
