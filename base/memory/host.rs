//! What the host is told about guest memory: how to treat its pages, which NUMA nodes to take them
//! from, to provide them all at once.
#![allow(unsafe_code)] // System calls on ranges of a block's mapping.

use std::io;

use super::RamBlock;

/// How the host is to treat a block's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Equal pages may be shared.
    Merge,
    /// They are not part of a core dump.
    NoDump,
    /// They are not copied into child processes.
    NoFork,
    /// Huge pages are welcome.
    HugePages,
    /// Their content is no longer needed, in a file either.
    Discard,
}

/// Where the host takes pages from; numbers are those of mbind(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Binding<'a> {
    pub mode: i32,
    /// Nodes, one bit each.
    pub nodes: &'a [u64],
}

/// Fail if pages cannot be placed so, and move those that are elsewhere.
const MBIND_STRICT_MOVE: u32 = 1 | 2;

impl RamBlock {
    /// Passes advice on to the host.
    pub fn advise(&self, advice: Advice) -> io::Result<()> {
        let number = match advice {
            Advice::Merge => libc::MADV_MERGEABLE,
            Advice::NoDump => libc::MADV_DONTDUMP,
            Advice::NoFork => libc::MADV_DONTFORK,
            Advice::HugePages => libc::MADV_HUGEPAGE,
            Advice::Discard => libc::MADV_REMOVE,
        };
        self.madvise(0, self.mapped(), number)
    }

    fn madvise(&self, offset: usize, len: usize, advice: i32) -> io::Result<()> {
        let len = len.min(self.mapped().saturating_sub(offset));
        // SAFETY: the range lies inside the block's own mapping. No advice used here takes memory
        // away that somebody holds a reference to: content is only ever accessed by copying.
        let result = unsafe { libc::madvise(self.host().add(offset).cast(), len, advice) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Takes pages from NUMA nodes of the host.
    pub(super) fn bind(&self, binding: Binding<'_>) -> io::Result<()> {
        let bits = 64 * binding.nodes.len() as u64;
        // SAFETY: the range is the block's own mapping; the mask is as long as the kernel is told (it
        // reads one bit less than the number given).
        let result = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.host(),
                self.mapped(),
                binding.mode,
                binding.nodes.as_ptr(),
                bits + 1,
                MBIND_STRICT_MOVE,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Makes the host provide all pages now, with so many threads.
    pub(super) fn populate(&self, page_size: usize, threads: usize) -> io::Result<()> {
        let pages = self.mapped().div_ceil(page_size);
        let share = pages.div_ceil(threads.max(1)) * page_size;
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.mapped())
                .step_by(share.max(page_size))
                .map(|start| scope.spawn(move || self.populate_range(start, share, page_size)))
                .collect();
            workers.into_iter().try_for_each(|worker| {
                worker.join().unwrap_or_else(|_| Err(io::Error::other("a thread ended early")))
            })
        })
    }

    fn populate_range(&self, start: usize, len: usize, page_size: usize) -> io::Result<()> {
        match self.madvise(start, len, libc::MADV_POPULATE_WRITE) {
            // Kernels before 5.14.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let end = start.saturating_add(len).min(self.mapped());
                for at in (start..end).step_by(page_size) {
                    // SAFETY: inside the mapping, which is writable; nobody else uses it yet.
                    unsafe {
                        let byte = self.host().add(at);
                        byte.write_volatile(byte.read_volatile());
                    }
                }
                Ok(())
            }
            result => result,
        }
    }
}
