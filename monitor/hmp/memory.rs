//! Memory and ports as text.

use std::fmt::Write;

use base::memory::{AddressSpace, LookupKind};
use cpu::disassembly::{MAX_LEN, disassemble};
use cpu::state::CpuState;

use super::words::Format;

const BYTES_PER_LINE: u64 = 16;
/// Most bytes that are printed at a time.
const MAX_BYTES: u64 = 1 << 20;

/// A number in the form asked for; `size` is in bytes.
pub(super) fn number(value: u64, shown: char, size: u8) -> String {
    let bits = u32::from(size) * 8;
    let signed = (value << (64 - bits)) as i64 >> (64 - bits);
    match shown {
        'o' if value == 0 => "0".into(),
        'o' => format!("0{value:o}"),
        'd' => signed.to_string(),
        'u' => value.to_string(),
        'c' => character(value),
        _ if value == 0 => "0".into(),
        _ => format!("{value:#x}"),
    }
}

fn character(value: u64) -> String {
    let inner = match value as u8 {
        b'\'' => "\\'".into(),
        b'\\' => "\\\\".into(),
        b'\n' => "\\n".into(),
        b'\r' => "\\r".into(),
        byte @ b' '..=b'~' => char::from(byte).to_string(),
        byte => format!("\\x{byte:02x}"),
    };
    format!("'{inner}'")
}

/// The widest number of a form, for columns to line up; characters need none.
fn width(shown: char, size: u8) -> usize {
    let bits = usize::from(size) * 8;
    match shown {
        'o' => bits.div_ceil(3),
        'd' | 'u' => [0, 3, 5, 8, 10, 13, 15, 18, 20][usize::from(size).min(8)],
        _ => 0,
    }
}

/// Reads physical memory; false where nobody answers.
pub(super) fn read_physical(memory: &AddressSpace, address: u64, bytes: &mut [u8]) -> bool {
    let view = memory.view();
    let found = !matches!(view.lookup(address).kind, LookupKind::Unassigned);
    if found {
        // As a whole: devices may tell the sizes of accesses apart.
        let value = view.read_uint(address, bytes.len() as u8).to_le_bytes();
        bytes.iter_mut().zip(value).for_each(|(to, from)| *to = from);
    }
    found
}

/// Where this program has a physical address in memory, and the name of the memory.
pub(super) fn host(memory: &AddressSpace, address: u64) -> Option<(String, u64)> {
    match memory.view().lookup(address).kind {
        LookupKind::Ram { block, offset, .. } | LookupKind::RomDevice { block, offset } => {
            Some((block.name().into(), block.host() as u64 + offset))
        }
        _ => None,
    }
}

/// A register by its name in expressions.
pub(super) fn register(state: &CpuState, name: &str) -> Option<u64> {
    const GENERAL: [&str; 8] = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
    const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];
    let wide = name.strip_prefix(['r', 'e']);
    if let Some(n) = wide.and_then(|rest| GENERAL.iter().position(|known| *known == rest)) {
        let value = state.regs[n];
        return Some(if name.starts_with('e') { value & 0xffff_ffff } else { value });
    }
    if let Some(n) = name.strip_prefix('r').and_then(|number| number.parse::<usize>().ok()) {
        return (8..16).contains(&n).then(|| state.regs[n]);
    }
    if let Some(n) = SEGMENTS.iter().position(|known| *known == name) {
        return Some(state.seg[n].selector.into());
    }
    match name {
        "rip" | "eip" => Some(state.rip),
        // As the processor fetches: the code segment's base added.
        "pc" => Some(state.rip.wrapping_add(state.seg[1].base)),
        "eflags" => Some(state.flags.get()),
        _ => None,
    }
}

/// Instructions from `address`, for code of so many bits, up to what cannot be read.
fn instructions(
    read: &dyn Fn(u64, &mut [u8]) -> bool,
    mut address: u64,
    count: u64,
    bits: u8,
) -> String {
    let mut text = String::new();
    for _ in 0..count.min(MAX_BYTES / MAX_LEN as u64) {
        let mut code = [0; MAX_LEN];
        // The last instruction before memory ends is shorter.
        let readable = (1..=MAX_LEN).rev().find(|len| read(address, &mut code[..*len]));
        let Some(readable) = readable else {
            let _ = writeln!(text, "0x{address:08x}: unable to read memory");
            break;
        };
        let (line, len) = disassemble(&code[..readable], address, bits, 1);
        text += &line;
        address = address.wrapping_add(len as u64);
    }
    text
}

