//! Guest code on the kernel's hypervisor (the KVM API, Documentation/virt/kvm/api.rst).
//!
//! [`Kvm`] is the device, [`KvmVm`] a virtual machine with its memory slots and interrupt routes, and
//! [`KvmEngine`] one of its processors, which a [`vcpu`](crate::vcpu) thread runs like any other
//! engine. Guest memory and devices are reached through the same address spaces as everywhere: an
//! access that the kernel cannot complete by itself comes back as an exit.
//!
//! Three places can hold the interrupt controllers ([`Irqchip`]): all in the kernel, only the local
//! APICs there, or none.

mod chips;
mod cpuid;
mod engine;
mod error;
mod hyperv;
mod irq;
mod kick;
mod memory;
mod msr;
mod presence;
mod routes;
mod state;
mod system;
#[cfg(test)]
mod tests;
mod vm;
mod xsave;

pub use chips::{KernelIoapic, KernelPic};
pub use engine::{Interrupts, KvmEngine};
pub use error::KvmError;
pub use irq::{KernelApics, KernelPins, PicLine};
pub use memory::KvmMemory;
pub use system::Kvm;
pub use vm::{Irqchip, KvmVm, Matched, VmOptions, WritePlace};
