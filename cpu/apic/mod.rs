//! Local APICs and the bus that connects them (SDM vol. 3, chapter 12): xAPIC and x2APIC.
//!
//! [`ApicCore`] is the chip: registers, priorities, timer arithmetic. It has no lock, no clock and no
//! neighbours. [`LocalApic`] is the shell: it owns the lock, arms the timer, posts to its
//! processor's mailbox, and passes messages on. [`ApicFabric`] connects the local APICs with each
//! other and with the I/O APICs.

mod core;
mod fabric;
mod lapic;
mod regs;
mod report;
#[cfg(test)]
mod tests;
mod timer;
mod vectors;

pub use self::core::{ApicCore, ApicState, Ipi, Outcome, Recipients};
pub use self::fabric::ApicFabric;
pub use self::lapic::LocalApic;
pub use self::timer::{Moment, Now, TimerState};
pub use self::vectors::Vectors;
