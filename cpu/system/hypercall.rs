//! VMCALL and VMMCALL: a guest speaks to the hypervisor that it runs on, which is this program, and is
//! answered as KVM would answer. The number is in RAX, arguments are in RBX, RCX, RDX and RSI, the
//! result is in RAX; where code is not 64-bit, in the lower halves.

use crate::core::{Cpu, Trap};
use crate::cpuid::feature;
use crate::state::gpr;
use crate::svm::exit;

/// Numbers of calls.
mod call {
    /// Anything that waits in the APIC? It is looked at after every instruction.
    pub const POLL_APIC: u64 = 1;
    pub const SEND_IPI: u64 = 10;
}

/// Negative results.
mod error {
    pub const NOT_PERMITTED: i64 = -1;
    pub const INVALID: i64 = -22;
    pub const UNKNOWN_CALL: i64 = -1000;
}

impl Cpu {
    /// VMMCALL. Who runs a guest of his own hears of it first.
    pub fn vmmcall(&mut self) -> Result<(), Trap> {
        self.intercept(exit::VMMCALL)?;
        self.vmcall()
    }

    /// VMCALL: KVM takes either, whatever the processor's vendor.
    pub fn vmcall(&mut self) -> Result<(), Trap> {
        if !self.model.has(feature::HYPERVISOR) || self.state.svm.guest || !self.mode.protected {
            return Err(self.undefined());
        }
        let mask = if self.mode.code_bits == 64 { u64::MAX } else { u32::MAX.into() };
        let [number, b, c, d, si] =
            [gpr::RAX, gpr::RBX, gpr::RCX, gpr::RDX, gpr::RSI].map(|r| self.state.regs[r] & mask);
        let result = match number {
            _ if self.mode.cpl != 0 => error::NOT_PERMITTED,
            call::POLL_APIC => 0,
            call::SEND_IPI => self.send_ipis([b, c], d, si),
            _ => error::UNKNOWN_CALL,
        };
        self.state.regs[gpr::RAX] = result as u64 & mask;
        Ok(())
    }

    /// Sends what `command` says, in the format of the ICR's lower half, to the APICs whose IDs, counted
    /// from `first`, are set in `bits` (of the width of a register each). Returns how many they were.
    fn send_ipis(&self, bits: [u64; 2], first: u64, command: u64) -> i64 {
        const DESTINATION_MODE_AND_SHORTHAND: u64 = 1 << 11 | 3 << 18;
        if command & DESTINATION_MODE_AND_SHORTHAND != 0 {
            return error::INVALID;
        }
        let Some(apic) = &self.bus.apic else { return 0 };
        let width = if self.mode.code_bits == 64 { 64 } else { 32 };
        let ids = (0..2 * width).filter(|n| bits[n / width] >> (n % width) & 1 != 0);
        let ids = ids.filter_map(|n| first.checked_add(n as u64)?.try_into().ok());
        ids.filter(|id| apic.send_ipi(*id, command as u32)).count() as i64
    }
}
