//! Guest memory through a processor's page tables, for an onlooker: nothing is changed.

use base::memory::{AddressSpace, LookupKind};
use cpu::state::{CpuState, cr0, cr4, efer};

/// Bits of an entry (SDM vol. 3, 4.3 to 4.5).
pub(crate) mod entry {
    pub const PRESENT: u64 = 1;
    pub const WRITABLE: u64 = 1 << 1;
    pub const USER: u64 = 1 << 2;
    pub const WRITE_THROUGH: u64 = 1 << 3;
    pub const CACHE_DISABLE: u64 = 1 << 4;
    pub const ACCESSED: u64 = 1 << 5;
    pub const DIRTY: u64 = 1 << 6;
    pub const LARGE: u64 = 1 << 7;
    pub const GLOBAL: u64 = 1 << 8;
    pub const NO_EXECUTE: u64 = 1 << 63;
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PAGE: u64 = 4096;

/// A page: where it is seen, and the entry that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub linear: u64,
    pub size: u64,
    pub physical: u64,
    /// The last entry, with the permissions that all above it allow too.
    pub entry: u64,
}

/// A level of tables.
#[derive(Clone, Copy)]
struct Level {
    shift: u32,
    bits: u32,
    /// Whether an entry may stand for a large page.
    large: bool,
    /// Whether entries have permissions: those of a page directory pointer table of 32-bit PAE
    /// paging have none.
    permissions: bool,
}

/// Memory as a processor sees it.
pub(crate) struct VirtualMemory {
    memory: AddressSpace,
    root: u64,
    /// From the root down; empty without paging.
    levels: Vec<Level>,
    /// Bytes of an entry.
    width: u8,
}

impl VirtualMemory {
    pub fn new(state: &CpuState, memory: AddressSpace) -> Self {
        let level = |shift, bits, large| Level { shift, bits, large, permissions: true };
        let long = state.msr.efer & efer::LMA != 0;
        let (levels, root, width) = if state.cr0 & cr0::PG == 0 {
            (Vec::new(), 0, 8)
        } else if state.cr4 & cr4::PAE == 0 {
            let large = state.cr4 & cr4::PSE != 0;
            let levels = vec![level(22, 10, large), level(12, 10, false)];
            (levels, state.cr3 & 0xffff_f000, 4)
        } else if !long {
            let top = Level { permissions: false, ..level(30, 2, false) };
            (vec![top, level(21, 9, true), level(12, 9, false)], state.cr3 & 0xffff_ffe0, 8)
        } else {
            let mut levels = vec![
                level(39, 9, false),
                level(30, 9, true),
                level(21, 9, true),
                level(12, 9, false),
            ];
            if state.cr4 & cr4::LA57 != 0 {
                levels.insert(0, level(48, 9, false));
            }
            (levels, state.cr3 & ADDRESS, 8)
        };
        VirtualMemory { memory, root, levels, width }
    }

    /// Whether there are page tables.
    pub fn is_paged(&self) -> bool {
        !self.levels.is_empty()
    }

    fn entry(&self, table: u64, index: u64) -> u64 {
        self.memory.read_uint(table + index * u64::from(self.width), self.width)
    }

    /// The address behind a large page's entry.
    fn large_base(&self, entry: u64, shift: u32) -> u64 {
        if self.width == 4 {
            // PSE-36: bits 13 to 16 are those above 32.
            return entry & 0xffc0_0000 | (entry >> 13 & 0xf) << 32;
        }
        entry & ADDRESS & !((1 << shift) - 1)
    }

    fn linear(&self, linear: u64) -> u64 {
        match self.levels.first() {
            // Addresses of long mode are sign-extended.
            Some(top) if top.shift >= 39 => sign_extend(linear, top.shift + top.bits),
            _ => linear,
        }
    }

    /// The physical address behind a linear one.
    pub fn translate(&self, linear: u64) -> Option<u64> {
        if !self.is_paged() {
            return Some(linear);
        }
        let mut table = self.root;
        for level in &self.levels {
            let index = linear >> level.shift & ((1 << level.bits) - 1);
            let entry = self.entry(table, index);
            if entry & entry::PRESENT == 0 {
                return None;
            }
            let offset = linear & ((1 << level.shift) - 1);
            if level.large && entry & entry::LARGE != 0 {
                return Some(self.large_base(entry, level.shift) | offset);
            }
            if level.shift == 12 {
                return Some(entry & ADDRESS | offset);
            }
            table = entry & ADDRESS;
        }
        None
    }

