//! SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS and the FS/GS base instructions.

use crate::core::{Cpu, Trap};
use crate::cpuid::{Vendor, feature};
use crate::flags::bit;
use crate::state::{Seg, Segment, attr, cr4, efer, gpr};

/// A flat code segment of the kind these instructions load without looking at a table.
fn flat_code(selector: u16, dpl: u8, bits: u8) -> Segment {
    let size = if bits == 64 { attr::LONG } else { attr::BIG };
    let dpl = u16::from(dpl) << attr::DPL_SHIFT;
    let attr = attr::PRESENT | attr::S | 0xb | dpl | size | attr::GRANULAR;
    Segment { selector, base: 0, limit: u32::MAX, attr }
}

/// The flat stack segment beside it.
fn flat_stack(selector: u16, dpl: u8) -> Segment {
    let dpl = u16::from(dpl) << attr::DPL_SHIFT;
    let attr = attr::PRESENT | attr::S | 3 | dpl | attr::BIG | attr::GRANULAR;
    Segment { selector, base: 0, limit: u32::MAX, attr }
}

impl Cpu {
    fn enter_flat(&mut self, cs: Segment, ss: Segment, rip: u64) {
        self.state.seg[Seg::Cs as usize] = cs;
        self.state.seg[Seg::Ss as usize] = ss;
        self.state.rip = rip;
        self.update_mode();
        self.exit_block = true;
    }

    fn require_sce(&mut self) -> Result<(), Trap> {
        if self.state.msr.efer & efer::SCE == 0 { Err(self.undefined()) } else { Ok(()) }
    }

    /// SYSCALL (APM vol. 3).
    pub fn syscall(&mut self) -> Result<(), Trap> {
        self.require_sce()?;
        // Intel knows it in 64-bit code only.
        if self.mode.code_bits != 64 && self.model.vendor() == Vendor::Intel {
            return Err(self.undefined());
        }
        let star = self.state.msr.star;
        let selector = (star >> 32) as u16 & 0xfffc;
        let flags = self.state.flags.get();
        let next = self.state.rip;
        self.state.regs[gpr::RCX] = next;
        let (bits, rip) = if self.mode.long {
            self.state.regs[11] = flags & !bit::RF;
            self.state.flags.set(flags & !self.state.msr.fmask & !bit::RF);
            self.stepping &= self.state.msr.fmask & bit::TF == 0;
            let msr = &self.state.msr;
            (64, if self.mode.code_bits == 64 { msr.lstar } else { msr.cstar })
        } else {
            self.state.flags.set(flags & !(bit::VM | bit::IF | bit::RF));
            (32, star & 0xffff_ffff)
        };
        let ss = flat_stack(selector.wrapping_add(8), 0);
        self.enter_flat(flat_code(selector, 0, bits), ss, rip);
        Ok(())
    }

    /// SYSRET; `opsize` is 8 to return to 64-bit code.
    pub fn sysret(&mut self, opsize: u32) -> Result<(), Trap> {
        self.require_sce()?;
        self.require_protected()?;
        self.require_cpl0()?;
        let selector = (self.state.msr.star >> 48) as u16;
        let rcx = self.state.regs[gpr::RCX];
        let to_64 = opsize == 8 && self.mode.long;
        // AMD's processors leave it to the fetch, which faults in ring 3.
        if to_64 && self.model.vendor() == Vendor::Intel && !self.is_canonical(rcx) {
            return Err(self.gp(0));
        }
        let (cs, rip) = if to_64 {
            (flat_code(selector.wrapping_add(16) | 3, 3, 64), rcx)
        } else {
            (flat_code(selector | 3, 3, 32), rcx & 0xffff_ffff)
        };
        let flags = if self.mode.long {
            let mask = super::returns::USER_FLAGS | bit::IF | bit::IOPL | bit::VIF | bit::VIP;
            self.state.regs[11] & mask & !bit::RF
        } else {
            self.state.flags.get() | bit::IF
        };
        self.state.flags.set(flags);
        // The trap comes as if the system call had just been stepped over.
        self.stepping = flags & bit::TF != 0;
        self.enter_flat(cs, flat_stack(selector.wrapping_add(8) | 3, 3), rip);
        Ok(())
    }

