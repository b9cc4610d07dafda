//! Loads, stores and fetches by linear address.
#![allow(unsafe_code)]
// Unsafe: a TLB hit goes to guest RAM by its host address. An entry is only valid under the current
// address-space number, was filled from a view that `Mmu` still holds (`memory_map_changed` takes a
// new number before it lets go of a view), and covers a whole page inside one RAM block, so the
// address is mapped for as long as the access lasts. Guest memory is shared with other processors
// and devices; it is only touched by volatile or atomic accesses, never by references.

use std::sync::atomic::{AtomicU8, Ordering, compiler_fence};

use base::memory::Client;

use super::tlb::{Base, PAGE, ReadEntry, WriteEntry, hit};
use super::{Access, CodePage, Context};
use crate::core::{Cpu, Trap, vector};
use crate::int::Int;
use crate::state::Seg;

/// An integer at any alignment.
#[repr(C, packed)]
struct Unaligned<T>(T);

/// Reads guest RAM. The address must be mapped for `T::SIZE` bytes.
#[inline(always)]
unsafe fn host_read<T: Int>(addr: usize) -> T {
    // SAFETY: the caller's promise; `Unaligned` needs no alignment.
    unsafe { (addr as *const Unaligned<T>).read_volatile() }.0
}

/// Writes guest RAM. The address must be mapped for `T::SIZE` bytes.
#[inline(always)]
unsafe fn host_write<T: Int>(addr: usize, value: T) {
    // SAFETY: the caller's promise; `Unaligned` needs no alignment.
    unsafe { (addr as *mut Unaligned<T>).write_volatile(Unaligned(value)) }
}

/// Longest access the split paths handle in one piece.
const LONGEST: usize = 16;

impl Cpu {
    /// Loads from a linear address at the current privilege.
    #[inline(always)]
    pub fn load<T: Int>(&mut self, linear: u64) -> Result<T, Trap> {
        match self.load_fast(linear, self.mode.tlb_base) {
            Some(value) => Ok(value),
            None => self.load_slow(linear, self.mode.context),
        }
    }

    /// Loads through the part of the TLB at `base`, if it knows the page.
    #[inline(always)]
    fn load_fast<T: Int>(&self, linear: u64, base: Base) -> Option<T> {
        let entry = self.mmu.tlb.read.get(base, linear);
        hit(entry, linear, T::SIZE).then(|| {
            // SAFETY: the entry is valid for the page and the access does not leave it.
            unsafe { host_read(entry.host(linear)) }
        })
    }

    /// Stores to a linear address at the current privilege.
    #[inline(always)]
    pub fn store<T: Int>(&mut self, linear: u64, value: T) -> Result<(), Trap> {
        self.store_at(linear, value, self.mode.tlb_base, self.mode.context)
    }

    #[inline(always)]
    fn store_at<T: Int>(
        &mut self,
        linear: u64,
        value: T,
        base: Base,
        context: Context,
    ) -> Result<(), Trap> {
        let entry = self.mmu.tlb.write.get(base, linear);
        if !hit(entry, linear, T::SIZE) {
            return self.store_slow(linear, value, context);
        }
        // SAFETY: the entry is valid for the page and the access does not leave it; the flag byte
        // lives as long as the block.
        let flag = unsafe {
            host_write(entry.host(linear), value);
            compiler_fence(Ordering::SeqCst);
            (*entry.flag).load(Ordering::Relaxed)
        };
        if flag != 0 {
            let phys = entry.phys | linear & !PAGE;
            self.watched_page_written(phys, T::SIZE as u64);
        }
        Ok(())
    }

    /// Loads with supervisor privilege whatever the current one: for descriptor tables and TSSs
    /// (SDM vol. 3, 4.6.1, implicit supervisor-mode accesses).
    pub(crate) fn load_implicit<T: Int>(&mut self, linear: u64) -> Result<T, Trap> {
        let linear = linear & self.implicit_mask();
        match self.load_fast(linear, Base::of(Context::Supervisor)) {
            Some(value) => Ok(value),
            None => self.load_slow(linear, Context::Supervisor),
        }
    }

    /// Stores with supervisor privilege whatever the current one.
    pub(crate) fn store_implicit<T: Int>(&mut self, linear: u64, value: T) -> Result<(), Trap> {
        let linear = linear & self.implicit_mask();
        let context = Context::Supervisor;
        self.store_at(linear, value, Base::of(context), context)
    }

