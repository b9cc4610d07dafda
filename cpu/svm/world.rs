//! From the host to the guest and back (APM vol. 2, 15.5 and 15.6).

use super::intercept::{EventKind, event};
use super::vmcb::{Vmcb, control, save};
use super::{Exit, Host, NestedPaging, Pauses, exit, virq, vm_cr};
use crate::core::{Fault, Trap, vector};
use crate::flags::bit;
use crate::mmu::tlb::Controls;
use crate::mmu::walk::sign_extend;
use crate::signals::request;
use crate::state::{Seg, Segment, TableReg, attr, cr0, cr4, efer, gpr};
use crate::system::debugctl;
use crate::{Cpu, cpuid::feature};

/// Segment registers that VMRUN exchanges, with their offsets in the block.
const SEGMENTS: [(Seg, usize); 4] =
    [(Seg::Es, save::ES), (Seg::Cs, save::CS), (Seg::Ss, save::SS), (Seg::Ds, save::DS)];

const NESTED_ENABLE: u64 = 1;
const DR7_AT_EXIT: u64 = 0x400;
/// The guest has its own DEBUGCTL and last branches.
const LBR_ENABLE: u64 = 1;

/// VMLOAD and VMSAVE of the guest take its own physical addresses.
const VIRTUAL_BLOCKS_ENABLE: u64 = 2;

/// TLB_CONTROL (APM vol. 2, table 15-9).
mod tlb_control {
    pub const FLUSH_ALL: u8 = 1;
    pub const FLUSH_GUEST: u8 = 3;
    /// But for global pages; forgetting more is allowed.
    pub const FLUSH_GUEST_LOCAL: u8 = 7;
}

impl Cpu {
    /// VMRUN of the block at `at`, with the checks of privilege done. `state.rip` is the next
    /// instruction: the host goes on there.
    pub(super) fn enter_guest(&mut self, at: u64) -> Result<(), Trap> {
        base::log_item!(base::log::IN_ASM, "vmrun! {:016x}", at);
        let vmcb = Vmcb::read(self, at);
        self.state.svm.vmcb = at;
        self.state.svm.host = self.host_state();
        if !self.is_consistent(&vmcb) {
            self.state.svm.exit = Exit { code: exit::INVALID, ..Exit::default() };
            self.record_exit(vmcb, false);
            self.state.svm.gif = false;
            self.update_mode();
            self.exit_block = true;
            return Ok(());
        }
        // The host's single step comes when VMRUN is complete: after the exit.
        self.state.svm.host.stepping = std::mem::take(&mut self.stepping);
        let left = self.translation_controls();
        self.load_control(&vmcb);
        self.load_guest(&vmcb);
        self.state.svm.guest = true;
        self.state.svm.gif = true;
        self.state.interrupt_shadow = vmcb.u64(control::SHADOW) & 1 != 0;
        match vmcb.u32(control::TLB) as u8 {
            tlb_control::FLUSH_ALL => self.mmu.tlb.flush_all(),
            tlb_control::FLUSH_GUEST | tlb_control::FLUSH_GUEST_LOCAL => {
                self.mmu.tlb.forget_world(self.state.svm.asid);
            }
            _ => {}
        }
        self.changed_world(left);
        if self.state.svm.has_virtual_events() {
            self.signals.post(request::VIRQ);
        }
        let injected = vmcb.u64(control::EVENT);
        if injected & event::VALID != 0 {
            return self.inject(injected, vmcb.u64(control::NEXT_RIP));
        }
        Ok(())
    }

    fn host_state(&self) -> Host {
        let state = &self.state;
        Host {
            seg: SEGMENTS.map(|(seg, _)| state.seg[seg as usize]),
            gdtr: state.gdtr,
            idtr: state.idtr,
            efer: state.msr.efer,
            cr0: state.cr0,
            cr3: state.cr3,
            cr4: state.cr4,
            pat: state.msr.pat,
            rflags: state.flags.get(),
            rip: state.rip,
            rsp: state.regs[gpr::RSP],
            rax: state.regs[gpr::RAX],
            branches: None,
            stepping: false,
        }
    }

