//! Whether a processor is in guest code, or about to be.

use base::sync::{AtomicBool, Ordering, fence};

/// The owner announces itself ([`Presence::enter`]) and only then looks for reasons not to enter the
/// guest; whoever has a reason states it first and then asks ([`Presence::is_inside`]). So one of
/// the two sees the other.
#[derive(Default)]
pub(super) struct Presence(AtomicBool);

impl Presence {
    /// From here to [`Presence::leave`] others take the processor for being in guest code.
    pub fn enter(&self) {
        self.0.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Guest code was left.
    pub fn leave(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    /// Whether the processor must be got out; asked after the reason for it has been stated.
    pub fn is_inside(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::SeqCst)
    }
}