    /// Stores with the privilege of `cpl`, which is about to become the current one.
    pub(crate) fn store_as<T: Int>(&mut self, cpl: u8, linear: u64, value: T) -> Result<(), Trap> {
        let linear = linear & self.implicit_mask();
        let context = Self::plain_context(cpl);
        self.store_at(linear, value, Base::of(context), context)
    }

    /// Faults as a store with the privilege of `cpl` would.
    pub(crate) fn probe_write_as(&mut self, cpl: u8, linear: u64, len: u64) -> Result<(), Trap> {
        self.probe(linear & self.implicit_mask(), len, Self::plain_context(cpl))
    }

    fn plain_context(cpl: u8) -> Context {
        if cpl == 3 { Context::User } else { Context::Supervisor }
    }

    fn implicit_mask(&self) -> u64 {
        if self.mode.long { !0 } else { 0xffff_ffff }
    }

    /// Loads `buf.len()` bytes; all or nothing.
    pub fn load_bytes(&mut self, linear: u64, buf: &mut [u8]) -> Result<(), Trap> {
        self.load_span(linear, buf, self.mode.context)
    }

    /// Stores `data`; all or nothing.
    pub fn store_bytes(&mut self, linear: u64, data: &[u8]) -> Result<(), Trap> {
        self.store_span(linear, data, self.mode.context)
    }

    /// Faults as a store of `len` bytes would.
    pub fn probe_write(&mut self, linear: u64, len: u64) -> Result<(), Trap> {
        self.probe(linear, len, self.mode.context)
    }

    /// Faults as a store of `size` bytes would, of which only the first is looked at.
    pub fn probe_top(&mut self, linear: u64, size: usize) -> Result<(), Trap> {
        self.check_alignment(linear, size, self.mode.context)?;
        self.probe_write(linear, 1)
    }

    /// #AC, if alignment is checked and `linear` is not aligned to `size` (SDM vol. 3, 6.15).
    #[inline]
    pub(super) fn check_alignment(
        &mut self,
        linear: u64,
        size: usize,
        context: Context,
    ) -> Result<(), Trap> {
        if context == Context::UserAligned && linear & (size as u64 - 1) != 0 {
            return Err(self.raise(vector::AC, Some(0)));
        }
        Ok(())
    }

    /// The two parts of an access that goes on in the next page: address and length of each.
    fn across(&self, linear: u64, size: usize) -> Option<[(u64, usize); 2]> {
        let first = 4096 - (linear & 0xfff) as usize;
        (first < size)
            .then(|| [(linear, first), (self.advance(linear, first as u64), size - first)])
    }

    /// Loads from two pages that the TLB knows.
    fn load_across<T: Int>(&self, linear: u64, base: Base) -> Option<T> {
        let mut bytes = [0; LONGEST];
        let mut at = 0;
        for (linear, len) in self.across(linear, T::SIZE)? {
            let entry = self.mmu.tlb.read.get(base, linear);
            if !hit(entry, linear, len) {
                return None;
            }
            for (byte, distance) in bytes[at..at + len].iter_mut().zip(0..) {
                // SAFETY: the entry is valid for the page, and the bytes lie in it.
                *byte = unsafe { host_read(entry.host(linear + distance)) };
            }
            at += len;
        }
        Some(T::truncate(u128::from_le_bytes(bytes)))
    }

    #[cold]
    fn load_slow<T: Int>(&mut self, linear: u64, context: Context) -> Result<T, Trap> {
        self.check_alignment(linear, T::SIZE, context)?;
        if let Some(value) = self.load_across(linear, Base::of(context)) {
            return Ok(value);
        }
        let mut bytes = [0; LONGEST];
        self.load_span(linear, &mut bytes[..T::SIZE], context)?;
        Ok(T::truncate(u128::from_le_bytes(bytes)))
    }

    /// Stores to two pages that the TLB knows. Whether it did.
    fn store_across<T: Int>(&mut self, linear: u64, value: T, base: Base) -> bool {
        let Some(parts) = self.across(linear, T::SIZE) else { return false };
        let entries = parts.map(|(linear, len)| {
            let entry = *self.mmu.tlb.write.get(base, linear);
            hit(&entry, linear, len).then_some(entry)
        });
        let [Some(first), Some(second)] = entries else { return false };
        let bytes = value.widen().to_le_bytes();
        let mut rest = &bytes[..];
        for ((linear, len), entry) in parts.into_iter().zip([first, second]) {
            let (mine, others) = rest.split_at(len);
            for (byte, distance) in mine.iter().zip(0..) {
                // SAFETY: the entry is valid for the page, and the bytes lie in it.
                unsafe { host_write(entry.host(linear + distance), *byte) };
            }
            rest = others;
        }
        for (linear, len) in parts {
            self.span_written_at(linear, len, base);
        }
        true
    }

