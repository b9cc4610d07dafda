//! The memory that translated code lies in: mapped twice, once to write and once to execute, so that
//! no mapping is ever both.
#![allow(unsafe_code)]
// Unsafe: memory is mapped, and written while other threads may execute it. Whatever is executable
// was written before its address was given to anybody, but for the distances of direct jumps, which
// lie within aligned words of 8 bytes each and are replaced in one piece.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// Both mappings.
pub struct CodeMemory {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    len: usize,
}

// SAFETY: the mappings belong to nobody else and live as long as this does.
unsafe impl Send for CodeMemory {}
// SAFETY: shared access only patches atomically; writing takes `&mut`.
unsafe impl Sync for CodeMemory {}

impl CodeMemory {
    /// Maps `len` bytes. Pages take up memory once code was written to them.
    pub fn new(len: usize) -> nix::Result<Self> {
        let file = memfd_create(c"rhea-code", MFdFlags::MFD_CLOEXEC)?;
        nix::unistd::ftruncate(&file, len as i64)?;
        let size = NonZeroUsize::new(len).ok_or(nix::Error::EINVAL)?;
        let map = |prot| {
            // SAFETY: a new mapping at an address of the kernel's choice.
            unsafe { mmap(None, size, prot, MapFlags::MAP_SHARED, file.as_fd(), 0) }
        };
        let writable = map(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?.cast();
        let executable = map(ProtFlags::PROT_READ | ProtFlags::PROT_EXEC)?.cast();
        Ok(CodeMemory { writable, executable, len })
    }

    /// Where offset 0 is executed.
    pub fn start(&self) -> usize {
        self.executable.as_ptr() as usize
    }

    /// Bytes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Writes code that nobody executes yet. `false` if it does not fit.
    #[must_use]
    pub fn write(&mut self, offset: usize, code: &[u8]) -> bool {
        if offset.checked_add(code.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        // SAFETY: within the mapping, as just checked.
        unsafe {
            let to = self.writable.as_ptr().add(offset);
            std::ptr::copy_nonoverlapping(code.as_ptr(), to, code.len());
        }
        true
    }

    /// Lets go of all pages of the mapping to write, so that they are not counted twice. What was written
    /// stays; whoever writes again takes the page back.
    pub fn settle(&self) {
        // If the kernel does not like it, they go on being counted.
        // SAFETY: the mapping, which is a shared one of a file: that keeps what its pages hold (madvise(2),
        // MADV_DONTNEED).
        let _ = unsafe { madvise(self.writable.cast(), self.len, MmapAdvise::MADV_DONTNEED) };
    }

    /// Reads what was written, as far as it is there.
    #[cfg(test)]
    pub fn read(&self, offset: usize, code: &mut [u8]) {
        assert!(offset + code.len() <= self.len);
        // SAFETY: within the mapping, as just checked.
        unsafe {
            let from = self.writable.as_ptr().add(offset);
            std::ptr::copy_nonoverlapping(from, code.as_mut_ptr(), code.len());
        }
    }

    /// The word that holds the distance at executable address `site`, as `mapping` shows it, and how far it
    /// is shifted there.
    fn distance(&self, mapping: NonNull<u8>, site: usize) -> Option<(&AtomicU64, usize)> {
        let offset = site.wrapping_sub(self.start());
        let (word, shift) = (offset & !7, 8 * (offset & 7));
        if shift > 32 || word >= self.len & !7 {
            return None;
        }
        // SAFETY: within the mapping and aligned, as just checked. Only what `patch` asks for is written.
        Some((unsafe { AtomicU64::from_ptr(mapping.as_ptr().add(word).cast()) }, shift))
    }

    /// The word at executable address `site`. It is read where it is executed: reading it in the mapping to
    /// write would bring pages there, the kernel being generous with those around.
    fn word(&self, site: usize) -> Option<(u64, usize)> {
        let (cell, shift) = self.distance(self.executable, site)?;
        Some((cell.load(Ordering::Relaxed), shift))
    }

    /// Where the jump leads whose distance lies at executable address `site`.
    pub fn target(&self, site: usize) -> Option<usize> {
        let (word, shift) = self.word(site)?;
        Some((site + 4).wrapping_add_signed((word >> shift) as i32 as isize))
    }

    /// Replaces the distance at executable address `site`, so that the jump it belongs to leads to
    /// `target`. One thread at a time.
    pub fn patch(&self, site: usize, target: usize) {
        let Some((old, shift)) = self.word(site) else { return };
        let Some((cell, _)) = self.distance(self.writable, site) else { return };
        let distance = target.wrapping_sub(site + 4) as u32;
        let new = old & !(u64::from(u32::MAX) << shift) | u64::from(distance) << shift;
        cell.store(new, Ordering::Release);
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        for mapping in [self.writable, self.executable] {
            // SAFETY: nobody executes or writes the memory any more: whoever does holds a reference.
            let _ = unsafe { munmap(mapping.cast(), self.len) };
        }
    }
}

/// A page that nobody can read.
pub struct ClosedPage(NonNull<u8>);

// SAFETY: the page is never accessed by Rust code.
unsafe impl Send for ClosedPage {}
// SAFETY: as above.
unsafe impl Sync for ClosedPage {}

const CLOSED_LEN: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

impl ClosedPage {
    /// Maps it.
    pub fn new() -> nix::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe {
            mmap_anonymous(None, CLOSED_LEN, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE)?
        };
        Ok(ClosedPage(page.cast()))
    }

    /// Its address.
    pub fn address(&self) -> *mut u8 {
        self.0.as_ptr()
    }
}

impl Drop for ClosedPage {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody uses it any more.
        let _ = unsafe { munmap(self.0.cast(), CLOSED_LEN.get()) };
    }
}
