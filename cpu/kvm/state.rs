//! General, segment, control and debug registers, and pending events, between the architectural
//! state and the kernel.

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, KVM_VCPUEVENT_VALID_SHADOW,
    KVM_VCPUEVENT_VALID_SMM, kvm_debugregs, kvm_dtable, kvm_mp_state, kvm_regs, kvm_segment,
    kvm_sregs, kvm_vcpu_events, kvm_xcr, kvm_xcrs,
};
use kvm_ioctls::VcpuFd;

use super::error::KvmError;
use super::msr;
use super::xsave::Image;
use crate::flags::LazyFlags;
use crate::state::{CpuState, Seg, Segment, TableReg, attr, gpr};

/// Interrupts are blocked after STI (bit 1) or MOV SS (bit 0).
const SHADOW_MOV_SS: u8 = 1;
const SHADOW_STI: u8 = 2;

fn from_segment(segment: &kvm_segment) -> Segment {
    let bit = |flag: u8, at: u16| u16::from(flag & 1) * at;
    Segment {
        selector: segment.selector,
        base: segment.base,
        limit: segment.limit,
        attr: u16::from(segment.type_ & 0xf)
            | bit(segment.s, attr::S)
            | u16::from(segment.dpl & 3) << attr::DPL_SHIFT
            | bit(segment.present & !segment.unusable, attr::PRESENT)
            | bit(segment.avl, attr::AVL)
            | bit(segment.l, attr::LONG)
            | bit(segment.db, attr::BIG)
            | bit(segment.g, attr::GRANULAR),
    }
}

fn to_segment(segment: &Segment) -> kvm_segment {
    let flag = |bit: u16| u8::from(segment.attr & bit != 0);
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: (segment.attr & attr::TYPE) as u8,
        present: flag(attr::PRESENT),
        dpl: segment.dpl(),
        db: flag(attr::BIG),
        s: flag(attr::S),
        l: flag(attr::LONG),
        g: flag(attr::GRANULAR),
        avl: flag(attr::AVL),
        unusable: u8::from(!segment.present()),
        padding: 0,
    }
}

fn from_table(table: &kvm_dtable) -> TableReg {
    TableReg { base: table.base, limit: table.limit }
}

fn to_table(table: &TableReg) -> kvm_dtable {
    kvm_dtable { base: table.base, limit: table.limit, ..Default::default() }
}

fn from_regs(regs: &kvm_regs, state: &mut CpuState) {
    let values = [
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8,
        regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ];
    state.regs[..16].copy_from_slice(&values);
    state.rip = regs.rip;
    state.flags = LazyFlags::new(regs.rflags);
}

fn to_regs(state: &CpuState) -> kvm_regs {
    let r = &state.regs;
    kvm_regs {
        rax: r[gpr::RAX],
        rbx: r[gpr::RBX],
        rcx: r[gpr::RCX],
        rdx: r[gpr::RDX],
        rsi: r[gpr::RSI],
        rdi: r[gpr::RDI],
        rsp: r[gpr::RSP],
        rbp: r[gpr::RBP],
        r8: r[8],
        r9: r[9],
        r10: r[10],
        r11: r[11],
        r12: r[12],
        r13: r[13],
        r14: r[14],
        r15: r[15],
        rip: state.rip,
        rflags: state.flags.get(),
    }
}

fn from_sregs(sregs: &kvm_sregs, state: &mut CpuState) {
    for (seg, from) in [
        (Seg::Es, &sregs.es),
        (Seg::Cs, &sregs.cs),
        (Seg::Ss, &sregs.ss),
        (Seg::Ds, &sregs.ds),
        (Seg::Fs, &sregs.fs),
        (Seg::Gs, &sregs.gs),
    ] {
        state.seg[seg as usize] = from_segment(from);
    }
    state.ldtr = from_segment(&sregs.ldt);
    state.tr = from_segment(&sregs.tr);
    state.gdtr = from_table(&sregs.gdt);
    state.idtr = from_table(&sregs.idt);
    (state.cr0, state.cr2, state.cr3, state.cr4) = (sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4);
    state.msr.efer = sregs.efer;
    state.msr.apic_base = sregs.apic_base;
}

