//! FXSAVE, FXRSTOR, XSAVE and XRSTOR: state in memory (SDM vol. 1, 10.5 and 13).

use super::form::Form;
use crate::interp::op::{Op, Word};
use crate::state::cr4;
use crate::{Cpu, Trap};

/// The legacy area.
const LEGACY: usize = 512;
/// Where MXCSR and its mask are.
const MXCSR: usize = 24;
/// Where the XMM registers begin.
const XMM: usize = 160;
/// The header behind the legacy area: XSTATE_BV, XCOMP_BV, and zeros.
const HEADER_END: usize = LEGACY + 64;
/// Where the upper halves of the YMM registers begin.
const YMM: usize = HEADER_END;
const YMM_LEN: usize = 256;
/// Where PKRU is, in the standard format.
const PKRU: usize = 2688;

/// MXCSR bits that exist.
pub const MXCSR_MASK: u32 = 0xffff;
const MXCSR_DEFAULT: u32 = 0x1f80;

/// State components of XCR0.
mod component {
    pub const X87: u64 = 1;
    pub const SSE: u64 = 1 << 1;
    pub const AVX: u64 = 1 << 2;
    pub const PKRU: u64 = 1 << 9;
}

fn write(area: &mut [u8], at: usize, bytes: &[u8]) {
    area[at..at + bytes.len()].copy_from_slice(bytes);
}

