//! Port I/O with its permission checks (SDM vol. 1, chapter 19).

use base::backdoor::CallRegisters;
use base::trace_event;

use super::segment::kind;
use crate::core::{Cpu, Trap};
use crate::state::{attr, gpr};
use crate::svm::io_form;

/// The letter traces know an operand width by.
fn letter(size: u8) -> char {
    match size {
        1 => 'b',
        2 => 'w',
        _ => 'l',
    }
}

impl Cpu {
    /// #GP(0) unless `size` ports from `port` may be accessed: by IOPL, or by the permission bit
    /// map of the TSS. To be asked once before a string of accesses.
    pub fn check_port(&mut self, port: u16, size: u8) -> Result<(), Trap> {
        if self.mode.iopl_ok && !self.mode.v86 {
            return Ok(());
        }
        let tr = self.state.tr;
        let is_32 = matches!(tr.attr & attr::TYPE, kind::TSS32 | kind::TSS32_BUSY);
        if !tr.present() || !is_32 || tr.limit < 0x67 {
            return Err(self.gp(0));
        }
        let map: u16 = self.load_implicit(tr.base.wrapping_add(0x66))?;
        // Two bytes are always read, so that the bits of any access lie within them; the map must
        // have both.
        let at = u32::from(map) + u32::from(port / 8);
        if at + 1 > tr.limit {
            return Err(self.gp(0));
        }
        let bits: u16 = self.load_implicit(tr.base.wrapping_add(at.into()))?;
        if bits >> (port % 8) & ((1 << size) - 1) != 0 {
            return Err(self.gp(0));
        }
        Ok(())
    }

    /// IN: `size` is 1, 2 or 4 bytes.
    pub fn io_in(&mut self, port: u16, size: u8) -> Result<u32, Trap> {
        self.check_port(port, size)?;
        let form = io_form::IN | io_form::address(self.mode.code_bits);
        self.intercept_port(port, size, form, self.state.rip)?;
        if self.trial_forbids_devices() {
            return Ok(0);
        }
        let value = match self.call_backdoor(port, size, None) {
            Some(answer) => answer,
            None => self.bus.ports.read_uint(port.into(), size) as u32,
        };
        trace_event!(cpu_in, "addr {port:#x}({}) value {value}", letter(size));
        self.watch_port(port, size.into());
        self.after_io();
        Ok(value)
    }

    /// OUT: `size` is 1, 2 or 4 bytes.
    pub fn io_out(&mut self, port: u16, size: u8, value: u32) -> Result<(), Trap> {
        self.check_port(port, size)?;
        self.intercept_port(port, size, io_form::address(self.mode.code_bits), self.state.rip)?;
        if self.trial_forbids_devices() {
            return Ok(());
        }
        trace_event!(cpu_out, "addr {port:#x}({}) value {value}", letter(size));
        match self.call_backdoor(port, size, Some(value)) {
            Some(answer) => self.state.regs[gpr::RAX] = answer.into(),
            None => self.bus.ports.write_uint(port.into(), size, value.into()),
        }
        self.watch_port(port, size.into());
        self.after_io();
        Ok(())
    }

    /// An access to the machine's back door, and the EAX that it answers; `None` if it is to an
    /// ordinary port.
    fn call_backdoor(&mut self, port: u16, size: u8, written: Option<u32>) -> Option<u32> {
        let backdoor = self.bus.backdoor(port, size)?.clone();
        let regs = &mut self.state.regs;
        let get = |register: usize| regs[register] as u32;
        let mut call = CallRegisters {
            eax: written.unwrap_or_else(|| get(gpr::RAX)),
            ecx: get(gpr::RCX),
            edx: get(gpr::RDX),
            ebx: get(gpr::RBX),
            esi: get(gpr::RSI),
            edi: get(gpr::RDI),
        };
        backdoor.call(&mut call);
        let answers = [
            (gpr::RCX, call.ecx),
            (gpr::RDX, call.edx),
            (gpr::RBX, call.ebx),
            (gpr::RSI, call.esi),
            (gpr::RDI, call.edi),
        ];
        for (register, value) in answers {
            regs[register] = value.into();
        }
        Some(call.eax)
    }
}
