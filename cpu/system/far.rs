//! Far jumps and calls (SDM vol. 2, JMP and CALL; vol. 3, 5.8).

use super::gate::CallGate;
use super::segment::{Descriptor, is_null, kind, rpl, selector_error};
use super::task::Reason;
use crate::core::{Cpu, Trap, vector};
use crate::state::{Seg, Segment, attr};

/// A code segment and the instruction pointer to begin at, both checked.
#[derive(Clone, Copy)]
pub(super) struct CodeTarget {
    pub cs: Segment,
    pub rip: u64,
}

/// The mask of an operand of `size` bytes.
pub(super) fn size_mask(size: u32) -> u64 {
    match size {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => !0,
    }
}

impl Cpu {
    /// JMP ptr16:x. `opsize` is 2, 4 or 8 bytes.
    pub fn far_jmp(&mut self, selector: u16, offset: u64, opsize: u32) -> Result<(), Trap> {
        let offset = offset & size_mask(opsize);
        if !self.mode.protected {
            let target = self.real_code_target(selector, offset)?;
            self.enter_code(target);
            return Ok(());
        }
        let (mut descriptor, at) = self.far_descriptor(selector)?;
        if !descriptor.is_system() {
            let target = self.direct_target(selector, &mut descriptor, at, offset)?;
            self.enter_code(target);
            return Ok(());
        }
        match self.system_target(selector, descriptor, at)? {
            SystemTarget::Task(tss) => self.switch_task(tss, Reason::Jump),
            SystemTarget::Gate(gate) => {
                let (mut code, code_at) = self.gate_code(gate.selector)?;
                if !code.is_conforming() && code.dpl() != self.mode.cpl {
                    return Err(self.gp(selector_error(gate.selector)));
                }
                let target = self.code_target(
                    gate.selector,
                    &mut code,
                    code_at,
                    gate.offset,
                    self.mode.cpl,
                )?;
                self.enter_code(target);
                Ok(())
            }
        }
    }

    /// CALL ptr16:x. `opsize` is 2, 4 or 8 bytes.
    pub fn far_call(&mut self, selector: u16, offset: u64, opsize: u32) -> Result<(), Trap> {
        let offset = offset & size_mask(opsize);
        let old_cs = u64::from(self.state.seg[Seg::Cs as usize].selector);
        let old_rip = self.state.rip;
        if !self.mode.protected {
            let target = self.real_code_target(selector, offset)?;
            return self.call_same_stack(target, opsize.into());
        }
        let (mut descriptor, at) = self.far_descriptor(selector)?;
        if !descriptor.is_system() {
            let target = self.direct_target(selector, &mut descriptor, at, offset)?;
            return self.call_same_stack(target, opsize.into());
        }
        let gate = match self.system_target(selector, descriptor, at)? {
            SystemTarget::Task(tss) => return self.switch_task(tss, Reason::Call),
            SystemTarget::Gate(gate) => gate,
        };
        let (mut code, code_at) = self.gate_code(gate.selector)?;
        if code.is_conforming() || code.dpl() == self.mode.cpl {
            let cpl = self.mode.cpl;
            let target = self.code_target(gate.selector, &mut code, code_at, gate.offset, cpl)?;
            return self.call_same_stack(target, gate.size);
        }
        let new_cpl = code.dpl();
        let target = self.code_target(gate.selector, &mut code, code_at, gate.offset, new_cpl)?;
        let old = self.stack();
        let mut new = self.inner_stack(new_cpl)?;
        new.push(self, old.ss.selector.into(), gate.size)?;
        new.push(self, self.state.regs[crate::state::gpr::RSP], gate.size)?;
        if !self.mode.long {
            let mut source = old;
            source.sp = old.sp.wrapping_add(u64::from(gate.params) * gate.size) & old.mask;
            for _ in 0..gate.params {
                source.sp = source.sp.wrapping_sub(gate.size) & source.mask;
                let value = { source }.pop(self, gate.size)?;
                new.push(self, value, gate.size)?;
            }
        }
        new.push(self, old_cs, gate.size)?;
        new.push(self, old_rip, gate.size)?;
        self.state.seg[Seg::Ss as usize] = new.ss;
        new.commit(self);
        self.enter_code(target);
        Ok(())
    }

    fn call_same_stack(&mut self, target: CodeTarget, size: u64) -> Result<(), Trap> {
        let mut stack = self.stack();
        stack.push(self, self.state.seg[Seg::Cs as usize].selector.into(), size)?;
        stack.push(self, self.state.rip, size)?;
        stack.commit(self);
        self.enter_code(target);
        Ok(())
    }

