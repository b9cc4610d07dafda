//! Gates and the stacks they lead to.

use super::segment::{Descriptor, is_null, kind, null_stack, selector_error};
use super::stack::Stack;
use crate::core::{Cpu, Trap, vector};
use crate::state::attr;

/// A call gate (SDM vol. 3, 5.8.3).
pub(super) struct CallGate {
    pub selector: u16,
    pub offset: u64,
    /// Bytes per pushed value.
    pub size: u64,
    /// Parameters to copy.
    pub params: u32,
}

impl CallGate {
    pub fn new(descriptor: Descriptor, upper: u64, long: bool) -> Self {
        let wide = descriptor.kind() == kind::CALL32;
        let low = u64::from(descriptor.low() & 0xffff);
        let high = u64::from(descriptor.high() & 0xffff_0000);
        CallGate {
            selector: (descriptor.low() >> 16) as u16,
            offset: if wide { low | high | (upper & 0xffff_ffff) << 32 } else { low },
            size: match (long, wide) {
                (true, _) => 8,
                (false, true) => 4,
                (false, false) => 2,
            },
            params: descriptor.high() & 0x1f,
        }
    }
}

impl Cpu {
    /// The code segment a gate names, for entry at the same or an inner privilege level.
    pub(super) fn gate_code(&mut self, selector: u16) -> Result<(Descriptor, u64), Trap> {
        if is_null(selector) {
            return Err(self.gp(0));
        }
        let (code, at) = self.descriptor(selector, vector::GP)?;
        // A gate in long mode leads to 64-bit code only.
        let fit = !self.mode.long || code.attr() & (attr::LONG | attr::BIG) == attr::LONG;
        if !code.is_code() || code.dpl() > self.mode.cpl || !fit {
            return Err(self.gp(selector_error(selector)));
        }
        Ok((code, at))
    }

    /// The stack that the TSS holds for privilege level `cpl`, checked.
    pub(super) fn inner_stack(&mut self, cpl: u8) -> Result<Stack, Trap> {
        if self.mode.long {
            let rsp = self.tss_quadword(4 + 8 * u64::from(cpl))?;
            return Ok(Stack::flat(null_stack(cpl.into(), cpl), rsp, cpl));
        }
        let tr = self.state.tr;
        let wide = matches!(tr.attr & attr::TYPE, kind::TSS32 | kind::TSS32_BUSY);
        let (at, size) =
            if wide { (4 + 8 * u64::from(cpl), 6) } else { (2 + 4 * u64::from(cpl), 4) };
        if at + size - 1 > u64::from(tr.limit) {
            return Err(self.raise(vector::TS, Some(selector_error(tr.selector))));
        }
        let at = tr.base.wrapping_add(at);
        let (sp, selector) = if wide {
            let sp: u32 = self.load_implicit(at)?;
            (u64::from(sp), self.load_implicit::<u16>(at.wrapping_add(4))?)
        } else {
            let sp: u16 = self.load_implicit(at)?;
            (u64::from(sp), self.load_implicit::<u16>(at.wrapping_add(2))?)
        };
        let ss = self.stack_segment(selector, cpl, vector::TS)?;
        Ok(Stack::of(ss, sp, cpl, selector_error(selector)))
    }

    /// A quadword of a 64-bit TSS.
    pub(super) fn tss_quadword(&mut self, offset: u64) -> Result<u64, Trap> {
        let tr = self.state.tr;
        if offset + 7 > u64::from(tr.limit) {
            return Err(self.raise(vector::TS, Some(selector_error(tr.selector))));
        }
        self.load_implicit(tr.base.wrapping_add(offset))
    }
}
