//! The shape of page tables, which walks of the processor and of onlookers have in common (SDM vol. 3,
//! chapter 4).

use super::walk::{bits, entry};
use crate::state::{CpuState, cr0, cr4, efer};

/// How page tables are laid out in the paging mode that is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    mode: Mode,
    /// Whether the second level from the end may hold 4 MiB pages in 32-bit paging.
    pse: bool,
    /// Whether there are pages of 1 GiB.
    gigabyte: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Bits32,
    Pae,
    Level4,
    Level5,
}

impl Format {
    /// What control registers select, whether paging is on or not.
    pub fn of(state: &CpuState, gigabyte: bool) -> Self {
        Self::selected(state.msr.efer, state.cr4, gigabyte)
    }

    fn selected(efer: u64, cr4: u64, gigabyte: bool) -> Self {
        let mode = if efer & efer::LMA != 0 {
            if cr4 & cr4::LA57 != 0 { Mode::Level5 } else { Mode::Level4 }
        } else if cr4 & cr4::PAE != 0 {
            Mode::Pae
        } else {
            Mode::Bits32
        };
        Format { mode, pse: cr4 & cr4::PSE != 0, gigabyte }
    }

    /// The tables behind which a guest under VMRUN has its physical addresses, if it has any: their
    /// root and format.
    pub fn nested(state: &CpuState, gigabyte: bool) -> Option<(u64, Self)> {
        let host = state.svm.nested?;
        let format = Self::selected(host.efer, host.cr4, gigabyte);
        Some((format.root(host.cr3), format))
    }

    /// Whether there are page tables at all.
    pub fn is_used(state: &CpuState) -> bool {
        state.cr0 & cr0::PG != 0
    }

    /// PAE paging outside of long mode, with its four page-directory pointers.
    pub fn is_pae(self) -> bool {
        self.mode == Mode::Pae
    }

    /// Bytes of an entry.
    pub fn entry_size(self) -> u64 {
        if self.mode == Mode::Bits32 { 4 } else { 8 }
    }

    /// Address bits that the index into a table covers, at the level where they begin at `shift`.
    pub fn index_bits(self, shift: u32) -> u32 {
        match self.mode {
            Mode::Bits32 => 10,
            Mode::Pae if shift == 30 => 2,
            _ => 9,
        }
    }

    /// Where the address bits of the topmost table begin.
    pub fn top(self) -> u32 {
        match self.mode {
            Mode::Bits32 => 22,
            Mode::Pae => 30,
            Mode::Level4 => 39,
            Mode::Level5 => 48,
        }
    }

    /// Where the address bits of the next lower level begin.
    pub fn below(self, shift: u32) -> u32 {
        // Page-directory pointers of PAE paging are few, not low.
        shift - if self.mode == Mode::Bits32 { 10 } else { 9 }
    }

    /// Linear addresses have so many bits; above, they repeat the highest in long mode.
    pub fn linear_bits(self) -> u32 {
        self.top() + self.index_bits(self.top())
    }

    /// Whether linear addresses are sign-extended.
    pub fn is_long(self) -> bool {
        matches!(self.mode, Mode::Level4 | Mode::Level5)
    }

    /// The topmost table.
    pub fn root(self, cr3: u64) -> u64 {
        match self.mode {
            Mode::Bits32 => cr3 & 0xffff_f000,
            Mode::Pae => cr3 & 0xffff_ffe0,
            _ => cr3 & entry::ADDRESS,
        }
    }

    /// Whether entries have permissions, and accessed and dirty bits: not page-directory pointers.
    pub fn has_permissions(self, shift: u32) -> bool {
        !(self.is_pae() && shift == 30)
    }

    /// Whether a large page may stand at this level.
    pub fn may_be_large(self, shift: u32) -> bool {
        match (self.mode, shift) {
            (Mode::Bits32, 22) => self.pse,
            (_, 21) => true,
            (Mode::Level4 | Mode::Level5, 30) => self.gigabyte,
            _ => false,
        }
    }

    /// Whether an entry is a page's.
    pub fn is_leaf(self, shift: u32, value: u64) -> bool {
        shift == 12 || value & entry::LARGE != 0 && self.may_be_large(shift)
    }

    /// Where the page of an entry lies.
    pub fn page(self, shift: u32, value: u64) -> u64 {
        match (self.mode, shift) {
            (Mode::Bits32, 22) => large4_base(value),
            _ => self.table(value) & !bits(0, shift - 1),
        }
    }

    /// Where the table of an entry lies.
    pub fn table(self, value: u64) -> u64 {
        if self.mode == Mode::Bits32 { value & 0xffff_f000 } else { value & entry::ADDRESS }
    }
}

/// Where the 4 MiB page of an entry lies: with PSE-36, bits 13 to 20 are address bits 32 to 39.
pub(crate) fn large4_base(value: u64) -> u64 {
    value & 0xffc0_0000 | (value >> 13 & 0xff) << 32
}
