//! Vector arithmetic without floating-point exceptions: operands for the functions of `crate::simd`.
//!
//! `imm` holds the immediate in its low byte, the number of the mnemonic above it (the tables below
//! give the function for that number), and above that by how much the second lane shifts the immediate.

use std::marker::PhantomData;
use std::sync::LazyLock;

use super::form::{Form, Immediate, Operand, Part, Vex256};
use super::sse::{check, check_mmx};
use crate::flags::{Arith, bit};
use crate::interp::op::{Op, Source, Word};
use crate::simd::{self, AcrossLanes, Binary, BinaryImm, MmxBinary, StringMatch, Ternary, Test};
use crate::state::gpr;
use crate::{Cpu, Int, Trap};

/// Where the number of the mnemonic begins in `imm`.
pub const MNEMONIC_SHIFT: u32 = 8;

/// Where the shift of the second lane's immediate begins in `imm`.
pub const STEP_SHIFT: u32 = 32;

/// The functions of one kind, by number of the mnemonic.
pub(super) struct Table<F>(LazyLock<Vec<Option<F>>>);

impl<F: Copy> Table<F> {
    pub(super) const fn new(build: fn() -> Vec<Option<F>>) -> Self {
        Table(LazyLock::new(build))
    }
    /// The function for `op`, which was only decoded so because there is one.
    #[inline(always)]
    pub(super) fn of(&self, cpu: &mut Cpu, op: &Op) -> Result<F, Trap> {
        let number = usize::from((op.imm >> MNEMONIC_SHIFT) as u16);
        self.0.get(number).copied().flatten().ok_or_else(|| cpu.undefined())
    }
}

macro_rules! table {
    ($name:ident, $function:ty, $by:path) => {
        static $name: super::vector::Table<$function> =
            super::vector::Table::new(|| iced_x86::Mnemonic::values().map($by).collect());
    };
}
pub(super) use table;

table!(BINARY, Binary, simd::int_binary);
table!(BINARY_IMM, BinaryImm, simd::int_immediate);
table!(TERNARY, Ternary, simd::int_ternary);
table!(SIGNS, (fn(u128) -> u32, u32), simd::sign_mask);
table!(TEST, Test, simd::int_test);
table!(ACROSS_LANES, AcrossLanes, simd::across_lanes);
table!(MMX_BINARY, MmxBinary, simd::mmx_binary);
table!(MMX_IMM, fn(u64, u64, u8) -> u64, simd::mmx_immediate);

/// `dst = f(src, S)`.
pub fn binary<F: Form, S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let b = S::read::<F>(cpu, op)?;
    let f = BINARY.of(cpu, op)?;
    let a = F::get(cpu, op.src);
    F::set(cpu, op.dst, F::build(|i| f(a[i], b[i])));
    Ok(())
}

/// The part of the immediate that lane `i` goes by.
#[inline(always)]
pub(super) fn immediate(op: &Op, lane: usize) -> u8 {
    let step = if lane == 0 { 0 } else { op.imm >> STEP_SHIFT & 7 };
    (op.imm as u8) >> step
}

/// `dst = f(src, S, imm8)`.
pub fn binary_imm<F: Form, S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let b = S::read::<F>(cpu, op)?;
    let f = BINARY_IMM.of(cpu, op)?;
    let a = F::get(cpu, op.src);
    F::set(cpu, op.dst, F::build(|i| f(a[i], b[i], immediate(op, i))));
    Ok(())
}

/// `dst = f(src, S, third)`; the number of the third register is in the immediate.
pub fn ternary<F: Form, S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let b = S::read::<F>(cpu, op)?;
    let f = TERNARY.of(cpu, op)?;
    let (a, c) = (F::get(cpu, op.src), F::get(cpu, op.imm as u8));
    F::set(cpu, op.dst, F::build(|i| f(a[i], b[i], c[i])));
    Ok(())
}

