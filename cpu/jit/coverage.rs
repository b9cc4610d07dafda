//! Which instructions are left to the interpreter's handlers: for developers.

use std::collections::HashMap;

use iced_x86::{Code, Decoder, DecoderOptions};

use super::translate::unit::{Class, Unit};
use crate::Mode;
use crate::cpuid::Model;
use crate::interp::decode::Key;

/// The instructions of `code`, 64-bit code of a processor `model`, that are not translated, most
/// frequent first; and how many instructions there are.
pub fn handled(code: &[u8], model: &Model) -> (Vec<(Code, usize)>, usize) {
    let mode = Mode { code_bits: 64, stack_bits: 64, protected: true, ..Mode::default() };
    let key = Key::of(&mode).without_segments();
    let (mut counts, mut total) = (HashMap::new(), 0);
    for raw in &mut Decoder::new(64, code, DecoderOptions::NONE) {
        if raw.is_invalid() {
            continue;
        }
        total += 1;
        if let Class::Step | Class::Look | Class::Last(_) = Unit::of(raw, key, model).class {
            *counts.entry(raw.code()).or_default() += 1;
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(code, count)| (usize::MAX - count, *code as usize));
    (counts, total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::Testbed;

    #[test]
    fn counts_what_is_not_translated() {
        // cpuid; fld1; cpuid; sgdt [rax]; add rax, rbx
        let code = [0x0f, 0xa2, 0xd9, 0xe8, 0x0f, 0xa2, 0x0f, 0x01, 0x00, 0x48, 0x01, 0xd8];
        let model = Testbed::new().unwrap().cpu.model.clone();
        let (counts, total) = handled(&code, &model);
        assert_eq!(counts, [(Code::Cpuid, 2), (Code::Sgdt_m1664, 1)]);
        assert_eq!(total, 5);
    }
}
