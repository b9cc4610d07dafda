//! Far returns and IRET (SDM vol. 2, RET and IRET).

use super::far::{CodeTarget, size_mask};
use super::segment::{is_null, null_stack, rpl, selector_error};
use super::stack::Stack;
use super::task::Reason;
use crate::core::{Cpu, Trap, vector};
use crate::flags::bit;
use crate::state::{Seg, Segment, attr, gpr};
use crate::svm::exit;

/// The flags IRET and POPF may always change.
pub(super) const USER_FLAGS: u64 = bit::CF
    | bit::PF
    | bit::AF
    | bit::ZF
    | bit::SF
    | bit::TF
    | bit::DF
    | bit::OF
    | bit::NT
    | bit::RF
    | bit::AC
    | bit::ID;

impl Cpu {
    /// RETF, releasing `extra` bytes of parameters. `opsize` is 2, 4 or 8 bytes.
    pub fn far_ret(&mut self, opsize: u32, extra: u16) -> Result<(), Trap> {
        let size = u64::from(opsize);
        let mut stack = self.stack();
        let rip = stack.pop(self, size)?;
        let selector = stack.pop(self, size)? as u16;
        if !self.mode.protected {
            let target = self.real_code_target(selector, rip)?;
            stack.sp = stack.sp.wrapping_add(extra.into()) & stack.mask;
            stack.commit(self);
            self.enter_code(target);
            return Ok(());
        }
        let target = self.return_target(selector, rip)?;
        stack.sp = stack.sp.wrapping_add(extra.into()) & stack.mask;
        if rpl(selector) == self.mode.cpl {
            stack.commit(self);
            self.enter_code(target);
            return Ok(());
        }
        let mut outer = self.pop_outer_stack(&mut stack, &target, size)?;
        outer.sp = outer.sp.wrapping_add(extra.into()) & outer.mask;
        self.enter_outer(target, outer);
        Ok(())
    }

    /// IRET. `opsize` is 2, 4 or 8 bytes.
    pub fn iret(&mut self, opsize: u32) -> Result<(), Trap> {
        self.intercept(exit::IRET)?;
        // Even if the rest faults (SDM vol. 3, 6.7.1).
        self.unblock_nmis();
        let size = u64::from(opsize);
        if self.mode.v86 && !self.mode.iopl_ok {
            return self.iret_v86_extended(size);
        }
        if self.mode.protected && self.state.flags.get() & bit::NT != 0 {
            return self.iret_nested();
        }
        let mut stack = self.stack();
        let rip = stack.pop(self, size)?;
        let selector = stack.pop(self, size)? as u16;
        let image = stack.pop(self, size)?;
        if !self.mode.protected {
            let target = self.real_code_target(selector, rip)?;
            let mut mask = USER_FLAGS | bit::IF;
            if !self.mode.v86 {
                mask |= bit::IOPL;
            }
            stack.commit(self);
            self.merge_flags(image, mask & size_mask(opsize));
            self.enter_code(target);
            return Ok(());
        }
        if image & bit::VM != 0 && self.mode.cpl == 0 && size == 4 && !self.mode.long {
            return self.iret_to_v86(stack, rip, selector, image);
        }
        let mut mask = USER_FLAGS;
        if self.mode.iopl_ok {
            mask |= bit::IF;
        }
        if self.mode.cpl == 0 {
            mask |= bit::IOPL | bit::VIF | bit::VIP;
        }
        let mask = mask & size_mask(opsize);
        let target = self.return_target(selector, rip)?;
        if rpl(selector) == self.mode.cpl && self.mode.code_bits != 64 {
            stack.commit(self);
            self.merge_flags(image, mask);
            self.enter_code(target);
            return Ok(());
        }
        let outer = self.pop_outer_stack(&mut stack, &target, size)?;
        self.merge_flags(image, mask);
        self.enter_outer(target, outer);
        Ok(())
    }

    pub(super) fn merge_flags(&mut self, image: u64, mask: u64) {
        let flags = self.state.flags.get();
        self.state.flags.set(flags & !mask | image & mask);
    }

    /// Checks the code segment a return goes to.
    fn return_target(&mut self, selector: u16, rip: u64) -> Result<CodeTarget, Trap> {
        if is_null(selector) {
            return Err(self.gp(0));
        }
        let (mut descriptor, at) = self.descriptor(selector, vector::GP)?;
        let new_cpl = rpl(selector);
        let dpl = descriptor.dpl();
        let allowed = descriptor.is_code()
            && new_cpl >= self.mode.cpl
            && if descriptor.is_conforming() { dpl <= new_cpl } else { dpl == new_cpl };
        if !allowed {
            return Err(self.gp(selector_error(selector)));
        }
        self.code_target(selector, &mut descriptor, at, rip, new_cpl)
    }

