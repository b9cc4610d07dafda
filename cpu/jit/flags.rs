//! Where the guest's arithmetic flags are, and who needs them.
//!
//! They live in the host's flags. The look into the TLB before an access destroys those, so flags
//! that somebody still needs must be somewhere else by then. Who needs them is an instruction that
//! reads them, a successor of the block, or only the handler of a fault, should there be one. In the
//! last case nothing is saved if the flags can be computed from registers that are still unchanged
//! wherever a fault can happen: a [`Recipe`].

use iced_x86::{Instruction, Mnemonic as M, OpKind, RflagsBits};

use crate::flags::Arith;

/// All six arithmetic flags, as iced-x86 numbers them.
pub const ALL: u8 = 0x3f;

/// What an instruction does to the arithmetic flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Flags it depends on.
    pub reads: u8,
    /// Flags that have nothing to do with their old values afterwards.
    pub replaces: u8,
    /// Flags that it may change.
    pub modifies: u8,
}

impl Effect {
    /// The effect of `raw`.
    pub fn of(raw: &Instruction) -> Self {
        const _: () = assert!(
            RflagsBits::OF
                | RflagsBits::SF
                | RflagsBits::ZF
                | RflagsBits::AF
                | RflagsBits::CF
                | RflagsBits::PF
                == ALL as u32
        );
        let reads = raw.rflags_read() as u8 & ALL;
        let modifies = raw.rflags_modified() as u8 & ALL;
        let replaces = if spares_flags_at_zero(raw) { 0 } else { modifies };
        Effect { reads, replaces, modifies }
    }
}

/// Whether `raw` is a shift or rotation whose count may be zero, which leaves all flags alone.
fn spares_flags_at_zero(raw: &Instruction) -> bool {
    let count = match raw.mnemonic() {
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr => 1,
        M::Shld | M::Shrd => 2,
        _ => return false,
    };
    raw.op_kind(count) == OpKind::Register || raw.immediate8() & 0x1f == 0
}

/// An operand of a [`Recipe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// A general register by number; AH..BH have bit 4 set.
    Reg(u8),
    /// A constant, sign-extended.
    Imm(i32),
}

/// What the flags are those of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `a - b`, neither of which changed.
    Compare,
    /// `a & b`, neither of which changed.
    Test,
    /// A logical operation whose result is `a`.
    Logic,
    /// An addition of `b` whose result is `a`.
    Add,
    /// A subtraction of `b` whose result is `a`.
    Sub,
}

/// How to compute flags from registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Recipe {
    kind: Kind,
    /// Width in bytes.
    size: u8,
    a: u8,
    b: Operand,
}

/// The number that [`Operand::Reg`] has for a register.
fn register_number(register: iced_x86::Register) -> u8 {
    use iced_x86::Register;
    let high = matches!(register, Register::AH | Register::BH | Register::CH | Register::DH);
    register.full_register().number() as u8 | u8::from(high) << 4
}

impl Recipe {
    /// The recipe for the flags that `raw` leaves, if its operands allow one.
    pub fn after(raw: &Instruction) -> Option<Self> {
        if raw.op0_kind() != OpKind::Register || !raw.op0_register().is_gpr() {
            return None;
        }
        let a = register_number(raw.op0_register());
        let b = match raw.op1_kind() {
            OpKind::Register => Some(Operand::Reg(register_number(raw.op1_register()))),
            OpKind::Memory => None,
            _ => raw.try_immediate(1).ok().map(|value| Operand::Imm(value as i32)),
        };
        let same = b == Some(Operand::Reg(a));
        let kind = match raw.mnemonic() {
            M::Cmp => Kind::Compare,
            M::Test => Kind::Test,
            M::And | M::Or | M::Xor => Kind::Logic,
            M::Add if !same => Kind::Add,
            M::Sub => Kind::Sub,
            _ => return None,
        };
        let b = match b {
            Some(b) => b,
            None if kind == Kind::Logic => Operand::Imm(0),
            None => return None,
        };
        Some(Recipe { kind, size: raw.op0_register().size() as u8, a, b })
    }

    /// The registers it depends on, a bit each.
    pub fn registers(&self) -> u16 {
        let b = match self.b {
            Operand::Reg(b) if self.kind != Kind::Logic => 1 << (b & 15),
            _ => 0,
        };
        1 << (self.a & 15) | b
    }

    /// The flags, given the registers.
    pub fn flags(&self, regs: &[u64; 16]) -> Arith {
        let bits = 8 * u32::from(self.size & 15);
        let widen = |value: u64| ((value << (64 - bits)) as i64 >> (64 - bits)) as u64;
        let get = |n: u8| widen(regs[usize::from(n & 15)] >> (n >> 4 & 1) * 8);
        let a = get(self.a);
        let b = match self.b {
            Operand::Reg(n) => get(n),
            Operand::Imm(value) => widen(value as i64 as u64),
        };
        let added = |a: u64, b: u64, r: u64| Arith::carried(r, a & b | (a | b) & !r, bits);
        let subtracted = |a: u64, b: u64, r: u64| Arith::carried(r, !a & b | (!a | b) & r, bits);
        match self.kind {
            Kind::Compare => subtracted(a, b, widen(a.wrapping_sub(b))),
            Kind::Test => Arith::logic(a & b),
            Kind::Logic => Arith::logic(a),
            Kind::Add => added(widen(a.wrapping_sub(b)), b, a),
            Kind::Sub => subtracted(widen(a.wrapping_add(b)), b, a),
        }
    }
}

/// Where exact flags can be found when translated code is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagsAt {
    /// In the frame.
    Slot,
    /// In the host's flags, which the trap that left saved.
    Trap,
    /// By computing them.
    Recipe(Recipe),
}