    /// Reads; fails where no page is present or nothing answers.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ()> {
        let mut done = 0;
        while done < buffer.len() {
            let at = address.wrapping_add(done as u64);
            let length = ((PAGE - at % PAGE) as usize).min(buffer.len() - done);
            let physical = self.translate(at).ok_or(())?;
            if matches!(self.memory.view().lookup(physical).kind, LookupKind::Unassigned) {
                return Err(());
            }
            self.memory.read(physical, &mut buffer[done..done + length]);
            done += length;
        }
        Ok(())
    }

    /// Calls `see` for every page that is present, in order of linear addresses, until it says stop.
    pub fn pages(&self, see: &mut dyn FnMut(Page) -> bool) {
        self.table(self.root, 0, 0, entry::WRITABLE | entry::USER, see);
    }

    fn table(
        &self,
        table: u64,
        depth: usize,
        linear: u64,
        allowed: u64,
        see: &mut dyn FnMut(Page) -> bool,
    ) -> bool {
        let Some(level) = self.levels.get(depth) else { return true };
        for index in 0..1u64 << level.bits {
            let entry = self.entry(table, index);
            if entry & entry::PRESENT == 0 {
                continue;
            }
            let linear = linear | index << level.shift;
            let permissions = entry::WRITABLE | entry::USER;
            let allowed = if level.permissions { allowed & entry } else { allowed };
            let is_large = level.large && entry & entry::LARGE != 0;
            let goes_on = if is_large || level.shift == 12 {
                let physical = match is_large {
                    true => self.large_base(entry, level.shift),
                    false => entry & ADDRESS,
                };
                let entry = entry & !permissions | allowed & permissions;
                see(Page { linear: self.linear(linear), size: 1 << level.shift, physical, entry })
            } else {
                self.table(entry & ADDRESS, depth + 1, linear, allowed, see)
            };
            if !goes_on {
                return false;
            }
        }
        true
    }
}

fn sign_extend(value: u64, bits: u32) -> u64 {
    let unused = 64 - bits;
    ((value << unused) as i64 >> unused) as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base::memory::{RamBlock, Region};

    use super::*;

    fn memory() -> AddressSpace {
        let block = Arc::new(RamBlock::anonymous("ram", 1 << 20).unwrap());
        let root = Region::container("root", 1 << 64);
        root.add(&Region::ram(block), 0, 0);
        AddressSpace::new("memory", root)
    }

    #[test]
    fn four_levels_are_walked() {
        let memory = memory();
        // PML4 at 1000h, one directory pointer table for the top, with a 2 MiB page and a table.
        memory.write_uint(0x1000 + 511 * 8, 8, 0x2003);
        memory.write_uint(0x2000 + 510 * 8, 8, 0x3007);
        memory.write_uint(0x3000, 8, 0x20_0000 | 0x83);
        memory.write_uint(0x3008, 8, 0x4003);
        memory.write_uint(0x4000 + 8, 8, 0x5000 | 1 << 63 | 0x61);
        memory.write(0x5010, b"hello");
        let mut state = CpuState::at_reset(0);
        (state.cr0, state.cr3, state.cr4) = (cr0::PG, 0x1000, cr4::PAE);
        state.msr.efer = efer::LMA;
        let view = VirtualMemory::new(&state, memory);
        let top = 0xffff_ffff_8000_0000;
        assert_eq!(view.translate(top + 0x1234), Some(0x20_1234));
        assert_eq!(view.translate(top + 0x20_1010), Some(0x5010));
        assert_eq!(view.translate(top + 0x20_2000), None);
        assert_eq!(view.translate(0), None);
        let mut text = [0; 5];
        assert_eq!(view.read(top + 0x20_1010, &mut text), Ok(()));
        assert_eq!(&text, b"hello");
        assert_eq!(view.read(top + 0x20_1ffe, &mut text), Err(()), "across the border");
        let mut pages = Vec::new();
        view.pages(&mut |page| {
            pages.push((page.linear, page.size, page.physical));
            true
        });
        assert_eq!(pages, [(top, 2 << 20, 0x20_0000), (top + 0x20_1000, 4096, 0x5000)]);
    }

    #[test]
    fn without_paging_addresses_are_physical() {
        let view = VirtualMemory::new(&CpuState::at_reset(0), memory());
        assert_eq!(view.translate(0x1234), Some(0x1234));
        assert_eq!(view.read(0xffff_0000_0000, &mut [0]), Err(()));
    }
}