    /// Pops and checks the stack pointer of the privilege level a return goes to.
    fn pop_outer_stack(
        &mut self,
        stack: &mut Stack,
        target: &CodeTarget,
        size: u64,
    ) -> Result<Stack, Trap> {
        let sp = stack.pop(self, size)?;
        let selector = stack.pop(self, size)? as u16;
        let new_cpl = rpl(target.cs.selector);
        let to_64 = self.mode.long && target.cs.attr & attr::LONG != 0;
        let ss = if is_null(selector) && to_64 && new_cpl != 3 && rpl(selector) == new_cpl {
            null_stack(selector, new_cpl)
        } else {
            self.stack_segment(selector, new_cpl, vector::GP)?
        };
        Ok(if to_64 { Stack::flat(ss, sp, new_cpl) } else { Stack::of(ss, sp, new_cpl, 0) })
    }

    /// Continues at a target with its own stack, dropping data segments too privileged for it.
    fn enter_outer(&mut self, target: CodeTarget, outer: Stack) {
        let new_cpl = rpl(target.cs.selector);
        if new_cpl > self.mode.cpl {
            for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
                let segment = &mut self.state.seg[seg as usize];
                let conforming_code = segment.attr & (attr::CODE | attr::EXPAND_DOWN_OR_CONFORMING)
                    == attr::CODE | attr::EXPAND_DOWN_OR_CONFORMING;
                if segment.present() && !conforming_code && segment.dpl() < new_cpl {
                    *segment = Segment { limit: segment.limit, ..Segment::default() };
                }
            }
        }
        self.state.seg[Seg::Ss as usize] = outer.ss;
        outer.commit(self);
        self.enter_code(target);
    }

    /// IRET with NT set: back to the task that was interrupted.
    fn iret_nested(&mut self) -> Result<(), Trap> {
        if self.mode.long {
            return Err(self.gp(0));
        }
        let link: u16 = self.load_implicit(self.state.tr.base)?;
        self.switch_task(link, Reason::Return)
    }

    /// IRET from ring 0 into virtual-8086 mode.
    fn iret_to_v86(
        &mut self,
        mut stack: Stack,
        rip: u64,
        selector: u16,
        image: u64,
    ) -> Result<(), Trap> {
        let rsp = stack.pop(self, 4)?;
        let mut selectors = [0; 6];
        for seg in [Seg::Ss, Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
            selectors[seg as usize] = stack.pop(self, 4)? as u16;
        }
        selectors[Seg::Cs as usize] = selector;
        if rip > 0xffff {
            return Err(self.gp(0));
        }
        let mask = USER_FLAGS | bit::IF | bit::IOPL | bit::VM | bit::VIF | bit::VIP;
        self.merge_flags(image, mask);
        for (segment, selector) in self.state.seg.iter_mut().zip(selectors) {
            let base = u64::from(selector) << 4;
            *segment = Segment { selector, base, limit: 0xffff, attr: 0xf3 };
        }
        self.state.regs[gpr::RSP] = rsp;
        let cs = self.state.seg[Seg::Cs as usize];
        self.enter_code(CodeTarget { cs, rip });
        Ok(())
    }

    /// IRET in virtual-8086 mode with IOPL below 3: needs VME, 16 bits, and a flags image that the
    /// program may have (SDM vol. 3, 20.3.3).
    fn iret_v86_extended(&mut self, size: u64) -> Result<(), Trap> {
        if size != 2 || !self.cr4_has(crate::state::cr4::VME) {
            return Err(self.gp(0));
        }
        let mut stack = self.stack();
        let rip = stack.pop(self, size)?;
        let selector = stack.pop(self, size)? as u16;
        let image = stack.pop(self, size)?;
        self.check_virtual_flags(image)?;
        let target = self.real_code_target(selector, rip)?;
        stack.commit(self);
        self.set_virtual_flags(image);
        self.enter_code(target);
        Ok(())
    }

    /// #GP(0) if a 16-bit flags image would set TF, or allow interrupts while one is pending.
    pub(super) fn check_virtual_flags(&mut self, image: u64) -> Result<(), Trap> {
        let pending = self.state.flags.get() & bit::VIP != 0;
        if image & bit::TF != 0 || image & bit::IF != 0 && pending {
            return Err(self.gp(0));
        }
        Ok(())
    }

    /// Takes a 16-bit flags image, its IF standing for VIF.
    pub(super) fn set_virtual_flags(&mut self, image: u64) {
        let vif = if image & bit::IF != 0 { bit::VIF } else { 0 };
        self.merge_flags(image & !bit::VIF | vif, USER_FLAGS & 0xffff | bit::VIF);
        self.update_mode();
    }
}