    /// Checks a real-mode or virtual-8086 target.
    pub(super) fn real_code_target(
        &mut self,
        selector: u16,
        offset: u64,
    ) -> Result<CodeTarget, Trap> {
        let mut cs = self.real_segment(Seg::Cs, selector);
        if !self.mode.v86 {
            // Fetching needs no code type in real mode; keep what the segment was (D bit).
            cs.attr |= attr::CODE;
        }
        if offset > u64::from(cs.limit) {
            return Err(self.gp(0));
        }
        Ok(CodeTarget { cs, rip: offset })
    }

    fn far_descriptor(&mut self, selector: u16) -> Result<(Descriptor, u64), Trap> {
        if is_null(selector) {
            return Err(self.gp(0));
        }
        self.descriptor(selector, vector::GP)
    }

    /// Checks a far jump or call straight to a code segment.
    fn direct_target(
        &mut self,
        selector: u16,
        descriptor: &mut Descriptor,
        at: u64,
        offset: u64,
    ) -> Result<CodeTarget, Trap> {
        let cpl = self.mode.cpl;
        let dpl = descriptor.dpl();
        let allowed = descriptor.is_code()
            && if descriptor.is_conforming() {
                dpl <= cpl
            } else {
                rpl(selector) <= cpl && dpl == cpl
            };
        if !allowed {
            return Err(self.gp(selector_error(selector)));
        }
        self.code_target(selector, descriptor, at, offset, cpl)
    }

    /// The checks every new code segment undergoes after those of privilege: present, a sane mode,
    /// and an instruction pointer within it. Returns CS with `cpl` as its RPL.
    pub(super) fn code_target(
        &mut self,
        selector: u16,
        descriptor: &mut Descriptor,
        at: u64,
        rip: u64,
        cpl: u8,
    ) -> Result<CodeTarget, Trap> {
        let error = selector_error(selector);
        if !descriptor.present() {
            return Err(self.raise(vector::NP, Some(error)));
        }
        let long_and_big = attr::LONG | attr::BIG;
        if self.mode.long && descriptor.attr() & long_and_big == long_and_big {
            return Err(self.gp(error));
        }
        let is_64 = self.mode.long && descriptor.attr() & attr::LONG != 0;
        let fits = if is_64 {
            self.is_canonical(rip)
        } else {
            rip & 0xffff_ffff <= u64::from(descriptor.limit())
        };
        if !fits {
            return Err(self.gp(0));
        }
        self.mark_accessed(descriptor, at)?;
        let cs = descriptor.segment(selector & !3 | u16::from(cpl));
        Ok(CodeTarget { cs, rip: if is_64 { rip } else { rip & 0xffff_ffff } })
    }

    /// Continues at a checked target. The caller has set up the stack; if the privilege changes,
    /// SS with the new DPL is already in place.
    pub(super) fn enter_code(&mut self, target: CodeTarget) {
        self.state.seg[Seg::Cs as usize] = target.cs;
        self.state.rip = target.rip;
        self.update_mode();
        self.exit_block = true;
    }

    /// What a far jump or call to a system descriptor leads to.
    fn system_target(
        &mut self,
        selector: u16,
        descriptor: Descriptor,
        at: u64,
    ) -> Result<SystemTarget, Trap> {
        let error = selector_error(selector);
        let kind = descriptor.kind();
        let known = match kind {
            kind::CALL32 => true,
            kind::CALL16 | kind::TASK_GATE | kind::TSS16 | kind::TSS32 => !self.mode.long,
            _ => false,
        };
        if !known || descriptor.dpl() < self.mode.cpl.max(rpl(selector)) {
            return Err(self.gp(error));
        }
        if !descriptor.present() {
            return Err(self.raise(vector::NP, Some(error)));
        }
        Ok(match kind {
            kind::TSS16 | kind::TSS32 => SystemTarget::Task(selector),
            kind::TASK_GATE => SystemTarget::Task((descriptor.low() >> 16) as u16),
            _ => {
                let upper = if self.mode.long { self.descriptor_upper(selector, at)? } else { 0 };
                SystemTarget::Gate(CallGate::new(descriptor, upper, self.mode.long))
            }
        })
    }
}

enum SystemTarget {
    /// The selector of a TSS.
    Task(u16),
    Gate(CallGate),
}
