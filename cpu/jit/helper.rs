//! What translated code calls.
#![allow(unsafe_code)]
// Unsafe: called by translated code with the frame it runs in and a record of its block. The frame's
// processor is the one whose thread executes this, and its owner stands in `Cpu::enter` meanwhile,
// which touches nothing until translated code returns.

use std::sync::atomic::Ordering;

use super::flags::FlagsAt;
use super::frame::{BIAS, Frame, Left, pack, unpack};
use super::record::{Kind, Record, Step, Then};
use crate::cpuid::feature;
use crate::flags::Arith;
use crate::interp::decode::End;
use crate::interp::op::segment;
use crate::mmu::tlb::Epoch;
use crate::signals::request;
use crate::state::{CODE, Seg, gpr};
use crate::{Cpu, Trap};

/// Goes on in translated code.
const GO_ON: u64 = 0;
/// Leaves it.
const LEAVE: u64 = 1;

impl Cpu {
    /// The exact flags at `record`; the frame's registers are where guest registers are.
    fn flags_at(frame: &Frame, record: &Record) -> Arith {
        match &record.flags {
            FlagsAt::Slot => unpack(frame.flags.get()),
            FlagsAt::Trap => unpack(frame.trap_flags.get()),
            FlagsAt::Recipe(recipe) => recipe.flags(&std::array::from_fn(|i| frame.regs[i].get())),
        }
    }

    /// Takes over the exact state at `record`, all but the instruction pointer.
    pub(super) fn take_state(&mut self, frame: &Frame, record: &Record) {
        self.state.flags.arith = Self::flags_at(frame, record);
        frame.store_registers(self);
        let start = frame.page_rip.get().wrapping_add(record.origin.into());
        self.state.regs[CODE] = start & self.mode.linear_mask;
    }

    /// The guest address at `distance` from the beginning of the running page.
    pub(super) fn rip_at(&self, frame: &Frame, distance: i64) -> u64 {
        frame.page_rip.get().wrapping_add_signed(distance) & self.mode.linear_mask
    }

    /// Executes an instruction by the interpreter's handler. `None`: the block goes on (or has ended,
    /// where the instruction does that).
    pub(super) fn step_by_handler(&mut self, Step { op, then, .. }: &Step) -> Option<Left> {
        match (op.run)(self, op) {
            Ok(()) if *then == Then::GoOn && self.exit_block => {
                self.state.rip = self.next_rip(op);
                Some(Left::End)
            }
            Ok(()) => None,
            Err(Trap::Exception) => {
                if op.segment & segment::NUMBER == Seg::Ss as u8 {
                    self.stack_reference_faulted();
                }
                self.state.rip = self.this_rip(op);
                Some(Left::Fault)
            }
            Err(Trap::Leave) => {
                if *then == Then::GoOn {
                    self.state.rip = self.next_rip(op);
                }
                self.exit_block = true;
                Some(Left::End)
            }
            Err(Trap::Shutdown) => Some(Left::Shutdown),
        }
    }
}

/// What blocks rely on beside the bytes they were made from.
#[derive(PartialEq)]
struct Basis {
    code_bits: u8,
    stack_bits: u8,
    cpl: u8,
    local: Epoch,
    global: u64,
}

impl Cpu {
    fn basis(&self) -> Basis {
        let (mode, tlb) = (&self.mode, &self.mmu.tlb);
        Basis {
            code_bits: mode.code_bits,
            stack_bits: mode.stack_bits,
            cpl: mode.cpl,
            local: tlb.fetch_epoch(),
            global: tlb.global_epoch(),
        }
    }

    /// Whether translated code may go on after an instruction that may have changed what blocks rely
    /// on, `before` being what they do, or whether somebody is heard.
    fn may_go_on(&mut self, before: &Basis) -> bool {
        self.drop_shadow();
        // An interrupt waits for the end of the instruction that comes next.
        !self.state.interrupt_shadow
            && !self.exit_block
            && self.pending_debug == 0
            && !self.attention()
            && !self.steps_singly()
            && self.basis() == *before
    }

    /// The same for an instruction that may change anything.
    fn step_and_look(&mut self, step: &Step) -> Option<Left> {
        let before = self.basis();
        if let Some(left) = self.step_by_handler(step) {
            return Some(left);
        }
        if self.may_go_on(&before) && self.state.rip == self.next_rip(&step.op) {
            return None;
        }
        // Debug traps are looked for.
        self.exit_block = true;
        Some(Left::End)
    }

    /// Leaves at the instruction of `step`.
    pub(super) fn stop_before(&mut self, step: &Step) -> Option<Left> {
        self.state.rip = self.this_rip(&step.op);
        Some(Left::Interpret)
    }

    /// Ends the shadow of STI, if no interrupt waits for its end. Translated code looks for one at the
    /// next jump at the earliest.
    fn drop_shadow(&mut self) {
        const HIDDEN: u32 = request::INTR | request::NMI | request::SMI;
        let state = &mut self.state;
        let waits = self.signals.pending() & HIDDEN != 0 || state.svm.interrupt_waits();
        if state.interrupt_shadow && !state.stack_switched && !waits {
            state.interrupt_shadow = false;
            self.update_signal_mask();
        }
    }
}

/// The frame, processor and record of a call.
unsafe fn arguments<'a>(
    frame: *const u8,
    record: *const Record,
) -> (&'a Frame, &'a mut Cpu, &'a Record) {
    // SAFETY: what translated code passes; see the head of the file. Records live as long as the code
    // that names them.
    unsafe {
        let frame = &*frame.offset(-(BIAS as isize)).cast::<Frame>();
        (frame, &mut *frame.cpu.get(), &*record)
    }
}

