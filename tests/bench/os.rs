//! What workloads ask of the kernel that the standard library does not offer.
//!
//! All `unsafe` for system calls is here; pages are handed out as slices.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

pub const PAGE: usize = 4096;

/// The result of a system call; a workload cannot go on without it.
pub fn check(result: i64, call: &str) -> i64 {
    assert!(result >= 0, "{call}: {}", io::Error::last_os_error());
    result
}

/// What may be done with pages.
#[derive(Clone, Copy)]
pub enum Access {
    Read,
    ReadWrite,
    Everything,
}

impl Access {
    fn bits(self) -> i32 {
        match self {
            Self::Read => libc::PROT_READ,
            Self::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
            Self::Everything => libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
        }
    }
}

/// Fresh private pages, given back when dropped.
///
/// They are never huge unless asked for: whether the kernel hands out huge
/// pages by itself differs between the guest's and the host's.
pub struct Pages {
    start: *mut u8,
    length: usize,
    // Not to be shared between threads while it can be written.
    _owned: PhantomData<*mut u8>,
}

impl Pages {
    pub fn new(length: usize, access: Access) -> Self {
        Self::with_advice(length, access, libc::MADV_NOHUGEPAGE)
    }

    /// Huge pages where the kernel has them.
    pub fn huge(length: usize) -> Self {
        Self::with_advice(length, Access::ReadWrite, libc::MADV_HUGEPAGE)
    }

    fn with_advice(length: usize, access: Access, advice: i32) -> Self {
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                access.bits(),
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert!(start != libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
        // SAFETY: advice on the pages just mapped; kernels without huge pages refuse it, harmlessly.
        unsafe { libc::madvise(start, length, advice) };
        Self { start: start.cast(), length, _owned: PhantomData }
    }

    /// Changes what may be done with the pages from `offset` on.
    ///
    /// # Safety
    ///
    /// No slice of these pages may be used for what they no longer allow.
    pub unsafe fn protect(&self, offset: usize, length: usize, access: Access) {
        assert!(offset + length <= self.length);
        // SAFETY: within the mapping; the caller answers for its slices.
        let result =
            unsafe { libc::mprotect(self.start.add(offset).cast(), length, access.bits()) };
        check(result.into(), "mprotect");
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is ours alone, zeroed, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }

    pub fn words(&mut self) -> &mut [u64] {
        // SAFETY: as in `bytes`; pages are aligned for any type.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.length / 8) }
    }

    /// Calls the machine code at `offset` as a function.
    ///
    /// # Safety
    ///
    /// There must be a function of this type, and it must keep to the ABI.
    pub unsafe fn call(&self, offset: usize, argument: u64) -> u64 {
        assert!(offset < self.length);
        // SAFETY: the caller vouches for the code; data and function pointers are alike on x86-64.
        unsafe {
            let function: extern "sysv64" fn(u64) -> u64 =
                std::mem::transmute(self.start.add(offset));
            function(argument)
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new`, and slices of it cannot outlive `self`.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

/// The CPUs that this process may use.
pub fn cpus() -> Vec<usize> {
    let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: the kernel fills in a set of the size it is told; all zeros is a valid, empty one.
    let set = unsafe {
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr());
        set.assume_init()
    };
    // SAFETY: the numbers are within the set.
    (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

/// Keeps the calling thread on one CPU.
pub fn run_on(cpu: usize) {
    run_on_all(&[cpu]);
}

/// Keeps the calling thread, and threads it starts, on these CPUs.
pub fn run_on_all(cpus: &[usize]) {
    // SAFETY: all zeros is an empty set; the numbers come from `cpus` and are within it.
    let result = unsafe {
        let mut set: libc::cpu_set_t = MaybeUninit::zeroed().assume_init();
        cpus.iter().for_each(|cpu| libc::CPU_SET(*cpu, &mut set));
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    check(result.into(), "sched_setaffinity");
}

/// Runs `work` in a copy of this process, which then ends, and waits for it.
/// Returns the copy's exit status.
pub fn in_child(work: impl FnOnce() -> u8) -> u64 {
    // SAFETY: workloads that fork have no other threads, so that the copy is whole; it leaves by
    // `_exit`, so that no destructor or output buffer runs twice.
    unsafe {
        let pid = check(libc::fork().into(), "fork") as i32;
        if pid == 0 {
            libc::_exit(work().into());
        }
        let mut status = 0;
        check(libc::waitpid(pid, &mut status, 0).into(), "waitpid");
        libc::WEXITSTATUS(status) as u64
    }
}