    #[cold]
    fn store_slow<T: Int>(&mut self, linear: u64, value: T, context: Context) -> Result<(), Trap> {
        self.check_alignment(linear, T::SIZE, context)?;
        if self.store_across(linear, value, Base::of(context)) {
            return Ok(());
        }
        self.store_span(linear, &value.widen().to_le_bytes()[..T::SIZE], context)
    }

    /// The linear address `distance` further on, wrapping as the mode does.
    fn advance(&self, linear: u64, distance: u64) -> u64 {
        let next = linear.wrapping_add(distance);
        if self.mode.long { next } else { next & 0xffff_ffff }
    }

    fn load_span(&mut self, linear: u64, buf: &mut [u8], context: Context) -> Result<(), Trap> {
        let access = Access::read(context);
        let first = (4096 - (linear & 0xfff)).min(buf.len() as u64);
        // Every page is translated before any byte is read: a read from a device has effects.
        let mut at = 0;
        while at < buf.len() as u64 {
            self.translate_for_read(self.advance(linear, at), access)?;
            at += if at == 0 { first } else { 4096 };
        }
        let mut done = 0;
        while done < buf.len() {
            let here = self.advance(linear, done as u64);
            let count = (4096 - (here & 0xfff) as usize).min(buf.len() - done);
            let phys = self.translate(here, access)?;
            self.phys_read_any(phys, &mut buf[done..done + count]);
            self.watch_data(here, count as u64, false);
            done += count;
        }
        Ok(())
    }

    fn store_span(&mut self, linear: u64, data: &[u8], context: Context) -> Result<(), Trap> {
        self.probe(linear, data.len() as u64, context)?;
        let access = Access { write: true, ..Access::read(context) };
        let mut done = 0;
        while done < data.len() {
            let here = self.advance(linear, done as u64);
            let count = (4096 - (here & 0xfff) as usize).min(data.len() - done);
            let phys = self.translate(here, access)?;
            self.phys_write_any(phys, &data[done..done + count]);
            self.watch_data(here, count as u64, true);
            done += count;
        }
        Ok(())
    }

    fn probe(&mut self, linear: u64, len: u64, context: Context) -> Result<(), Trap> {
        let access = Access { write: true, ..Access::read(context) };
        let mut at = 0;
        while at < len {
            let here = self.advance(linear, at);
            let phys = self.translate(here, access)?;
            self.fill_write(here, phys, context);
            at += 4096 - (here & 0xfff);
        }
        Ok(())
    }

    fn translate_for_read(&mut self, linear: u64, access: Access) -> Result<(), Trap> {
        let phys = self.translate(linear, access)?;
        self.fill_read(linear, phys, access.context);
        Ok(())
    }

    /// Whether pages in `context` at `linear` may lead straight to memory.
    fn may_fill(&self, linear: u64, context: Context) -> bool {
        context != Context::UserAligned && !self.page_has_watchpoint(linear)
    }

    fn fill_read(&mut self, linear: u64, phys: u64, context: Context) {
        if !self.may_fill(linear, context) {
            return;
        }
        let Some(page) = self.ram_page(phys & self.a20_mask()) else { return };
        let host = (page.block.host() as usize).wrapping_add(page.offset as usize);
        let entry = ReadEntry { page: linear & PAGE, host };
        if self.mmu.tlb.read.fill(Base::of(context), linear, entry) {
            self.mmu.tlb.read.relieve(Base::of(context), self.nanoseconds());
        }
    }

    fn fill_write(&mut self, linear: u64, phys: u64, context: Context) {
        if !self.may_fill(linear, context) || self.trial.is_some() {
            return;
        }
        let Some(page) = self.ram_page(phys & self.a20_mask()) else { return };
        if !page.writable {
            return;
        }
        let host = (page.block.host() as usize).wrapping_add(page.offset as usize);
        let flag: *const AtomicU8 = page.block.tracking().flags((page.offset >> 12) as usize);
        let entry = WriteEntry { page: linear & PAGE, host, flag, phys: phys & PAGE };
        if self.mmu.tlb.write.fill(Base::of(context), linear, entry) {
            self.mmu.tlb.write.relieve(Base::of(context), self.nanoseconds());
        }
    }

    /// The time base of RDTSC in nanoseconds.
    fn nanoseconds(&self) -> u64 {
        let tsc = &self.bus.tsc;
        (u128::from(tsc.ticks()) * 1_000_000_000 / u128::from(tsc.frequency().max(1))) as u64
    }

