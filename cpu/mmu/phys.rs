//! Guest-physical memory as one processor reaches it: A20, its local APIC page, RAM, the rest.
#![allow(unsafe_code)]
// Unsafe: page-table entries are read and their A and D bits set by atomic operations on guest RAM
// through its host address, because other processors walk and the guest writes at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use base::memory::{AddressSpace, FlatView, LookupKind, RamBlock};

use crate::bus::Bus;
use crate::core::Cpu;

/// One of the two memories a processor may be looking at, with the view it has of it.
pub(crate) struct Space {
    space: AddressSpace,
    generation: u64,
    /// Keeps alive every RAM block that the TLB points into.
    pub view: Arc<FlatView>,
}

impl Space {
    pub fn new(space: &AddressSpace) -> Self {
        let generation = space.generation();
        Space { space: space.clone(), generation, view: Arc::clone(&space.view()) }
    }
    pub fn stale(&self) -> bool {
        self.space.generation() != self.generation
    }
    /// Takes the newest view. The generation is read first: a change in between is seen next time.
    pub fn refresh(&mut self) {
        self.generation = self.space.generation();
        self.view = Arc::clone(&self.space.view());
    }
}

/// RAM behind a whole 4 KiB page.
pub(crate) struct RamPage<'a> {
    pub block: &'a Arc<RamBlock>,
    /// Page-aligned offset in the block.
    pub offset: u64,
    pub writable: bool,
}

/// A page-table entry's place: in RAM, where it can be updated atomically, or elsewhere.
enum Slot<'a> {
    Ram(&'a RamBlock, u64),
    Other,
}

const APIC_ENABLED: u64 = 1 << 11;
const APIC_X2: u64 = 1 << 10;

impl Cpu {
    pub(crate) fn space(&self) -> &Space {
        if self.state.smm { &self.mmu.smm } else { &self.mmu.memory }
    }

    fn address_space(&self) -> &AddressSpace {
        if self.state.smm { &self.bus.smm } else { &self.bus.memory }
    }

