//! SSE and MMX data movement, and the way of all other vector instructions to their operands.

use super::form::{Form, Vex128};
use crate::interp::op::{Op, Word};
use crate::state::cr0;
use crate::{Cpu, Int, Trap, vector};

/// #UD or #NM if SSE instructions may not run.
#[inline(always)]
pub(super) fn check(cpu: &mut Cpu) -> Result<(), Trap> {
    if !cpu.mode.sse_enabled || cpu.mode.fpu_trap {
        return Err(refused(cpu));
    }
    Ok(())
}

#[cold]
fn refused(cpu: &mut Cpu) -> Trap {
    if cpu.mode.fpu_emulated || !cpu.mode.sse_enabled {
        return cpu.undefined();
    }
    cpu.device_not_available()
}

/// #UD, #NM or #MF if MMX instructions may not run.
pub(super) fn check_mmx(cpu: &mut Cpu) -> Result<(), Trap> {
    if cpu.mode.fpu_emulated {
        return Err(cpu.undefined());
    }
    if cpu.mode.task_switched {
        return Err(cpu.device_not_available());
    }
    if cpu.state.x87.pending() && cpu.state.cr0 & cr0::NE != 0 {
        return Err(cpu.raise(vector::MF, None));
    }
    Ok(())
}

impl Cpu {
    /// XMM register `number`.
    #[inline(always)]
    pub(super) fn xmm(&self, number: u8) -> u128 {
        self.state.vec[usize::from(number & 31)].0[0]
    }
    /// Replaces the low 128 bits of a vector register.
    #[inline(always)]
    pub(super) fn set_xmm(&mut self, number: u8, value: u128) {
        self.state.vec[usize::from(number & 31)].0[0] = value;
    }
}

/// The low `T` of `value` in place of that of `old`.
#[inline(always)]
fn merged<T: Int>(old: u128, value: T) -> u128 {
    let mask = u128::MAX >> (128 - 8 * T::SIZE);
    old & !mask | value.widen()
}

/// The linear address of an operand of `size` bytes that must be aligned.
#[inline(always)]
pub(super) fn aligned(cpu: &mut Cpu, op: &Op, size: u32, write: bool) -> Result<u64, Trap> {
    let linear = op.linear(cpu, size, write)?;
    if linear & u64::from(size - 1) != 0 {
        return Err(cpu.gp(0));
    }
    Ok(linear)
}

/// MOVAPS, MOVUPS and their like between registers.
pub fn mov_registers<F: Form>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let value = F::get(cpu, op.src2);
    F::set(cpu, op.dst, value);
    Ok(())
}

/// MOVAPS (`ALIGNED`), MOVUPS and their like from memory.
pub fn load_whole<F: Form, const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let linear = whole::<F, ALIGNED>(cpu, op, false)?;
    let value = F::load(cpu, linear)?;
    F::set(cpu, op.dst, value);
    Ok(())
}

/// MOVAPS (`ALIGNED`), MOVUPS and their like to memory.
pub fn store_whole<F: Form, const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let linear = whole::<F, ALIGNED>(cpu, op, true)?;
    F::store(cpu, linear, F::get(cpu, op.src2))?;
    cpu.stored()
}

#[inline(always)]
fn whole<F: Form, const ALIGNED: bool>(cpu: &mut Cpu, op: &Op, write: bool) -> Result<u64, Trap> {
    let size = 16 * F::LANES as u32;
    if ALIGNED { aligned(cpu, op, size, write) } else { op.linear(cpu, size, write) }
}

/// MOVSS, MOVSD, MOVD and MOVQ from memory: the rest of the register is cleared.
pub fn load<F: Form, T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let value: T = op.load(cpu)?;
    F::set(cpu, op.dst, [value.widen(), 0]);
    Ok(())
}

/// The low `T` of a register to memory.
pub fn store<F: Form, T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let value = T::truncate(cpu.xmm(op.src2));
    op.store(cpu, value)?;
    cpu.stored()
}

/// MOVSS and MOVSD between registers: the rest is that of the first source.
pub fn merge<F: Form, T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let value = merged(cpu.xmm(op.src), T::truncate(cpu.xmm(op.src2)));
    F::set(cpu, op.dst, [value, 0]);
    Ok(())
}

/// MOVQ between registers: the upper half is cleared.
pub fn movq_registers<F: Form>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let value = cpu.xmm(op.src2) as u64;
    F::set(cpu, op.dst, [value.into(), 0]);
    Ok(())
}

/// MOVLPS and MOVLPD from memory.
pub fn load_low<F: Form>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let value: u64 = op.load(cpu)?;
    let value = merged(cpu.xmm(op.src), value);
    F::set(cpu, op.dst, [value, 0]);
    Ok(())
}