    fn a20_mask(&self) -> u64 {
        self.mmu.a20_mask
    }

    /// Reads any number of bytes within a page at `phys`.
    pub(crate) fn phys_read_any(&mut self, phys: u64, buf: &mut [u8]) {
        if buf.len() > LONGEST
            && let Some(page) = self.ram_page(phys & self.a20_mask())
        {
            page.block.read(page.offset + (phys & 0xfff), buf);
            return;
        }
        let mut at = phys;
        for piece in buf.chunks_mut(8) {
            self.phys_read(at, piece);
            at += piece.len() as u64;
        }
    }

    /// Writes any number of bytes within a page at `phys`.
    pub(crate) fn phys_write_any(&mut self, phys: u64, data: &[u8]) {
        match self.ram_page(phys & self.a20_mask()) {
            Some(page) if page.writable => {
                let offset = page.offset + (phys & 0xfff);
                if self.trial.is_some() {
                    let ram = page.block.clone();
                    self.trial.iter_mut().for_each(|trial| trial.note(&ram, offset, data.len()));
                    ram.write(offset, data);
                    let flags = ram.tracking().flags((offset >> 12) as usize);
                    self.exit_block |= flags.load(Ordering::Relaxed) & Client::Code as u8 != 0;
                    return;
                }
                let flags = page.block.tracking().flags((page.offset >> 12) as usize);
                let watched = flags.load(Ordering::Relaxed) != 0;
                match data.len() {
                    size @ (1 | 2 | 4 | 8) => {
                        let mut bytes = [0; 8];
                        bytes[..size].copy_from_slice(data);
                        page.block.write_uint(offset, size as u8, u64::from_le_bytes(bytes));
                    }
                    _ => page.block.write(offset, data),
                }
                self.exit_block |= watched;
            }
            _ => {
                let mut at = phys;
                for piece in data.chunks(8) {
                    self.phys_write(at, piece);
                    at += piece.len() as u64;
                }
            }
        }
    }

    /// A store hit a page somebody watches: for code, the screen, or migration.
    #[cold]
    pub(super) fn watched_page_written(&mut self, phys: u64, len: u64) {
        if let Some(page) = self.ram_page(phys & self.a20_mask()) {
            page.block.tracking().written(page.offset + (phys & 0xfff), len);
        }
        self.exit_block = true;
    }

    /// Reports a store to RAM by its host address, all in one page.
    #[cold]
    pub(crate) fn host_memory_written(&mut self, host: usize, len: u64) {
        let block = self.space().view.ranges().iter().filter_map(|range| range.ram()).find_map(
            |(block, ..)| {
                let offset = host.wrapping_sub(block.host() as usize) as u64;
                (offset < block.len()).then_some((block, offset))
            },
        );
        if let Some((block, offset)) = block {
            block.tracking().written(offset, len);
        }
    }

    /// Contiguous host memory at `linear` up to the end of its page, for bulk operations: `None`
    /// where an access would fault or must not bypass the slow path. Bytes written through it are
    /// reported with [`Cpu::span_written`]. The pointer is good until the next access that is not
    /// made through it: that one may reach a device, which may change the memory map.
    #[inline]
    pub fn ram_span(&mut self, linear: u64, write: bool) -> Option<(*mut u8, usize)> {
        let len = 4096 - (linear as usize & 0xfff);
        for attempt in 0..2 {
            let tlb = &self.mmu.tlb;
            let (known, host) = if write {
                let entry = tlb.write.get(self.mode.tlb_base, linear);
                (hit(entry, linear, 1), entry.host(linear))
            } else {
                let entry = tlb.read.get(self.mode.tlb_base, linear);
                (hit(entry, linear, 1), entry.host(linear))
            };
            if known {
                return Some((host as *mut u8, len));
            }
            if attempt == 0 && !self.fill_quietly(linear, write) {
                return None;
            }
        }
        None
    }

    /// Fills the TLB for an access that is allowed; `false`, and no trace, if it would fault.
    fn fill_quietly(&mut self, linear: u64, write: bool) -> bool {
        let (cr2, fault) = (self.state.cr2, self.fault);
        let context = self.mode.context;
        let access = Access { write, ..Access::read(context) };
        match self.translate(linear, access) {
            Ok(phys) => {
                if write {
                    self.fill_write(linear, phys, context);
                } else {
                    self.fill_read(linear, phys, context);
                }
                true
            }
            Err(_) => {
                (self.state.cr2, self.fault) = (cr2, fault);
                false
            }
        }
    }

