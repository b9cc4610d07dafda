//! The virtual machine control block in memory (APM vol. 2, appendix B).

use crate::Cpu;
use crate::state::{LastBranches, Segment, TableReg};

/// Offsets in the control area.
#[allow(missing_docs)]
pub(super) mod control {
    /// Six doublewords, a bit for each exit code.
    pub const INTERCEPTS: usize = 0;
    pub const PAUSE_THRESHOLD: usize = 0x3c;
    pub const PAUSE_COUNT: usize = 0x3e;
    pub const IO_MAP: usize = 0x40;
    pub const MSR_MAP: usize = 0x48;
    pub const TSC_OFFSET: usize = 0x50;
    pub const ASID: usize = 0x58;
    /// Which translations VMRUN forgets.
    pub const TLB: usize = 0x5c;
    pub const VIRQ: usize = 0x60;
    pub const SHADOW: usize = 0x68;
    pub const EXIT_CODE: usize = 0x70;
    pub const EXIT_INFO1: usize = 0x78;
    pub const EXIT_INFO2: usize = 0x80;
    pub const EXIT_INT_INFO: usize = 0x88;
    pub const NESTED: usize = 0x90;
    pub const EVENT: usize = 0xa8;
    pub const NESTED_CR3: usize = 0xb0;
    pub const LBR: usize = 0xb8;
    pub const NEXT_RIP: usize = 0xc8;
    /// How many bytes of the instruction follow, and these.
    pub const INSTRUCTION: usize = 0xd0;
}

/// Offsets in the state save area, from the beginning of the block.
#[allow(missing_docs)]
pub(super) mod save {
    pub const ES: usize = 0x400;
    pub const CS: usize = 0x410;
    pub const SS: usize = 0x420;
    pub const DS: usize = 0x430;
    pub const FS: usize = 0x440;
    pub const GS: usize = 0x450;
    pub const GDTR: usize = 0x460;
    pub const LDTR: usize = 0x470;
    pub const IDTR: usize = 0x480;
    pub const TR: usize = 0x490;
    pub const CPL: usize = 0x4cb;
    pub const EFER: usize = 0x4d0;
    pub const CR4: usize = 0x548;
    pub const CR3: usize = 0x550;
    pub const CR0: usize = 0x558;
    pub const DR7: usize = 0x560;
    pub const DR6: usize = 0x568;
    pub const RFLAGS: usize = 0x570;
    pub const RIP: usize = 0x578;
    pub const RSP: usize = 0x5d8;
    pub const RAX: usize = 0x5f8;
    pub const STAR: usize = 0x600;
    pub const LSTAR: usize = 0x608;
    pub const CSTAR: usize = 0x610;
    pub const SFMASK: usize = 0x618;
    pub const KERNEL_GS_BASE: usize = 0x620;
    pub const SYSENTER_CS: usize = 0x628;
    pub const SYSENTER_ESP: usize = 0x630;
    pub const SYSENTER_EIP: usize = 0x638;
    pub const CR2: usize = 0x640;
    pub const PAT: usize = 0x668;
    pub const DEBUGCTL: usize = 0x670;
    /// From and to of the last branch, then of the last before an event.
    pub const LAST_BRANCHES: [usize; 4] = [0x678, 0x680, 0x688, 0x690];
}

/// The part of the block that means something.
const SIZE: usize = 0x700;

/// A copy of a block.
pub(super) struct Vmcb(Box<[u8; SIZE]>);

impl Vmcb {
    /// Reads the block at physical address `at`.
    pub fn read(cpu: &mut Cpu, at: u64) -> Self {
        let mut bytes = Box::new([0; SIZE]);
        cpu.phys_read_any(at, &mut *bytes);
        Vmcb(bytes)
    }

    /// Writes the bytes `range` of the copy back.
    pub fn write(&self, cpu: &mut Cpu, at: u64, range: std::ops::Range<usize>) {
        cpu.phys_write_any(at + range.start as u64, &self.0[range]);
    }

    /// Bytes of the control area that an exit writes.
    pub const CONTROL: std::ops::Range<usize> = control::VIRQ..control::INSTRUCTION + 16;
    /// The state save area.
    pub const SAVE: std::ops::Range<usize> = save::ES..SIZE;

    fn get<const N: usize>(&self, offset: usize) -> [u8; N] {
        std::array::from_fn(|i| self.0[offset + i])
    }

    pub fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.get(offset))
    }

    pub fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.get(offset))
    }

    pub fn u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.get(offset))
    }

    pub fn last_branches(&self) -> LastBranches {
        let [from, to, event_from, event_to] = save::LAST_BRANCHES.map(|offset| self.u64(offset));
        LastBranches { branch: [from, to], before_event: [event_from, event_to] }
    }

    pub fn set_last_branches(&mut self, last: &LastBranches) {
        let values = last.branch.into_iter().chain(last.before_event);
        for (offset, value) in save::LAST_BRANCHES.into_iter().zip(values) {
            self.set(offset, value);
        }
    }

    pub fn set(&mut self, offset: usize, value: u64) {
        self.0[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// Up to fifteen bytes of code.
    pub fn set_instruction(&mut self, bytes: &[u8]) {
        let field = &mut self.0[control::INSTRUCTION..control::INSTRUCTION + 16];
        field.fill(0);
        field[0] = bytes.len() as u8;
        field[1..=bytes.len()].copy_from_slice(bytes);
    }

    pub fn cpl(&self) -> u8 {
        self.0[save::CPL] & 3
    }

    pub fn set_cpl(&mut self, cpl: u8) {
        self.0[save::CPL] = cpl;
    }

    /// A segment register. Its attributes lie in twelve bits, the upper four right above the type.
    pub fn segment(&self, offset: usize) -> Segment {
        let packed = self.u16(offset + 2);
        Segment {
            selector: self.u16(offset),
            attr: packed & 0xff | (packed & 0xf00) << 4,
            limit: self.u32(offset + 4),
            base: self.u64(offset + 8),
        }
    }

    pub fn set_segment(&mut self, offset: usize, segment: &Segment) {
        let packed = segment.attr & 0xff | segment.attr >> 4 & 0xf00;
        let head =
            u64::from(segment.selector) | u64::from(packed) << 16 | u64::from(segment.limit) << 32;
        self.set(offset, head);
        self.set(offset + 8, segment.base);
    }

    pub fn table(&self, offset: usize) -> TableReg {
        TableReg { limit: self.u32(offset + 4) as u16, base: self.u64(offset + 8) }
    }

    pub fn set_table(&mut self, offset: usize, table: &TableReg) {
        self.set(offset, u64::from(table.limit) << 32);
        self.set(offset + 8, table.base);
    }
}