fn word(area: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&area[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn vector(area: &[u8], at: usize) -> u128 {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&area[at..at + 16]);
    u128::from_le_bytes(bytes)
}

impl Cpu {
    /// XMM registers that can be named: eight outside 64-bit code.
    pub(super) fn vectors(&self) -> usize {
        if self.mode.code_bits == 64 { 16 } else { 8 }
    }
    fn put_xmm(&self, area: &mut [u8]) {
        for n in 0..self.vectors() {
            write(area, XMM + 16 * n, &self.state.vec[n].0[0].to_le_bytes());
        }
    }
    fn take_xmm(&mut self, area: &[u8]) {
        for n in 0..self.vectors() {
            self.state.vec[n].0[0] = vector(area, XMM + 16 * n);
        }
    }
    fn load_pkru(&mut self, value: u32) {
        if value != self.state.pkru {
            self.state.pkru = value;
            self.mmu.tlb.flush_all();
        }
    }
    fn clear_vectors(&mut self, part: usize) {
        for n in 0..self.vectors() {
            self.state.vec[n].0[part] = 0;
        }
    }
}

/// The address of an area, which must be aligned to `align` bytes.
fn area_address(cpu: &mut Cpu, op: &Op, align: u64, len: usize, store: bool) -> Result<u64, Trap> {
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

/// #UD or #NM if the XSAVE family may not run.
fn check_xsave(cpu: &mut Cpu) -> Result<(), Trap> {
    if !cpu.cr4_has(cr4::OSXSAVE) {
        return Err(cpu.undefined());
    }
    if cpu.mode.task_switched {
        return Err(cpu.device_not_available());
    }
    Ok(())
}

/// The components that EDX:EAX asks for and XCR0 allows.
fn requested(cpu: &Cpu) -> u64 {
    let mask = u32::get(cpu, 2).zx() << 32 | u32::get(cpu, 0).zx();
    mask & cpu.state.xcr0
}

/// Bytes of an area with `components`, in the standard format.
fn area_len(components: u64) -> usize {
    if components & component::PKRU != 0 {
        PKRU + 8
    } else if components & component::AVX != 0 {
        YMM + YMM_LEN
    } else {
        HEADER_END
    }
}

/// Components that are not in their initial configuration.
fn in_use(cpu: &Cpu) -> u64 {
    let vectors = &cpu.state.vec[..cpu.vectors()];
    let used = |part: usize| vectors.iter().any(|vector| vector.0[part] != 0);
    let mut set = 0;
    if cpu.state.x87 != crate::fpu::x87::X87::default() {
        set |= component::X87;
    }
    if used(0) {
        set |= component::SSE;
    }
    if used(1) {
        set |= component::AVX;
    }
    if cpu.state.pkru != 0 {
        set |= component::PKRU;
    }
    set
}

/// XSAVE, and XSAVEOPT, which leaves out (`OPTIMISED`) what is in its initial configuration.
pub fn xsave<const WIDE: bool, const OPTIMISED: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check_xsave(cpu)?;
    let components = requested(cpu);
    let len = area_len(components);
    let linear = area_address(cpu, op, 64, len, true)?;
    let mut area = vec![0; len];
    cpu.load_bytes(linear, &mut area)?;
    let in_use = in_use(cpu);
    let written = if OPTIMISED { components & in_use } else { components };
    let mut legacy = [0; LEGACY];
    legacy.copy_from_slice(&area[..LEGACY]);
    if written & component::X87 != 0 {
        cpu.state.x87.fxsave(WIDE, &mut legacy);
    }
    if components & (component::SSE | component::AVX) != 0 {
        write(&mut legacy, MXCSR, &cpu.state.mxcsr.to_le_bytes());
        write(&mut legacy, MXCSR + 4, &MXCSR_MASK.to_le_bytes());
    }
    if written & component::SSE != 0 {
        cpu.put_xmm(&mut legacy);
    }
    write(&mut area, 0, &legacy);
    if written & component::AVX != 0 {
        for n in 0..cpu.vectors() {
            write(&mut area, YMM + 16 * n, &cpu.state.vec[n].0[1].to_le_bytes());
        }
    }
    if written & component::PKRU != 0 {
        write(&mut area, PKRU, &cpu.state.pkru.to_le_bytes());
    }
    let old = u64::from(word(&area, LEGACY)) | u64::from(word(&area, LEGACY + 4)) << 32;
    let header = old & !components | components & in_use;
    write(&mut area, LEGACY, &header.to_le_bytes());
    cpu.store_bytes(linear, &area)?;
    cpu.stored()
}

/// XRSTOR, of the standard format.
pub fn xrstor<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check_xsave(cpu)?;
    let components = requested(cpu);
    let len = area_len(components);
    let linear = area_address(cpu, op, 64, len, false)?;
    let mut area = vec![0; len];
    cpu.load_bytes(linear, &mut area)?;
    let present = u64::from(word(&area, LEGACY)) | u64::from(word(&area, LEGACY + 4)) << 32;
    let reserved = area[LEGACY + 8..LEGACY + 24].iter().any(|byte| *byte != 0);
    if present & !cpu.state.xcr0 != 0 || reserved {
        return Err(cpu.gp(0));
    }
    let mut legacy = [0; LEGACY];
    legacy.copy_from_slice(&area[..LEGACY]);
    if components & (component::SSE | component::AVX) != 0 {
        let mxcsr = word(&legacy, MXCSR);
        if mxcsr & !MXCSR_MASK != 0 {
            return Err(cpu.gp(0));
        }
        cpu.state.mxcsr =
            if present & (component::SSE | component::AVX) != 0 { mxcsr } else { MXCSR_DEFAULT };
    }
    if components & component::X87 != 0 {
        if present & component::X87 != 0 {
            cpu.state.x87.fxrstor(WIDE, &legacy);
        } else {
            cpu.state.x87 = crate::fpu::x87::X87::default();
        }
    }
    if components & component::SSE != 0 {
        if present & component::SSE != 0 {
            cpu.take_xmm(&legacy);
        } else {
            cpu.clear_vectors(0);
        }
    }
    if components & component::AVX != 0 {
        if present & component::AVX != 0 {
            for n in 0..cpu.vectors() {
                cpu.state.vec[n].0[1] = vector(&area, YMM + 16 * n);
            }
        } else {
            cpu.clear_vectors(1);
        }
    }
    if components & component::PKRU != 0 {
        let pkru = if present & component::PKRU != 0 { word(&area, PKRU) } else { 0 };
        cpu.load_pkru(pkru);
    }
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
