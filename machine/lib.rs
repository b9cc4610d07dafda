//! Boards, boot and run state: what makes a machine of parts.

mod error;
pub mod pc;

pub use error::MachineError;