    /// What VMRUN refuses with VMEXIT_INVALID (APM vol. 2, 15.5.1).
    fn is_consistent(&self, vmcb: &Vmcb) -> bool {
        let (cr0, cr3, cr4) = (vmcb.u64(save::CR0), vmcb.u64(save::CR3), vmcb.u64(save::CR4));
        let guest_efer = vmcb.u64(save::EFER);
        let cs = vmcb.segment(save::CS);
        let long = guest_efer & efer::LME != 0 && cr0 & cr0::PG != 0;
        let beyond = |address: u64| address >> self.model.phys_bits() != 0;
        // Both maps must end below the highest address: that of ports 8 KiB and a byte further on,
        // that of MSRs has 8 KiB.
        let map_beyond = |map: usize| beyond((vmcb.u64(map) & !0xfff).saturating_add(0x2000));
        let bad_maps = map_beyond(control::IO_MAP) || map_beyond(control::MSR_MAP);
        let nested = vmcb.u64(control::NESTED) & NESTED_ENABLE != 0;
        let bad_nested = nested && beyond(vmcb.u64(control::NESTED_CR3) & !0xfff);
        let intercepts = |code: u64| {
            vmcb.u32(control::INTERCEPTS + 4 * (code as usize / 32)) >> (code % 32) & 1 != 0
        };
        let bad = guest_efer & efer::SVME == 0
            || guest_efer & !self.efer_settable() & !efer::LMA != 0
            || cr0 & cr0::CD == 0 && cr0 & cr0::NW != 0
            || cr0 >> 32 != 0
            || long && beyond(cr3)
            || cr4 & !self.cr4_of_guests() != 0
            || vmcb.u64(save::DR6) >> 32 != 0
            || vmcb.u64(save::DR7) >> 32 != 0
            || long && (cr4 & cr4::PAE == 0 || cr0 & cr0::PE == 0)
            || long && cr4 & cr4::PAE != 0 && cs.attr & attr::LONG != 0 && cs.attr & attr::BIG != 0
            || !intercepts(exit::VMRUN)
            || self.has_own_nmi(vmcb) && !intercepts(exit::NMI)
            || bad_maps
            || bad_nested
            || vmcb.u32(control::ASID) == 0
            || !is_legal_event(vmcb.u64(control::EVENT));
        !bad
    }

    /// Whether the guest gets NMIs of its own (APM vol. 2, 15.21.10).
    fn has_own_nmi(&self, vmcb: &Vmcb) -> bool {
        vmcb.u64(control::VIRQ) & virq::NMI_ENABLE != 0 && self.model.has(feature::VNMI)
    }

    fn load_control(&mut self, vmcb: &Vmcb) {
        let own_nmi = self.has_own_nmi(vmcb);
        let host = &self.state.svm.host;
        let nested = (vmcb.u64(control::NESTED) & NESTED_ENABLE != 0).then(|| NestedPaging {
            cr3: vmcb.u64(control::NESTED_CR3),
            cr4: host.cr4,
            efer: host.efer,
        });
        let filter = vmcb.u16(control::PAUSE_COUNT);
        let threshold = match self.model.has(feature::PAUSE_THRESHOLD) {
            true => vmcb.u16(control::PAUSE_THRESHOLD),
            false => 0,
        };
        let pauses = Pauses { left: filter, filter, threshold, last: self.own_tsc() };
        let virtual_blocks = vmcb.u64(control::LBR) & VIRTUAL_BLOCKS_ENABLE != 0
            && self.model.has(feature::VIRTUAL_BLOCKS);
        let svm = &mut self.state.svm;
        svm.intercepts = std::array::from_fn(|i| vmcb.u32(control::INTERCEPTS + 4 * i));
        svm.io_map = vmcb.u64(control::IO_MAP) & !0xfff;
        svm.msr_map = vmcb.u64(control::MSR_MAP) & !0xfff;
        svm.tsc_offset = vmcb.u64(control::TSC_OFFSET);
        svm.virq = vmcb.u64(control::VIRQ);
        svm.own_nmi = own_nmi;
        svm.pauses = pauses;
        svm.virtual_blocks = virtual_blocks;
        svm.nested = nested;
        svm.asid = vmcb.u32(control::ASID);
    }

    /// A segment register from the block, its base made canonical.
    pub(super) fn guest_segment(&self, vmcb: &Vmcb, offset: usize) -> Segment {
        let segment = vmcb.segment(offset);
        Segment { base: sign_extend(segment.base, self.linear_bits()), ..segment }
    }

    fn guest_table(&self, vmcb: &Vmcb, offset: usize) -> TableReg {
        let table = vmcb.table(offset);
        TableReg { base: sign_extend(table.base, self.linear_bits()), ..table }
    }

