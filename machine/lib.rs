//! Boards, boot and run state: what makes a machine of parts.

pub mod config;
mod error;
pub mod pc;

pub use error::MachineError;
