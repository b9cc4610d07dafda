//! CPUID, time stamps, HLT, MONITOR and cache control.

use crate::core::{Cpu, Trap};
use crate::cpuid::{Dynamic, feature};
use crate::state::{cr4, gpr};
use crate::svm::exit;

impl Cpu {
    /// CPUID: EAX, EBX, ECX, EDX for a leaf and subleaf.
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let dynamic = Dynamic {
            osxsave: self.cr4_has(cr4::OSXSAVE),
            ospke: self.cr4_has(cr4::PKE),
            apic_enabled: self.state.msr.apic_base & 1 << 11 != 0,
            long: self.mode.long,
            xcr0: self.state.xcr0,
        };
        self.model.cpuid(self.index, leaf, subleaf, &dynamic)
    }

    /// RDTSC.
    pub fn rdtsc(&mut self) -> Result<u64, Trap> {
        if !self.tsc_allowed() {
            return Err(self.gp(0));
        }
        self.intercept(exit::RDTSC)?;
        Ok(self.tsc())
    }

    /// RDTSCP: the time stamp and IA32_TSC_AUX.
    pub fn rdtscp(&mut self) -> Result<(u64, u32), Trap> {
        if !self.model.has(feature::RDTSCP) {
            return Err(self.undefined());
        }
        if !self.tsc_allowed() {
            return Err(self.gp(0));
        }
        self.intercept(exit::RDTSCP)?;
        Ok((self.tsc(), self.state.msr.tsc_aux as u32))
    }

    /// RDPMC: there are no counters.
    pub fn rdpmc(&mut self) -> Result<u64, Trap> {
        self.intercept(exit::RDPMC)?;
        Err(self.gp(0))
    }

    /// HLT: execution stops until an interrupt. The engine leaves its loop.
    pub fn hlt(&mut self) -> Result<(), Trap> {
        self.require_cpl0()?;
        self.intercept(exit::HLT)?;
        self.state.halted = true;
        self.exit_block = true;
        Ok(())
    }

    /// MONITOR with the address range at `linear`.
    pub fn monitor(&mut self, linear: u64, extensions: u32) -> Result<(), Trap> {
        self.check_monitor()?;
        self.intercept(exit::MONITOR)?;
        if extensions != 0 {
            return Err(self.gp(0));
        }
        self.load::<u8>(linear)?;
        Ok(())
    }

    /// MWAIT. Nothing is monitored; returning at once is always allowed.
    pub fn mwait(&mut self, extensions: u32) -> Result<(), Trap> {
        self.check_monitor()?;
        self.intercept(exit::MWAIT)?;
        if extensions > 1 {
            return Err(self.gp(0));
        }
        Ok(())
    }

    fn check_monitor(&mut self) -> Result<(), Trap> {
        if !self.model.has(feature::MONITOR) || self.mode.cpl != 0 {
            return Err(self.undefined());
        }
        Ok(())
    }

    /// WBINVD: caches are coherent, only the privilege matters.
    pub fn wbinvd(&mut self) -> Result<(), Trap> {
        self.require_cpl0()?;
        self.intercept(exit::WBINVD)
    }

    /// INVD: the same, but for who intercepts it.
    pub fn invd(&mut self) -> Result<(), Trap> {
        self.require_cpl0()?;
        self.intercept(exit::INVD)
    }

    /// UD0, UD1, UD2, and everything unknown.
    pub fn ud(&mut self) -> Trap {
        self.undefined()
    }

    /// BOUND found the index outside its bounds.
    pub fn bound_exceeded(&mut self) -> Trap {
        self.raise(crate::core::vector::BR, None)
    }

    /// Division by zero or an overflowing quotient.
    pub fn divide_error(&mut self) -> Trap {
        self.raise(crate::core::vector::DE, None)
    }

    /// #NM.
    pub fn device_not_available(&mut self) -> Trap {
        self.raise(crate::core::vector::NM, None)
    }

    /// The general registers CPUID, RDMSR and their like answer in.
    pub fn set_eax_edx(&mut self, value: u64) {
        self.state.regs[gpr::RAX] = value & 0xffff_ffff;
        self.state.regs[gpr::RDX] = value >> 32;
    }
}
