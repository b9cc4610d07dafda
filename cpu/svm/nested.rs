//! Nested paging: the host's tables between the guest's physical addresses and the system's (APM
//! vol. 2, 15.25).

use super::exit;
use crate::Cpu;
use crate::cpuid::feature;
use crate::mmu::large4_base;
use crate::mmu::walk::{bits, code, entry};
use crate::state::{cr4, efer};

/// The host's paging, as it was when VMRUN was executed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NestedPaging {
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
}

/// What the host's tables say about a page.
#[derive(Clone, Copy)]
pub(crate) struct NestedPage {
    /// System-physical address.
    pub phys: u64,
    /// It may be written without another walk.
    pub writable: bool,
    pub executable: bool,
}

/// Why an address was translated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Read,
    Write,
    Fetch,
    /// The guest's page tables are read; this counts as writing.
    TableWalk,
}

/// EXITINFO1 of a nested page fault, beside the page-fault error code.
const FINAL_ADDRESS: u64 = 1 << 32;
const TABLE_WALK: u64 = 1 << 33;

struct Geometry {
    table: u64,
    /// Lowest address bit that the first table's index covers.
    shift: u32,
    index_bits: u32,
}

impl NestedPaging {
    fn geometry(&self) -> Geometry {
        let long = self.efer & efer::LMA != 0;
        let wide = self.cr4 & cr4::PAE != 0;
        let (shift, index_bits, mask) = match (long, wide) {
            (true, _) if self.cr4 & cr4::LA57 != 0 => (48, 9, entry::ADDRESS),
            (true, _) => (39, 9, entry::ADDRESS),
            (false, true) => (30, 9, 0xffff_ffe0),
            (false, false) => (22, 10, 0xffff_f000),
        };
        Geometry { table: self.cr3 & mask, shift, index_bits }
    }
}

impl Cpu {
    /// Translates a guest-physical address by the host's tables. The error is EXITINFO1 of a nested
    /// page fault.
    pub(crate) fn nested_walk(
        &mut self,
        paging: NestedPaging,
        address: u64,
        purpose: Purpose,
    ) -> Result<NestedPage, u64> {
        let write = matches!(purpose, Purpose::Write | Purpose::TableWalk);
        let fetch = purpose == Purpose::Fetch;
        let place = if purpose == Purpose::TableWalk { TABLE_WALK } else { FINAL_ADDRESS };
        // All accesses are a user's.
        let mut error = place | u64::from(code::USER);
        if write {
            error |= u64::from(code::WRITE);
        }
        if fetch && (paging.efer & efer::NXE != 0 || paging.cr4 & cr4::SMEP != 0) {
            error |= u64::from(code::FETCH);
        }
        let present = error | u64::from(code::PRESENT);

        let Geometry { mut table, mut shift, index_bits } = paging.geometry();
        let size: u64 = if index_bits == 10 { 4 } else { 8 };
        let long = paging.efer & efer::LMA != 0;
        let top = shift + index_bits;
        if address >> top.min(63) != 0 {
            return Err(error);
        }
        let mut reserved = if size == 8 { bits(self.model.phys_bits(), 51) } else { 0 };
        if size == 8 && !long {
            reserved |= bits(52, 62);
        }
        if size == 8 && paging.efer & efer::NXE == 0 {
            reserved |= entry::NX;
        }
        let (mut writable, mut executable) = (true, true);
        loop {
            let at = table + (address >> shift & ((1 << index_bits) - 1)) * size;
            let value = self.read_entry(at, size);
            if value & entry::PRESENT == 0 {
                return Err(error);
            }
            let pointer = !long && size == 8 && shift == 30;
            let large = value & entry::LARGE != 0 && !pointer;
            let large_allowed = match shift {
                22 => paging.cr4 & cr4::PSE != 0,
                21 => true,
                30 => long && self.model.has(feature::PDPE1GB),
                _ => false,
            };
            let leaf = shift == 12 || large && large_allowed;
            let mut forbidden = reserved;
            if pointer {
                forbidden |= bits(1, 2) | bits(5, 8) | entry::NX;
            } else if size == 8 && shift > 12 && large {
                forbidden |= if large_allowed { bits(13, shift - 1) } else { entry::LARGE };
            } else if size == 4 && shift == 22 && leaf {
                forbidden |= self.large4_reserved();
            }
            if long && !leaf {
                forbidden |= self.table_reserved(shift, value);
            }
            if value & forbidden != 0 {
                return Err(present | u64::from(code::RESERVED));
            }
            if !pointer {
                let user = value & entry::USER != 0;
                writable &= value & entry::WRITABLE != 0;
                executable &= size == 4 || value & entry::NX == 0;
                if !user || write && !writable || fetch && !executable {
                    return Err(present);
                }
            }
            let mut want = if pointer { 0 } else { entry::ACCESSED };
            if leaf && write {
                want |= entry::DIRTY;
            }
            if value & want != want && !self.set_entry_bits(at, size, value, want) {
                // The entry changed meanwhile: once more.
                continue;
            }
            if leaf {
                let mask = bits(0, shift - 1);
                let dirty = (value | want) & entry::DIRTY != 0;
                let base = match size {
                    4 if shift == 22 => large4_base(value),
                    4 => value & 0xffff_f000,
                    _ => value & entry::ADDRESS,
                };
                let phys = base & !mask | address & mask;
                return Ok(NestedPage { phys, writable: writable && dirty, executable });
            }
            table = if size == 4 { value & 0xffff_f000 } else { value & entry::ADDRESS };
            shift -= index_bits;
        }
    }

    /// Where the entry of the guest's page tables at guest-physical `at` lies.
    pub(crate) fn nested_entry(&mut self, at: u64) -> Result<u64, NestedFault> {
        match self.state.svm.nested {
            Some(paging) => self
                .nested_walk(paging, at, Purpose::TableWalk)
                .map(|page| page.phys)
                .map_err(|info| NestedFault { info, address: at }),
            None => Ok(at),
        }
    }

    /// The trap that unwinds to a nested page fault's exit.
    #[cold]
    pub(crate) fn nested_fault(&mut self, fault: NestedFault) -> crate::Trap {
        let trap = self.exit_to_host(exit::NESTED_FAULT, fault.info, fault.address);
        self.state.svm.exit.next_rip = 0;
        trap
    }
}

/// An address that the host's tables refuse.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NestedFault {
    /// EXITINFO1.
    pub info: u64,
    /// Guest-physical address.
    pub address: u64,
}
