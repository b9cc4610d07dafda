//! Guests of one sector, which firmware starts from a disk.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::vm::Vm;

/// Hides the cursor, says `>`, and shows what is typed.
pub const ECHO: &[u8] = &[
    0xb4, 0x01, 0xb9, 0x00, 0x20, 0xcd, 0x10, // mov ah, 1; mov cx, 2000h; int 10h
    0xb8, b'>', 0x0e, 0xcd, 0x10, // mov ax, 0e00h + '>'; int 10h
    0xb4, 0x00, 0xcd, 0x16, // again: mov ah, 0; int 16h
    0xb4, 0x0e, 0xcd, 0x10, // mov ah, 0eh; int 10h
    0xeb, 0xf6, // jmp again
];

/// Says `>` at the first serial port, and then what it is told there.
pub const SERIAL_ECHO: &[u8] = &[
    0xba, 0xf8, 0x03, 0xb0, b'>', 0xee, // mov dx, 3f8h; mov al, '>'; out dx, al
    0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, // again: mov dx, 3fdh; in al, dx; test al, 1
    0x74, 0xf8, // jz again
    0xba, 0xf8, 0x03, 0xec, 0xee, // mov dx, 3f8h; in al, dx; out dx, al
    0xeb, 0xf1, // jmp again
];

/// The memory of a PC's text screen, and its bytes: what is shown may begin anywhere in it.
const TEXT: u32 = 0xb8000;
const TEXT_SIZE: u32 = 0x8000;

/// A disk in a directory that starts with this code, as `-drive` takes it.
pub fn disk(directory: &Path, code: &[u8]) -> Result<String> {
    let path = directory.join("disk");
    let mut image = code.to_vec();
    image.resize(510, 0);
    image.extend([0x55, 0xaa]);
    image.resize(64 << 10, 0);
    std::fs::write(&path, image)?;
    Ok(format!("file={},format=raw,if=ide", path.display()))
}

/// The characters in the memory of the text screen, of a machine with QMP.
pub fn text(vm: &mut Vm) -> Result<String> {
    let path = vm.scratch().join("text");
    let argument = json!({"val": TEXT, "size": TEXT_SIZE, "filename": path});
    vm.qmp().execute_with("pmemsave", argument)?;
    let bytes = std::fs::read(&path).context("no picture of the text")?;
    Ok(bytes.chunks(2).map(|cell| char::from(cell[0])).collect())
}

/// Waits until a text is on that screen.
pub fn until_shown(vm: &mut Vm, wanted: &str) -> Result<()> {
    crate::until(wanted, || Ok(text(vm)?.contains(wanted)))
}
