//! From instruction bytes to [`Op`]s.
//!
//! iced-x86 takes the bytes apart; each group's file picks the handler by mnemonic and kinds of
//! operands. What an operand is goes into the same fields of [`Op`] whatever the instruction.

/// Picks the instance of a handler for an operand width in bytes.
macro_rules! by_width {
    ($bytes:expr, $f:path $(, $t:ty)*) => {
        by_width!(@ $bytes, $f, [$(, $t)*], 1 u8 2 u16 4 u32 8 u64)
    };
    (@ $bytes:expr, $f:path, $rest:tt, $($n:literal $w:ty)*) => {
        match $bytes { $($n => by_width!(@one $f, $w, $rest),)* _ => return None }
    };
    (@one $f:path, $w:ty, [$(, $t:ty)*]) => {{
        use $f as handler;
        let run: crate::interp::op::Handler = handler::<$w $(, $t)*>;
        run
    }};
}

/// The same without a byte form.
macro_rules! by_wide_width {
    ($bytes:expr, $f:path $(, $t:ty)*) => {
        by_width!(@ $bytes, $f, [$(, $t)*], 2 u16 4 u32 8 u64)
    };
}
mod alu;
mod bit;
mod branch;
mod features;
mod float;
mod form;
mod movement;
mod sse;
mod stack;
mod string;
mod system;
mod vector;
mod x87;

use iced_x86::{
    Decoder, DecoderError, DecoderOptions, EncodingKind, Instruction, Mnemonic, OpKind, Register,
};

use super::exec::system::{TooLong, Undefined, Unknown, plain};
use super::op::{Handler, Op, Reg, prefix, segment};
use crate::cpuid::Model;
use crate::mode::Mode;
use crate::state::Seg;

pub use branch::{End, ends_block};
pub use features::offered;

/// Longest instruction (SDM vol. 2, 2.3.11).
pub const MAX_LEN: usize = 15;

/// What decoding depends on besides the bytes. Blocks decoded under different keys are different
/// blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Key(u16);

const SINGLE: u16 = 1 << 12;
/// Real or virtual-8086 mode.
const REAL: u16 = 1 << 13;

impl Key {
    /// The key of `mode`.
    pub fn of(mode: &Mode) -> Self {
        let width = |bits: u8| u16::from(bits / 32);
        let flat = (0..6)
            .filter(|&seg| mode.base[seg] == 0 && mode.flat_read & mode.flat_write & 1 << seg != 0);
        let flat = flat.fold(0, |set, seg| set | 1 << seg);
        let limitless = u16::from(mode.flat_read & mode.flat_write) >> 4 & 3;
        let real = if mode.protected { 0 } else { REAL };
        Key(flat
            | limitless << 6
            | width(mode.code_bits) << 8
            | width(mode.stack_bits) << 10
            | real)
    }
    /// The same for 64-bit code, where decoding depends on no segment.
    pub fn without_segments(self) -> Self {
        Key(self.0 | 0xff)
    }
    /// The same for blocks of one instruction.
    pub fn single(self) -> Self {
        Key(self.0 | SINGLE)
    }
    /// Whether blocks have one instruction only.
    pub fn is_single(self) -> bool {
        self.0 & SINGLE != 0
    }
    /// 16, 32 or 64.
    pub fn code_bits(self) -> u32 {
        [16, 32, 64, 64][usize::from(self.0 >> 8 & 3)]
    }
    /// Whether instructions with a VEX prefix exist: not in real and virtual-8086 mode.
    pub fn has_vex(self) -> bool {
        self.0 & REAL == 0
    }
    /// Whether `seg` is FS or GS, and any offset in it is allowed.
    pub fn is_limitless(self, seg: Seg) -> bool {
        matches!(seg, Seg::Fs | Seg::Gs) && self.0 >> (seg as u8 + 2) & 1 != 0
    }
    /// Whether offsets in `seg` are linear addresses that need no check.
    pub fn is_flat(self, seg: Seg) -> bool {
        self.0 >> seg as u8 & 1 != 0
    }
}

