//! Decimal adjustment and the flag instructions (SDM vol. 2, by name).

use crate::flags::{Arith, bit};
use crate::interp::op::{Op, Word};
use crate::{Cpu, Trap, vector};

const AX: u8 = 0;

/// AAA and AAS (`SUBTRACT`). OF, SF, ZF and PF are undefined; they follow AL.
pub fn ascii_adjust<const SUBTRACT: bool>(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let ax = u16::get(cpu, AX);
    let adjust = ax & 0xf > 9 || cpu.arith().af();
    let ax = match (adjust, SUBTRACT) {
        (false, _) => ax,
        (true, false) => ax.wrapping_add(0x106),
        (true, true) => ax.wrapping_sub(0x106),
    } & 0xff0f;
    ax.set(cpu, AX);
    cpu.set_arith(Arith::result((ax as u8).sx(), adjust, false).with_af(adjust));
    Ok(())
}

/// DAA and DAS (`SUBTRACT`). OF is undefined and clear.
pub fn decimal_adjust<const SUBTRACT: bool>(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let (al, flags) = (u8::get(cpu, AX), cpu.arith());
    let low = al & 0xf > 9 || flags.af();
    let high = al > 0x99 || flags.cf();
    let by = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
    let result = if SUBTRACT { al.wrapping_sub(by) } else { al.wrapping_add(by) };
    // DAS also borrows when the low digit's correction does.
    let cf = high || SUBTRACT && low && al < 6;
    result.set(cpu, AX);
    cpu.set_arith(Arith::result(result.sx(), cf, false).with_af(low));
    Ok(())
}

/// AAM: AL split into digits of base `imm`.
pub fn aam(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let (al, base) = (u8::get(cpu, AX), op.imm as u8);
    if base == 0 {
        return Err(cpu.raise(vector::DE, None));
    }
    let (high, low) = (al / base, al % base);
    (u16::from(high) << 8 | u16::from(low)).set(cpu, AX);
    cpu.set_arith(Arith::logic(low.sx()));
    Ok(())
}

/// AAD: digits of base `imm` joined in AL.
pub fn aad(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let [low, high] = u16::get(cpu, AX).to_le_bytes();
    let al = low.wrapping_add(high.wrapping_mul(op.imm as u8));
    u16::from(al).set(cpu, AX);
    cpu.set_arith(Arith::logic(al.sx()));
    Ok(())
}

const AH: u8 = 0x10;
const IN_AH: u64 = bit::SF | bit::ZF | bit::AF | bit::PF | bit::CF;

/// LAHF.
pub fn lahf(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let ah = (cpu.arith().bits() & IN_AH | 2) as u8;
    ah.set(cpu, AH);
    Ok(())
}

/// SAHF.
pub fn sahf(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let ah = u64::from(u8::get(cpu, AH));
    let of = cpu.arith().bits() & bit::OF;
    cpu.set_arith(Arith::from_bits(ah & IN_AH | of));
    Ok(())
}

/// CLC.
pub fn clc(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let arith = cpu.arith().with_cf(false);
    cpu.set_arith(arith);
    Ok(())
}

/// STC.
pub fn stc(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let arith = cpu.arith().with_cf(true);
    cpu.set_arith(arith);
    Ok(())
}

/// CMC.
pub fn cmc(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let arith = cpu.arith();
    cpu.set_arith(arith.with_cf(!arith.cf()));
    Ok(())
}

/// CLD and STD (`UP` is CLD).
pub fn direction<const UP: bool>(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    cpu.state.flags.set_system(bit::DF, !UP);
    Ok(())
}

/// SALC: AL becomes all ones or zero, after CF.
pub fn salc(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    (if cpu.arith().cf() { 0xff_u8 } else { 0 }).set(cpu, AX);
    Ok(())
}