fn to_sregs(state: &CpuState, sregs: &mut kvm_sregs) {
    let seg = |seg: Seg| to_segment(&state.seg[seg as usize]);
    (sregs.es, sregs.cs, sregs.ss) = (seg(Seg::Es), seg(Seg::Cs), seg(Seg::Ss));
    (sregs.ds, sregs.fs, sregs.gs) = (seg(Seg::Ds), seg(Seg::Fs), seg(Seg::Gs));
    sregs.ldt = to_segment(&state.ldtr);
    sregs.tr = to_segment(&state.tr);
    sregs.gdt = to_table(&state.gdtr);
    sregs.idt = to_table(&state.idtr);
    (sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4) = (state.cr0, state.cr2, state.cr3, state.cr4);
    sregs.efer = state.msr.efer;
    sregs.apic_base = state.msr.apic_base;
}

/// A processor's state in the kernel, with the parts that the architectural state has no place for.
pub(super) struct Fetched {
    pub state: CpuState,
    sregs: kvm_sregs,
    events: kvm_vcpu_events,
    image: Image,
    mp_state: kvm_mp_state,
}

/// Reads everything. `state` gives the values of what the kernel does not know.
pub(super) fn fetch(fd: &VcpuFd, msrs: &[u32], mut state: CpuState) -> Result<Fetched, KvmError> {
    from_regs(&fd.get_regs().map_err(KvmError::ioctl("KVM_GET_REGS"))?, &mut state);
    let sregs = fd.get_sregs().map_err(KvmError::ioctl("KVM_GET_SREGS"))?;
    from_sregs(&sregs, &mut state);
    let image = Image::new(&fd.get_xsave().map_err(KvmError::ioctl("KVM_GET_XSAVE"))?);
    image.load(&mut state);
    let xcrs = fd.get_xcrs().map_err(KvmError::ioctl("KVM_GET_XCRS"))?;
    let used = xcrs.xcrs.iter().take(xcrs.nr_xcrs as usize);
    if let Some(xcr0) = used.into_iter().find(|xcr| xcr.xcr == 0) {
        state.xcr0 = xcr0.value;
    }
    let debug = fd.get_debug_regs().map_err(KvmError::ioctl("KVM_GET_DEBUGREGS"))?;
    state.dr[..4].copy_from_slice(&debug.db);
    (state.dr[6], state.dr[7]) = (debug.dr6, debug.dr7);
    msr::fetch(fd, msrs, &mut state.msr)?;
    let events = fd.get_vcpu_events().map_err(KvmError::ioctl("KVM_GET_VCPU_EVENTS"))?;
    state.interrupt_shadow = events.interrupt.shadow != 0;
    state.stack_switched = events.interrupt.shadow & SHADOW_MOV_SS != 0;
    state.nmi_blocked = events.nmi.masked != 0;
    state.smm = events.flags & KVM_VCPUEVENT_VALID_SMM != 0 && events.smi.smm != 0;
    let mp_state = fd.get_mp_state().map_err(KvmError::ioctl("KVM_GET_MP_STATE"))?;
    state.halted = mp_state.mp_state == KVM_MP_STATE_HALTED;
    Ok(Fetched { state, sregs, events, image, mp_state })
}

impl Fetched {
    /// Everything that is under way is forgotten: what RESET and INIT do.
    pub fn forget_events(&mut self) {
        let flags = self.events.flags & (KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM);
        self.events = kvm_vcpu_events { flags, ..Default::default() };
        self.sregs.interrupt_bitmap = [0; 4];
        self.sregs.cr8 = 0;
        self.mp_state.mp_state = KVM_MP_STATE_RUNNABLE;
    }

