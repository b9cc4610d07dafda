//! Who runs guest code: the architectural state, the MMU, the processor models, and the engines
//! that execute instructions on them (`interp`, `kvm`, later `jit`).
//!
//! Everything here reaches memory and devices through [`base::memory`] only; no device model is
//! named. One thread owns one [`Cpu`]; others talk to it through [`signals::Signals`].

pub mod flags;
pub mod signals;
pub mod state;

mod core;

pub use crate::core::{Cpu, Fault, Trap};
