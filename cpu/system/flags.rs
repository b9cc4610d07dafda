//! Instructions that move RFLAGS as a whole, and the interrupt flag.

use super::far::size_mask;
use super::returns::USER_FLAGS;
use crate::core::{Cpu, Trap};
use crate::flags::bit;
use crate::state::cr4;

impl Cpu {
    /// The image PUSHF pushes. `opsize` is 2, 4 or 8 bytes.
    pub fn flags_to_push(&mut self, opsize: u32) -> Result<u64, Trap> {
        let flags = self.state.flags.get() & !(bit::RF | bit::VM);
        if !self.mode.v86 || self.mode.iopl_ok {
            return Ok(flags);
        }
        if opsize != 2 || !self.cr4_has(cr4::VME) {
            return Err(self.gp(0));
        }
        let virtual_if = if flags & bit::VIF != 0 { bit::IF } else { 0 };
        Ok(flags & !bit::IF | virtual_if | bit::IOPL)
    }

    /// #GP(0) if POPF may not run at all: to be asked before the stack is read.
    pub fn check_popf(&mut self, opsize: u32) -> Result<(), Trap> {
        if self.mode.v86 && !self.mode.iopl_ok && (opsize != 2 || !self.cr4_has(cr4::VME)) {
            return Err(self.gp(0));
        }
        Ok(())
    }

    /// POPF: takes `value` as far as privilege allows. `opsize` is 2, 4 or 8 bytes.
    pub fn write_flags(&mut self, value: u64, opsize: u32) -> Result<(), Trap> {
        self.check_popf(opsize)?;
        if self.mode.v86 && !self.mode.iopl_ok {
            self.check_virtual_flags(value)?;
            self.set_virtual_flags(value);
            return Ok(());
        }
        let mut mask = USER_FLAGS;
        if self.mode.iopl_ok {
            mask |= bit::IF;
        }
        if self.mode.cpl == 0 {
            mask |= bit::IOPL;
        }
        let before = self.state.flags.system();
        // POPF clears RF whatever the image says.
        self.merge_flags(value & !bit::RF, mask & size_mask(opsize) | bit::RF);
        if (before ^ self.state.flags.system()) & (bit::IOPL | bit::AC) != 0 {
            self.update_mode();
        } else {
            self.update_signal_mask();
        }
        Ok(())
    }

    /// Whether IF is out of reach but its virtual image may be changed instead.
    fn has_virtual_if(&self) -> bool {
        if self.mode.v86 {
            self.cr4_has(cr4::VME)
        } else {
            self.cr4_has(cr4::PVI) && self.mode.cpl == 3
        }
    }

    /// CLI.
    pub fn cli(&mut self) -> Result<(), Trap> {
        if self.mode.iopl_ok {
            self.merge_flags(0, bit::IF);
        } else if self.has_virtual_if() {
            self.merge_flags(0, bit::VIF);
        } else {
            return Err(self.gp(0));
        }
        self.update_signal_mask();
        Ok(())
    }

    /// STI. Interrupts stay blocked for one more instruction if they were.
    pub fn sti(&mut self) -> Result<(), Trap> {
        let flags = self.state.flags.get();
        if self.mode.iopl_ok {
            if flags & bit::IF == 0 {
                self.state.interrupt_shadow = true;
            }
            self.merge_flags(bit::IF, bit::IF);
        } else if self.has_virtual_if() && flags & bit::VIP == 0 {
            self.merge_flags(bit::VIF, bit::VIF);
        } else {
            return Err(self.gp(0));
        }
        self.update_signal_mask();
        Ok(())
    }

    /// CLAC and STAC.
    pub fn set_ac(&mut self, on: bool) -> Result<(), Trap> {
        if !self.model.has(crate::cpuid::feature::SMAP) || self.mode.cpl != 0 || self.mode.v86 {
            return Err(self.undefined());
        }
        self.merge_flags(if on { bit::AC } else { 0 }, bit::AC);
        self.update_mode();
        Ok(())
    }
}
