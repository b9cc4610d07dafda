//! Delivery of exceptions and interrupts (SDM vol. 3, chapter 6).

use std::sync::atomic::{AtomicU32, Ordering};

use super::msr::debugctl;
use super::segment::{Descriptor, kind};
use super::stack::Stack;
use super::task::Reason;
use crate::core::{Cpu, Fault, Trap, vector};
use crate::flags::bit;
use crate::state::{Seg, Segment, cr0, gpr};
use crate::svm::{EventKind, event_info, exit};

/// Where an event comes from; decides about privilege checks and the EXT bit of error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// An exception, or an interrupt from outside.
    Processor,
    /// INT n, checked against the gate's DPL.
    Software,
    /// INT3 and INTO, checked likewise.
    Breakpoint,
}

/// Bit 0 of an error code: the fault came while delivering something the program did not ask for.
const EXT: u32 = 1;
/// Bit 1 of an error code: the index is into the IDT.
const IDT: u32 = 2;

/// DR6 bits.
pub(super) mod dr6 {
    pub const BD: u64 = 1 << 13;
    pub const BS: u64 = 1 << 14;
    pub const BT: u64 = 1 << 15;
}

fn is_contributory(vector: u8) -> bool {
    matches!(vector, vector::DE | vector::TS | vector::NP | vector::SS | vector::GP)
}

/// Whether `second` during the delivery of `first` makes a double fault (SDM vol. 3, table 6-5).
fn doubles(first: u8, second: u8) -> bool {
    match first {
        vector::PF => second == vector::PF || is_contributory(second),
        _ => is_contributory(first) && is_contributory(second),
    }
}

/// Tells the log which exception was raised, and during which other's delivery if the two may make a
/// double fault; in QEMU's words.
#[cold]
fn log_raised(during: Option<u8>, raised: u8) {
    let serious =
        |vector: &u8| matches!(*vector, vector::PF | vector::DF) || is_contributory(*vector);
    let old = during.filter(serious).map_or(u32::MAX, u32::from);
    base::log::write(format_args!("check_exception old: {old:#x} new {raised:#x}\n"));
}

impl Cpu {
    /// Delivers the exception in [`Cpu::fault`]. `state.rip` is the instruction to return to. A
    /// triple fault is [`Trap::Shutdown`].
    pub fn deliver_fault(&mut self) -> Result<(), Trap> {
        let fault = self.fault;
        if fault.exit {
            return self.leave_guest();
        }
        // Data breakpoints are traps of instructions that complete.
        self.pending_debug = 0;
        // A fault's image of RFLAGS has RF set, so that the restarted instruction does not hit its
        // breakpoint again (SDM vol. 3, 17.3.1.1).
        let resume = !matches!(fault.vector, vector::DB | vector::DF | vector::MC);
        self.deliver(fault, resume, EventKind::Exception)
    }

    /// Delivers an external interrupt.
    pub fn deliver_interrupt(&mut self, vector: u8) -> Result<(), Trap> {
        base::log_item!(base::log::INT, "Servicing hardware INT=0x{:02x}", vector);
        self.interrupt(vector)
    }

    /// Delivers a guest's virtual interrupt.
    pub(crate) fn deliver_virtual_interrupt(&mut self, vector: u8) -> Result<(), Trap> {
        base::log_item!(base::log::INT, "Servicing virtual hardware INT=0x{:02x}", vector);
        self.interrupt(vector)
    }

    fn interrupt(&mut self, vector: u8) -> Result<(), Trap> {
        self.state.halted = false;
        self.deliver(Fault { vector, ..Fault::default() }, false, EventKind::Interrupt)
    }

    /// Delivers a non-maskable interrupt and blocks further ones.
    pub fn deliver_nmi(&mut self) -> Result<(), Trap> {
        self.state.halted = false;
        self.block_nmis();
        self.deliver(Fault { vector: vector::NMI, ..Fault::default() }, false, EventKind::Nmi)
    }

