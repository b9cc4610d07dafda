//! The processor as the software engines see it.

use std::sync::Arc;

use crate::bus::Bus;
use crate::cpuid::Model;
use crate::dump::Dump;
use crate::icount::Counter;
use crate::interp::Interp;
use crate::mmu::Mmu;
use crate::mode::Mode;
use crate::signals::{Signals, request};
use crate::state::{CpuState, cr4};

/// Why execution left the straight line. One byte, so that `Result<u64, Trap>` travels in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Trap {
    /// An exception; the details are in [`Cpu::fault`].
    Exception,
    /// The instruction is complete, but what was decoded ahead may no longer hold (mode, mapping or
    /// code changed), or somebody wants attention: leave the block at the next instruction.
    Leave,
    /// A triple fault: the processor has shut down. [`Cpu::shutdown`] is set.
    Shutdown,
}

/// Exception vectors (SDM vol. 3, table 6-1).
#[allow(missing_docs)]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const XM: u8 = 19;
    pub const SX: u8 = 30;
}

/// An exception on its way to be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Vector number.
    pub vector: u8,
    /// Error code, for the vectors that push one.
    pub error: Option<u32>,
    /// A #GP(0) raised because a linear address was not canonical. Through the stack segment the
    /// same condition is #SS(0), which only the engine knows: see [`Cpu::stack_reference_faulted`].
    pub non_canonical: bool,
    /// Not an exception, but a way back to the host that runs this guest: `CpuState::svm` has the
    /// details.
    pub(crate) exit: bool,
}

/// One processor: its state and what the software engines keep beside it.
pub struct Cpu {
    /// The architectural state.
    pub state: CpuState,
    /// What is derived from the state and asked for all the time.
    pub mode: Mode,
    /// Address translation.
    pub mmu: Mmu,
    /// Address of the instruction being executed, for instructions that need it; `state.rip` is
    /// the next one by then.
    pub insn_rip: u64,
    /// The exception behind the last [`Trap::Exception`].
    pub fault: Fault,
    /// DR6 bits of debug traps to be delivered after the current instruction.
    pub pending_debug: u64,
    /// The current instruction is to be followed by a single-step trap (EFLAGS.TF was set when it
    /// began). INT n and its like call that off.
    pub stepping: bool,
    /// The block being executed must be left after the current instruction: it was written to, or
    /// the memory map changed, or a debug trap is pending. The engine clears it.
    pub exit_block: bool,
    /// A triple fault happened; only RESET or INIT helps.
    pub shutdown: bool,
    /// Why the engine cannot go on.
    pub failure: Option<String>,
    /// FERR# was asserted because of the floating-point exception that is pending.
    pub(crate) fpu_error_told: bool,
    /// Which requests leave the run loop now.
    pub signal_mask: u32,
    /// The way to memory, ports, the local APIC and the time stamp.
    pub bus: Bus,
    /// What CPUID says.
    pub model: Arc<Model>,
    /// What the interpreter keeps between runs.
    pub(crate) interp: Interp,
    /// What the translator keeps between runs, if there is one.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    pub(crate) jit: Option<Box<crate::jit::Vcpu>>,
    /// Stores are going to be taken back.
    pub(crate) trial: Option<Box<crate::mmu::trial::Trial>>,
    /// Number of this processor, 0 for the first.
    pub index: u32,
    /// Every instruction is a block of its own, as those who trace want it.
    pub one_insn_per_block: bool,
    /// What instructions are counted by, if they are. Only the interpreter counts.
    pub counter: Option<Arc<Counter>>,
    /// Requests from other threads.
    pub signals: Arc<Signals>,
}

impl Cpu {
    /// A processor in its power-up state.
    pub fn new(index: u32, model: Arc<Model>, bus: Bus, signals: Arc<Signals>) -> Self {
        let mmu = Mmu::new(&bus);
        let mut cpu = Cpu {
            state: CpuState::at_reset(model.signature()),
            mode: Mode::default(),
            mmu,
            insn_rip: 0,
            fault: Fault::default(),
            pending_debug: 0,
            stepping: false,
            exit_block: false,
            shutdown: false,
            failure: None,
            trial: None,
            fpu_error_told: false,
            signal_mask: 0,
            bus,
            model,
            interp: Interp::default(),
            #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
            jit: None,
            index,
            one_insn_per_block: false,
            counter: None,
            signals,
        };
        cpu.reset();
        cpu
    }

    /// RESET: everything returns to the power-up state (SDM vol. 3, 10.1.1). The owner of the local
    /// APIC resets that and then sets the boot-processor flag in `state.msr.apic_base`.
    pub fn reset(&mut self) {
        self.state = CpuState::at_reset(self.model.signature());
        self.after_reset();
    }

