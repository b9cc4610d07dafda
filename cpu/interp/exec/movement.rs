//! Data movement.

use crate::interp::op::{Op, Place, Source, Word};
use crate::{Cpu, Trap};

/// XLATB.
pub fn xlat(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let al = u64::from(u8::get(cpu, 0));
    let linear = op.linear_at(cpu, al, 1, false)?;
    let value: u8 = cpu.load(linear)?;
    value.set(cpu, 0);
    Ok(())
}

/// LEA.
pub fn lea<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let offset = op.offset(cpu);
    T::of(offset).set(cpu, op.dst);
    Ok(())
}

/// MOV and its like: `D = S`.
pub fn mov<T: Word, D: Place, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let value: T = S::read(cpu, op)?;
    D::write(cpu, op, value)?;
    D::done(cpu)
}

/// MOVZX and MOVSX (`SIGNED`), from a `U` to a `T`.
pub fn extend<T: Word, U: Word, S: Source, const SIGNED: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Trap> {
    let value: U = S::read(cpu, op)?;
    T::of(if SIGNED { value.sx() } else { value.zx() }).set(cpu, op.dst);
    Ok(())
}

/// CBW, CWDE and CDQE: the accumulator's lower half, a `U`, sign-extended to a `T`.
pub fn extend_accumulator<T: Word, U: Word>(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    T::of(U::get(cpu, 0).sx()).set(cpu, 0);
    Ok(())
}

/// CWD, CDQ and CQO: the accumulator's sign into the D register.
pub fn spread_sign<T: Word>(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    let sign = T::get(cpu, 0).sign();
    T::of(if sign { u64::MAX } else { 0 }).set(cpu, crate::state::gpr::RDX as u8);
    Ok(())
}

/// MOVDIR64B: 64 bytes from the memory operand to the address in the first operand, within ES.
pub fn movdir64b(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let to = u64::get(cpu, op.dst) & u64::MAX >> (op.wrap & 63);
    let to = cpu.lin(crate::state::Seg::Es, to, 64, true)?;
    if to & 63 != 0 {
        return Err(cpu.gp(0));
    }
    let from = op.linear(cpu, 64, false)?;
    let mut line = [0; 64];
    cpu.load_bytes(from, &mut line)?;
    cpu.store_bytes(to, &line)?;
    cpu.stored()
}

/// NOP, prefetches and fences: the interpreter executes in order.
pub fn nothing(_: &mut Cpu, _: &Op) -> Result<(), Trap> {
    Ok(())
}

/// MFENCE and the like: orders this processor's accesses for all others.
pub fn fence(_: &mut Cpu, _: &Op) -> Result<(), Trap> {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    Ok(())
}

/// CLFLUSH and CLWB: nothing is cached, but the address must be readable.
pub fn flush_line(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    op.load::<u8>(cpu)?;
    Ok(())
}

/// MOV from an absolute 64-bit address, which is in `imm`.
pub fn load_absolute<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let linear = cpu.lin(op.seg(), op.imm, T::SIZE as u32, false)?;
    let value: T = cpu.load(linear)?;
    value.set(cpu, 0);
    Ok(())
}

/// MOV to an absolute 64-bit address, which is in `imm`.
pub fn store_absolute<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    let linear = cpu.lin(op.seg(), op.imm, T::SIZE as u32, true)?;
    cpu.store(linear, T::get(cpu, 0))?;
    cpu.stored()
}
