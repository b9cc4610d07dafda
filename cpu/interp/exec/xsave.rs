//! The XSAVE family (SDM vol. 1, 13).
//!
//! The modified optimisation, which spares a write of what has not changed since the last XRSTOR from
//! the same area, is left out: nothing but time shows it.

use std::ops::Range;

use super::area::{LEGACY, MXCSR, MXCSR_DEFAULT, MXCSR_MASK, area_address, vector, word, write};
use crate::fpu::x87::X87;
use crate::interp::op::{Op, Word};
use crate::state::{cr4, gpr, xcr0};
use crate::{Cpu, Trap};

/// The header behind the legacy area: XSTATE_BV, XCOMP_BV, and zeros.
const HEADER_END: usize = LEGACY + 64;
const XSTATE_BV: usize = LEGACY;
const XCOMP_BV: usize = LEGACY + 8;
/// XCOMP_BV: the area is in the compacted format.
const COMPACTED: u64 = 1 << 63;

/// What an extended component is made of.
enum Content {
    /// These 128-bit parts of vector registers from this one on.
    Vectors(usize, Range<usize>),
    Opmasks,
    Pkru,
}

/// A component beyond the legacy area.
struct Component {
    bit: u64,
    /// Where it is in the standard format.
    offset: usize,
    size: usize,
    content: Content,
}

/// Those that exist, in the order of their bits.
const COMPONENTS: &[Component] = &[
    Component { bit: xcr0::AVX, offset: 576, size: 256, content: Content::Vectors(0, 1..2) },
    Component { bit: xcr0::OPMASK, offset: 1088, size: 64, content: Content::Opmasks },
    Component { bit: xcr0::ZMM_HIGH, offset: 1152, size: 512, content: Content::Vectors(0, 2..4) },
    Component {
        bit: xcr0::ZMM_16_31,
        offset: 1664,
        size: 1024,
        content: Content::Vectors(16, 0..4),
    },
    Component { bit: xcr0::PKRU, offset: 2688, size: 8, content: Content::Pkru },
];

/// Most bytes of a component.
const LARGEST: usize = 1024;

impl Content {
    /// Every register's number and part, and where it is.
    fn vectors(
        cpu: &Cpu,
        first: usize,
        parts: Range<usize>,
    ) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        // Outside 64-bit code there are eight registers.
        let count = match first {
            0 => cpu.vectors(),
            _ if cpu.vectors() == 8 => 0,
            _ => 16,
        };
        (0..count * parts.len()).map(move |place| {
            let (register, part) = (place / parts.len(), place % parts.len());
            (first + register, parts.start + part, place * 16)
        })
    }

    /// Whether it is not in its initial configuration.
    fn in_use(&self, cpu: &Cpu) -> bool {
        match self {
            Content::Vectors(first, parts) => Self::vectors(cpu, *first, parts.clone())
                .any(|(register, part, _)| cpu.state.vec[register].0[part] != 0),
            Content::Opmasks => cpu.state.opmask.iter().any(|mask| *mask != 0),
            Content::Pkru => cpu.state.pkru != 0,
        }
    }

    fn save(&self, cpu: &Cpu, to: &mut [u8]) {
        match self {
            Content::Vectors(first, parts) => {
                for (register, part, at) in Self::vectors(cpu, *first, parts.clone()) {
                    write(to, at, &cpu.state.vec[register].0[part].to_le_bytes());
                }
            }
            Content::Opmasks => {
                for (number, mask) in cpu.state.opmask.iter().enumerate() {
                    write(to, 8 * number, &mask.to_le_bytes());
                }
            }
            Content::Pkru => write(to, 0, &cpu.state.pkru.to_le_bytes()),
        }
    }

    /// Zeros restore the initial configuration.
    fn restore(&self, cpu: &mut Cpu, from: &[u8]) {
        match self {
            Content::Vectors(first, parts) => {
                for (register, part, at) in Self::vectors(cpu, *first, parts.clone()) {
                    cpu.state.vec[register].0[part] = vector(from, at);
                }
            }
            Content::Opmasks => {
                for (number, mask) in cpu.state.opmask.iter_mut().enumerate() {
                    *mask = quadword(from, 8 * number);
                }
            }
            Content::Pkru => cpu.set_pkru(word(from, 0)),
        }
    }
}

impl Component {
    /// Its bytes in an area.
    fn place(&self, format: u64) -> Range<usize> {
        let at = if format & COMPACTED == 0 {
            self.offset
        } else {
            let before = COMPONENTS.iter().take_while(|other| other.bit < self.bit);
            before.filter(|other| other.bit & format != 0).map(|other| other.size).sum::<usize>()
                + HEADER_END
        };
        at..at + self.size
    }
}

