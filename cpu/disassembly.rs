//! Guest code as text, for people: AT&T syntax by Capstone, laid out as QEMU does.

use std::fmt::Write as _;

use capstone::arch::x86::{ArchMode, ArchSyntax};
use capstone::prelude::*;

/// Bytes shown on a line; an instruction goes on on the next.
const BYTES_PER_LINE: usize = 8;
/// The longest instruction.
pub const MAX_LEN: usize = 15;

/// The lines of at most `count` instructions at the beginning of `code`, which lies at linear
/// `address` and is executed in a segment of 16, 32 or 64 bits; and how many bytes they take.
pub fn disassemble(code: &[u8], address: u64, bits: u8, count: usize) -> (String, usize) {
    let mode = match bits {
        64 => ArchMode::Mode64,
        32 => ArchMode::Mode32,
        _ => ArchMode::Mode16,
    };
    let mut text = String::new();
    let mut done = 0;
    let Ok(capstone) = Capstone::new().x86().mode(mode).syntax(ArchSyntax::Att).build() else {
        return (text, done);
    };
    for _ in 0..count {
        let rest = &code[done..];
        let at = address.wrapping_add(done as u64);
        if rest.is_empty() {
            break;
        }
        let decoded = capstone.disasm_count(rest, at, 1);
        let decoded = decoded.as_ref().ok().and_then(|decoded| decoded.first());
        let (bytes, mnemonic, operands) = match decoded {
            Some(insn) => (
                insn.bytes(),
                insn.mnemonic().unwrap_or_default(),
                insn.op_str().unwrap_or_default(),
            ),
            // No instruction, or one that is not whole.
            None => (&rest[..1], ".byte", &*format!("0x{:02x}", rest[0])),
        };
        line(&mut text, at, bytes, mnemonic, operands);
        done += bytes.len();
    }
    (text, done)
}

/// Tells the log of `count` instructions at `linear` that were just decoded.
pub(crate) fn log_code(bytes: &[u8], linear: u64, bits: u8, count: usize) {
    if base::log::enabled(base::log::IN_ASM) && base::log::in_filter(linear) {
        let (lines, _) = disassemble(bytes, linear, bits, count);
        base::log::write(format_args!("----------------\nIN: \n{lines}\n"));
    }
}

fn line(text: &mut String, at: u64, bytes: &[u8], mnemonic: &str, operands: &str) {
    for (n, part) in bytes.chunks(BYTES_PER_LINE).enumerate() {
        let shown: Vec<_> = part.iter().map(|byte| format!("{byte:02x}")).collect();
        let shown = shown.join(" ");
        let at = at.wrapping_add((n * BYTES_PER_LINE) as u64);
        // Writing to a string cannot fail.
        let _ = match n {
            0 => writeln!(text, "0x{at:08x}:  {shown:24} {mnemonic:8} {operands}"),
            _ => writeln!(text, "0x{at:08x}:  {shown}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What QEMU 10.0 shows of the same bytes.
    #[test]
    fn lines_are_those_of_the_reference() {
        let reset = [0xea, 0x5b, 0xe0, 0x00, 0xf0];
        let text = "0xfffffff0:  ea 5b e0 00 f0           ljmpw    $0xf000:$0xe05b\n";
        assert_eq!(disassemble(&reset, 0xffff_fff0, 16, 3), (text.into(), 5));

        let code = [0x2e, 0x66, 0x83, 0x3e, 0xc8, 0x61, 0x00, 0x31, 0xd2];
        let text = "0x000fe05b:  2e 66 83 3e c8 61 00     cmpl     $0, %cs:0x61c8\n\
                    0x000fe062:  31 d2                    xorw     %dx, %dx\n";
        assert_eq!(disassemble(&code, 0xf_e05b, 16, 2), (text.into(), 9));

        let code = [0xc7, 0x05, 0xc8, 0x61, 0x0f, 0x00, 0x01, 0x00, 0x00, 0x00, 0x90];
        let text = "0x000e9afe:  c7 05 c8 61 0f 00 01 00  movl     $1, 0xf61c8\n\
                    0x000e9b06:  00 00\n";
        assert_eq!(disassemble(&code, 0xe_9afe, 32, 1), (text.into(), 10));

        let code = [0x48, 0xb8, 0x20, 0, 0, 0, 0x20, 0, 0, 0];
        let text = "0x0014dc8f:  48 b8 20 00 00 00 20 00  movabsq  $0x2000000020, %rax\n\
                    0x0014dc97:  00 00\n";
        assert_eq!(disassemble(&code, 0x14_dc8f, 64, 1), (text.into(), 10));
    }

    #[test]
    fn what_is_no_instruction_is_a_byte() {
        let (text, len) = disassemble(&[0x0f, 0x0b, 0x06], 0x1000, 64, 9);
        assert_eq!(len, 3);
        assert!(text.ends_with("0x00001002:  06                       .byte    0x06\n"), "{text}");
    }
}