    /// Delivers the exception that INIT becomes (APM vol. 2, 15.30.1).
    pub(crate) fn deliver_redirected_init(&mut self) -> Result<(), Trap> {
        const REDIRECTED_INIT: u32 = 1;
        self.state.halted = false;
        let fault = Fault { vector: vector::SX, error: Some(REDIRECTED_INIT), ..Fault::default() };
        self.deliver(fault, false, EventKind::Exception)
    }

    /// Delivers the debug traps that gathered during the last instruction; without effect if there
    /// are none. After MOV SS they wait for the next instruction, and its single step is lost (SDM
    /// vol. 3, 6.8.3).
    pub fn deliver_debug_traps(&mut self) -> Result<(), Trap> {
        let stepping = std::mem::take(&mut self.stepping);
        if self.state.stack_switched {
            return Ok(());
        }
        let mut causes = std::mem::take(&mut self.pending_debug);
        if !self.state.svm.gif {
            // Breakpoints that are met meanwhile are lost (APM vol. 2, table 15-10).
            causes &= !0xf;
        }
        if stepping {
            causes |= dr6::BS;
        }
        if causes == 0 {
            return Ok(());
        }
        self.debug_trap(causes)
    }

    fn debug_trap(&mut self, causes: u64) -> Result<(), Trap> {
        // HLT is stepped like any other.
        self.state.halted = false;
        self.note_debug(causes);
        self.deliver(Fault { vector: vector::DB, ..Fault::default() }, false, EventKind::Exception)
    }

    /// The single-step trap of an instruction that ends elsewhere.
    pub(crate) fn single_step_trap(&mut self) -> Result<(), Trap> {
        self.debug_trap(dr6::BS)
    }

    /// Delivers #DB as a fault for instruction breakpoints `causes` (from
    /// [`Cpu::code_breakpoint`]).
    pub fn debug_fault(&mut self, causes: u64) -> Result<(), Trap> {
        self.note_debug(causes);
        self.deliver(Fault { vector: vector::DB, ..Fault::default() }, true, EventKind::Exception)
    }

    pub(super) fn note_debug(&mut self, causes: u64) {
        self.state.dr[6] = self.state.dr[6] & !0xf | causes;
        self.state.dr[7] &= !super::control::dr7::GD;
        self.state.msr.debugctl &= !(debugctl::BTF | debugctl::LBR);
    }

    /// INT n.
    pub fn soft_int(&mut self, vector: u8) -> Result<(), Trap> {
        self.intercept_decoded(exit::SOFT_INT, vector.into())?;
        self.stepping = false;
        if self.mode.v86 && self.v86_interrupt(vector)? {
            return Ok(());
        }
        let fault = Fault { vector, ..Fault::default() };
        self.deliver_software(fault, Source::Software, EventKind::Software)
    }

    /// INT3.
    pub fn int3(&mut self) -> Result<(), Trap> {
        self.stepping = false;
        let fault = Fault { vector: vector::BP, ..Fault::default() };
        self.deliver_software(fault, Source::Breakpoint, EventKind::Exception)
    }

    /// INTO with OF set.
    pub fn into(&mut self) -> Result<(), Trap> {
        self.stepping = false;
        let fault = Fault { vector: vector::OF, ..Fault::default() };
        self.deliver_software(fault, Source::Breakpoint, EventKind::Exception)
    }

    /// INT1 (ICEBP): a debug trap that no gate's DPL forbids.
    pub fn int1(&mut self) -> Result<(), Trap> {
        self.intercept(exit::ICEBP)?;
        self.stepping = false;
        let fault = Fault { vector: vector::DB, ..Fault::default() };
        self.deliver_software(fault, Source::Processor, EventKind::Exception)
    }

