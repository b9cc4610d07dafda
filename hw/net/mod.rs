//! Network cards.

pub mod card;
pub mod e1000;
#[cfg(test)]
pub(crate) mod testbed;
