//! Virtualization inside the guest: AMD's secure virtual machine (APM vol. 2, chapter 15).
//!
//! The *host* here is whoever runs VMRUN, the *guest* whom it runs; both run on a [`Cpu`](crate::Cpu) of ours.
//! VMRUN (`world`) exchanges the host's state for the guest's, `intercept` asks at every
//! instruction and event that the host may want to see, and the way back is a [`Fault`] that is
//! marked as an exit: so it unwinds from wherever it arose, page walks included, with nothing changed
//! by the instruction it interrupts, and ends in [`leave_guest`](crate::Cpu::leave_guest).
//!
//! [`Fault`]: crate::core::Fault

mod instructions;
mod intercept;
mod nested;
#[cfg(test)]
mod tests;
mod vmcb;
mod world;

pub(crate) use intercept::{EventKind, event_info, exit, io_form};
pub(crate) use nested::{NestedFault, NestedPaging, Purpose};

use crate::state::{LastBranches, Segment, TableReg};

/// Bits of VM_CR.
pub(crate) mod vm_cr {
    /// EFER.SVME cannot be set.
    pub const SVM_DISABLE: u64 = 1 << 4;
    /// INIT is an exception.
    pub const REDIRECT_INIT: u64 = 1 << 1;
    /// SVM_DISABLE is read-only.
    pub const LOCK: u64 = 1 << 3;
    pub const WRITABLE: u64 = 0x1f;
}

/// Fields of the virtual-interrupt control word, at 60h of the VMCB.
pub(crate) mod virq {
    pub const TPR: u64 = 0xff;
    pub const PENDING: u64 = 1 << 8;
    /// The guest's own global interrupt flag, with [`GIF_ENABLE`].
    pub const GIF: u64 = 1 << 9;
    /// An NMI waits, with [`NMI_ENABLE`].
    pub const NMI: u64 = 1 << 11;
    /// NMIs of the guest are blocked, with [`NMI_ENABLE`].
    pub const NMI_BLOCKED: u64 = 1 << 12;
    pub const PRIORITY_SHIFT: u32 = 16;
    pub const IGNORE_TPR: u64 = 1 << 20;
    /// The guest's IF and TPR concern virtual interrupts only.
    pub const MASKING: u64 = 1 << 24;
    pub const GIF_ENABLE: u64 = 1 << 25;
    pub const NMI_ENABLE: u64 = 1 << 26;
    pub const VECTOR_SHIFT: u32 = 32;
}

/// An exit that is about to happen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Exit {
    pub code: u64,
    pub info1: u64,
    pub info2: u64,
    /// The event during whose delivery it arose, in EXITINTINFO's format.
    pub event: u64,
    /// Address of the next instruction, where the exit is an instruction's.
    pub next_rip: u64,
}

/// Which PAUSE is intercepted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pauses {
    /// So many until one is.
    pub left: u16,
    /// What `left` begins with.
    pub filter: u16,
    /// More time stamps than these between two, and it begins again; 0 if time does not matter.
    pub threshold: u16,
    /// When the last one was executed.
    pub last: u64,
}

/// What VMRUN keeps of the host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    /// ES, CS, SS and DS.
    pub seg: [Segment; 4],
    pub gdtr: TableReg,
    pub idtr: TableReg,
    pub efer: u64,
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub pat: u64,
    pub rflags: u64,
    pub rip: u64,
    pub rsp: u64,
    pub rax: u64,
    /// DEBUGCTL and what it has recorded, where the guest has its own.
    pub branches: Option<(u64, LastBranches)>,
    /// VMRUN is to be followed by a single-step trap.
    pub stepping: bool,
}

/// The part of the state that SVM adds to a processor.
#[derive(Clone, Debug)]
pub(crate) struct Svm {
    /// A guest is running.
    pub guest: bool,
    /// The global interrupt flag.
    pub gif: bool,
    pub vm_cr: u64,
    /// Physical address of the running guest's VMCB.
    pub vmcb: u64,
    /// Whose address space it is, 0 being the host's.
    pub asid: u32,
    pub host: Host,
    /// One bit for each exit code below C0h.
    pub intercepts: [u32; 6],
    pub io_map: u64,
    pub msr_map: u64,
    pub tsc_offset: u64,
    /// The virtual-interrupt control word.
    pub virq: u64,
    /// The guest has NMIs of its own, which that word tells of.
    pub own_nmi: bool,
    pub nested: Option<NestedPaging>,
    pub pauses: Pauses,
    /// VMLOAD and VMSAVE take guest-physical addresses.
    pub virtual_blocks: bool,
    pub exit: Exit,
    /// The event that an instruction asked for and whose delivery raised the fault that comes next,
    /// in EXITINTINFO's format.
    pub asked: u64,
    /// Linear address of the last page fault, which an intercepted one does not leave in CR2.
    pub fault_linear: u64,
    /// It was a fetch that faulted last, by the guest's tables or the host's.
    pub fetch_faulted: bool,
}

impl Default for Svm {
    fn default() -> Self {
        Svm {
            guest: false,
            gif: true,
            vm_cr: 0,
            vmcb: 0,
            asid: 0,
            host: Host::default(),
            intercepts: [0; 6],
            io_map: 0,
            msr_map: 0,
            tsc_offset: 0,
            virq: 0,
            own_nmi: false,
            nested: None,
            pauses: Pauses::default(),
            virtual_blocks: false,
            exit: Exit::default(),
            asked: 0,
            fault_linear: 0,
            fetch_faulted: false,
        }
    }
}

impl Svm {
    /// Whether the guest has its own TPR and interrupt flag.
    pub fn masks_virtually(&self) -> bool {
        self.guest && self.virq & virq::MASKING != 0
    }

    /// Whether a virtual interrupt waits that the guest's flag and TPR let through; RFLAGS.IF is not
    /// asked.
    pub fn interrupt_waits(&self) -> bool {
        let word = self.virq;
        let priority = word >> virq::PRIORITY_SHIFT & 15;
        let above = word & virq::IGNORE_TPR != 0 || priority > word & 15;
        self.guest && word & virq::PENDING != 0 && self.guest_is_open() && above
    }

    /// Whether a virtual NMI waits that is not blocked.
    pub fn nmi_waits(&self) -> bool {
        let waits = self.virq & (virq::NMI | virq::NMI_BLOCKED) == virq::NMI;
        self.own_nmi && waits && self.guest_is_open()
    }

    /// Whether the guest's own global interrupt flag, if it has one, lets virtual events through.
    fn guest_is_open(&self) -> bool {
        self.virq & virq::GIF_ENABLE == 0 || self.virq & virq::GIF != 0
    }

    /// Whether something virtual waits, for whatever.
    pub fn has_virtual_events(&self) -> bool {
        let nmi = if self.own_nmi { virq::NMI } else { 0 };
        self.guest && self.virq & (virq::PENDING | nmi) != 0
    }
}