/// Permutations and broadcasts of whole registers.
pub fn across_lanes<F: Form, S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let b = S::read::<Vex256>(cpu, op)?;
    let f = ACROSS_LANES.of(cpu, op)?;
    let result = f(Vex256::get(cpu, op.src), b, op.imm as u8);
    F::set(cpu, op.dst, F::build(|i| result[i]));
    Ok(())
}

/// VEXTRACTF128 and VEXTRACTI128 to a register.
pub fn extract_half(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    Vex256::check(cpu)?;
    let half = Vex256::get(cpu, op.src2)[op.imm as usize & 1];
    Vex256::set(cpu, op.dst, [half, 0]);
    Ok(())
}

/// The same to memory.
pub fn extract_half_to_memory(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    Vex256::check(cpu)?;
    let half = Vex256::get(cpu, op.src2)[op.imm as usize & 1];
    op.store(cpu, half)?;
    cpu.stored()
}

/// PMOVMSKB, MOVMSKPS and MOVMSKPD.
pub fn sign_mask<F: Form>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let (f, lanes) = SIGNS.of(cpu, op)?;
    let [low, high] = F::get(cpu, op.src2).map(f);
    (low | high << lanes).set(cpu, op.dst);
    Ok(())
}

/// PTEST and its like: ZF and CF.
pub fn test<F: Form, S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let b = S::read::<F>(cpu, op)?;
    let f = TEST.of(cpu, op)?;
    let a = F::get(cpu, op.src);
    let (zf, cf) = (F::all(|i| f(a[i], b[i]).0), F::all(|i| f(a[i], b[i]).1));
    let flags = if zf { bit::ZF } else { 0 } | if cf { bit::CF } else { 0 };
    cpu.set_arith(Arith::from_bits(flags));
    Ok(())
}

/// PINSRB, PINSRW, PINSRD and PINSRQ: the low `T` of a general register or memory.
pub fn insert<F: Form, T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let value: T = S::read(cpu, op)?;
    let result = simd::insert_lane(cpu.xmm(op.src), value.zx(), T::BITS, op.imm as u8);
    F::set(cpu, op.dst, [result, 0]);
    Ok(())
}

/// PEXTRB, PEXTRW, PEXTRD, PEXTRQ and EXTRACTPS to a general register, zero-extended.
pub fn extract<F: Form, T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let value = simd::extract_lane(cpu.xmm(op.src2), T::BITS, op.imm as u8);
    value.set(cpu, op.dst);
    Ok(())
}

/// The same to memory.
pub fn extract_to_memory<F: Form, T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let value = simd::extract_lane(cpu.xmm(op.src2), T::BITS, op.imm as u8);
    op.store(cpu, T::of(value))?;
    cpu.stored()
}

/// EXTRQ with immediates: length and index of the bit field, a byte each.
pub fn extract_bits(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check(cpu)?;
    let result = simd::extract_bits(cpu.xmm(op.dst), op.imm as u8, (op.imm >> 8) as u8);
    cpu.set_xmm(op.dst, result);
    Ok(())
}

/// INSERTQ with immediates.
pub fn insert_bits(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check(cpu)?;
    let (a, b) = (cpu.xmm(op.dst), cpu.xmm(op.src2));
    cpu.set_xmm(op.dst, simd::insert_bits(a, b, op.imm as u8, (op.imm >> 8) as u8));
    Ok(())
}

/// How long the strings of a comparison are.
pub trait Lengths {
    /// The lengths, if they are given.
    fn read(cpu: &Cpu) -> Option<(i64, i64)>;
}
/// As long as there are elements that are not zero.
pub struct Implicit;
/// EAX and EDX, or RAX and RDX.
pub struct Explicit<T>(PhantomData<T>);

impl Lengths for Implicit {
    fn read(_: &Cpu) -> Option<(i64, i64)> {
        None
    }
}
impl<T: Word> Lengths for Explicit<T> {
    fn read(cpu: &Cpu) -> Option<(i64, i64)> {
        let length = |number: usize| T::get(cpu, number as u8).sx() as i64;
        Some((length(gpr::RAX), length(gpr::RDX)))
    }
}

