//! What translated code reaches through R15.
#![allow(unsafe_code)]
// Unsafe: a frame is written by translated code through a raw pointer, and by other threads in two
// atomic fields; everything lies in cells, so no reference ever claims that it stands still.

use std::cell::Cell;
use std::mem::offset_of;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use super::jump::Entry;
use crate::Cpu;
use crate::flags::{Arith, bit};
use crate::mmu::tlb::{ReadEntry, WriteEntry};
use crate::state::{Seg, VecReg};

/// R15 points this far into the frame, so that the front of it is reached by short displacements.
pub const BIAS: i32 = 128;

/// Groups of accesses that a block may have.
pub const GROUPS: usize = 8;

/// The state of a processor while it runs translated code. No other processor's data shares its cache
/// lines, which hosts fetch in pairs.
#[repr(C, align(128))]
pub struct Frame {
    /// Guest registers: those without a host register of their own always, the others while
    /// translated code is left.
    pub regs: [Cell<u64>; 16],
    /// Guest address of the page that the running block lies in.
    pub page_rip: Cell<u64>,
    /// The arithmetic flags while they are not in the host's: see [`pack`].
    pub flags: Cell<u64>,
    /// Read and write TLB of the current address space and privilege.
    pub read_table: Cell<*const ReadEntry>,
    /// See `read_table`.
    pub write_table: Cell<*const WriteEntry>,
    /// Offsets of entries in `read_table` and `write_table`: see [`mask`].
    pub read_mask: Cell<u64>,
    /// See `read_mask`.
    pub write_mask: Cell<u64>,
    /// Where indirect jumps look for their targets. Replaced by an empty table by whoever wants
    /// attention.
    pub jump_table: AtomicPtr<Entry>,
    /// Read at the head of loops whose flags would be destroyed by asking [`Frame::wanted`]. Points to
    /// a byte that cannot be read while somebody wants attention.
    pub poll: AtomicPtr<u8>,
    /// Bases of FS and GS.
    pub bases: [Cell<u64>; 2],
    /// Guest target of an indirect call, while the return address is pushed.
    pub target: Cell<u64>,
    /// Host address of the same.
    pub target_code: Cell<u64>,
    /// Keeps the place of a TLB entry or a value over a guest instruction.
    pub spare: Cell<u64>,
    /// The processor.
    pub cpu: Cell<*mut Cpu>,
    /// The vector registers of the state.
    pub vectors: Cell<*mut VecReg>,
    /// MXCSR of the state.
    pub mxcsr: Cell<*mut u32>,
    /// Where the host's stack begins for translated code, and where it has to begin anew: calls that
    /// have not returned yet lie there.
    pub stack: Cell<u64>,
    /// See `stack`.
    pub stack_limit: Cell<u64>,
    /// What a register of the running loop will have when its windows have to be set anew.
    pub limit: Cell<u64>,
    /// Where translated code trapped, and the host flags then.
    pub trap_pc: Cell<u64>,
    /// See `trap_pc`; as `flags`.
    pub trap_flags: Cell<u64>,
    /// Not zero while somebody wants attention.
    pub wanted: AtomicU8,
    /// Which of the guest's vector registers, with its MXCSR, are the host's now: a [`vectors`].
    pub vectors_live: Cell<u8>,
    /// What the mode allows: a [`vectors`].
    pub vectors_allowed: Cell<u8>,
    /// MXCSR as Rust code wants it.
    pub host_mxcsr: Cell<u32>,
    /// Whether the guest's x87 registers are the host's now: see [`super::x87`].
    pub x87_live: Cell<u8>,
    /// The segment of the last operand of the x87 meanwhile, if there was one.
    pub x87_segment: Cell<u8>,
    /// The last x87 instruction meanwhile, if there was one: see [`super::x87::last`].
    pub x87_last: Cell<u32>,
    /// Guest address of the page that instruction lies in.
    pub x87_page: Cell<u64>,
    /// Offset of the last operand of the x87.
    pub x87_operand: Cell<u64>,
    /// The same while its access may still fault.
    pub x87_next_operand: Cell<u64>,
    /// Indices, mask and result of a gather.
    pub gathered: [Cell<[u64; 4]>; 3],
    /// The end of a page and the beginning of the next one, for a load that lies in both.
    pub astride: Astride,
    /// See [`super::quiet::Quiet`].
    pub quiet: Cell<*const AtomicU64>,
    /// Fetch TLB, as `read_table`.
    pub fetch_table: Cell<*const ReadEntry>,
    /// For each group of accesses in the running block, the host address of its first byte, and that
    /// of its page's flags; for each window, the distance from linear to host addresses likewise.
    pub groups: [Cell<[usize; 2]>; GROUPS],
    /// How a helper left translated code.
    pub left: Cell<Left>,
    /// The block is executed in lock-step: it is left before whatever cannot be repeated.
    pub checked: Cell<bool>,
    /// Blocks are left at their ends, whatever comes next.
    pub apart: Cell<bool>,
    /// Counts translations that were taken back.
    pub epoch: AtomicUsize,
}

