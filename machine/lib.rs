//! Boards, boot and run state: what makes a machine of parts.

pub mod boot;
pub mod config;
pub mod data_files;
mod error;
pub mod inventory;
pub mod io_threads;
pub mod launch;
pub mod machines;
mod none;
pub mod objects;
pub mod pc;
pub mod run_state;
pub mod throttle_groups;
pub mod vm;

pub use error::MachineError;