/// What there is to know for turning one instruction into an [`Op`].
pub struct Insn<'a> {
    /// The instruction.
    pub raw: &'a Instruction,
    /// What decoding depends on.
    pub key: Key,
    /// Instruction pointer of the block's first instruction.
    pub start: u64,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// Kind of an operand, as handlers distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A register.
    Reg,
    /// A memory operand.
    Mem,
    /// An immediate.
    Imm,
    /// There is none.
    None,
}

fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}

/// The number of a register as [`Op`] has it.
fn register_number(register: Register) -> u8 {
    let number =
        if register.is_gpr() { register.full_register().number() } else { register.number() };
    number as u8 | u8::from(is_high_byte(register)) << 4
}

/// The segment that `register` stands for; DS if it is none.
pub fn segment_of(register: Register) -> Seg {
    match register {
        Register::ES => Seg::Es,
        Register::CS => Seg::Cs,
        Register::SS => Seg::Ss,
        Register::FS => Seg::Fs,
        Register::GS => Seg::Gs,
        _ => Seg::Ds,
    }
}

impl Insn<'_> {
    /// Kind of operand `n`.
    pub fn kind(&self, n: u32) -> Kind {
        if n >= self.raw.op_count() {
            return Kind::None;
        }
        match self.raw.op_kind(n) {
            OpKind::Register => Kind::Reg,
            OpKind::Memory => Kind::Mem,
            OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => Kind::Imm,
            _ => Kind::None,
        }
    }
    /// Size of operand `n` in bytes, 0 if it has none of its own.
    pub fn size(&self, n: u32) -> usize {
        match self.kind(n) {
            Kind::Reg => self.raw.op_register(n).size(),
            Kind::Mem => self.raw.memory_size().size(),
            _ => 0,
        }
    }
    /// What it is called.
    pub fn mnemonic(&self) -> Mnemonic {
        self.raw.mnemonic()
    }
    /// Whether all operands are general registers, memory or immediates.
    pub fn is_general(&self) -> bool {
        (0..self.raw.op_count())
            .all(|n| self.kind(n) != Kind::Reg || self.raw.op_register(n).is_gpr())
    }

    /// The opcode as the FPU remembers it: the low bits of the escape byte, and the byte after it.
    pub fn x87_opcode(&self) -> u16 {
        let escape = self.bytes.iter().position(|byte| byte & 0xf8 == 0xd8);
        let pair = escape.and_then(|at| Some((self.bytes[at], *self.bytes.get(at + 1)?)));
        pair.map_or(0, |(escape, modrm)| u16::from(escape & 7) << 8 | u16::from(modrm))
    }

    /// An operation with every operand filled in.
    pub fn op(&self, run: Handler) -> Op {
        let raw = self.raw;
        let end = raw.next_ip().wrapping_sub(self.start);
        let mut op = Op {
            run,
            imm: 0,
            disp: 0,
            base: Reg::Zero,
            index: Reg::Zero,
            scale: 0,
            wrap: 0,
            segment: Seg::Ds as u8,
            dst: 0,
            src: 0,
            src2: 0,
            prefix: 0,
            len: raw.len() as u8,
            next: end as u16,
        };
        for n in 0..raw.op_count() {
            match self.kind(n) {
                Kind::Reg => {
                    let number = register_number(raw.op_register(n));
                    match n {
                        0 => op.dst = number,
                        1 => op.src = number,
                        2 => op.src2 = number,
                        _ => {}
                    }
                }
                Kind::Imm => op.imm = raw.immediate(n),
                Kind::Mem => self.memory(&mut op),
                Kind::None => {}
            }
        }
        if raw.has_lock_prefix() {
            op.prefix |= prefix::LOCK;
        }
        if raw.has_rep_prefix() {
            op.prefix |= prefix::REP;
        }
        if raw.has_repne_prefix() {
            op.prefix |= prefix::REPNE;
        }
        op
    }

    /// Bits of the address size of the memory operand.
    fn address_bits(&self) -> u32 {
        let raw = self.raw;
        let by = |register: Register| match register {
            Register::EIP => 32,
            Register::RIP => 64,
            register => register.size() as u32 * 8,
        };
        if raw.memory_base() != Register::None {
            by(raw.memory_base())
        } else if raw.memory_index() != Register::None {
            by(raw.memory_index())
        } else {
            match raw.memory_displ_size() {
                2 => 16,
                4 => 32,
                _ => 64,
            }
        }
    }

    /// Fills in the segment of a memory access.
    pub fn segment(&self, op: &mut Op, register: Register) {
        let seg = segment_of(register);
        op.segment = seg as u8;
        if self.key.code_bits() == 64 {
            if matches!(seg, Seg::Fs | Seg::Gs) {
                op.segment |= segment::BASED;
            }
        } else if !self.key.is_flat(seg) {
            op.segment |= segment::CHECKED;
        }
    }

    fn memory(&self, op: &mut Op) {
        let raw = self.raw;
        self.segment(op, raw.memory_segment());
        let bits = self.address_bits();
        op.wrap = 64 - bits as u8;
        let mut displacement = raw.memory_displacement64();
        op.base = match raw.memory_base() {
            Register::None => Reg::Zero,
            Register::RIP | Register::EIP => {
                displacement = displacement.wrapping_sub(self.start);
                Reg::Code
            }
            register => Reg::general(register_number(register).into()),
        };
        if raw.memory_index() != Register::None && raw.memory_index().is_gpr() {
            op.index = Reg::general(register_number(raw.memory_index()).into());
            op.scale = raw.memory_index_scale().trailing_zeros() as u8;
        }
        if bits < 64 {
            op.disp = displacement as i32;
            return;
        }
        let displacement = displacement as i64;
        op.disp = displacement as i32;
        match displacement - i64::from(op.disp) {
            0 => {}
            lost if lost > 0 => op.segment |= segment::FAR_UP,
            _ => op.segment |= segment::FAR_DOWN,
        }
    }
}