fn compare_strings<F: Form, L: Lengths, S: Operand>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<StringMatch, Trap> {
    F::check(cpu)?;
    let [b, _] = S::read::<F>(cpu, op)?;
    let found = simd::compare_strings(cpu.xmm(op.src), b, L::read(cpu), op.imm as u8);
    let flags = &found.flags;
    let set = [
        (flags.overflow, bit::OF),
        (flags.sign, bit::SF),
        (flags.zero, bit::ZF),
        (flags.carry, bit::CF),
    ];
    let bits = set.iter().filter(|(set, _)| *set).fold(0, |bits, (_, bit)| bits | bit);
    cpu.set_arith(Arith::from_bits(bits));
    Ok(found)
}

/// PCMPESTRI and PCMPISTRI: an index to ECX.
pub fn string_index<F: Form, L: Lengths, S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let found = compare_strings::<F, L, S>(cpu, op)?;
    found.index().set(cpu, gpr::RCX as u8);
    Ok(())
}

/// PCMPESTRM and PCMPISTRM: a mask to XMM0.
pub fn string_mask<F: Form, L: Lengths, S: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let found = compare_strings::<F, L, S>(cpu, op)?;
    F::set(cpu, 0, [found.mask(), 0]);
    Ok(())
}

/// The second operand of an MMX instruction.
pub trait MmxOperand {
    /// Its value, zero-extended.
    fn read(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap>;
}
/// An MMX register.
pub struct Mm;
impl MmxOperand for Mm {
    fn read(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
        Ok(cpu.state.x87.mmx(op.src2))
    }
}
impl<T: Int> MmxOperand for Part<T> {
    fn read(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
        Ok(op.load::<T>(cpu)?.widen() as u64)
    }
}
impl MmxOperand for Immediate {
    fn read(_: &mut Cpu, op: &Op) -> Result<u64, Trap> {
        Ok(op.imm & 0xff)
    }
}

pub(super) fn set_mmx(cpu: &mut Cpu, number: u8, value: u64) {
    cpu.state.x87.enter_mmx();
    cpu.state.x87.set_mmx(number, value);
}

/// `dst = f(dst, S)`.
pub fn mmx_binary<S: MmxOperand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check_mmx(cpu)?;
    let b = S::read(cpu, op)?;
    let f = MMX_BINARY.of(cpu, op)?;
    let result = f.apply(cpu.state.x87.mmx(op.dst), b);
    set_mmx(cpu, op.dst, result);
    Ok(())
}

/// `dst = f(dst, S, imm8)`.
pub fn mmx_imm<S: MmxOperand>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check_mmx(cpu)?;
    let b = S::read(cpu, op)?;
    let f = MMX_IMM.of(cpu, op)?;
    let result = f(cpu.state.x87.mmx(op.dst), b, op.imm as u8);
    set_mmx(cpu, op.dst, result);
    Ok(())
}

/// PMOVMSKB of an MMX register.
pub fn mmx_sign_mask(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check_mmx(cpu)?;
    let (f, _) = SIGNS.of(cpu, op)?;
    let value = cpu.state.x87.mmx(op.src2);
    cpu.state.x87.enter_mmx();
    f(value.into()).set(cpu, op.dst);
    Ok(())
}

/// PINSRW of an MMX register.
pub fn mmx_insert<S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check_mmx(cpu)?;
    let value: u16 = S::read(cpu, op)?;
    let old = cpu.state.x87.mmx(op.dst).into();
    let result = simd::insert_lane(old, value.zx(), 16, op.imm as u8 & 3);
    set_mmx(cpu, op.dst, result as u64);
    Ok(())
}

/// PEXTRW of an MMX register.
pub fn mmx_extract(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check_mmx(cpu)?;
    let value = simd::extract_lane(cpu.state.x87.mmx(op.src2).into(), 16, op.imm as u8 & 3);
    cpu.state.x87.enter_mmx();
    value.set(cpu, op.dst);
    Ok(())
}
