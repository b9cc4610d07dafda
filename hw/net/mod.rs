//! Network cards.

mod adapter;
pub mod card;
pub mod e1000;
mod frames;
mod microwire;
pub mod ne2k;
pub mod pcnet;
pub mod rtl8139;
#[cfg(test)]
pub(crate) mod testbed;