/// Executes an instruction that is not translated, or whose access missed the TLB.
pub unsafe extern "sysv64" fn step(frame: *const u8, record: *const Record) -> u64 {
    // SAFETY: called by translated code.
    let (frame, cpu, record) = unsafe { arguments(frame, record) };
    let Kind::Execute(step) = &record.kind else { return GO_ON };
    cpu.take_state(frame, record);
    let x87_was_live = step.touches_x87 && cpu.save_x87(frame);
    let left = match step.then {
        Then::Look(End::System) if frame.checked.get() => cpu.stop_before(step),
        Then::Look(_) => cpu.step_and_look(step),
        Then::GoOn | Then::Stop(_) => cpu.step_by_handler(step),
    };
    if let Some(left) = left {
        frame.left.set(left);
        return LEAVE;
    }
    if x87_was_live {
        cpu.load_x87(frame);
    }
    if let Then::Look(_) = step.then {
        frame.refresh_mode(cpu);
    }
    if step.touches_flags {
        frame.flags.set(pack(cpu.state.flags.arith));
    }
    frame.load_registers(cpu);
    frame.refresh(cpu);
    GO_ON
}

/// Makes the guest's x87 registers the host's. If that cannot be, the interpreter goes on.
pub unsafe extern "sysv64" fn load_x87(frame: *const u8, record: *const Record) -> u64 {
    // SAFETY: called by translated code.
    let (frame, cpu, record) = unsafe { arguments(frame, record) };
    if cpu.load_x87(frame) {
        return GO_ON;
    }
    cpu.take_state(frame, record);
    if let Kind::Interpret(distance) = record.kind {
        cpu.state.rip = cpu.rip_at(frame, distance);
    }
    frame.left.set(Left::Interpret);
    LEAVE
}

/// Reports a store to host address `host`.
pub unsafe extern "sysv64" fn written(frame: *const u8, record: *const Record, host: usize) -> u64 {
    // SAFETY: called by translated code.
    let (frame, cpu, record) = unsafe { arguments(frame, record) };
    let (next, len) = match record.kind {
        Kind::Written { next, len } => (cpu.rip_at(frame, next), len),
        _ => (frame.target.get(), 8),
    };
    let epoch = frame.epoch.load(Ordering::Relaxed);
    cpu.host_memory_written(host, len.into());
    if frame.epoch.load(Ordering::Relaxed) == epoch {
        return GO_ON;
    }
    cpu.take_state(frame, record);
    cpu.state.rip = next;
    frame.left.set(Left::End);
    LEAVE
}

/// Enters the page of `linear` in the TLB. Not zero if translated code is to look again.
unsafe fn fill(frame: *const u8, linear: u64, write: bool) -> u64 {
    // SAFETY: called by translated code; see the head of the file.
    let (frame, cpu) = unsafe {
        let frame = &*frame.offset(-(BIAS as isize)).cast::<Frame>();
        (frame, &mut *frame.cpu.get())
    };
    let filled = cpu.fill_ahead(linear, write);
    // A table may have grown.
    frame.refresh(cpu);
    u64::from(filled)
}

/// See [`fill`].
pub unsafe extern "sysv64" fn fill_read(frame: *const u8, linear: u64) -> u64 {
    // SAFETY: called by translated code.
    unsafe { fill(frame, linear, false) }
}

/// See [`fill`].
pub unsafe extern "sysv64" fn fill_write(frame: *const u8, linear: u64) -> u64 {
    // SAFETY: called by translated code.
    unsafe { fill(frame, linear, true) }
}

/// RDTSC, or RDTSCP if `aux` is not zero. Zero if the instruction's handler is to see to it.
pub unsafe extern "sysv64" fn time(frame: *const u8, aux: u64) -> u64 {
    // SAFETY: called by translated code; see the head of the file.
    let (frame, cpu) = unsafe {
        let frame = &*frame.offset(-(BIAS as isize)).cast::<Frame>();
        (frame, &mut *frame.cpu.get())
    };
    let offered = aux == 0 || cpu.model.has(feature::RDTSCP);
    if frame.checked.get() || !offered || !cpu.tsc_allowed() || cpu.state.svm.guest {
        return 0;
    }
    let time = cpu.tsc();
    frame.regs[gpr::RAX].set(time & 0xffff_ffff);
    frame.regs[gpr::RDX].set(time >> 32);
    if aux != 0 {
        frame.regs[gpr::RCX].set(cpu.state.msr.tsc_aux & 0xffff_ffff);
    }
    1
}

/// What [`brief()`] says.
pub mod brief {
    /// Nothing was done: the instruction's handler is to be called with the whole state at hand.
    pub const NOTHING: u64 = 0;
    /// It was executed, and translated code may go on.
    pub const GO_ON: u64 = 1;
    /// It was executed, and translated code is to be left after it.
    pub const LEAVE: u64 = 2;
}

/// Executes the instruction of `record`, which neither reads nor changes general registers or
/// arithmetic flags.
pub unsafe extern "sysv64" fn brief(frame: *const u8, record: *const Record) -> u64 {
    // SAFETY: called by translated code.
    let (frame, cpu, record) = unsafe { arguments(frame, record) };
    let Kind::Execute(Step { op, .. }) = &record.kind else { return brief::NOTHING };
    // Where it might fault or leave the guest, more is needed than is at hand.
    if frame.checked.get() || cpu.mode.cpl != 0 || cpu.state.svm.guest {
        return brief::NOTHING;
    }
    let before = cpu.basis();
    if (op.run)(cpu, op).is_err() {
        return brief::NOTHING;
    }
    frame.refresh(cpu);
    frame.refresh_mode(cpu);
    if cpu.may_go_on(&before) {
        return brief::GO_ON;
    }
    // Debug traps are looked for.
    cpu.exit_block = true;
    brief::LEAVE
}
