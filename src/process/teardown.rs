//! `-run-with async-teardown=on`: the process ends at once, however much memory it has.
//!
//! A process's memory is freed when the last of those who share it has ended. So a second process
//! that shares it sleeps until the first is gone, and the freeing is its own burden then.
//!
//! `unsafe` because `clone` is: the two processes share memory, and nothing but the stack is the
//! second one's own.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{Pid, getpid, getppid};

/// Enough for a handful of system calls.
const STACK: usize = 64 << 10;

/// Starts the second process. It is not waited for: it ends last.
pub fn start() -> nix::Result<()> {
    // Nobody is left to free it.
    let stack = Box::leak(vec![0_u128; STACK / 16].into_boxed_slice());
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    let parent = getpid().as_raw() as usize as *mut c_void;
    let top = stack.as_mut_ptr_range().end.cast();
    // SAFETY: `outlive` makes system calls only, on a stack that nobody else has; all signals are
    // blocked in it, so that no handler of the first process runs there.
    let cloned = unsafe { libc::clone(outlive, top, libc::CLONE_VM, parent) };
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    Errno::result(cloned).map(drop)
}

/// The second process. Its system calls succeed and so leave the error number, which is the first
/// one's too, alone.
extern "C" fn outlive(parent: *mut c_void) -> c_int {
    // Both are courtesies but for the signal, without which the check below still holds.
    let _ = prctl::set_name(c"cleanup");
    let _ = prctl::set_pdeathsig(Signal::SIGHUP);
    // Sockets, pipes and locks are to end with the first process.
    // SAFETY: the table of descriptors is this process's own, and nothing here uses one.
    unsafe { libc::close_range(0, u32::MAX, 0) };
    if getppid() == Pid::from_raw(parent as usize as i32) {
        let mut hangup = SigSet::empty();
        hangup.add(Signal::SIGHUP);
        let _ = hangup.wait();
    }
    // SAFETY: ends this process only, without the first one's clean-up.
    unsafe { libc::_exit(0) }
}
