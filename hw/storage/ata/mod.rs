//! ATA devices and the channels that they sit on. A [`drive::Drive`] is a device without any I/O; a
//! [`channel::Channel`] has two of them, does their I/O, and shows their registers.

mod bus_master;
pub mod channel;
mod disk;
pub mod drive;
mod identify;
mod mmc;
mod packet;
mod smart;
pub(in crate::storage) mod spec;
mod taskfile;
#[cfg(test)]
mod tests;