    fn load_guest(&mut self, vmcb: &Vmcb) {
        for (seg, offset) in SEGMENTS {
            self.state.seg[seg as usize] = self.guest_segment(vmcb, offset);
        }
        self.state.gdtr = self.guest_table(vmcb, save::GDTR);
        self.state.idtr = self.guest_table(vmcb, save::IDTR);
        let state = &mut self.state;
        // The privilege level is that of the stack segment here.
        let ss = &mut state.seg[Seg::Ss as usize];
        ss.attr = ss.attr & !(3 << attr::DPL_SHIFT) | u16::from(vmcb.cpl()) << attr::DPL_SHIFT;
        state.cr0 = vmcb.u64(save::CR0) | cr0::ET;
        state.cr2 = vmcb.u64(save::CR2);
        state.cr3 = vmcb.u64(save::CR3);
        state.cr4 = vmcb.u64(save::CR4);
        let long = vmcb.u64(save::EFER) & efer::LME != 0 && state.cr0 & cr0::PG != 0;
        let lma = if long { efer::LMA } else { 0 };
        state.msr.efer = vmcb.u64(save::EFER) & !efer::LMA | lma;
        state.dr[6] = vmcb.u64(save::DR6) & 0xe00f | 0xffff_0ff0;
        state.dr[7] = vmcb.u64(save::DR7) & 0xffff_2bff | DR7_AT_EXIT;
        state.flags.set(vmcb.u64(save::RFLAGS));
        state.rip = vmcb.u64(save::RIP);
        state.regs[gpr::RSP] = vmcb.u64(save::RSP);
        state.regs[gpr::RAX] = vmcb.u64(save::RAX);
        if state.svm.nested.is_some() {
            state.msr.pat = vmcb.u64(save::PAT);
        }
        if vmcb.u64(control::LBR) & LBR_ENABLE != 0 && self.model.has(feature::LBRV) {
            let msr = &mut state.msr;
            state.svm.host.branches = Some((msr.debugctl, msr.last_branches));
            msr.debugctl = vmcb.u64(save::DEBUGCTL) & debugctl::KEPT;
            msr.last_branches = vmcb.last_branches();
        }
        state.halted = false;
    }

    /// After registers were exchanged: nothing that was derived from them holds. Translations
    /// depended on `left` before.
    fn changed_world(&mut self, left: Controls) {
        self.pending_debug = 0;
        let pcid = if self.cr4_has(cr4::PCIDE) { self.state.cr3 as u16 } else { 0 };
        let entered = self.translation_controls();
        self.mmu.tlb.enter_world(self.state.svm.asid, pcid, left, entered);
        if self.state.svm.nested.is_none() && self.uses_pae_pointers() {
            // Bad pointers are met by the first walk that needs them.
            self.state.pdpte = self.read_pdptes(self.state.cr3);
        }
        self.update_mode();
        self.exit_block = true;
    }

    /// Delivers the event that VMRUN was asked to inject.
    fn inject(&mut self, info: u64, next_rip: u64) -> Result<(), Trap> {
        let vector = (info & event::VECTOR) as u8;
        let error = (info & event::ERROR_VALID != 0).then_some((info >> event::ERROR_SHIFT) as u32);
        let fault = Fault { vector, error, ..Fault::default() };
        let kind = match info >> event::KIND_SHIFT & 7 {
            0 => EventKind::Interrupt,
            2 => EventKind::Nmi,
            3 => EventKind::Exception,
            _ => EventKind::Software,
        };
        if kind == EventKind::Nmi {
            self.block_nmis();
        }
        let breakpoint = kind == EventKind::Exception && matches!(vector, vector::BP | vector::OF);
        let skips = kind == EventKind::Software || breakpoint;
        let rip = self.state.rip;
        if skips && self.model.has(feature::NRIP_SAVE) {
            self.state.rip = next_rip;
        }
        log_injected(info, kind);
        let delivered = self.deliver_injected(fault, kind, rip);
        if kind == EventKind::Interrupt {
            base::log_item!(base::log::IN_ASM, " {:#x} {:x}", vector, error.unwrap_or(0));
        }
        delivered
    }

