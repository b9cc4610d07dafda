//! Who runs guest code: the architectural state, the MMU, the processor models, and the engines
//! that execute instructions on them (`interp`, `jit`, `kvm`).
//!
//! Everything here reaches memory and devices through [`base::memory`] only; no device model is
//! named. One thread owns one [`Cpu`]; others talk to it through [`signals::Signals`].

pub mod accel;
pub mod apic;
pub mod bus;
pub mod cpuid;
pub mod disassembly;
pub mod dump;
pub mod flags;
pub mod fpu;
mod hash;
pub mod icount;
mod int;
pub mod interp;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod jit;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod kvm;
pub mod mmu;
mod mode;
pub mod signals;
pub mod simd;
pub mod state;
mod svm;
mod system;
pub mod testbed;

pub mod soft;
pub mod turns;
pub mod vcpu;

mod core;
#[cfg(test)]
mod testing;

pub use crate::core::{Cpu, Fault, Trap, vector};
pub use crate::int::Int;
pub use crate::mode::Mode;