/// Bytes around the boundary of two pages, which lies in the middle. It is aligned as much as those of
/// pages, as far as vector instructions look.
#[repr(C, align(64))]
pub struct Astride(pub Cell<[u64; 8]>);

impl Astride {
    /// Bytes of each page: as many as an access may have.
    pub const HALF: i32 = 32;
}

// SAFETY: other threads touch the atomic fields only.
unsafe impl Sync for Frame {}
// SAFETY: nothing in a frame is bound to a thread.
unsafe impl Send for Frame {}

/// How a helper left translated code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// At the instruction in `state.rip`; look around.
    End,
    /// At the instruction in `state.rip`, which the interpreter is to execute.
    Interpret,
    /// By the exception in `Cpu::fault`, at `state.rip`.
    Fault,
    /// By a triple fault.
    Shutdown,
    /// By a trap of the host that stands for nothing in the guest; `Cpu::failure` tells more.
    Lost,
}

/// How much of the vector registers is used.
pub mod vectors {
    /// Nothing.
    pub const NONE: u8 = 0;
    /// XMM registers, by SSE instructions.
    pub const SSE: u8 = 1;
    /// YMM registers.
    pub const AVX: u8 = 2;
}

/// Distances of the frame's fields from where R15 points.
#[allow(missing_docs)]
pub mod at {
    use super::{BIAS, Frame, offset_of};

    macro_rules! fields {
        ($($name:ident = $field:ident;)*) => {
            $(pub const $name: i32 = offset_of!(Frame, $field) as i32 - BIAS;)*
        };
    }
    fields! {
        PAGE_RIP = page_rip;
        FLAGS = flags;
        READ_TABLE = read_table;
        WRITE_TABLE = write_table;
        READ_MASK = read_mask;
        WRITE_MASK = write_mask;
        JUMP_TABLE = jump_table;
        POLL = poll;
        WANTED = wanted;
        FS_BASE = bases;
        TARGET = target;
        TARGET_CODE = target_code;
        SPARE = spare;
        STACK = stack;
        STACK_LIMIT = stack_limit;
        LIMIT = limit;
        TRAP_PC = trap_pc;
        TRAP_FLAGS = trap_flags;
        VECTORS = vectors;
        MXCSR = mxcsr;
        VECTORS_LIVE = vectors_live;
        VECTORS_ALLOWED = vectors_allowed;
        HOST_MXCSR = host_mxcsr;
        GATHER_INDICES = gathered;
        ASTRIDE = astride;
        X87_LIVE = x87_live;
        X87_SEGMENT = x87_segment;
        X87_LAST = x87_last;
        X87_PAGE = x87_page;
        X87_OPERAND = x87_operand;
        X87_NEXT_OPERAND = x87_next_operand;
        FETCH_TABLE = fetch_table;
        QUIET = quiet;
        GROUPS = groups;
    }
    pub const GS_BASE: i32 = FS_BASE + 8;
    pub const GATHER_MASK: i32 = GATHER_INDICES + 32;
    pub const GATHER_RESULT: i32 = GATHER_INDICES + 64;

    /// Host address of the first byte of group `slot`.
    pub const fn group(slot: usize) -> i32 {
        GROUPS + slot as i32 * 16
    }

    /// Host address of the flags of its page.
    pub const fn group_flags(slot: usize) -> i32 {
        group(slot) + 8
    }

    /// Guest register `number`.
    pub const fn reg(number: u8) -> i32 {
        number as i32 * 8 - BIAS
    }
}

/// What cuts out an entry's offset in a table of `len` entries.
fn mask<E>(len: usize) -> u64 {
    ((len - 1) * size_of::<E>()) as u64
}

/// The six arithmetic flags as `lahf; seto al` leaves them in AX; more may stand above.
pub fn pack(arith: Arith) -> u64 {
    let bits = arith.bits();
    (bits & 0xd5 | 2) << 8 | bits >> 11 & 1
}

/// The inverse of [`pack`].
pub fn unpack(packed: u64) -> Arith {
    Arith::from_bits(packed >> 8 & 0xd5 | (packed & 1) << bit::OF.trailing_zeros())
}

