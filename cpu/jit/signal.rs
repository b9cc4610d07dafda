//! Traps of the host in translated code: a division that the guest must be told of, a loop that finds
//! that somebody wants attention, or guest memory whose file was cut short. The signal handler sends the code to its way out.
#![allow(unsafe_code)]
// Unsafe: a signal handler is installed, and reads and changes the registers of what it interrupted.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Where translated code lies, and where it goes when it traps.
struct Region {
    start: AtomicUsize,
    end: AtomicUsize,
    trap: AtomicUsize,
}

static REGIONS: [Region; 64] = [const {
    Region { start: AtomicUsize::new(0), end: AtomicUsize::new(0), trap: AtomicUsize::new(0) }
}; 64];

/// The handlers that were there before, by [`SIGNALS`].
static BEFORE: OnceLock<[SigAction; 3]> = OnceLock::new();
const SIGNALS: [Signal; 3] = [Signal::SIGSEGV, Signal::SIGFPE, Signal::SIGBUS];

/// A region that is looked after as long as this lives.
pub struct Guarded(usize);

impl Guarded {
    /// Sends traps in `code` to `trap`. `None` if there are too many regions or no handler can be
    /// installed.
    pub fn new(code: Range<usize>, trap: usize) -> Option<Self> {
        install().ok()?;
        let free = |region: &Region| {
            region.start.compare_exchange(0, code.start, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        };
        let index = REGIONS.iter().position(free)?;
        REGIONS[index].trap.store(trap, Ordering::SeqCst);
        REGIONS[index].end.store(code.end, Ordering::SeqCst);
        Some(Guarded(index))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let region = &REGIONS[self.0];
        region.end.store(0, Ordering::SeqCst);
        region.start.store(0, Ordering::SeqCst);
    }
}

fn install() -> nix::Result<()> {
    static DONE: parking_lot::Mutex<bool> = parking_lot::Mutex::new(false);
    let mut done = DONE.lock();
    if *done {
        return Ok(());
    }
    let flags = SaFlags::SA_ONSTACK | SaFlags::SA_NODEFER | SaFlags::SA_SIGINFO;
    let action = SigAction::new(SigHandler::SigAction(on_trap), flags, SigSet::empty());
    // SAFETY: asks for the present handlers, which are called for whatever is not ours.
    let before = unsafe {
        [sigaction_now(SIGNALS[0])?, sigaction_now(SIGNALS[1])?, sigaction_now(SIGNALS[2])?]
    };
    // Known before our handler can be called.
    let _ = BEFORE.set(before);
    for signal in SIGNALS {
        // SAFETY: the handler does nothing but load and store words.
        unsafe { sigaction(signal, &action)? };
    }
    *done = true;
    Ok(())
}

/// The handler installed now.
unsafe fn sigaction_now(signal: Signal) -> nix::Result<SigAction> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: replaced and put back at once; a trap in between would be fatal either way.
    unsafe {
        let before = sigaction(signal, &default)?;
        sigaction(signal, &before)?;
        Ok(before)
    }
}

extern "C" fn on_trap(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the interrupted context, which is ours to change.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let at = registers[libc::REG_RIP as usize] as usize;
    for region in &REGIONS {
        let (start, end) = (region.start.load(Ordering::SeqCst), region.end.load(Ordering::SeqCst));
        if (start..end).contains(&at) {
            registers[libc::REG_R14 as usize] = at as i64;
            registers[libc::REG_RIP as usize] = region.trap.load(Ordering::SeqCst) as i64;
            return;
        }
    }
    let index = SIGNALS.iter().position(|known| *known as libc::c_int == signal).unwrap_or(0);
    match BEFORE.get().map(|before| before[index].handler()) {
        Some(SigHandler::SigAction(handler)) => handler(signal, info, context),
        Some(SigHandler::Handler(handler)) => handler(signal),
        _ => {
            // Not ours and nobody else's: the default action, when the instruction is repeated.
            // SAFETY: the default action needs no handler.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}