/// Turns one instruction into an operation; #UD if it is not known or not offered.
pub fn lower(insn: &Insn<'_>, model: &Model) -> Op {
    if insn.raw.encoding() == EncodingKind::VEX && !insn.key.has_vex() {
        return insn.op(plain::<Undefined>);
    }
    if features::offered(insn.raw, model)
        && let Some(op) = known(insn)
    {
        return op;
    }
    // Processors without the counting instructions ignore the prefix that makes them.
    let older = match insn.mnemonic() {
        Mnemonic::Tzcnt => bit::lower(insn, Mnemonic::Bsf),
        Mnemonic::Lzcnt => bit::lower(insn, Mnemonic::Bsr),
        _ => None,
    };
    older.unwrap_or_else(|| match insn.mnemonic() {
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 | Mnemonic::INVALID => {
            let too_long = insn.raw.len() >= MAX_LEN;
            insn.op(if too_long { plain::<TooLong> } else { plain::<Undefined> })
        }
        _ => insn.op(plain::<Unknown>),
    })
}

fn known(insn: &Insn<'_>) -> Option<Op> {
    let m = insn.mnemonic();
    alu::lower(insn, m)
        .or_else(|| movement::lower(insn, m))
        .or_else(|| branch::lower(insn, m))
        .or_else(|| stack::lower(insn, m))
        .or_else(|| bit::lower(insn, m))
        .or_else(|| string::lower(insn, m))
        .or_else(|| system::lower(insn, m))
        .or_else(|| sse::lower(insn))
        .or_else(|| vector::lower(insn))
        .or_else(|| float::lower(insn))
        .or_else(|| x87::lower(insn, m, insn.x87_opcode()))
}

/// Takes the first instruction of `bytes` apart. `None` if it is longer than that.
pub fn take_apart(decoder: &mut Decoder<'_>) -> Option<Instruction> {
    let raw = decoder.decode();
    (decoder.last_error() != DecoderError::NoMoreBytes).then_some(raw)
}

/// A decoder for `bytes` at instruction pointer `rip`.
pub fn decoder(bytes: &[u8], key: Key, rip: u64) -> Decoder<'_> {
    Decoder::with_ip(key.code_bits(), bytes, rip, DecoderOptions::NONE)
}

#[cfg(test)]
mod tests;
