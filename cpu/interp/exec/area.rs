//! FXSAVE, FXRSTOR and MXCSR: state in memory (SDM vol. 1, 10.5).

use super::form::Form;
use crate::interp::op::Op;
use crate::{Cpu, Trap};

/// The legacy area.
pub(super) const LEGACY: usize = 512;
/// Where MXCSR and its mask are.
pub(super) const MXCSR: usize = 24;
/// Where the XMM registers begin.
const XMM: usize = 160;
/// MXCSR bits that exist.
pub const MXCSR_MASK: u32 = 0xffff;
pub(super) const MXCSR_DEFAULT: u32 = 0x1f80;

pub(super) fn write(area: &mut [u8], at: usize, bytes: &[u8]) {
    area[at..at + bytes.len()].copy_from_slice(bytes);
}

pub(super) fn word(area: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&area[at..at + 4]);
    u32::from_le_bytes(bytes)
}

pub(super) fn vector(area: &[u8], at: usize) -> u128 {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&area[at..at + 16]);
    u128::from_le_bytes(bytes)
}

impl Cpu {
    /// XMM registers that can be named: eight outside 64-bit code.
    pub(super) fn vectors(&self) -> usize {
        if self.mode.code_bits == 64 { 16 } else { 8 }
    }
    pub(super) fn put_xmm(&self, area: &mut [u8]) {
        for n in 0..self.vectors() {
            write(area, XMM + 16 * n, &self.state.vec[n].0[0].to_le_bytes());
        }
    }
    pub(super) fn take_xmm(&mut self, area: &[u8]) {
        for n in 0..self.vectors() {
            self.state.vec[n].0[0] = vector(area, XMM + 16 * n);
        }
    }
}

/// The address of an area, which must be aligned to `align` bytes.
pub(super) fn area_address(
    cpu: &mut Cpu,
    op: &Op,
    align: u64,
    len: usize,
    store: bool,
) -> Result<u64, Trap> {
    let linear = op.linear(cpu, len as u32, store)?;
    if linear & (align - 1) != 0 {
        return Err(cpu.gp(0));
    }
    Ok(linear)
}

/// #UD or #NM if FXSAVE and FXRSTOR may not run.
fn check_fx(cpu: &mut Cpu) -> Result<(), Trap> {
    if cpu.mode.fpu_emulated {
        return Err(cpu.undefined());
    }
    if cpu.mode.task_switched {
        return Err(cpu.device_not_available());
    }
    Ok(())
}

/// FXSAVE, with 64-bit pointers (`WIDE`) or with selectors.
pub fn fxsave<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check_fx(cpu)?;
    let linear = area_address(cpu, op, 16, LEGACY, true)?;
    let mut area = [0; LEGACY];
    cpu.probe_write(linear, LEGACY as u64)?;
    // The last 48 bytes are the software's.
    cpu.load_bytes(linear, &mut area)?;
    cpu.state.x87.fxsave(WIDE, &mut area);
    write(&mut area, MXCSR, &cpu.state.mxcsr.to_le_bytes());
    write(&mut area, MXCSR + 4, &MXCSR_MASK.to_le_bytes());
    cpu.put_xmm(&mut area);
    cpu.store_bytes(linear, &area)?;
    cpu.stored()
}

/// FXRSTOR.
pub fn fxrstor<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check_fx(cpu)?;
    let linear = area_address(cpu, op, 16, LEGACY, false)?;
    let mut area = [0; LEGACY];
    cpu.load_bytes(linear, &mut area)?;
    let mxcsr = word(&area, MXCSR);
    if mxcsr & !MXCSR_MASK != 0 {
        return Err(cpu.gp(0));
    }
    cpu.state.x87.fxrstor(WIDE, &area);
    cpu.state.mxcsr = mxcsr;
    cpu.take_xmm(&area);
    Ok(())
}

/// LDMXCSR.
pub fn ldmxcsr<F: Form>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let value: u32 = op.load(cpu)?;
    if value & !MXCSR_MASK != 0 {
        return Err(cpu.gp(0));
    }
    cpu.state.mxcsr = value;
    Ok(())
}

/// STMXCSR.
pub fn stmxcsr<F: Form>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    F::check(cpu)?;
    let value = cpu.state.mxcsr;
    op.store(cpu, value)?;
    cpu.stored()
}
