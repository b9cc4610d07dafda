//! Blocks of guest RAM and ROM content.
#![allow(unsafe_code)] // Owns the mapping that guest memory lives in.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use super::{Advice, PAGE_SIZE, PageTracking, barrier};

/// Why a RAM block could not be had.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The host refused the mapping.
    #[error("cannot set up guest memory '{name}': {}", crate::report::strerror(&io::Error::from(*source)))]
    Map {
        /// The block's name.
        name: String,
        /// The host's reason.
        source: nix::Error,
    },
    /// A block of no bytes, or of more than the address space holds.
    #[error("cannot set up guest memory '{0}': invalid size")]
    Size(String),
    /// The host kernel lacks membarrier(2).
    #[error("the host kernel does not offer membarrier(2), which guest memory needs (Linux 4.14)")]
    NoBarrier,
}

/// How a block is mapped.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    /// Stores reach the file, and processes forked off.
    pub share: bool,
    /// The host sets swap space (or huge pages) aside for it.
    pub reserve: bool,
    /// Size of the host's pages behind it, a power of two.
    pub page_size: u64,
}

impl Default for Mapping {
    fn default() -> Self {
        Mapping { share: false, reserve: false, page_size: PAGE_SIZE }
    }
}

impl Mapping {
    fn flags(&self) -> MapFlags {
        let mut flags = if self.share { MapFlags::MAP_SHARED } else { MapFlags::MAP_PRIVATE };
        flags.set(MapFlags::MAP_NORESERVE, !self.reserve);
        flags
    }

    /// Whole pages that hold `len` bytes.
    fn checked_len(&self, name: &str, len: u64) -> Result<NonZeroUsize, RamError> {
        if !barrier::available() {
            return Err(RamError::NoBarrier);
        }
        len.checked_next_multiple_of(self.page_size)
            .and_then(|len| usize::try_from(len).ok())
            .filter(|&len| len <= isize::MAX as usize)
            .and_then(NonZeroUsize::new)
            .ok_or_else(|| RamError::Size(name.into()))
    }
}

/// A piece of host memory that backs guest RAM or ROM.
///
/// The guest writes it at any time from any thread, so no reference into it is ever made: content
/// is copied in and out through raw pointers.
pub struct RamBlock {
    name: String,
    host: NonNull<u8>,
    len: u64,
    /// Length of the mapping: whole pages of the host.
    mapped: usize,
    discard: bool,
    tracking: PageTracking,
}

// SAFETY: the block owns its mapping until drop; all access is by copying through raw pointers, which
// any thread may do. Concurrent guest-visible accesses may tear as they may on hardware, but no Rust
// reference to the content exists that could be invalidated.
unsafe impl Send for RamBlock {}
// SAFETY: as above.
unsafe impl Sync for RamBlock {}

impl RamBlock {
    /// Private anonymous memory, zeroed, reserved lazily.
    pub fn anonymous(name: &str, len: u64) -> Result<Self, RamError> {
        Self::without_file(name, len, &Mapping::default())
    }

    /// Anonymous memory, zeroed.
    pub fn without_file(name: &str, len: u64, mapping: &Mapping) -> Result<Self, RamError> {
        let size = mapping.checked_len(name, len)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
        let host = unsafe { mmap_anonymous(None, size, protection, mapping.flags()) };
        Self::from_mapping(name, len, size, host)
    }

    /// Memory backed by a file or memfd from `offset`.
    pub fn from_file(
        name: &str,
        len: u64,
        file: &File,
        offset: u64,
        mapping: &Mapping,
    ) -> Result<Self, RamError> {
        let size = mapping.checked_len(name, len)?;
        let offset = i64::try_from(offset).map_err(|_| RamError::Size(name.into()))?;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing in this process;
        // that the file may change behind it is the same as a guest store.
        let host = unsafe {
            let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            mmap(None, size, protection, mapping.flags(), file.as_fd(), offset)
        };
        Self::from_mapping(name, len, size, host)
    }