    /// #VMEXIT: what `state.svm.exit` tells, with `state.rip` where the guest stands.
    pub(crate) fn leave_guest(&mut self) -> Result<(), Trap> {
        let left = self.translation_controls();
        let at = self.state.svm.vmcb;
        let bytes = self.instruction_of_exit();
        let mut vmcb = Vmcb::read(self, at);
        self.save_guest(&mut vmcb);
        if self.model.has(feature::DECODE_ASSISTS) {
            vmcb.set_instruction(&bytes);
        }
        self.record_exit(vmcb, true);
        let host = std::mem::take(&mut self.state.svm.host);
        let state = &mut self.state;
        for ((seg, _), segment) in SEGMENTS.into_iter().zip(host.seg) {
            state.seg[seg as usize] = segment;
        }
        state.gdtr = host.gdtr;
        state.idtr = host.idtr;
        state.msr.efer = host.efer;
        state.cr0 = host.cr0 | cr0::PE;
        state.cr3 = host.cr3;
        state.cr4 = host.cr4;
        state.flags.set(host.rflags & !bit::VM);
        state.rip = host.rip;
        state.regs[gpr::RSP] = host.rsp;
        state.regs[gpr::RAX] = host.rax;
        state.dr[7] = DR7_AT_EXIT;
        if let Some(branches) = host.branches {
            (state.msr.debugctl, state.msr.last_branches) = branches;
        }
        if state.svm.nested.is_some() {
            state.msr.pat = host.pat;
        }
        state.interrupt_shadow = false;
        state.halted = false;
        let svm = &mut state.svm;
        svm.guest = false;
        svm.gif = false;
        svm.nested = None;
        svm.tsc_offset = 0;
        svm.virq = 0;
        svm.own_nmi = false;
        svm.asid = 0;
        self.signals.take(request::VIRQ);
        self.changed_world(left);
        if host.stepping {
            return self.single_step_trap();
        }
        Ok(())
    }

    /// What was to be executed when an access to data was refused, as far as it can be fetched: decode
    /// assists tell the host of it.
    fn instruction_of_exit(&mut self) -> Vec<u8> {
        let Exit { code, event, .. } = self.state.svm.exit;
        let page_fault = exit::EXCEPTION + u64::from(vector::PF);
        let refused = code == exit::NESTED_FAULT || code == page_fault;
        let of_data = refused && event == 0 && !self.state.svm.fetch_faulted;
        if !of_data || !self.model.has(feature::DECODE_ASSISTS) {
            return Vec::new();
        }
        // What stands in the way of the rest is not to be seen.
        let kept = (self.state.cr2, self.fault, self.state.svm.exit, self.state.svm.fault_linear);
        let bytes = self.fetch_ahead(15);
        (self.state.cr2, self.fault, self.state.svm.exit, self.state.svm.fault_linear) = kept;
        bytes
    }

    fn save_guest(&mut self, vmcb: &mut Vmcb) {
        let state = &self.state;
        for (seg, offset) in SEGMENTS {
            vmcb.set_segment(offset, &state.seg[seg as usize]);
        }
        vmcb.set_table(save::GDTR, &state.gdtr);
        vmcb.set_table(save::IDTR, &state.idtr);
        vmcb.set_cpl(self.mode.cpl);
        for (offset, value) in [
            (save::EFER, state.msr.efer),
            (save::CR4, state.cr4),
            (save::CR3, state.cr3),
            (save::CR2, state.cr2),
            (save::CR0, state.cr0),
            (save::DR7, state.dr[7]),
            (save::DR6, state.dr[6]),
            (save::RFLAGS, state.flags.get()),
            (save::RIP, state.rip),
            (save::RSP, state.regs[gpr::RSP]),
            (save::RAX, state.regs[gpr::RAX]),
        ] {
            vmcb.set(offset, value);
        }
        if state.svm.nested.is_some() {
            vmcb.set(save::PAT, state.msr.pat);
        }
        if state.svm.host.branches.is_some() {
            vmcb.set(save::DEBUGCTL, state.msr.debugctl);
            vmcb.set_last_branches(&state.msr.last_branches);
        }
        vmcb.set(control::VIRQ, state.svm.virq);
        let shadow = vmcb.u64(control::SHADOW) & !1;
        vmcb.set(control::SHADOW, shadow | u64::from(state.interrupt_shadow));
    }

    /// Writes an exit's reasons, and with `whole` the guest's registers, to the block.
    fn record_exit(&mut self, mut vmcb: Vmcb, whole: bool) {
        let Exit { code, info1, info2, event: before, next_rip } = self.state.svm.exit;
        base::log_item!(
            base::log::IN_ASM,
            "vmexit({:08x}, {:016x}, {:016x}, {:016x})!",
            code as u32,
            info1,
            info2,
            self.state.rip
        );
        vmcb.set(control::EXIT_CODE, code);
        vmcb.set(control::EXIT_INFO1, info1);
        vmcb.set(control::EXIT_INFO2, info2);
        vmcb.set(control::EXIT_INT_INFO, before);
        let injected = vmcb.u64(control::EVENT);
        vmcb.set(control::EVENT, injected & !event::VALID);
        if self.model.has(feature::NRIP_SAVE) {
            vmcb.set(control::NEXT_RIP, next_rip);
        }
        let at = self.state.svm.vmcb;
        vmcb.write(self, at, Vmcb::CONTROL);
        if whole {
            vmcb.write(self, at, Vmcb::SAVE);
        }
    }

