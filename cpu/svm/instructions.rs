//! The instructions of SVM (APM vol. 3, system instruction reference).

use super::vmcb::{Vmcb, save};
use super::{NestedFault, Purpose, exit, virq};
use crate::core::{Cpu, Trap};
use crate::cpuid::feature;
use crate::mmu::walk::sign_extend;
use crate::state::{Seg, efer, gpr};

/// What VMLOAD and VMSAVE move beside segments, and whether it is an address.
macro_rules! moved_registers {
    ($cpu:expr) => {{
        let msr = &mut $cpu.state.msr;
        [
            (save::STAR, &mut msr.star, false),
            (save::LSTAR, &mut msr.lstar, true),
            (save::CSTAR, &mut msr.cstar, true),
            (save::SFMASK, &mut msr.fmask, false),
            (save::KERNEL_GS_BASE, &mut msr.kernel_gs_base, true),
            (save::SYSENTER_CS, &mut msr.sysenter_cs, false),
            (save::SYSENTER_ESP, &mut msr.sysenter_esp, true),
            (save::SYSENTER_EIP, &mut msr.sysenter_eip, true),
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

    /// The same for VMLOAD and VMSAVE, whose exit is `code`. Where their blocks are virtual, the host's
    /// tables translate the address (APM vol. 2, 15.33.1), which takes long mode.
    fn moved_block(&mut self, address_bits: u8, code: u64, purpose: Purpose) -> Result<u64, Trap> {
        self.require_svm()?;
        self.intercept(code)?;
        let svm = &self.state.svm;
        let nested = svm.nested.filter(|_| svm.guest && svm.virtual_blocks);
        if nested.is_some() && !self.mode.long {
            return Err(self.exit_to_host(code, 0, 0));
        }
        let address = self.block_address(address_bits)?;
        let Some(paging) = nested else { return Ok(address) };
        match self.nested_walk(paging, address, purpose) {
            Ok(page) => Ok(page.phys),
            Err(info) => {
                self.state.svm.fetch_faulted = false;
                Err(self.nested_fault(NestedFault { info, address }))
            }
        }
    }

    /// VMLOAD.
    pub fn vmload(&mut self, address_bits: u8) -> Result<(), Trap> {
        let at = self.moved_block(address_bits, exit::VMLOAD, Purpose::Read)?;
        let vmcb = Vmcb::read(self, at);
        self.state.seg[Seg::Fs as usize] = self.guest_segment(&vmcb, save::FS);
        self.state.seg[Seg::Gs as usize] = self.guest_segment(&vmcb, save::GS);
        self.state.ldtr = self.guest_segment(&vmcb, save::LDTR);
        self.state.tr = self.guest_segment(&vmcb, save::TR);
        let width = self.linear_bits();
        for (offset, register, is_address) in moved_registers!(self) {
            let value = vmcb.u64(offset);
            *register = if is_address { sign_extend(value, width) } else { value };
        }
        self.update_mode();
        self.exit_block = true;
        Ok(())
    }

    /// VMSAVE.
    pub fn vmsave(&mut self, address_bits: u8) -> Result<(), Trap> {
        let at = self.moved_block(address_bits, exit::VMSAVE, Purpose::Write)?;
        let mut vmcb = Vmcb::read(self, at);
        vmcb.set_segment(save::FS, &self.state.seg[Seg::Fs as usize]);
        vmcb.set_segment(save::GS, &self.state.seg[Seg::Gs as usize]);
        vmcb.set_segment(save::LDTR, &self.state.ldtr);
        vmcb.set_segment(save::TR, &self.state.tr);
        for (offset, register, _) in moved_registers!(self) {
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

    /// INVLPGA: a page is forgotten in all address spaces.
    pub fn invlpga(&mut self) -> Result<(), Trap> {
        self.require_svm()?;
        let linear = self.state.regs[gpr::RAX] & self.mode.linear_mask;
        self.intercept_decoded(exit::INVLPGA, linear)?;
        self.mmu.tlb.flush_page_everywhere(linear);
        self.exit_block = true;
        Ok(())
    }

    /// Whether `feature::SVM` is offered and not disabled by VM_CR.
    pub(crate) fn svm_allowed(&self) -> bool {
        self.model.has(feature::SVM) && self.state.svm.vm_cr & super::vm_cr::SVM_DISABLE == 0
    }
}
