//! Boards, boot and run state: what makes a machine of parts.

mod announce;
pub mod boot;
pub mod config;
pub mod credentials;
pub mod data_files;
mod error;
pub mod inventory;
pub mod io_threads;
pub mod launch;
pub mod machines;
pub mod networks;
mod none;
pub mod objects;
pub mod pc;
pub mod run_state;
pub mod throttle_groups;
pub mod vm;

pub use error::MachineError;