    /// Delivers what an instruction asks for. What stands against it is the instruction's fault.
    fn deliver_software(
        &mut self,
        fault: Fault,
        source: Source,
        kind: EventKind,
    ) -> Result<(), Trap> {
        if kind == EventKind::Exception
            && let Err(trap) = self.intercept_exception(&fault, 0)
        {
            self.state.svm.exit.next_rip = self.state.rip;
            return Err(trap);
        }
        if base::log::enabled(base::log::INT) {
            // The log shows the instruction itself, but of INT1, which it takes for a trap.
            let asked = source != Source::Processor;
            let next = self.state.rip;
            self.state.rip = if asked { self.insn_rip } else { next };
            self.log_event(&fault, asked);
            self.state.rip = next;
        }
        let delivered = self.deliver_once(fault, source, false);
        if delivered.is_err() {
            let event = event_info(&fault, kind);
            if self.fault.exit {
                self.state.svm.exit.event = event;
            } else {
                self.state.svm.asked = event;
            }
        }
        delivered
    }

    /// Delivers an event that VMRUN injects. `rip` is where the guest stands, if `state.rip` was
    /// moved behind the instruction that the event stands for.
    pub(crate) fn deliver_injected(
        &mut self,
        fault: Fault,
        kind: EventKind,
        rip: u64,
    ) -> Result<(), Trap> {
        match self.deliver_once(fault, Source::Processor, false) {
            Err(Trap::Exception) => {
                self.state.rip = rip;
                self.deliver_next(fault, kind)
            }
            done => done,
        }
    }