    /// Writes everything. With `reset`, also ends the guest's agreements with the kernel.
    pub fn put(&mut self, fd: &VcpuFd, msrs: &[u32], reset: bool) -> Result<(), KvmError> {
        let state = &self.state;
        fd.set_regs(&to_regs(state)).map_err(KvmError::ioctl("KVM_SET_REGS"))?;
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0] = kvm_xcr { xcr: 0, value: state.xcr0, ..Default::default() };
        fd.set_xcrs(&xcrs).map_err(KvmError::ioctl("KVM_SET_XCRS"))?;
        self.image.store(state, state.xcr0);
        set_xsave(fd, &self.image)?;
        to_sregs(state, &mut self.sregs);
        fd.set_sregs(&self.sregs).map_err(KvmError::ioctl("KVM_SET_SREGS"))?;
        msr::put(fd, msrs, &state.msr, reset)?;
        let events = &mut self.events;
        events.interrupt.shadow = match (state.interrupt_shadow, state.stack_switched) {
            (_, true) => SHADOW_MOV_SS,
            (true, false) => SHADOW_STI,
            (false, false) => 0,
        };
        events.nmi.masked = state.nmi_blocked.into();
        events.smi.smm = state.smm.into();
        fd.set_vcpu_events(events).map_err(KvmError::ioctl("KVM_SET_VCPU_EVENTS"))?;
        let debug = kvm_debugregs {
            db: [state.dr[0], state.dr[1], state.dr[2], state.dr[3]],
            dr6: state.dr[6],
            dr7: state.dr[7],
            ..Default::default()
        };
        fd.set_debug_regs(&debug).map_err(KvmError::ioctl("KVM_SET_DEBUGREGS"))?;
        let halted = self.mp_state.mp_state == KVM_MP_STATE_HALTED;
        if halted != state.halted {
            self.mp_state.mp_state =
                if state.halted { KVM_MP_STATE_HALTED } else { KVM_MP_STATE_RUNNABLE };
        }
        Ok(())
    }

    /// Writes whether the processor runs, sleeps or waits for a start-up IPI.
    pub fn put_mp_state(&self, fd: &VcpuFd) -> Result<(), KvmError> {
        fd.set_mp_state(self.mp_state).map_err(KvmError::ioctl("KVM_SET_MP_STATE"))
    }

    /// What [`Self::put_mp_state`] will write.
    pub fn set_mp_state(&mut self, mp_state: u32) {
        self.mp_state.mp_state = mp_state;
    }
}

#[allow(unsafe_code)]
fn set_xsave(fd: &VcpuFd, image: &Image) -> Result<(), KvmError> {
    let xsave = image.to_kvm();
    // SAFETY: the kernel reads more than the 4096 bytes of the structure only for processes that
    // asked for dynamically enabled components (arch_prctl), which nobody here does.
    unsafe { fd.set_xsave(&xsave) }.map_err(KvmError::ioctl("KVM_SET_XSAVE"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn segments_survive(selector in any::<u16>(), base in any::<u64>(), limit in any::<u32>(),
                            bits in any::<u16>()) {
            let segment = Segment { selector, base, limit, attr: bits & 0xf0ff };
            prop_assert_eq!(from_segment(&to_segment(&segment)), segment);
        }
    }

    #[test]
    fn registers_land_where_they_belong() {
        let mut state = CpuState::at_reset(0);
        for n in 0..16 {
            state.regs[n] = n as u64 + 100;
        }
        let regs = to_regs(&state);
        assert_eq!((regs.rax, regs.rcx, regs.rdx, regs.rbx), (100, 101, 102, 103));
        assert_eq!((regs.rsp, regs.rbp, regs.rsi, regs.rdi), (104, 105, 106, 107));
        let mut back = CpuState::at_reset(0);
        from_regs(&regs, &mut back);
        assert_eq!(back.regs[..16], state.regs[..16]);
    }
}
