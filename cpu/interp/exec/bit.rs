//! Bit tests, scans and the BMI sets.

use crate::flags::{Arith, bit};
use crate::interp::op::{Op, Place, Source, Src2, Word};
use crate::{Cpu, Trap};

/// What a bit test does to its bit.
pub trait BitAction {
    /// The word with the bit `mask` treated.
    fn apply(word: u64, mask: u64) -> u64;
}
/// BTS.
pub struct Set;
/// BTR.
pub struct Reset;
/// BTC.
pub struct Complement;

impl BitAction for Set {
    #[inline(always)]
    fn apply(word: u64, mask: u64) -> u64 {
        word | mask
    }
}
impl BitAction for Reset {
    #[inline(always)]
    fn apply(word: u64, mask: u64) -> u64 {
        word & !mask
    }
}
impl BitAction for Complement {
    #[inline(always)]
    fn apply(word: u64, mask: u64) -> u64 {
        word ^ mask
    }
}

/// BT of a word: the bit number wraps. Only CF changes.
pub fn bt<T: Word, D: Source, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let number: T = S::read(cpu, op)?;
    let word: T = D::read(cpu, op)?;
    let cf = word.zx() >> (number.zx() & u64::from(T::BITS - 1)) & 1 != 0;
    let arith = cpu.arith().with_cf(cf);
    cpu.set_arith(arith);
    Ok(())
}

/// BTS, BTR and BTC of a word.
pub fn bit_action<T: Word, A: BitAction, D: Place, S: Source>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Trap> {
    let number: T = S::read(cpu, op)?;
    let mask = 1 << (number.zx() & u64::from(T::BITS - 1));
    let (old, _) = D::update(cpu, op, |word: T| T::of(A::apply(word.zx(), mask)))?;
    let arith = cpu.arith().with_cf(old.zx() & mask != 0);
    cpu.set_arith(arith);
    D::done(cpu)
}

/// Address of the word that holds the bit a register selects out of a bit string in memory.
#[inline(always)]
fn bit_string<T: Word>(cpu: &mut Cpu, op: &Op, write: bool) -> Result<(u64, u64), Trap> {
    let number = T::get(cpu, op.src).sx() as i64;
    let bytes = i64::from(T::BITS / 8);
    let distance = number >> T::BITS.trailing_zeros();
    let shifted = distance.wrapping_mul(bytes);
    let linear = op.linear_at(cpu, shifted as u64, T::BITS / 8, write)?;
    Ok((linear, 1 << (number as u64 & u64::from(T::BITS - 1))))
}

/// BT of a bit string.
pub fn bt_string<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let (linear, mask) = bit_string::<T>(cpu, op, false)?;
    let word: T = cpu.load(linear)?;
    let arith = cpu.arith().with_cf(word.zx() & mask != 0);
    cpu.set_arith(arith);
    Ok(())
}

/// BTS, BTR and BTC of a bit string.
pub fn bit_string_action<T: Word, A: BitAction>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let (linear, mask) = bit_string::<T>(cpu, op, true)?;
    let (old, _) = cpu.rmw(linear, op.locked(), |word: T| T::of(A::apply(word.zx(), mask)))?;
    let arith = cpu.arith().with_cf(old.zx() & mask != 0);
    cpu.set_arith(arith);
    cpu.stored()
}

/// BSF and BSR (`REVERSE`). A source of zero leaves the destination; the flags but ZF are undefined
/// and stay.
pub fn scan<T: Word, S: Source, const REVERSE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let value: T = S::read(cpu, op)?;
    let v = value.zx();
    let zf = if v == 0 { bit::ZF } else { 0 };
    let arith = Arith::from_bits(cpu.arith().bits() & !bit::ZF | zf);
    if v != 0 {
        let found = if REVERSE { 63 - v.leading_zeros() } else { v.trailing_zeros() };
        T::of(u64::from(found)).set(cpu, op.dst);
    }
    cpu.set_arith(arith);
    Ok(())
}

/// LZCNT and TZCNT (`TRAILING`). CF tells of a zero source; OF, SF, PF and AF are undefined.
pub fn count_zeros<T: Word, S: Source, const TRAILING: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Trap> {
    let value: T = S::read(cpu, op)?;
    let v = value.zx();
    let count =
        if TRAILING { v.trailing_zeros().min(T::BITS) } else { v.leading_zeros() - (64 - T::BITS) };
    let count = T::of(u64::from(count));
    count.set(cpu, op.dst);
    cpu.set_arith(Arith::result(count.sx(), v == 0, false));
    Ok(())
}