fn quadword(area: &[u8], at: usize) -> u64 {
    u64::from(word(area, at)) | u64::from(word(area, at + 4)) << 32
}

impl Cpu {
    /// The components that are not in their initial configuration: XINUSE.
    pub(crate) fn xinuse(&self) -> u64 {
        let xmm = self.state.vec[..self.vectors()].iter().any(|vector| vector.0[0] != 0);
        let mut set = 0;
        if self.state.x87 != X87::default() {
            set |= xcr0::X87;
        }
        if xmm {
            set |= xcr0::SSE;
        }
        let extended = COMPONENTS.iter().filter(|component| component.content.in_use(self));
        extended.fold(set, |set, component| set | component.bit)
    }
}

/// #UD or #NM if the XSAVE family may not run.
fn check(cpu: &mut Cpu) -> Result<(), Trap> {
    if !cpu.cr4_has(cr4::OSXSAVE) {
        return Err(cpu.undefined());
    }
    if cpu.mode.task_switched {
        return Err(cpu.device_not_available());
    }
    Ok(())
}

/// The same for XSAVES and XRSTORS, which also need privilege.
fn check_supervisor(cpu: &mut Cpu) -> Result<(), Trap> {
    if !cpu.cr4_has(cr4::OSXSAVE) {
        return Err(cpu.undefined());
    }
    if cpu.mode.cpl != 0 {
        return Err(cpu.gp(0));
    }
    check(cpu)
}

/// The components that EDX:EAX asks for, of those `allowed`.
fn requested(cpu: &Cpu, allowed: u64) -> u64 {
    let mask = u32::get(cpu, gpr::RDX as u8).zx() << 32 | u32::get(cpu, gpr::RAX as u8).zx();
    mask & allowed
}

/// Bytes of an area with `components`.
fn area_len(components: u64, format: u64) -> usize {
    let asked = COMPONENTS.iter().filter(|component| component.bit & components != 0);
    asked.map(|component| component.place(format).end).fold(HEADER_END, usize::max)
}

/// Most bytes of an area.
const ROOM: usize = 2752;
type Room = [u8; ROOM];

/// The area of a store instruction of `len` bytes, as it is, into the beginning of `area`.
fn old_area(cpu: &mut Cpu, op: &Op, len: usize, area: &mut Room) -> Result<u64, Trap> {
    let linear = area_address(cpu, op, 64, len, true)?;
    // As a store it faults, though what is not saved stays as it is.
    cpu.probe_write(linear, len as u64)?;
    cpu.load_bytes(linear, &mut area[..len])?;
    Ok(linear)
}

impl Cpu {
    /// Puts `components` into an area.
    fn put_components(
        &self,
        area: &mut [u8],
        components: u64,
        mxcsr: bool,
        format: u64,
        wide: bool,
    ) {
        let mut legacy = [0; LEGACY];
        legacy.copy_from_slice(&area[..LEGACY]);
        if components & xcr0::X87 != 0 {
            self.state.x87.fxsave(wide, &mut legacy);
        }
        if mxcsr {
            write(&mut legacy, MXCSR, &self.state.mxcsr.to_le_bytes());
            write(&mut legacy, MXCSR + 4, &MXCSR_MASK.to_le_bytes());
        }
        if components & xcr0::SSE != 0 {
            self.put_xmm(&mut legacy);
        }
        write(area, 0, &legacy);
        for component in COMPONENTS.iter().filter(|component| component.bit & components != 0) {
            component.content.save(self, &mut area[component.place(format)]);
        }
    }
}

/// XSAVE, and XSAVEOPT, which leaves out (`OPTIMISED`) what is in its initial configuration.
pub fn xsave<const WIDE: bool, const OPTIMISED: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
    check(cpu)?;
    let components = requested(cpu, cpu.state.xcr0);
    let len = area_len(components, 0);
    let mut area: Room = [0; ROOM];
    let linear = old_area(cpu, op, len, &mut area)?;
    let in_use = cpu.xinuse();
    let written = if OPTIMISED { components & in_use } else { components };
    let mxcsr = components & (xcr0::SSE | xcr0::AVX) != 0;
    cpu.put_components(&mut area, written, mxcsr, 0, WIDE);
    let header = quadword(&area, XSTATE_BV) & !components | components & in_use;
    write(&mut area, XSTATE_BV, &header.to_le_bytes());
    cpu.store_bytes(linear, &area[..len])?;
    cpu.stored()
}

