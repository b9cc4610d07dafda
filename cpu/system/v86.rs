//! Virtual-8086 mode extensions: interrupts that stay in the 8086 program (SDM vol. 3, 20.3).

use crate::core::{Cpu, Trap};
use crate::flags::bit;
use crate::state::cr4;

impl Cpu {
    /// INT n in virtual-8086 mode. `true`: done through the 8086 program's own vector table;
    /// `false`: through the IDT.
    pub(super) fn v86_interrupt(&mut self, vector: u8) -> Result<bool, Trap> {
        let iopl3 = self.mode.iopl_ok;
        let redirect = self.cr4_has(cr4::VME) && !self.redirection_bit(vector)?;
        if !redirect {
            return if iopl3 { Ok(false) } else { Err(self.gp(0)) };
        }
        let flags = self.state.flags.get();
        let image = if iopl3 {
            flags
        } else {
            // The program sees its virtual interrupt flag, and full I/O privilege.
            let virtual_if = if flags & bit::VIF != 0 { bit::IF } else { 0 };
            flags & !bit::IF | virtual_if | bit::IOPL
        };
        let entry: u32 = self.load(u64::from(vector) * 4)?;
        self.enter_vector(entry, image)?;
        let hidden = if iopl3 { bit::IF } else { bit::VIF };
        self.state.flags.set(self.state.flags.get() & !hidden);
        self.update_mode();
        Ok(true)
    }

    /// The interrupt redirection bit map: the 32 bytes below the TSS's I/O permission map.
    fn redirection_bit(&mut self, vector: u8) -> Result<bool, Trap> {
        let tr = self.state.tr;
        let map: u16 = self.load_implicit(tr.base.wrapping_add(0x66))?;
        let Some(at) = u32::from(map).checked_sub(32) else { return Err(self.gp(0)) };
        let at = at + u32::from(vector / 8);
        if at > tr.limit {
            return Err(self.gp(0));
        }
        let byte: u8 = self.load_implicit(tr.base.wrapping_add(at.into()))?;
        Ok(byte >> (vector % 8) & 1 != 0)
    }
}
