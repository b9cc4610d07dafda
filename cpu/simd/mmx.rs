//! The 64-bit MMX forms, derived from the 128-bit operations.

use super::integer::{Binary, int_binary};
use super::lanes::Lane;
use iced_x86::Mnemonic as M;

/// An MMX operation on two registers.
#[derive(Clone, Copy)]
pub struct MmxBinary {
    operation: Binary,
    form: Form,
}

#[derive(Clone, Copy)]
enum Form {
    /// Lane by lane.
    Lanewise,
    /// The result is made of the lanes of one operand, then of the other.
    Joined,
    /// The result is the upper half of the interleaved operands.
    UpperInterleaved,
    /// The source selects bytes of the destination.
    ByteShuffle,
}

impl MmxBinary {
    /// `f(destination, source)`
    pub fn apply(self, a: u64, b: u64) -> u64 {
        let operation = |a: u64, b: u64| (self.operation)(a.into(), b.into());
        match self.form {
            Form::Lanewise => operation(a, b) as u64,
            Form::Joined => (self.operation)(u128::from(a) | u128::from(b) << 64, 0) as u64,
            Form::UpperInterleaved => (operation(a, b) >> 64) as u64,
            Form::ByteShuffle => operation(a, b & 0x8787_8787_8787_8787) as u64,
        }
    }
}

/// The MMX form of an operation. (Which mnemonics have one is the decoder's knowledge.)
pub fn mmx_binary(mnemonic: M) -> Option<MmxBinary> {
    let (operation, form) = match mnemonic {
        M::Packsswb | M::Packssdw | M::Packuswb => (int_binary(mnemonic)?, Form::Joined),
        M::Phaddw | M::Phaddd | M::Phaddsw | M::Phsubw | M::Phsubd | M::Phsubsw => {
            (int_binary(mnemonic)?, Form::Joined)
        }
        M::Punpckhbw => (int_binary(M::Punpcklbw)?, Form::UpperInterleaved),
        M::Punpckhwd => (int_binary(M::Punpcklwd)?, Form::UpperInterleaved),
        M::Punpckhdq => (int_binary(M::Punpckldq)?, Form::UpperInterleaved),
        M::Pshufb => (int_binary(mnemonic)?, Form::ByteShuffle),
        _ => (int_binary(mnemonic)?, Form::Lanewise),
    };
    Some(MmxBinary { operation, form })
}

/// PSHUFW and the MMX form of PALIGNR.
pub fn mmx_immediate(mnemonic: M) -> Option<fn(u64, u64, u8) -> u64> {
    Some(match mnemonic {
        M::Pshufw => |_, b, imm| {
            let b = u16::split(b.into());
            u16::build(|i| if i < 4 { b[usize::from(imm >> (2 * i) & 3)] } else { 0 }) as u64
        },
        M::Palignr => |a, b, imm| {
            let joined = u128::from(a) << 64 | u128::from(b);
            joined.checked_shr(8 * u32::from(imm)).unwrap_or(0) as u64
        },
        _ => return None,
    })
}
