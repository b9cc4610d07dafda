//! Local APICs and the bus that connects them (SDM vol. 3, chapter 12).

mod fabric;
mod lapic;
mod regs;
#[cfg(test)]
mod tests;

pub use fabric::ApicFabric;
pub use lapic::LocalApic;