    /// The RAM that all of the page at `phys` (A20 applied) leads to for reading.
    pub(crate) fn ram_page(&self, phys: u64) -> Option<RamPage<'_>> {
        let page = phys & !0xfff;
        if self.apic_offset(page).is_some() {
            return None;
        }
        let found = self.space().view.lookup(page);
        if found.remaining < 4096 {
            return None;
        }
        let (block, offset, writable) = match found.kind {
            LookupKind::Ram { block, offset, writable } => (block, offset, writable),
            LookupKind::RomDevice { block, offset } => (block, offset, false),
            LookupKind::Io | LookupKind::Unassigned => return None,
        };
        (offset & 0xfff == 0).then_some(RamPage { block, offset, writable })
    }

    /// Offset in the local APIC's page, if `phys` lies there.
    fn apic_offset(&self, phys: u64) -> Option<u32> {
        let base = self.state.msr.apic_base;
        let here = phys & !0xfff == base & 0x000f_ffff_ffff_f000;
        (here && base & (APIC_ENABLED | APIC_X2) == APIC_ENABLED && self.bus.apic.is_some())
            .then_some(phys as u32 & 0xfff)
    }

    /// Whether `phys` lies in the page of the local APIC, which does not answer, nor does memory.
    fn is_silent(&self, phys: u64) -> bool {
        let base = self.state.msr.apic_base;
        phys & !0xfff == base & 0x000f_ffff_ffff_f000
            && base & (APIC_ENABLED | APIC_X2) != APIC_ENABLED
            && self.bus.apic.is_some()
            && self.ram_page(phys).is_none()
    }

    /// Reads `buf.len()` bytes (at most 16, within one page) at `phys`.
    pub(crate) fn phys_read(&mut self, phys: u64, buf: &mut [u8]) {
        let phys = phys & self.mmu.a20_mask;
        if self.trial_forbids(phys, false) {
            return buf.fill(0);
        }
        if let (Some(offset), Some(apic)) = (self.apic_offset(phys), &self.bus.apic) {
            for (i, part) in buf.chunks_mut(4).enumerate() {
                let value = apic.read(offset + 4 * i as u32 & 0xfff, part.len() as u8);
                part.copy_from_slice(&value.to_le_bytes()[..part.len()]);
            }
            return;
        }
        if self.is_silent(phys) {
            return buf.fill(0xff);
        }
        match buf.len() {
            size @ (1 | 2 | 4 | 8) => {
                let value = self.address_space().read_uint(phys, size as u8);
                buf.copy_from_slice(&value.to_le_bytes()[..size]);
            }
            _ => self.address_space().read(phys, buf),
        }
        self.after_io();
    }

    /// Writes `data` (at most 16 bytes, within one page) at `phys`.
    pub(crate) fn phys_write(&mut self, phys: u64, data: &[u8]) {
        let phys = phys & self.mmu.a20_mask;
        if self.trial_forbids(phys, true) {
            return;
        }
        if let (Some(offset), Some(apic)) = (self.apic_offset(phys), &self.bus.apic) {
            for (i, part) in data.chunks(4).enumerate() {
                let mut bytes = [0; 4];
                bytes[..part.len()].copy_from_slice(part);
                let value = u32::from_le_bytes(bytes);
                apic.write(offset + 4 * i as u32 & 0xfff, part.len() as u8, value);
            }
            self.exit_block = true;
            return;
        }
        if self.is_silent(phys) {
            return;
        }
        match data.len() {
            size @ (1 | 2 | 4 | 8) => {
                let mut bytes = [0; 8];
                bytes[..size].copy_from_slice(data);
                self.address_space().write_uint(phys, size as u8, u64::from_le_bytes(bytes));
            }
            _ => self.address_space().write(phys, data),
        }
        self.after_io();
    }

    /// A device was accessed, which may have changed the memory map or the A20 gate.
    pub(crate) fn after_io(&mut self) {
        let a20 = self.bus.a20_mask();
        if self.mmu.memory.stale() || self.mmu.smm.stale() || a20 != self.mmu.a20_mask {
            self.mmu.memory_map_changed(a20);
            self.exit_block = true;
        }
    }

    fn slot(&self, phys: u64, size: u64) -> Slot<'_> {
        let found = self.space().view.lookup(phys);
        match found.kind {
            LookupKind::Ram { block, offset, writable: true }
                if found.remaining >= size
                    && offset.is_multiple_of(size)
                    && offset.checked_add(size).is_some_and(|end| end <= block.len()) =>
            {
                Slot::Ram(block, offset)
            }
            _ => Slot::Other,
        }
    }

    /// Reads a page-table entry of 4 or 8 bytes, which lies aligned at `phys`.
    pub(crate) fn read_entry(&self, phys: u64, size: u64) -> u64 {
        let phys = phys & self.mmu.a20_mask;
        match self.slot(phys, size) {
            Slot::Ram(block, offset) if size == 8 => {
                // SAFETY: `slot` checked that the entry lies within the block and is aligned (the
                // mapping itself is page-aligned); the block outlives the borrow.
                let entry =
                    unsafe { AtomicU64::from_ptr(block.host().add(offset as usize).cast()) };
                entry.load(Ordering::Relaxed)
            }
            Slot::Ram(block, offset) => {
                // SAFETY: as above.
                let entry =
                    unsafe { AtomicU32::from_ptr(block.host().add(offset as usize).cast()) };
                u64::from(entry.load(Ordering::Relaxed))
            }
            Slot::Other => self.address_space().read_uint(phys, size as u8),
        }
    }

    /// Sets `bits` in a page-table entry, if it still is `old`. `false`: it changed meanwhile.
    pub(crate) fn set_entry_bits(&self, phys: u64, size: u64, old: u64, bits: u64) -> bool {
        let phys = phys & self.mmu.a20_mask;
        match self.slot(phys, size) {
            Slot::Ram(block, offset) => {
                let host = block.host();
                let done = if size == 8 {
                    // SAFETY: as in `read_entry`.
                    let entry = unsafe { AtomicU64::from_ptr(host.add(offset as usize).cast()) };
                    let new = old | bits;
                    entry.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
                } else {
                    // SAFETY: as in `read_entry`.
                    let entry = unsafe { AtomicU32::from_ptr(host.add(offset as usize).cast()) };
                    let new = (old | bits) as u32;
                    entry
                        .compare_exchange(old as u32, new, Ordering::AcqRel, Ordering::Relaxed)
                        .is_ok()
                };
                let tracking = block.tracking();
                if tracking.flags((offset >> 12) as usize).load(Ordering::Relaxed) != 0 {
                    tracking.written(offset, size);
                }
                done
            }
            Slot::Other => {
                self.address_space().write_uint(phys, size as u8, old | bits);
                true
            }
        }
    }
}

impl super::Mmu {
    pub(crate) fn new(bus: &Bus) -> Self {
        super::Mmu {
            tlb: super::tlb::Tlb::new(),
            memory: Space::new(&bus.memory),
            smm: Space::new(&bus.smm),
            a20_mask: bus.a20_mask(),
        }
    }
}