    /// An exit between two instructions: for an interrupt or its like.
    pub(crate) fn exit_between(&mut self, code: u64) -> Result<(), Trap> {
        self.state.svm.exit = Exit { code, ..Exit::default() };
        self.leave_guest()
    }

    /// Whether VM_CR makes INIT an exception.
    pub(crate) fn redirects_init(&self) -> bool {
        self.state.svm.vm_cr & vm_cr::REDIRECT_INIT != 0
    }

    /// Takes the virtual NMI or interrupt that waits.
    pub(crate) fn take_virtual_event(&mut self) -> Result<(), Trap> {
        let svm = &mut self.state.svm;
        let taken = if svm.nmi_waits() {
            svm.virq &= !virq::NMI;
            self.deliver_nmi()
        } else if svm.interrupt_waits() {
            if self.intercepts(exit::VINTR) {
                return self.exit_between(exit::VINTR);
            }
            let svm = &mut self.state.svm;
            svm.virq &= !virq::PENDING;
            let vector = (svm.virq >> virq::VECTOR_SHIFT) as u8;
            self.deliver_virtual_interrupt(vector)
        } else {
            self.update_signal_mask();
            Ok(())
        };
        if !self.state.svm.has_virtual_events() {
            self.signals.take(request::VIRQ);
        }
        taken
    }

    /// An NMI is being delivered: no further ones until IRET.
    pub(crate) fn block_nmis(&mut self) {
        match self.state.svm.own_nmi {
            true => self.state.svm.virq |= virq::NMI_BLOCKED,
            false => self.state.nmi_blocked = true,
        }
    }

    /// IRET was executed.
    pub(crate) fn unblock_nmis(&mut self) {
        let svm = &mut self.state.svm;
        if svm.own_nmi {
            svm.virq &= !virq::NMI_BLOCKED;
            self.update_signal_mask();
        } else if std::mem::take(&mut self.state.nmi_blocked) {
            // One at most has waited for that.
            self.signals.take(request::SECOND_NMI);
            self.update_signal_mask();
        }
    }

    /// What the guest, if one runs, reads where the host would read the time stamp `own`.
    pub(crate) fn guest_tsc(&self, own: u64) -> u64 {
        if !self.state.svm.guest {
            return own;
        }
        let ratio = self.state.msr.tsc_ratio;
        let scaled = (u128::from(own) * u128::from(ratio) >> 32) as u64;
        scaled.wrapping_add(self.state.svm.tsc_offset)
    }
}

/// Begins the log's line of an event that VMRUN injects, in QEMU's words.
fn log_injected(info: u64, kind: EventKind) {
    if base::log::enabled(base::log::IN_ASM) {
        let name = match kind {
            EventKind::Interrupt => "INTR",
            EventKind::Nmi => "NMI",
            EventKind::Exception => "EXEPT",
            EventKind::Software => "SOFT",
        };
        let error = match info & event::ERROR_VALID {
            0 => "0".to_owned(),
            valid => format!("{valid:#x}"),
        };
        base::log::write(format_args!("Injecting({error}): {name}"));
    }
}

/// Whether EVENTINJ asks for nothing, or for something that can happen.
fn is_legal_event(info: u64) -> bool {
    const REAL_EXCEPTIONS: u32 = 1 << vector::DE
        | 1 << vector::DB
        | 1 << vector::BP
        | 1 << vector::OF
        | 1 << vector::BR
        | 1 << vector::UD
        | 1 << vector::NM
        | 1 << vector::DF
        | 1 << vector::TS
        | 1 << vector::NP
        | 1 << vector::SS
        | 1 << vector::GP
        | 1 << vector::PF
        | 1 << vector::MF
        | 1 << vector::AC
        | 1 << vector::MC
        | 1 << vector::XM
        | 1 << vector::SX;
    if info & event::VALID == 0 {
        return true;
    }
    let vector = info & event::VECTOR;
    match info >> event::KIND_SHIFT & 7 {
        0 | 2 | 4 => true,
        3 => vector < 32 && REAL_EXCEPTIONS >> vector & 1 != 0,
        _ => false,
    }
}