    /// Enters the page of `linear` in the TLB, if it is not there and may be. Nothing happens where an
    /// access would fault.
    pub(crate) fn fill_ahead(&mut self, linear: u64, write: bool) -> bool {
        let known = |cpu: &Self| {
            let base = cpu.mode.tlb_base;
            match write {
                true => hit(cpu.mmu.tlb.write.get(base, linear), linear, 1),
                false => hit(cpu.mmu.tlb.read.get(base, linear), linear, 1),
            }
        };
        !known(self) && self.fill_quietly(linear, write) && known(self) && !self.exit_block
    }

    /// Reports bytes stored through [`Cpu::ram_span`], all in one page.
    #[inline]
    pub fn span_written(&mut self, linear: u64, len: usize) {
        self.span_written_at(linear, len, self.mode.tlb_base);
    }

    #[inline]
    fn span_written_at(&mut self, linear: u64, len: usize, base: Base) {
        compiler_fence(Ordering::SeqCst);
        let entry = *self.mmu.tlb.write.get(base, linear);
        if !hit(&entry, linear, 1) {
            return;
        }
        // SAFETY: a valid entry's flag byte lives as long as the block.
        if unsafe { (*entry.flag).load(Ordering::Relaxed) } != 0 {
            self.watched_page_written(entry.phys | linear & !PAGE, len as u64);
        }
    }

    /// The host address of the code byte at `linear`: identifies the byte whatever its linear
    /// address, for as long as the memory map stays. 0 if it does not lie in plain RAM.
    #[inline(always)]
    pub fn code_address(&mut self, linear: u64) -> Result<usize, Trap> {
        let entry = self.mmu.tlb.fetch.get(self.mode.tlb_base, linear);
        if hit(entry, linear, 1) {
            return Ok(entry.host(linear));
        }
        self.code_address_slow(linear)
    }

    #[cold]
    fn code_address_slow(&mut self, linear: u64) -> Result<usize, Trap> {
        let phys = self.translate(linear, self.fetch_access())?;
        let Some(page) = self.ram_page(phys & self.a20_mask()) else { return Ok(0) };
        let host = (page.block.host() as usize).wrapping_add(page.offset as usize);
        let entry = ReadEntry { page: linear & PAGE, host };
        self.mmu.tlb.fill_fetch(self.mode.tlb_base, linear, entry);
        Ok(host + (linear as usize & 0xfff))
    }

    fn fetch_access(&self) -> Access {
        Access { fetch: true, ..Access::read(self.mode.context) }
    }

    /// The page of code at `linear`.
    pub fn fetch_page(&mut self, linear: u64) -> Result<CodePage, Trap> {
        let phys = self.translate(linear, self.fetch_access())? & PAGE & self.a20_mask();
        Ok(match self.ram_page(phys) {
            Some(page) => CodePage::Ram { block: page.block.clone(), offset: page.offset, phys },
            None => CodePage::Other { phys },
        })
    }

    /// Up to `count` bytes of code at the instruction pointer, as far as they may be executed and lie
    /// in RAM.
    pub(crate) fn fetch_ahead(&mut self, count: u64) -> Vec<u8> {
        let rip = self.state.rip;
        let limit = u64::from(self.state.seg[Seg::Cs as usize].limit);
        let within = match self.mode.code_bits {
            64 => count,
            _ => count.min((limit + 1).saturating_sub(rip)),
        };
        let mut bytes = vec![0; within as usize];
        let mut done = 0;
        while done < bytes.len() {
            let linear = rip.wrapping_add(done as u64 + self.mode.base[Seg::Cs as usize]);
            let linear = linear & self.mode.linear_mask;
            let Ok(CodePage::Ram { block, offset, .. }) = self.fetch_page(linear) else { break };
            let in_page = (linear & !PAGE) as usize;
            let here = (bytes.len() - done).min(4096 - in_page);
            block.read(offset + in_page as u64, &mut bytes[done..done + here]);
            done += here;
        }
        bytes.truncate(done);
        bytes
    }

    /// Fetches code bytes from wherever they are, up to the page's end; the number fetched.
    pub fn fetch_bytes(&mut self, linear: u64, buf: &mut [u8]) -> Result<usize, Trap> {
        let phys = self.translate(linear, self.fetch_access())?;
        let count = buf.len().min(4096 - (linear as usize & 0xfff));
        self.phys_read_any(phys, &mut buf[..count]);
        Ok(count)
    }
}