    fn from_mapping(
        name: &str,
        len: u64,
        mapped: NonZeroUsize,
        host: nix::Result<NonNull<libc::c_void>>,
    ) -> Result<Self, RamError> {
        let host = host.map_err(|source| RamError::Map { name: name.into(), source })?.cast();
        let tracking = PageTracking::new(len);
        Ok(RamBlock {
            name: name.into(),
            host,
            len,
            mapped: mapped.get(),
            discard: false,
            tracking,
        })
    }

    /// The block's name, as `info ramblock` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Length in bytes.
    #[allow(clippy::len_without_is_empty)] // A block is never empty.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// When the block goes, the content of the file behind it goes too.
    pub(super) fn discard_at_end(&mut self) {
        self.discard = true;
    }

    /// Length of the mapping, which is a whole number of the host's pages.
    pub(super) fn mapped(&self) -> usize {
        self.mapped
    }

    /// Start of the mapping; valid for [`Self::len`] bytes while the block lives.
    #[inline(always)]
    pub fn host(&self) -> *mut u8 {
        self.host.as_ptr()
    }

    /// Who watches which page.
    #[inline(always)]
    pub fn tracking(&self) -> &PageTracking {
        &self.tracking
    }

    /// How many of `len` bytes at `offset` lie inside the block.
    fn inside(&self, offset: u64, len: usize) -> usize {
        (self.len.saturating_sub(offset)).min(len as u64) as usize
    }

    /// Where a number of `size` bytes lies, if it is one that is read and written in one access.
    fn number(&self, offset: u64, size: usize) -> Option<Number<'_>> {
        let whole = matches!(size, 1 | 2 | 4 | 8) && offset.is_multiple_of(size as u64);
        if !whole || self.inside(offset, size) < size {
            return None;
        }
        // SAFETY: inside the mapping, which lives as long as the block, begins at a page and is shared with
        // others who take it for atomic: the guest's processors and the kernel.
        unsafe {
            let place = self.host().add(offset as usize);
            Some(match size {
                1 => Number::Byte(AtomicU8::from_ptr(place)),
                2 => Number::Word(AtomicU16::from_ptr(place.cast())),
                4 => Number::Double(AtomicU32::from_ptr(place.cast())),
                _ => Number::Quad(AtomicU64::from_ptr(place.cast())),
            })
        }
    }

    /// Copies content out. Bytes beyond the block's end are left as they are. What can be one number is
    /// read in one access: an index of a ring, say, which the guest changes meanwhile.
    pub fn read(&self, offset: u64, buf: &mut [u8]) {
        if let Some(number) = self.number(offset, buf.len()) {
            buf.copy_from_slice(&number.load().to_le_bytes()[..buf.len()]);
            return;
        }
        let count = self.inside(offset, buf.len());
        if count > 0 {
            // SAFETY: offset + count <= len, inside the mapping; `buf` is distinct memory.
            unsafe {
                let source = self.host().add(offset as usize);
                std::ptr::copy_nonoverlapping(source, buf.as_mut_ptr(), count);
            }
        }
    }

    /// Copies content in and reports it to who watches. Bytes beyond the block's end are dropped. What can
    /// be one number is written in one access.
    pub fn write(&self, offset: u64, buf: &[u8]) {
        let count = self.inside(offset, buf.len());
        if count == 0 {
            return;
        }
        if let Some(number) = self.number(offset, buf.len()) {
            let mut bytes = [0; 8];
            bytes[..buf.len()].copy_from_slice(buf);
            number.store(u64::from_le_bytes(bytes));
        } else {
            // SAFETY: offset + count <= len, inside the mapping; `buf` is distinct memory.
            unsafe {
                let target = self.host().add(offset as usize);
                std::ptr::copy_nonoverlapping(buf.as_ptr(), target, count);
            }
        }
        self.tracking.written(offset, count as u64);
    }

    /// Fills a range with one byte.
    pub fn fill(&self, offset: u64, len: u64, value: u8) {
        let count = self.inside(offset, len.min(isize::MAX as u64) as usize);
        if count > 0 {
            // SAFETY: offset + count <= len, inside the mapping.
            unsafe { self.host().add(offset as usize).write_bytes(value, count) };
            self.tracking.written(offset, count as u64);
        }
    }

    /// Reads a little-endian number of 1 to 8 bytes; what lies beyond the block's end is ones.
    pub fn read_uint(&self, offset: u64, size: u8) -> u64 {
        let size = size.min(8);
        if let Some(number) = self.number(offset, size.into()) {
            return number.load();
        }
        let mut bytes = [0xff; 8];
        self.read(offset, &mut bytes[..usize::from(size)]);
        u64::from_le_bytes(bytes) & mask(size)
    }

    /// Writes a little-endian number of 1 to 8 bytes.
    pub fn write_uint(&self, offset: u64, size: u8, value: u64) {
        self.write(offset, &value.to_le_bytes()[..usize::from(size.min(8))]);
    }
}

