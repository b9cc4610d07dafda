//! The instructions of SVM (APM vol. 3, system instruction reference).

use super::vmcb::{Vmcb, save};
use super::{exit, virq};
use crate::core::{Cpu, Trap};
use crate::cpuid::feature;
use crate::state::{Seg, efer, gpr};

/// What VMLOAD and VMSAVE move beside segments.
macro_rules! moved_registers {
    ($cpu:expr) => {{
        let msr = &mut $cpu.state.msr;
        [
            (save::STAR, &mut msr.star),
            (save::LSTAR, &mut msr.lstar),
            (save::CSTAR, &mut msr.cstar),
            (save::SFMASK, &mut msr.fmask),
            (save::KERNEL_GS_BASE, &mut msr.kernel_gs_base),
            (save::SYSENTER_CS, &mut msr.sysenter_cs),
            (save::SYSENTER_ESP, &mut msr.sysenter_esp),
            (save::SYSENTER_EIP, &mut msr.sysenter_eip),
        ]
    }};
}

impl Cpu {
    /// #UD unless SVM is on and the mode protected; #GP(0) above privilege level 0.
    fn require_svm(&mut self) -> Result<(), Trap> {
        if self.state.msr.efer & efer::SVME == 0 || !self.mode.protected {
            return Err(self.undefined());
        }
        self.require_cpl0()
    }

    /// The physical address of a block in rAX, of the current address size.
    fn block_address(&mut self, address_bits: u8) -> Result<u64, Trap> {
        let mask = u64::MAX >> (64 - u32::from(address_bits));
        let at = self.state.regs[gpr::RAX] & mask;
        if at & 0xfff != 0 || at >> self.model.phys_bits() != 0 {
            return Err(self.gp(0));
        }
        Ok(at)
    }

    /// VMRUN.
    pub fn vmrun(&mut self, address_bits: u8) -> Result<(), Trap> {
        self.require_svm()?;
        self.intercept(exit::VMRUN)?;
        let at = self.block_address(address_bits)?;
        self.enter_guest(at)
    }

    /// VMMCALL: for the host only.
    pub fn vmmcall(&mut self) -> Result<(), Trap> {
        self.intercept(exit::VMMCALL)?;
        Err(self.undefined())
    }

    /// VMLOAD.
    pub fn vmload(&mut self, address_bits: u8) -> Result<(), Trap> {
        self.require_svm()?;
        self.intercept(exit::VMLOAD)?;
        let at = self.block_address(address_bits)?;
        let vmcb = Vmcb::read(self, at);
        self.state.seg[Seg::Fs as usize] = vmcb.segment(save::FS);
        self.state.seg[Seg::Gs as usize] = vmcb.segment(save::GS);
        self.state.ldtr = vmcb.segment(save::LDTR);
        self.state.tr = vmcb.segment(save::TR);
        for (offset, register) in moved_registers!(self) {
            *register = vmcb.u64(offset);
        }
        self.update_mode();
        self.exit_block = true;
        Ok(())
    }

    /// VMSAVE.
    pub fn vmsave(&mut self, address_bits: u8) -> Result<(), Trap> {
        self.require_svm()?;
        self.intercept(exit::VMSAVE)?;
        let at = self.block_address(address_bits)?;
        let mut vmcb = Vmcb::read(self, at);
        vmcb.set_segment(save::FS, &self.state.seg[Seg::Fs as usize]);
        vmcb.set_segment(save::GS, &self.state.seg[Seg::Gs as usize]);
        vmcb.set_segment(save::LDTR, &self.state.ldtr);
        vmcb.set_segment(save::TR, &self.state.tr);
        for (offset, register) in moved_registers!(self) {
            vmcb.set(offset, *register);
        }
        vmcb.write(self, at, Vmcb::SAVE);
        Ok(())
    }

    /// STGI and CLGI.
    pub fn set_gif(&mut self, on: bool) -> Result<(), Trap> {
        self.require_svm()?;
        self.intercept(if on { exit::STGI } else { exit::CLGI })?;
        let svm = &mut self.state.svm;
        if svm.guest && svm.virq & virq::GIF_ENABLE != 0 {
            svm.virq = svm.virq & !virq::GIF | if on { virq::GIF } else { 0 };
        } else {
            svm.gif = on;
        }
        self.update_signal_mask();
        self.exit_block = true;
        Ok(())
    }

    /// SKINIT: not offered.
    pub fn skinit(&mut self) -> Result<(), Trap> {
        self.intercept(exit::SKINIT)?;
        Err(self.undefined())
    }

    /// INVLPGA: address spaces are not kept apart, so that all are emptied.
    pub fn invlpga(&mut self) -> Result<(), Trap> {
        self.require_svm()?;
        self.intercept(exit::INVLPGA)?;
        self.mmu.tlb.flush_all();
        self.exit_block = true;
        Ok(())
    }

    /// Whether `feature::SVM` is offered and not disabled by VM_CR.
    pub(crate) fn svm_allowed(&self) -> bool {
        self.model.has(feature::SVM) && self.state.svm.vm_cr & super::vm_cr::SVM_DISABLE == 0
    }
}