/// MOVHPS and MOVHPD from memory.
pub fn load_high<F: Form>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let value: u64 = op.load(cpu)?;
    let low = cpu.xmm(op.src) as u64;
    F::set(cpu, op.dst, [u128::from(value) << 64 | u128::from(low), 0]);
    Ok(())
}

/// MOVHPS and MOVHPD to memory.
pub fn store_high<F: Form>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let value = (cpu.xmm(op.src2) >> 64) as u64;
    op.store(cpu, value)?;
    cpu.stored()
}

/// MOVD and MOVQ from a general register.
pub fn from_general<F: Form, T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let value = T::get(cpu, op.src2);
    F::set(cpu, op.dst, [value.widen(), 0]);
    Ok(())
}

/// MOVD and MOVQ to a general register.
pub fn to_general<F: Form, T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    T::truncate(cpu.xmm(op.src2)).set(cpu, op.dst);
    Ok(())
}

/// VZEROUPPER, and VZEROALL (`ALL`), on the registers that can be named.
pub fn vzero<const ALL: bool>(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
    Vex128::check(cpu)?;
    for number in 0..cpu.vectors() as u8 {
        let low = if ALL { 0 } else { cpu.xmm(number) };
        Vex128::set(cpu, number, [low, 0]);
    }
    Ok(())
}

/// MASKMOVDQU: the bytes that the mask's top bits select, to DS:RDI.
pub fn maskmovdqu<F: Form>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let (value, mask) = (cpu.xmm(op.dst).to_le_bytes(), cpu.xmm(op.src).to_le_bytes());
    store_masked(cpu, op, &value, &mask)
}

fn store_masked(cpu: &mut Cpu, op: &Op, value: &[u8], mask: &[u8]) -> Result<(), Trap> {
    let linear = op.linear(cpu, value.len() as u32, true)?;
    cpu.probe_write(linear, value.len() as u64)?;
    for (i, (value, mask)) in value.iter().zip(mask).enumerate() {
        if mask & 0x80 != 0 {
            cpu.store(linear.wrapping_add(i as u64) & cpu.mode.linear_mask, *value)?;
        }
    }
    cpu.stored()
}

/// Moves of MMX registers. Each marks the x87 registers as in use.
pub mod mmx {
    use super::{check_mmx, store_masked};
    use crate::interp::op::{Op, Word};
    use crate::{Cpu, Int, Trap};

    fn set(cpu: &mut Cpu, number: u8, value: u64) {
        cpu.state.x87.enter_mmx();
        cpu.state.x87.set_mmx(number, value);
    }

    /// MOVQ between registers.
    pub fn mov_registers(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        check_mmx(cpu)?;
        let value = cpu.state.x87.mmx(op.src2);
        set(cpu, op.dst, value);
        Ok(())
    }
    /// MOVD and MOVQ from memory.
    pub fn load<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        check_mmx(cpu)?;
        let value: T = op.load(cpu)?;
        set(cpu, op.dst, value.widen() as u64);
        Ok(())
    }
    /// MOVD, MOVQ and MOVNTQ to memory.
    pub fn store<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        check_mmx(cpu)?;
        let value = T::truncate(cpu.state.x87.mmx(op.src2).into());
        op.store(cpu, value)?;
        cpu.state.x87.enter_mmx();
        cpu.stored()
    }
    /// MOVD and MOVQ from a general register.
    pub fn from_general<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        check_mmx(cpu)?;
        let value = T::get(cpu, op.src2).zx();
        set(cpu, op.dst, value);
        Ok(())
    }
    /// MOVD and MOVQ to a general register.
    pub fn to_general<T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        check_mmx(cpu)?;
        let value = cpu.state.x87.mmx(op.src2);
        cpu.state.x87.enter_mmx();
        T::of(value).set(cpu, op.dst);
        Ok(())
    }
    /// MOVDQ2Q.
    pub fn from_xmm(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        super::check(cpu)?;
        check_mmx(cpu)?;
        let value = cpu.xmm(op.src2) as u64;
        set(cpu, op.dst, value);
        Ok(())
    }
    /// MOVQ2DQ.
    pub fn to_xmm(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        super::check(cpu)?;
        check_mmx(cpu)?;
        let value = cpu.state.x87.mmx(op.src2);
        cpu.state.x87.enter_mmx();
        cpu.set_xmm(op.dst, value.into());
        Ok(())
    }
    /// MASKMOVQ.
    pub fn maskmovq(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        check_mmx(cpu)?;
        let x87 = &cpu.state.x87;
        let (value, mask) = (x87.mmx(op.dst).to_le_bytes(), x87.mmx(op.src).to_le_bytes());
        cpu.state.x87.enter_mmx();
        store_masked(cpu, op, &value, &mask)
    }
    /// EMMS.
    pub fn emms(cpu: &mut Cpu, _: &Op) -> Result<(), Trap> {
        check_mmx(cpu)?;
        cpu.state.x87.emms();
        Ok(())
    }
}
