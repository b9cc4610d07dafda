//! How other threads reach a processor: a word of request bits and a place to sleep.

use std::sync::OnceLock;

use base::sync::{AtomicU32, Condvar, Mutex, Ordering};

/// Request bits of [`Signals`].
#[allow(missing_docs)]
pub mod request {
    /// The local APIC or the PIC has an interrupt to deliver; counts only while IF is set.
    pub const INTR: u32 = 1;
    pub const NMI: u32 = 1 << 1;
    pub const SMI: u32 = 1 << 2;
    pub const INIT: u32 = 1 << 3;
    pub const SIPI: u32 = 1 << 4;
    pub const RESET: u32 = 1 << 5;
    /// Leave the run loop: pause, quit, or work queued for the vCPU thread.
    pub const STOP: u32 = 1 << 6;
    /// The memory map changed.
    pub const FLUSH_TLB: u32 = 1 << 7;
    /// A virtual interrupt for a guest under VMRUN; posted and taken by the processor itself.
    pub const VIRQ: u32 = 1 << 8;
    /// Leave the run loop for a moment: another processor waits for its turn.
    pub const YIELD: u32 = 1 << 9;
    /// Beside [`NMI`]: two of them wait. A processor serves one and holds another back (SDM vol. 3,
    /// 6.7.1), so two that arrive before it looks are not one. See [`Signals::take_nmi`].
    ///
    /// [`Signals::take_nmi`]: super::Signals::take_nmi
    pub const SECOND_NMI: u32 = 1 << 10;
    /// Beside [`SIPI`], until the processor has fetched its first instructions or knows that the
    /// start-up IPI does not count.
    pub const STARTING: u32 = 1 << 11;
    /// Let those that were sent a start-up IPI begin first.
    pub const LET_START: u32 = 1 << 12;

    /// What RESET makes void.
    pub const AT_RESET: u32 = INIT | SIPI | STARTING | LET_START | NMI | SECOND_NMI | SMI;
}

/// What makes [`request::SECOND_NMI`] of [`request::NMI`].
const NEXT_NMI: u32 = request::SECOND_NMI / request::NMI;

/// The mailbox of one processor. Any thread may post; only the owner clears.
///
/// A post sets bits with release order and then wakes; the owner reads the word at
/// every block boundary and before it sleeps, under the lock that posting takes, so that no request
/// is lost between its last look and its sleep.
#[derive(Default)]
pub struct Signals {
    word: AtomicU32,
    lock: Mutex<()>,
    wake: Condvar,
    kick: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Signals {
    /// What gets the processor out of guest code after a post, for engines that do not look at the
    /// word while they are there. Set once, by the engine.
    pub fn set_kick(&self, kick: impl Fn() + Send + Sync + 'static) {
        // A mailbox belongs to one engine for life: there is no second one.
        let _ = self.kick.set(Box::new(kick));
    }
    /// Posts `bits` and wakes the processor if it sleeps.
    pub fn post(&self, bits: u32) {
        let added = |word: u32| word | bits | (word & bits & request::NMI) * NEXT_NMI;
        let (set, fetch) = (Ordering::AcqRel, Ordering::Relaxed);
        // Never refused: there is always a new word.
        let _ = self.word.fetch_update(set, fetch, |word| Some(added(word)));
        {
            let _guard = self.lock.lock();
            self.wake.notify_all();
        }
        if let Some(kick) = self.kick.get() {
            kick();
        }
    }
    /// The requests now pending.
    #[inline(always)]
    pub fn pending(&self) -> u32 {
        self.word.load(Ordering::Relaxed)
    }
    /// Clears `bits` and returns which of them were set.
    pub fn take(&self, bits: u32) -> u32 {
        self.word.fetch_and(!bits, Ordering::AcqRel) & bits
    }
    /// Takes one of the NMIs that wait; `false` if there is none.
    pub fn take_nmi(&self) -> bool {
        let rest = |word: u32| match word & request::SECOND_NMI {
            0 => word & !request::NMI,
            _ => word & !request::SECOND_NMI,
        };
        let (set, fetch) = (Ordering::AcqRel, Ordering::Relaxed);
        let before = self.word.fetch_update(set, fetch, |word| Some(rest(word)));
        before.is_ok_and(|word| word & request::NMI != 0)
    }
    /// Sleeps until any of `mask` is pending.
    pub fn wait(&self, mask: u32) {
        let mut guard = self.lock.lock();
        while self.word.load(Ordering::Acquire) & mask == 0 {
            self.wake.wait(&mut guard);
        }
    }
}