impl Frame {
    /// A frame that no code runs in yet.
    pub fn new() -> Self {
        Frame {
            regs: [const { Cell::new(0) }; 16],
            page_rip: Cell::new(0),
            flags: Cell::new(0),
            read_table: Cell::new(std::ptr::null()),
            write_table: Cell::new(std::ptr::null()),
            read_mask: Cell::new(0),
            write_mask: Cell::new(0),
            jump_table: AtomicPtr::new(std::ptr::null_mut()),
            poll: AtomicPtr::new(std::ptr::null_mut()),
            bases: [const { Cell::new(0) }; 2],
            target: Cell::new(0),
            target_code: Cell::new(0),
            spare: Cell::new(0),
            stack: Cell::new(0),
            stack_limit: Cell::new(0),
            limit: Cell::new(0),
            trap_pc: Cell::new(0),
            trap_flags: Cell::new(0),
            cpu: Cell::new(std::ptr::null_mut()),
            vectors: Cell::new(std::ptr::null_mut()),
            mxcsr: Cell::new(std::ptr::null_mut()),
            wanted: AtomicU8::new(0),
            vectors_live: Cell::new(0),
            vectors_allowed: Cell::new(0),
            host_mxcsr: Cell::new(0x1f80),
            x87_live: Cell::new(0),
            x87_segment: Cell::new(0),
            x87_last: Cell::new(0),
            x87_page: Cell::new(0),
            x87_operand: Cell::new(0),
            x87_next_operand: Cell::new(0),
            gathered: [const { Cell::new([0; 4]) }; 3],
            astride: Astride(Cell::new([0; 8])),
            quiet: Cell::new(std::ptr::null()),
            fetch_table: Cell::new(std::ptr::null()),
            groups: [const { Cell::new([0; 2]) }; GROUPS],
            left: Cell::new(Left::End),
            checked: Cell::new(false),
            apart: Cell::new(false),
            epoch: AtomicUsize::new(0),
        }
    }

    /// Takes general registers from the processor's state.
    pub fn load_registers(&self, cpu: &Cpu) {
        for (mine, theirs) in self.regs.iter().zip(&cpu.state.regs) {
            mine.set(*theirs);
        }
    }

    /// Gives general registers back.
    pub fn store_registers(&self, cpu: &mut Cpu) {
        for (mine, theirs) in self.regs.iter().zip(&mut cpu.state.regs) {
            // One by one, as they were just stored: wider loads would have to wait for the stores.
            // SAFETY: a cell of the frame, which nobody else writes now.
            *theirs = unsafe { mine.as_ptr().read_volatile() };
        }
    }

    /// Takes what an instruction may change beside registers: where the TLB is.
    pub fn refresh(&self, cpu: &Cpu) {
        let base = cpu.mode.tlb_base;
        let (read, write) = (cpu.mmu.tlb.read.part(base), cpu.mmu.tlb.write.part(base));
        self.read_table.set(read.0);
        self.read_mask.set(mask::<ReadEntry>(read.1));
        self.write_table.set(write.0);
        self.write_mask.set(mask::<WriteEntry>(write.1));
        self.fetch_table.set(cpu.mmu.tlb.fetch.part(base).0);
    }

    /// Takes what an instruction that changes the mode may change.
    pub fn refresh_mode(&self, cpu: &Cpu) {
        let mode = &cpu.mode;
        self.bases[0].set(mode.base[Seg::Fs as usize]);
        self.bases[1].set(mode.base[Seg::Gs as usize]);
        self.vectors_allowed.set(match mode {
            _ if !mode.sse_enabled || mode.task_switched || mode.fpu_emulated => vectors::NONE,
            _ if mode.avx_enabled && std::arch::is_x86_feature_detected!("avx") => vectors::AVX,
            _ => vectors::SSE,
        });
    }

    /// Makes translated code come out soon, `closed` being what it must not read. For any thread.
    pub fn kick(&self, closed: *mut u8, no_targets: *mut Entry) {
        self.wanted.store(1, Ordering::SeqCst);
        self.poll.store(closed, Ordering::SeqCst);
        self.jump_table.store(no_targets, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_flags_survive() {
        for choice in 0..64_u64 {
            let bits = [0, 2, 4, 6, 7, 11];
            let value: u64 = bits.iter().enumerate().map(|(i, b)| (choice >> i & 1) << b).sum();
            let packed = pack(Arith::from_bits(value));
            assert_eq!(packed & 0x200, 0x200);
            assert_eq!(unpack(packed).bits(), value);
        }
    }
}
