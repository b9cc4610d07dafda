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

/// Page tables of one kind.
#[derive(Clone, Copy)]
struct Tables {
    root: u64,
    format: Format,
}

impl Tables {
    /// What lies behind `address`, by the entries that `read` finds: the address of one, and its size.
    fn walk(&self, address: u64, read: impl Fn(u64, u8) -> u64) -> Option<u64> {
        let Tables { root: mut table, format } = *self;
        let (mut shift, size) = (format.top(), format.entry_size());
        loop {
            let index = address >> shift & ((1 << format.index_bits(shift)) - 1);
            let entry = read(table + index * size, size as u8);
            if entry & entry::PRESENT == 0 {
                return None;
            }
            if format.is_leaf(shift, entry) {
                return Some(format.page(shift, entry) | address & ((1 << shift) - 1));
            }
            table = format.table(entry);
            shift = format.below(shift);
        }
    }
}

/// Memory as a processor sees it.
pub(crate) struct VirtualMemory {
    memory: AddressSpace,
    /// `None` without paging.
    tables: Option<Tables>,
    /// What a host that runs inside of the machine has put behind its guest's physical addresses.
    nested: Option<Tables>,
}

impl VirtualMemory {
    pub fn new(state: &CpuState, memory: AddressSpace) -> Self {
        let format = Format::of(state, true);
        let tables = Tables { root: format.root(state.cr3), format };
        let nested = Format::nested(state, true).map(|(root, format)| Tables { root, format });
        VirtualMemory { memory, tables: Format::is_used(state).then_some(tables), nested }
    }

    /// Whether there are page tables.
    pub fn is_paged(&self) -> bool {
        self.tables.is_some()
    }

    /// Where in the machine's memory a physical address of the running guest lies.
    fn in_machine(&self, physical: u64) -> Option<u64> {
        match &self.nested {
            Some(nested) => nested.walk(physical, |at, size| self.memory.read_uint(at, size)),
            None => Some(physical),
        }
    }

    /// An entry of the guest's own tables; not present where the nested ones lead nowhere.
    fn entry(&self, at: u64, size: u8) -> u64 {
        self.in_machine(at).map_or(0, |at| self.memory.read_uint(at, size))
    }

    /// The physical address behind a linear one.
    pub fn translate(&self, linear: u64) -> Option<u64> {
        let physical = match &self.tables {
            Some(tables) => tables.walk(linear, |at, size| self.entry(at, size))?,
            None => linear,
        };
        self.in_machine(physical)
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
        if let Some(Tables { root, format }) = self.tables {
            let allowed = entry::WRITABLE | entry::USER;
            self.table(format, root, format.top(), 0, allowed, see);
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
            let size = format.entry_size();
            let entry = self.entry(table + index * size, size as u8);
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
    fn a_guest_of_the_guest_is_seen_through_both_tables() {
        let memory = memory();
        let mut state = CpuState::at_reset(0);
        (state.cr0, state.cr4) = (cr0::PG, cr4::PAE);
        state.msr.efer = efer::LMA;
        let format = Format::of(&state, true);
        let chain = |root: u64, first: u64| {
            for level in 0..3 {
                memory.write_uint(root + level * 0x1000, 8, first + (level + 1) * 0x1000 | 7);
            }
        };
        // The host puts the guest's first sixteen pages behind 20000h.
        chain(0x4_0000, 0x4_0000);
        for page in 0..16 {
            memory.write_uint(0x4_3000 + 8 * page, 8, 0x2_0000 + page * 0x1000 | 7);
        }
        // The guest's own tables begin at its 1000h.
        chain(0x2_1000, 0x1000);
        memory.write_uint(0x2_4008, 8, 0x5007);
        memory.write_uint(0x2_4010, 8, 0x2_0007);
        let tables = |root| Some(Tables { root, format });
        let mut view = VirtualMemory { memory, tables: tables(0x1000), nested: tables(0x4_0000) };
        assert_eq!(view.translate(0x1010), Some(0x2_5010));
        assert_eq!(view.translate(0x2010), None, "beyond what the host has mapped");
        let mut pages = Vec::new();
        view.pages(&mut |page| {
            pages.push((page.linear, page.physical));
            true
        });
        assert_eq!(pages, [(0x1000, 0x5000), (0x2000, 0x2_0000)]);
        view.tables = None;
        assert_eq!(view.translate(0x5010), Some(0x2_5010), "the guest's paging is off");
    }

    #[test]
    fn without_paging_addresses_are_physical() {
        let view = VirtualMemory::new(&CpuState::at_reset(0), memory());
        assert_eq!(view.translate(0x1234), Some(0x1234));
        assert_eq!(view.read(0xffff_0000_0000, &mut [0]), Err(()));
    }
}
