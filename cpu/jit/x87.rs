//! The guest's x87 registers, which MMX shares, in the host's FPU.
//!
//! The first x87 or MMX instruction asks for them; they stay until translated code is left, or an
//! interpreter's handler needs the x87's state. All other Rust code leaves the host's FPU alone: it
//! computes with vector registers. Where the host's FPU reports an exception that the guest has
//! unmasked, the interpreter executes the instruction and reports it to the guest. What the x87
//! remembers of its last instruction would be host addresses: translated code notes the guest's in
//! the frame.
#![allow(unsafe_code)]
// Unsafe: the host's FPU is loaded and saved as a whole.

use std::arch::asm;
use std::arch::x86_64::{_xrstor64, _xsave64};

use super::frame::Frame;
use crate::Cpu;
use crate::state::Seg;

/// The x87 among the components of an XSAVE area.
const X87: u64 = 1;

/// [`Frame::x87_segment`]: no operand was accessed.
const NO_OPERAND: u8 = 0xff;

/// An XSAVE area without extended components.
#[repr(C, align(64))]
struct Area {
    legacy: [u8; 512],
    header: [u64; 8],
}

/// [`Frame::x87_last`]: an instruction with opcode `fop`, `distance` bytes behind the beginning of its
/// page. Zero stands for none.
pub fn last(distance: u16, fop: u16) -> u32 {
    1 << 31 | u32::from(fop) << 16 | u32::from(distance)
}

/// Whether the host has what loading and saving take.
pub fn host_can() -> bool {
    std::arch::is_x86_feature_detected!("xsave")
}

impl Cpu {
    /// Makes the guest's x87 registers the host's, unless the mode forbids their use.
    pub(super) fn load_x87(&mut self, frame: &Frame) -> bool {
        let x87 = &self.state.x87;
        if self.mode.fpu_trap {
            return false;
        }
        let mut area = Area { legacy: [0; 512], header: [X87, 0, 0, 0, 0, 0, 0, 0] };
        x87.fxsave(true, &mut area.legacy);
        // SAFETY: the host has XSAVE, or there would be no translator; the area is valid: its header
        // names the x87 only, whose every image is. No Rust code uses these registers.
        unsafe { _xrstor64((&raw const area).cast(), X87) };
        frame.x87_last.set(0);
        frame.x87_segment.set(NO_OPERAND);
        frame.x87_operand.set(x87.fdp);
        frame.x87_live.set(1);
        true
    }

    /// Gives the host's x87 registers back to the state, if they are the guest's. Whether they were.
    pub(super) fn save_x87(&mut self, frame: &Frame) -> bool {
        if frame.x87_live.get() == 0 {
            return false;
        }
        let mut area = Area { legacy: [0; 512], header: [0; 8] };
        // SAFETY: as above; the host's FPU is left as programs begin with it.
        unsafe {
            _xsave64((&raw mut area).cast(), X87);
            asm!(
                "fninit",
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                options(nomem, nostack, preserves_flags),
            );
        }
        frame.x87_live.set(0);
        let before = self.state.x87;
        let x87 = &mut self.state.x87;
        x87.fxrstor(true, &area.legacy);
        (x87.fop, x87.fip, x87.fcs) = (before.fop, before.fip, before.fcs);
        (x87.fdp, x87.fds) = (frame.x87_operand.get(), before.fds);
        let last = frame.x87_last.get();
        if last != 0 {
            let place = frame.x87_page.get().wrapping_add(u64::from(last & 0xffff));
            x87.fop = (last >> 16) as u16 & 0x7ff;
            x87.fip = place & self.mode.linear_mask;
            x87.fcs = self.state.seg[Seg::Cs as usize].selector;
        }
        if let Some(segment) = self.state.seg.get(usize::from(frame.x87_segment.get())) {
            x87.fds = segment.selector;
        }
        true
    }
}