    /// Tells the log of an event of protected mode, in QEMU's words. The vector is that of a
    /// `software` interrupt if an instruction asked for it.
    #[cold]
    fn log_event(&self, event: &Fault, software: bool) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if self.state.cr0 & cr0::PE == 0 {
            return;
        }
        let selector = |seg: Seg| self.state.seg[seg as usize].selector;
        let rip = self.state.rip;
        let last = match event.vector {
            vector::PF => format!("CR2={:016x}", self.state.cr2),
            _ => format!("env->regs[R_EAX]={:016x}", self.state.regs[gpr::RAX]),
        };
        base::log::write(format_args!(
            "{:6}: v={:02x} e={:04x} i={} cpl={} IP={:04x}:{rip:016x} pc={:016x} SP={:04x}:{:016x} {last}\n{}",
            COUNT.fetch_add(1, Ordering::Relaxed),
            event.vector,
            event.error.unwrap_or(0),
            u8::from(software),
            self.mode.cpl,
            selector(Seg::Cs),
            rip.wrapping_add(self.mode.base[Seg::Cs as usize]),
            selector(Seg::Ss),
            self.state.regs[gpr::RSP],
            self.dump()
        ));
    }

    /// Delivers an event of the processor's own, and what goes wrong on the way.
    fn deliver(&mut self, event: Fault, resume: bool, kind: EventKind) -> Result<(), Trap> {
        if base::log::enabled(base::log::INT) {
            if kind == EventKind::Exception {
                log_raised(None, event.vector);
            }
            self.log_event(&event, false);
        }
        let asked = std::mem::take(&mut self.state.svm.asked);
        if kind == EventKind::Exception && self.intercept_exception(&event, asked).is_err() {
            return self.leave_guest();
        }
        match self.deliver_once(event, Source::Processor, resume) {
            Err(Trap::Exception) => self.deliver_next(event, kind),
            done => done,
        }
    }

    /// Delivers the exception that delivering `event` raised, and what that leads to. Each round
    /// either succeeds, or the vector climbs towards #DF and shutdown; benign events are followed by
    /// at most two faults.
    fn deliver_next(&mut self, mut event: Fault, mut kind: EventKind) -> Result<(), Trap> {
        loop {
            let before = event_info(&event, kind);
            let exception = kind == EventKind::Exception;
            let mut next = self.fault;
            if next.exit {
                self.state.svm.exit.event = before;
                return self.leave_guest();
            }
            if next.vector != vector::PF
                && let Some(error) = &mut next.error
                && next.vector != vector::AC
            {
                *error |= EXT;
            }
            if base::log::enabled(base::log::INT) {
                log_raised(exception.then_some(event.vector), next.vector);
            }
            let serious = next.vector == vector::PF || is_contributory(next.vector);
            let mut intercepted = self.intercept_exception(&next, before);
            if intercepted.is_ok() {
                if exception && event.vector == vector::DF && serious {
                    return self.shut_down();
                }
                if exception && doubles(event.vector, next.vector) {
                    next = Fault { vector: vector::DF, error: Some(0), ..Fault::default() };
                    intercepted = self.intercept_exception(&next, before);
                }
            }
            if intercepted.is_err() {
                return self.leave_guest();
            }
            if base::log::enabled(base::log::INT) {
                self.log_event(&next, false);
            }
            let resume = next.vector != vector::DF;
            match self.deliver_once(next, Source::Processor, resume) {
                Err(Trap::Exception) => {}
                done => return done,
            }
            event = next;
            kind = EventKind::Exception;
        }
    }

    /// A triple fault: only RESET or INIT helps, or the host that runs this guest.
    fn shut_down(&mut self) -> Result<(), Trap> {
        if self.intercepts(exit::SHUTDOWN) {
            return self.exit_between(exit::SHUTDOWN);
        }
        self.shutdown = true;
        self.state.halted = true;
        Err(Trap::Shutdown)
    }

    /// Delivers one event, or raises what stands against it without having changed anything.
    fn deliver_once(&mut self, event: Fault, source: Source, resume: bool) -> Result<(), Trap> {
        let from = self.state.rip;
        self.enter_handler(event, source, resume)?;
        if self.records_branches() {
            let last = &mut self.state.msr.last_branches;
            last.before_event = last.branch;
            self.record_branch(from);
        }
        Ok(())
    }

    fn enter_handler(&mut self, event: Fault, source: Source, resume: bool) -> Result<(), Trap> {
        if self.state.cr0 & cr0::PE == 0 {
            return self.deliver_real(event.vector);
        }
        let long = self.mode.long;
        let error = u32::from(event.vector) * 8 + IDT;
        let width = if long { 16 } else { 8 };
        let offset = u32::from(event.vector) * width;
        if offset + width - 1 > u32::from(self.state.idtr.limit) {
            return Err(self.gp(error));
        }
        let at = self.state.idtr.base.wrapping_add(offset.into());
        let gate = Descriptor::new(self.load_implicit(at)?);
        let known = match gate.kind() {
            kind::INTERRUPT32 | kind::TRAP32 => true,
            kind::INTERRUPT16 | kind::TRAP16 | kind::TASK_GATE => !long,
            _ => false,
        };
        if !gate.is_system() || !known {
            return Err(self.gp(error));
        }
        if source != Source::Processor && gate.dpl() < self.mode.cpl {
            return Err(self.gp(error));
        }
        if !gate.present() {
            return Err(self.raise(vector::NP, Some(error)));
        }
        if gate.kind() == kind::TASK_GATE {
            let tss = (gate.low() >> 16) as u16;
            let flags = self.flags_image(resume);
            return self.switch_task(tss, Reason::Event { error: event.error, flags });
        }
        let upper: u64 =
            if long { self.load_implicit::<u32>(at.wrapping_add(8))?.into() } else { 0 };
        self.enter_gate(gate, upper << 32, event.error, resume)
    }

    /// RFLAGS as an event pushes it.
    fn flags_image(&self, resume: bool) -> u64 {
        let flags = self.state.flags.get();
        if resume { flags | bit::RF } else { flags }
    }

    /// Goes through an interrupt or trap gate.
    fn enter_gate(
        &mut self,
        gate: Descriptor,
        upper: u64,
        error: Option<u32>,
        resume: bool,
    ) -> Result<(), Trap> {
        let long = self.mode.long;
        let wide = matches!(gate.kind(), kind::INTERRUPT32 | kind::TRAP32);
        let selector = (gate.low() >> 16) as u16;
        let mut offset = u64::from(gate.low() & 0xffff);
        if wide {
            offset |= u64::from(gate.high() & 0xffff_0000) | upper;
        }
        let (mut code, code_at) = self.gate_code(selector)?;
        let new_cpl = if code.is_conforming() { self.mode.cpl } else { code.dpl() };
        if self.mode.v86 && new_cpl != 0 {
            return Err(self.gp(super::segment::selector_error(selector)));
        }
        let target = self.code_target(selector, &mut code, code_at, offset, new_cpl)?;
        let inner = new_cpl != self.mode.cpl;
        let size = match (long, wide) {
            (true, _) => 8,
            (false, true) => 4,
            (false, false) => 2,
        };
        let ist = if long { u64::from(gate.ist()) } else { 0 };
        let old_ss = self.state.seg[Seg::Ss as usize];
        let old_rsp = self.state.regs[gpr::RSP];
        let mut stack = if ist != 0 {
            let rsp = self.tss_quadword(0x24 + 8 * (ist - 1))?;
            let ss =
                if inner { super::segment::null_stack(new_cpl.into(), new_cpl) } else { old_ss };
            Stack::flat(ss, rsp, new_cpl)
        } else if inner {
            self.inner_stack(new_cpl)?
        } else if long {
            Stack::flat(old_ss, self.flat_rsp(), new_cpl)
        } else {
            self.stack()
        };
        if long {
            stack.sp &= !15;
        }
        let from_v86 = self.mode.v86;
        if from_v86 {
            for seg in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
                let selector = self.state.seg[seg as usize].selector;
                stack.push(self, selector.into(), size)?;
            }
        }
        if inner || long {
            stack.push(self, old_ss.selector.into(), size)?;
            stack.push(self, old_rsp, size)?;
        }
        let cs = self.state.seg[Seg::Cs as usize].selector;
        stack.push(self, self.flags_image(resume), size)?;
        stack.push(self, cs.into(), size)?;
        stack.push(self, self.state.rip, size)?;
        if let Some(error) = error {
            stack.push(self, error.into(), size)?;
        }

        let mut flags = self.state.flags.get() & !(bit::TF | bit::NT | bit::VM | bit::RF);
        if matches!(gate.kind(), kind::INTERRUPT16 | kind::INTERRUPT32) {
            flags &= !bit::IF;
        }
        self.state.flags.set(flags);
        self.state.interrupt_shadow = false;
        self.state.stack_switched = false;
        if from_v86 {
            for seg in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
                self.state.seg[seg as usize] = Segment::default();
            }
        }
        self.state.seg[Seg::Ss as usize] = stack.ss;
        stack.commit(self);
        self.enter_code(target);
        Ok(())
    }

    /// The stack pointer as 64-bit code would use it: compatibility code uses less of it.
    fn flat_rsp(&self) -> u64 {
        let rsp = self.state.regs[gpr::RSP];
        if self.mode.code_bits == 64 { rsp } else { rsp & self.mode.stack_mask }
    }

    /// Real mode: through the vector table at the IDTR's base (SDM vol. 3, 20.1.4).
    fn deliver_real(&mut self, vector: u8) -> Result<(), Trap> {
        let offset = u32::from(vector) * 4;
        if offset + 3 > u32::from(self.state.idtr.limit) {
            return Err(self.gp(offset * 2 + IDT));
        }
        let entry: u32 = self.load_implicit(self.state.idtr.base.wrapping_add(offset.into()))?;
        self.enter_vector(entry, self.state.flags.get())
    }

    /// Pushes a 16-bit frame with the given image of FLAGS and continues at a real-mode far pointer.
    pub(super) fn enter_vector(&mut self, entry: u32, image: u64) -> Result<(), Trap> {
        let target = self.real_code_target((entry >> 16) as u16, u64::from(entry & 0xffff))?;
        let mut stack = self.stack();
        stack.push(self, image, 2)?;
        stack.push(self, self.state.seg[Seg::Cs as usize].selector.into(), 2)?;
        stack.push(self, self.state.rip, 2)?;
        stack.commit(self);
        let cleared = if self.mode.v86 { bit::TF } else { bit::IF | bit::TF | bit::AC | bit::RF };
        self.state.flags.set(self.state.flags.get() & !cleared);
        self.state.interrupt_shadow = false;
        self.state.stack_switched = false;
        self.enter_code(target);
        Ok(())
    }
}