    /// INIT: as RESET, but caches, FPU, vector registers and most MSRs survive (SDM vol. 3, table
    /// 10-1).
    pub fn init(&mut self) {
        self.state.init(self.model.signature());
        self.after_reset();
    }

    fn after_reset(&mut self) {
        self.fault = Fault::default();
        self.pending_debug = 0;
        self.stepping = false;
        self.exit_block = true;
        self.shutdown = false;
        self.fpu_error_told = false;
        self.mmu.tlb.reset();
        self.mmu.flush_all(&self.bus);
        self.update_mode();
    }

    /// Start-up IPI: begin at `vector * 4096` in real mode.
    pub fn sipi(&mut self, vector: u8) {
        self.state.start_up(vector);
        self.update_mode();
    }

    /// Records an exception and returns the trap that unwinds to the run loop.
    #[cold]
    pub fn raise(&mut self, vector: u8, error: Option<u32>) -> Trap {
        self.fault = Fault { vector, error, ..Fault::default() };
        Trap::Exception
    }

    /// #UD.
    #[cold]
    pub fn undefined(&mut self) -> Trap {
        self.raise(vector::UD, None)
    }

    /// #GP with an error code.
    #[cold]
    pub fn gp(&mut self, error: u32) -> Trap {
        self.raise(vector::GP, Some(error))
    }

    /// To be called when the memory operand that just faulted was addressed through SS: turns the
    /// #GP(0) of a non-canonical address into the #SS(0) it is for the stack (SDM vol. 3, 6.15).
    #[cold]
    pub fn stack_reference_faulted(&mut self) {
        if self.fault.non_canonical {
            self.fault = Fault { vector: vector::SS, error: Some(0), ..Fault::default() };
        }
    }

    /// Recomputes everything derived from the state. To be called after CR0, CR4, EFER, a segment
    /// register, or VM, IOPL, AC or IF of RFLAGS changed by any way but the methods of this crate.
    pub fn update_mode(&mut self) {
        self.mode = Mode::of(&self.state);
        self.update_signal_mask();
    }

    /// Recomputes [`Cpu::signal_mask`] after IF, the interrupt shadow, NMI blocking or SMM changed.
    #[inline]
    pub fn update_signal_mask(&mut self) {
        let mut mask = request::INIT
            | request::SIPI
            | request::RESET
            | request::STOP
            | request::FLUSH_TLB
            | request::YIELD
            | request::LET_START
            | request::NMI
            | request::SMI
            | request::INTR;
        let state = &self.state;
        if state.interrupt_shadow {
            mask &= !(request::INTR | request::NMI | request::SMI);
        }
        if state.flags.system() & crate::flags::bit::IF == 0 {
            mask &= !request::INTR;
        }
        if state.nmi_blocked {
            mask &= !request::NMI;
        }
        if state.smm {
            mask &= !(request::SMI | request::NMI | request::INIT);
        }
        let virtual_open = mask & request::INTR != 0 && state.svm.interrupt_waits();
        if state.svm.masks_virtually() {
            // The guest's flag is about virtual interrupts; the host's about real ones.
            mask |= request::INTR;
            if state.svm.host.rflags & crate::flags::bit::IF == 0 {
                mask &= !request::INTR;
            }
        }
        if virtual_open || !state.interrupt_shadow && state.svm.nmi_waits() {
            mask |= request::VIRQ;
        }
        if !state.svm.gif {
            mask &= !(request::INTR | request::NMI | request::SMI | request::INIT | request::VIRQ);
        }
        self.signal_mask = mask;
    }

    /// The state as the log shows it.
    pub(crate) fn dump(&self) -> Dump<'_> {
        Dump::new(&self.state).a20(self.bus.a20_mask() == !0).condition_codes()
    }

    /// The time-stamp counter as the guest reads it.
    pub fn tsc(&self) -> u64 {
        self.guest_tsc(self.own_tsc())
    }

    /// The time-stamp counter without what a guest under VMRUN sees of it.
    pub(crate) fn own_tsc(&self) -> u64 {
        self.bus.tsc.ticks().wrapping_add(self.state.msr.tsc_offset)
    }

    /// Whether CR4 has all of `bits` set.
    pub(crate) fn cr4_has(&self, bits: u64) -> bool {
        self.state.cr4 & bits == bits
    }

    /// Whether the time stamp may be read at the current privilege level.
    pub(crate) fn tsc_allowed(&self) -> bool {
        self.mode.cpl == 0 || !self.cr4_has(cr4::TSD) || !self.mode.protected && !self.mode.v86
    }
}