    /// #UD where SYSENTER and SYSEXIT do not exist: in long mode on AMD (APM vol. 3).
    fn require_sysenter(&mut self) -> Result<(), Trap> {
        let lacking = !self.model.has(feature::SEP);
        if lacking || self.mode.long && self.model.vendor() == Vendor::Amd {
            return Err(self.undefined());
        }
        Ok(())
    }

    /// SYSENTER.
    pub fn sysenter(&mut self) -> Result<(), Trap> {
        self.require_sysenter()?;
        let msr = &self.state.msr;
        let selector = msr.sysenter_cs as u16 & 0xfffc;
        if !self.mode.protected && !self.mode.v86 || selector == 0 {
            return Err(self.gp(0));
        }
        let (rip, rsp) = (msr.sysenter_eip, msr.sysenter_esp);
        let (bits, mask) = if self.mode.long { (64, !0) } else { (32, 0xffff_ffff) };
        let flags = self.state.flags.get() & !(bit::VM | bit::IF | bit::RF);
        self.state.flags.set(flags);
        self.state.regs[gpr::RSP] = rsp & mask;
        let ss = flat_stack(selector.wrapping_add(8), 0);
        self.enter_flat(flat_code(selector, 0, bits), ss, rip & mask);
        Ok(())
    }

    /// SYSEXIT; `opsize` is 8 to return to 64-bit code.
    pub fn sysexit(&mut self, opsize: u32) -> Result<(), Trap> {
        self.require_sysenter()?;
        let selector = self.state.msr.sysenter_cs as u16 & 0xfffc;
        if !self.mode.protected || self.mode.cpl != 0 || selector == 0 {
            return Err(self.gp(0));
        }
        let rip = self.state.regs[gpr::RDX];
        let rsp = self.state.regs[gpr::RCX];
        if opsize == 8 && self.mode.long {
            if !self.is_canonical(rip) || !self.is_canonical(rsp) {
                return Err(self.gp(0));
            }
            self.state.regs[gpr::RSP] = rsp;
            let cs = flat_code(selector.wrapping_add(32) | 3, 3, 64);
            self.enter_flat(cs, flat_stack(selector.wrapping_add(40) | 3, 3), rip);
        } else {
            self.state.regs[gpr::RSP] = rsp & 0xffff_ffff;
            let cs = flat_code(selector.wrapping_add(16) | 3, 3, 32);
            let ss = flat_stack(selector.wrapping_add(24) | 3, 3);
            self.enter_flat(cs, ss, rip & 0xffff_ffff);
        }
        Ok(())
    }

    /// SWAPGS.
    pub fn swapgs(&mut self) -> Result<(), Trap> {
        if self.mode.code_bits != 64 {
            return Err(self.undefined());
        }
        self.require_cpl0()?;
        let gs = &mut self.state.seg[Seg::Gs as usize].base;
        std::mem::swap(gs, &mut self.state.msr.kernel_gs_base);
        self.mode.base[Seg::Gs as usize] = *gs;
        Ok(())
    }

    fn require_fsgsbase(&mut self) -> Result<(), Trap> {
        if self.mode.code_bits != 64 || !self.cr4_has(cr4::FSGSBASE) {
            return Err(self.undefined());
        }
        Ok(())
    }

    /// RDFSBASE and RDGSBASE.
    pub fn read_segment_base(&mut self, seg: Seg) -> Result<u64, Trap> {
        self.require_fsgsbase()?;
        Ok(self.state.seg[seg as usize].base)
    }

    /// WRFSBASE and WRGSBASE.
    pub fn write_segment_base(&mut self, seg: Seg, value: u64) -> Result<(), Trap> {
        self.require_fsgsbase()?;
        if !self.is_canonical_register(value) {
            return Err(self.gp(0));
        }
        self.set_segment_base(seg, value);
        Ok(())
    }

    pub(super) fn set_segment_base(&mut self, seg: Seg, value: u64) {
        self.state.seg[seg as usize].base = value;
        self.update_mode();
    }

    /// RDPID: IA32_TSC_AUX.
    pub fn rdpid(&mut self) -> Result<u64, Trap> {
        if !self.model.has(feature::RDPID) {
            return Err(self.undefined());
        }
        Ok(self.state.msr.tsc_aux)
    }
}
