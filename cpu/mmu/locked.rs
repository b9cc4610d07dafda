//! Read-modify-write accesses, atomic where the instruction is locked.
#![allow(unsafe_code)]
// Unsafe: atomic operations on guest RAM by host address; see `access` for why the address holds.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::tlb::{PAGE, hit};
use crate::core::{Cpu, Trap};
use crate::int::Int;

/// Serialises what the host cannot do atomically: locked accesses that straddle an 8-byte boundary,
/// that reach device memory, or that are 16 bytes wide on hosts without such an instruction. Atomic
/// towards each other only; processors with bus locks fare no better in speed.
static BUS_LOCK: Mutex<()> = Mutex::new(());

/// Replaces `T::SIZE` bytes at `host` by what `f` makes of them. `None` if the host cannot do so
/// atomically.
///
/// # Safety
/// `host` is mapped, writable guest memory for `T::SIZE` bytes that lie in one page.
unsafe fn atomic_update<T: Int>(host: usize, f: &mut impl FnMut(T) -> T) -> Option<(T, T)> {
    macro_rules! update {
        ($atomic:ty) => {{
            // SAFETY: mapped by the caller's promise, and aligned as the match below checked.
            let cell = unsafe { <$atomic>::from_ptr(host as *mut _) };
            let mut old = cell.load(Ordering::Relaxed);
            loop {
                let before = T::truncate(old.widen());
                let after = f(before);
                let new = Int::truncate(after.widen());
                match cell.compare_exchange_weak(old, new, Ordering::SeqCst, Ordering::Relaxed) {
                    Ok(_) => return Some((before, after)),
                    Err(now) => old = now,
                }
            }
        }};
    }
    match T::SIZE {
        1 => update!(AtomicU8),
        2 if host.is_multiple_of(2) => update!(AtomicU16),
        4 if host.is_multiple_of(4) => update!(AtomicU32),
        8 if host.is_multiple_of(8) => update!(AtomicU64),
        2 | 4 if host % 8 + T::SIZE <= 8 => {
            // Misaligned, but inside an aligned quadword.
            let shift = 8 * (host % 8);
            let mask = (!0 >> (64 - 8 * T::SIZE)) << shift;
            // SAFETY: an aligned quadword never leaves the page; mapped by the caller's promise.
            let cell = unsafe { AtomicU64::from_ptr((host & !7) as *mut u64) };
            let mut old = cell.load(Ordering::Relaxed);
            loop {
                let before = T::truncate(((old & mask) >> shift).into());
                let after = f(before);
                let value: u64 = Int::truncate(after.widen());
                let new = old & !mask | value << shift;
                match cell.compare_exchange_weak(old, new, Ordering::SeqCst, Ordering::Relaxed) {
                    Ok(_) => return Some((before, after)),
                    Err(now) => old = now,
                }
            }
        }
        // SAFETY: the caller's promise; aligned as just checked.
        16 if host.is_multiple_of(16) => unsafe { atomic_update_16(host, f) },
        _ => None,
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn atomic_update_16<T: Int>(host: usize, f: &mut impl FnMut(T) -> T) -> Option<(T, T)> {
    if !std::arch::is_x86_feature_detected!("cmpxchg16b") {
        return None;
    }
    let cell = host as *mut u128;
    let mut old = 0;
    loop {
        let before = T::truncate(old.widen());
        let after = f(before);
        let new: u128 = Int::truncate(after.widen());
        // SAFETY: the instruction exists, the caller promised mapped memory and checked alignment.
        let now = unsafe { cmpxchg16b(cell, old, new) };
        if now == old {
            return Some((before, after));
        }
        old = now;
    }
}

/// LOCK CMPXCHG16B. By hand, because the intrinsic compiles to a library call wherever it is inlined
/// into a function that does not enable the feature.
#[cfg(target_arch = "x86_64")]
unsafe fn cmpxchg16b(cell: *mut u128, old: u128, new: u128) -> u128 {
    let (mut low, mut high) = (old as u64, (old >> 64) as u64);
    // SAFETY: the caller's promise covers the memory; RBX, which the compiler keeps for itself, is
    // exchanged and restored.
    unsafe {
        std::arch::asm!(
            "xchg rsi, rbx",
            "lock cmpxchg16b [rdi]",
            "mov rbx, rsi",
            inout("rsi") new as u64 => _,
            in("rdi") cell,
            in("rcx") (new >> 64) as u64,
            inout("rax") low,
            inout("rdx") high,
            options(nostack),
        );
    }
    u128::from(high) << 64 | u128::from(low)
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn atomic_update_16<T: Int>(_: usize, _: &mut impl FnMut(T) -> T) -> Option<(T, T)> {
    None
}

impl Cpu {
    /// Replaces the value at `linear` by `f` of it; returns the old and the new value. A locked
    /// access is atomic towards all processors, and `f` may be called more than once for it.
    #[inline]
    pub fn rmw<T: Int>(
        &mut self,
        linear: u64,
        locked: bool,
        mut f: impl FnMut(T) -> T,
    ) -> Result<(T, T), Trap> {
        if locked {
            return self.rmw_locked(linear, f);
        }
        self.probe_write_fast(linear, T::SIZE)?;
        let old: T = self.load(linear)?;
        let new = f(old);
        self.store(linear, new)?;
        Ok((old, new))
    }

    /// As [`Cpu::probe_write`], without a detour when the TLB knows the page as writable.
    #[inline(always)]
    fn probe_write_fast(&mut self, linear: u64, size: usize) -> Result<(), Trap> {
        if hit(self.mmu.tlb.write.get(self.mode.tlb_base, linear), linear, size) {
            return Ok(());
        }
        // Before page faults, as for loads and stores.
        self.check_alignment(linear, size, self.mode.context)?;
        self.probe_write(linear, size as u64)
    }

    fn rmw_locked<T: Int>(
        &mut self,
        linear: u64,
        mut f: impl FnMut(T) -> T,
    ) -> Result<(T, T), Trap> {
        self.probe_write_fast(linear, T::SIZE)?;
        let entry = *self.mmu.tlb.write.get(self.mode.tlb_base, linear);
        if hit(&entry, linear, T::SIZE) {
            let host = entry.host(linear);
            // SAFETY: the entry is valid for the page and the access does not leave it.
            if let Some(done) = unsafe { atomic_update(host, &mut f) } {
                // SAFETY: a valid entry's flag byte lives as long as the block.
                if unsafe { (*entry.flag).load(Ordering::SeqCst) } != 0 {
                    self.watched_page_written(entry.phys | linear & !PAGE, T::SIZE as u64);
                }
                return Ok(done);
            }
        }
        let _bus = BUS_LOCK.lock();
        let old: T = self.load(linear)?;
        let new = f(old);
        self.store(linear, new)?;
        Ok((old, new))
    }

    /// CMPXCHG16B: stores `new` if the value is `expected` (otherwise stores the value back, as
    /// the instruction does); returns the old value.
    pub fn cmpxchg16(
        &mut self,
        linear: u64,
        expected: u128,
        new: u128,
        locked: bool,
    ) -> Result<u128, Trap> {
        let update = |old| if old == expected { new } else { old };
        self.rmw(linear, locked, update).map(|(old, _)| old)
    }
}
