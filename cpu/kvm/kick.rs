//! Getting processors out of guest code.
#![allow(unsafe_code)]
// Unsafe: a byte of the page that is shared with the kernel is written from other threads, and a
// signal handler is installed.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, Ordering};

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::error::KvmError;
use super::presence::Presence;

/// Interrupts KVM_RUN; it does nothing else.
const KICK_SIGNAL: Signal = Signal::SIGUSR1;

extern "C" fn nothing(_: libc::c_int) {}

/// Installs the handler of the signal that interrupts KVM_RUN.
pub(super) fn install_handler() -> Result<(), KvmError> {
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, so it is safe in any context.
    unsafe { sigaction(KICK_SIGNAL, &action) }.map_err(KvmError::Signal)?;
    Ok(())
}

/// The byte that makes KVM_RUN return at once.
struct ImmediateExit(NonNull<u8>);

// SAFETY: the byte lies in a shared mapping, is written atomically, and is dropped from [`Kick`]
// before the mapping goes away.
unsafe impl Send for ImmediateExit {}

/// How to get one processor out of guest code.
///
/// Owner and kicker cannot miss each other ([`Presence`]), and a signal that comes too early for
/// KVM_RUN finds the byte set, which KVM_RUN looks at.
pub(super) struct Kick {
    presence: Presence,
    thread: AtomicI32,
    immediate_exit: Mutex<Option<ImmediateExit>>,
}

impl Kick {
    /// For the processor whose shared page has its byte there. The owner must call [`Kick::retire`]
    /// before that is unmapped.
    pub fn new(immediate_exit: &mut u8) -> Arc<Self> {
        Arc::new(Kick {
            presence: Presence::default(),
            thread: AtomicI32::new(0),
            immediate_exit: Mutex::new(Some(ImmediateExit(NonNull::from(immediate_exit)))),
        })
    }

    fn set_immediate_exit(&self, value: u8) {
        if let Some(byte) = &*self.immediate_exit.lock() {
            // SAFETY: the mapping exists until `retire`, which takes the lock held here. The owner
            // touches the byte through this function only.
            let byte = unsafe { AtomicU8::from_ptr(byte.0.as_ptr()) };
            byte.store(value, Ordering::SeqCst);
        }
    }

    /// The calling thread runs the processor from now on.
    pub fn adopt(&self) {
        self.thread.store(nix::unistd::gettid().as_raw(), Ordering::SeqCst);
    }

    /// From here to [`Kick::leave`] a kick makes KVM_RUN return.
    pub fn enter(&self) {
        self.set_immediate_exit(0);
        self.presence.enter();
    }

    /// Guest code was left.
    pub fn leave(&self) {
        self.presence.leave();
    }

    /// The next KVM_RUN only completes the access under way.
    pub fn complete_only(&self) {
        self.set_immediate_exit(1);
    }

    /// Makes the processor leave guest code, or not enter it.
    pub fn kick(&self) {
        if !self.presence.is_inside() {
            return;
        }
        self.set_immediate_exit(1);
        let thread = self.thread.load(Ordering::SeqCst);
        if thread > 0 {
            // SAFETY: the call takes plain numbers. A thread that ended meanwhile is reported as an
            // error, which means that nothing needs to be kicked.
            unsafe {
                libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, KICK_SIGNAL as libc::c_int)
            };
        }
    }

    /// The shared page goes away.
    pub fn retire(&self) {
        self.immediate_exit.lock().take();
    }
}

/// Holds all processors of a machine out of guest code while memory slots are rearranged: between the
/// removal of a slot and the addition of its successors, the guest must not run.
#[derive(Default)]
pub(super) struct Gate {
    lock: RwLock<()>,
    closing: AtomicU32,
    kicks: RwLock<Vec<Arc<Kick>>>,
}

impl Gate {
    pub fn add(&self, kick: Arc<Kick>) {
        self.kicks.write().push(kick);
    }

    pub fn remove(&self, kick: &Arc<Kick>) {
        self.kicks.write().retain(|other| !Arc::ptr_eq(other, kick));
    }

    /// Whether somebody wants the guest to stand still. To be asked after [`Kick::enter`].
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst) != 0
    }

    /// Held while in guest code. Waits while the gate is closed.
    pub fn pass(&self) -> RwLockReadGuard<'_, ()> {
        self.lock.read()
    }

    /// Does `work` with no processor in guest code. Called on any thread that is not in guest code
    /// itself.
    pub fn closed<R>(&self, work: impl FnOnce() -> R) -> R {
        self.closing.fetch_add(1, Ordering::SeqCst);
        self.kicks.read().iter().for_each(|kick| kick.kick());
        let result = {
            let _guard = self.lock.write();
            work()
        };
        self.closing.fetch_sub(1, Ordering::SeqCst);
        result
    }
}