/// The components that may be asked for, once it is checked that the instruction may run.
fn allowed<const SUPERVISOR: bool>(cpu: &mut Cpu) -> Result<u64, Trap> {
    if !SUPERVISOR {
        check(cpu)?;
        return Ok(cpu.state.xcr0);
    }
    check_supervisor(cpu)?;
    Ok(cpu.state.xcr0 | cpu.state.msr.xss)
}

/// XSAVEC, and XSAVES (`SUPERVISOR`).
pub fn xsave_compacted<const WIDE: bool, const SUPERVISOR: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Trap> {
    let allowed = allowed::<SUPERVISOR>(cpu)?;
    let components = requested(cpu, allowed);
    let format = components | COMPACTED;
    let len = area_len(components, format);
    let mut area: Room = [0; ROOM];
    let linear = old_area(cpu, op, len, &mut area)?;
    let mut written = components & cpu.xinuse();
    // MXCSR belongs to SSE here, though XINUSE does not tell of it.
    if cpu.state.mxcsr != MXCSR_DEFAULT {
        written |= components & xcr0::SSE;
    }
    cpu.put_components(&mut area, written, written & xcr0::SSE != 0, format, WIDE);
    write(&mut area, XSTATE_BV, &written.to_le_bytes());
    write(&mut area, XCOMP_BV, &format.to_le_bytes());
    cpu.store_bytes(linear, &area[..len])?;
    cpu.stored()
}

/// The header of an area to be restored: XSTATE_BV and XCOMP_BV, and whether it is well-formed, with no
/// components but those `allowed`.
fn header(area: &[u8], allowed: u64) -> (u64, u64, bool) {
    let (present, format) = (quadword(area, XSTATE_BV), quadword(area, XCOMP_BV));
    let compacted = format & COMPACTED != 0;
    let beyond = if compacted {
        (format & !COMPACTED & !allowed) | (present & !format)
    } else {
        (present & !allowed) | format
    };
    let zeros = if compacted { XCOMP_BV + 8..HEADER_END } else { XCOMP_BV + 8..XCOMP_BV + 16 };
    (present, format, beyond == 0 && area[zeros].iter().all(|byte| *byte == 0))
}

/// XRSTOR, and XRSTORS (`SUPERVISOR`).
pub fn xrstor<const WIDE: bool, const SUPERVISOR: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Trap> {
    let allowed = allowed::<SUPERVISOR>(cpu)?;
    let components = requested(cpu, allowed);
    let linear = area_address(cpu, op, 64, HEADER_END, false)?;
    let mut area: Room = [0; ROOM];
    cpu.load_bytes(linear, &mut area[..HEADER_END])?;
    let (present, format, good) = header(&area, allowed);
    let compacted = format & COMPACTED != 0;
    if !good
        || SUPERVISOR && !compacted
        || compacted && !cpu.model.has(crate::cpuid::feature::XSAVEC)
    {
        return Err(cpu.gp(0));
    }
    let restored = components & present;
    // The whole of what is asked for must be there, even if it is in its initial configuration.
    let there = if compacted { components & format } else { components };
    let len = area_len(there, format);
    let linear = area_address(cpu, op, 64, len, false)?;
    cpu.load_bytes(linear, &mut area[..len])?;

    let mut legacy = [0; LEGACY];
    legacy.copy_from_slice(&area[..LEGACY]);
    // The standard format has MXCSR whether or not there are vectors in it.
    let mxcsr = match compacted {
        true if components & xcr0::SSE == 0 => None,
        true if present & xcr0::SSE == 0 => Some(MXCSR_DEFAULT),
        false if components & (xcr0::SSE | xcr0::AVX) == 0 => None,
        _ => Some(word(&legacy, MXCSR)),
    };
    if let Some(mxcsr) = mxcsr {
        if mxcsr & !MXCSR_MASK != 0 {
            return Err(cpu.gp(0));
        }
        cpu.state.mxcsr = mxcsr;
    }
    if restored & xcr0::X87 != 0 {
        cpu.state.x87.fxrstor(WIDE, &legacy);
    } else if components & xcr0::X87 != 0 {
        cpu.state.x87 = X87::default();
    }
    if components & xcr0::SSE != 0 {
        if restored & xcr0::SSE == 0 {
            legacy = [0; LEGACY];
        }
        cpu.take_xmm(&legacy);
    }
    for component in COMPONENTS.iter().filter(|component| component.bit & components != 0) {
        if component.bit & restored != 0 {
            component.content.restore(cpu, &area[component.place(format)]);
        } else {
            component.content.restore(cpu, &[0; LARGEST][..component.size]);
        }
    }
    Ok(())
}