/// POPCNT: ZF, and all other flags clear.
pub fn popcnt<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let value: T = S::read(cpu, op)?;
    let count = T::of(u64::from(value.zx().count_ones()));
    count.set(cpu, op.dst);
    cpu.set_arith(Arith::from_bits(if count.zx() == 0 { bit::ZF } else { 0 }));
    Ok(())
}

/// ANDN.
pub fn andn<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let b: T = S::read(cpu, op)?;
    let result = T::of(!T::get(cpu, op.src).zx() & b.zx());
    result.set(cpu, op.dst);
    cpu.set_arith(Arith::logic(result.sx()));
    Ok(())
}

/// BEXTR: start and length in [`Op::src2`].
pub fn bextr<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let value: T = S::read(cpu, op)?;
    let control: T = Src2::read(cpu, op)?;
    let (start, len) = (control.zx() as u8, (control.zx() >> 8) as u8);
    let shifted = value.zx().checked_shr(u32::from(start)).unwrap_or(0);
    let result = T::of(if len < 64 { shifted & ((1 << len) - 1) } else { shifted });
    result.set(cpu, op.dst);
    cpu.set_arith(Arith::from_bits(if result.zx() == 0 { bit::ZF } else { 0 }));
    Ok(())
}

/// BLSI, BLSMSK and BLSR.
pub trait LowestBit {
    /// The result.
    fn apply(value: u64) -> u64;
    /// Whether CF tells of a source that is zero (or of one that is not).
    const CARRY_IF_ZERO: bool;
}
/// BLSI: isolate.
pub struct Isolate;
/// BLSMSK: mask up to.
pub struct MaskUpTo;
/// BLSR: reset.
pub struct ResetLowest;

impl LowestBit for Isolate {
    const CARRY_IF_ZERO: bool = false;
    fn apply(value: u64) -> u64 {
        value & value.wrapping_neg()
    }
}
impl LowestBit for MaskUpTo {
    const CARRY_IF_ZERO: bool = true;
    fn apply(value: u64) -> u64 {
        value ^ value.wrapping_sub(1)
    }
}
impl LowestBit for ResetLowest {
    const CARRY_IF_ZERO: bool = true;
    fn apply(value: u64) -> u64 {
        value & value.wrapping_sub(1)
    }
}

/// BLSI, BLSMSK and BLSR.
pub fn lowest_bit<T: Word, O: LowestBit, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let value: T = S::read(cpu, op)?;
    let result = T::of(O::apply(value.zx()));
    result.set(cpu, op.dst);
    let cf = (value.zx() == 0) == O::CARRY_IF_ZERO;
    cpu.set_arith(Arith::result(result.sx(), cf, false));
    Ok(())
}

/// BZHI.
pub fn bzhi<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let value: T = S::read(cpu, op)?;
    let index = u32::from(T::get(cpu, op.src2).zx() as u8);
    let beyond = index >= T::BITS;
    let result = if beyond { value } else { T::of(value.zx() & ((1 << index) - 1)) };
    result.set(cpu, op.dst);
    cpu.set_arith(Arith::result(result.sx(), beyond, false));
    Ok(())
}

/// PDEP: spreads the low bits of `src` to the places set in the mask.
pub fn pdep<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let mask: T = S::read(cpu, op)?;
    let (mut places, mut bits, mut result) = (mask.zx(), T::get(cpu, op.src).zx(), 0);
    while places != 0 {
        let lowest = places & places.wrapping_neg();
        if bits & 1 != 0 {
            result |= lowest;
        }
        bits >>= 1;
        places ^= lowest;
    }
    T::of(result).set(cpu, op.dst);
    Ok(())
}

/// PEXT: gathers the bits at the places set in the mask.
pub fn pext<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let mask: T = S::read(cpu, op)?;
    let (mut places, bits, mut result) = (mask.zx(), T::get(cpu, op.src).zx(), 0u64);
    let mut to = 0;
    while places != 0 {
        let lowest = places & places.wrapping_neg();
        result |= u64::from(bits & lowest != 0) << to;
        to += 1;
        places ^= lowest;
    }
    T::of(result).set(cpu, op.dst);
    Ok(())
}

/// CRC32: accumulates a `T` into the 32-bit CRC (polynomial 0x11EDC6F41, bit-reflected).
pub fn crc32<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    const REFLECTED: u32 = 0x82f6_3b78;
    let value: T = S::read(cpu, op)?;
    let mut crc = u32::get(cpu, op.dst);
    for byte in &value.zx().to_le_bytes()[..T::BITS as usize / 8] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ REFLECTED & (crc & 1).wrapping_neg();
        }
    }
    crc.set(cpu, op.dst);
    Ok(())
}