/// The content of memory from `address`, line by line, code being of so many bits. `read` tells
/// whether it could.
pub(super) fn dump(
    read: &dyn Fn(u64, &mut [u8]) -> bool,
    address: u64,
    format: Format,
    bits: u8,
) -> String {
    if format.shown == 'i' {
        return instructions(read, address, format.count, bits);
    }
    let size = if format.shown == 'c' { 1 } else { format.size.unwrap_or(4) };
    let total = format.count.saturating_mul(size.into()).min(MAX_BYTES);
    let mut text = String::new();
    let per_line = if size == 1 { BYTES_PER_LINE / 2 } else { BYTES_PER_LINE };
    for line in (0..total).step_by(per_line as usize) {
        let start = address.wrapping_add(line);
        // Writing to a string cannot fail.
        let _ = write!(text, "{start:016x}:");
        for at in (line..total.min(line + per_line)).step_by(size.into()) {
            let mut bytes = [0; 8];
            if !read(address.wrapping_add(at), &mut bytes[..usize::from(size)]) {
                text.push_str(" Cannot access memory\n");
                return text;
            }
            let value = u64::from_le_bytes(bytes);
            let shown = match format.shown {
                'x' => format!("0x{value:0digits$x}", digits = usize::from(size) * 2),
                form => number(value, form, size),
            };
            let _ = write!(text, " {shown:>width$}", width = width(format.shown, size));
        }
        text.push('\n');
    }
    text
}

/// The sum that `sum` tells: rotated right by one bit before each byte, in sixteen bits.
pub(super) fn checksum(memory: &AddressSpace, address: u64, length: u64) -> u16 {
    let view = memory.view();
    (0..length).fold(0u16, |sum, at| {
        sum.rotate_right(1).wrapping_add(view.read_uint(address.wrapping_add(at), 1) as u16)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base::memory::{RamBlock, Region};

    use super::*;

    fn memory() -> AddressSpace {
        let block = Arc::new(RamBlock::anonymous("ram", 4096).unwrap());
        block.write(0, &[0xea, 0x5b, 0xe0, 0x00, 0xf0, 0x30, 0x36, 0x2f]);
        block.write(8, &[0x32, 0x33, 0x2f, 0x39, 0x39, 0x00, 0xfc, 0x00]);
        let root = Region::container("root", 1 << 64);
        root.add(&Region::ram(block), 0, 0);
        AddressSpace::new("memory", root)
    }

    fn shown(count: u64, shown: char, size: u8) -> String {
        let memory = memory();
        let read = |at, bytes: &mut [u8]| read_physical(&memory, at, bytes);
        dump(&read, 0, Format { count, shown, size: Some(size) }, 16)
    }

    #[test]
    fn dumps_look_as_in_qemu() {
        assert_eq!(shown(3, 'x', 4), "0000000000000000: 0x00e05bea 0x2f3630f0 0x392f3332\n");
        assert_eq!(
            shown(9, 'x', 1),
            "0000000000000000: 0xea 0x5b 0xe0 0x00 0xf0 0x30 0x36 0x2f\n\
             0000000000000008: 0x32\n"
        );
        assert_eq!(shown(4, 'u', 1), "0000000000000000: 234  91 224   0\n");
        assert_eq!(shown(2, 'd', 4), "0000000000000000:   14703594  792080624\n");
        assert_eq!(shown(2, 'x', 8), "0000000000000000: 0x2f3630f000e05bea 0x00fc0039392f3332\n");
        assert_eq!(shown(2, 'c', 1), "0000000000000000: '\\xea' '['\n");
    }

    #[test]
    fn the_checksum_is_qemus() {
        assert_eq!(checksum(&memory(), 0, 16), 54987);
    }

    #[test]
    fn what_is_not_there_is_said() {
        let format = Format { count: 2, shown: 'x', size: Some(4) };
        let memory = memory();
        let text = dump(&|at, bytes| read_physical(&memory, at, bytes), 4092, format, 16);
        assert_eq!(text, "0000000000000ffc: 0x00000000 Cannot access memory\n");
    }
}
