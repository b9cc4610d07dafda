//! Guest memory through a processor's page tables, for an onlooker: nothing is changed.

use base::memory::{AddressSpace, LookupKind};
use cpu::mmu::Format;
use cpu::state::CpuState;

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

/// Memory as a processor sees it.
pub(crate) struct VirtualMemory {
    memory: AddressSpace,
    root: u64,
    /// `None` without paging.
    format: Option<Format>,
}

impl VirtualMemory {
    pub fn new(state: &CpuState, memory: AddressSpace) -> Self {
        let format = Format::of(state, true);
        let root = format.root(state.cr3);
        VirtualMemory { memory, root, format: Format::is_used(state).then_some(format) }
    }

    /// Whether there are page tables.
    pub fn is_paged(&self) -> bool {
        self.format.is_some()
    }

    fn entry(&self, format: Format, table: u64, index: u64) -> u64 {
        let size = format.entry_size();
        self.memory.read_uint(table + index * size, size as u8)
    }

    /// The physical address behind a linear one.
    pub fn translate(&self, linear: u64) -> Option<u64> {
        let Some(format) = self.format else { return Some(linear) };
        let (mut table, mut shift) = (self.root, format.top());
        loop {
            let bits = format.index_bits(shift);
            let entry = self.entry(format, table, linear >> shift & ((1 << bits) - 1));
            if entry & entry::PRESENT == 0 {
                return None;
            }
            if format.is_leaf(shift, entry) {
                return Some(format.page(shift, entry) | linear & ((1 << shift) - 1));
            }
            table = format.table(entry);
            shift = format.below(shift);
        }
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
        if let Some(format) = self.format {
            let allowed = entry::WRITABLE | entry::USER;
            self.table(format, self.root, format.top(), 0, allowed, see);
        }
    }

    fn table(
        &self,
        format: Format,
        table: u64,
        shift: u32,
        linear: u64,
        allowed: u64,
        see: &mut dyn FnMut(Page) -> bool,
    ) -> bool {
        for index in 0..1u64 << format.index_bits(shift) {
            let entry = self.entry(format, table, index);
            if entry & entry::PRESENT == 0 {
                continue;
            }
            let linear = linear | index << shift;
            let permissions = entry::WRITABLE | entry::USER;
            let allowed = if format.has_permissions(shift) { allowed & entry } else { allowed };
            let goes_on = if format.is_leaf(shift, entry) {
                let physical = format.page(shift, entry);
                let entry = entry & !permissions | allowed & permissions;
                // Addresses of long mode are sign-extended.
                let linear = match format.is_long() {
                    true => sign_extend(linear, format.linear_bits()),
                    false => linear,
                };
                see(Page { linear, size: 1 << shift, physical, entry })
            } else {
                self.table(format, format.table(entry), format.below(shift), linear, allowed, see)
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
    use cpu::state::{cr0, cr4, efer};

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