/// A number in memory, in little-endian order, that is read and written in one access. The C library's
/// `memcpy` is free to take two bytes apart, and does: between them, an index may come from 0xff to 0x100.
enum Number<'a> {
    Byte(&'a AtomicU8),
    Word(&'a AtomicU16),
    Double(&'a AtomicU32),
    Quad(&'a AtomicU64),
}

impl Number<'_> {
    #[inline(always)]
    fn load(&self) -> u64 {
        match self {
            Number::Byte(cell) => cell.load(Ordering::Relaxed).into(),
            Number::Word(cell) => u16::from_le(cell.load(Ordering::Relaxed)).into(),
            Number::Double(cell) => u32::from_le(cell.load(Ordering::Relaxed)).into(),
            Number::Quad(cell) => u64::from_le(cell.load(Ordering::Relaxed)),
        }
    }

    #[inline(always)]
    fn store(&self, value: u64) {
        match self {
            Number::Byte(cell) => cell.store(value as u8, Ordering::Relaxed),
            Number::Word(cell) => cell.store((value as u16).to_le(), Ordering::Relaxed),
            Number::Double(cell) => cell.store((value as u32).to_le(), Ordering::Relaxed),
            Number::Quad(cell) => cell.store(value.to_le(), Ordering::Relaxed),
        }
    }
}

/// The value mask of an access of `size` bytes.
pub(super) fn mask(size: u8) -> u64 {
    if size >= 8 { !0 } else { (1 << (8 * u32::from(size))) - 1 }
}

impl Drop for RamBlock {
    fn drop(&mut self) {
        if self.discard {
            // There is nobody to tell if the file system cannot.
            let _ = self.advise(Advice::Discard);
        }
        // SAFETY: the mapping was made by this block with this length, and nobody else unmaps it.
        // A failure would leave it mapped, which is harmless.
        let _ = unsafe { munmap(self.host.cast(), self.mapped) };
    }
}

impl std::fmt::Debug for RamBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RamBlock({}, {:#x} bytes)", self.name, self.len)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn numbers_are_never_seen_half_written() {
        const HALFWAY: [u16; 2] = [0xff, 0x100];
        let block = RamBlock::anonymous("t", 0x1000).unwrap();
        let block = &block;
        let done = &AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    HALFWAY.iter().for_each(|value| block.write(0x10, &value.to_le_bytes()));
                }
            });
            for _ in 0..3_000_000 {
                let mut bytes = [0; 2];
                block.read(0x10, &mut bytes);
                let value = u16::from_le_bytes(bytes);
                assert!(value == 0 || HALFWAY.contains(&value), "{value:#x}");
            }
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn accesses_stay_inside() {
        let block = RamBlock::anonymous("t", 0x1000).unwrap();
        block.write(0xffe, &[1, 2, 3, 4]);
        let mut buf = [9; 4];
        block.read(0xffe, &mut buf);
        assert_eq!(buf, [1, 2, 9, 9]);
        block.read(!0, &mut buf);
        block.write_uint(!0, 8, 0);
        assert_eq!(block.read_uint(0xffe, 4), 0xffff_0201);
        block.fill(0xff0, !0, 7);
        assert_eq!(block.read_uint(0xff8, 8), 0x0707_0707_0707_0707);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        assert!(matches!(RamBlock::anonymous("t", 0), Err(RamError::Size(_))));
        assert!(matches!(RamBlock::anonymous("t", !0), Err(RamError::Size(_))));
        assert!(matches!(RamBlock::anonymous("t", 1 << 62), Err(RamError::Map { .. })));
    }
}
