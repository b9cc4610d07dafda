//! Ports by which a guest calls its machine: what an access means is in the registers of the
//! processor that makes it, and the answer is put there.

/// The general registers of a processor, in the order of their encoding less the stack's two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct CallRegisters {
    pub eax: u32,
    pub ecx: u32,
    pub edx: u32,
    pub ebx: u32,
    pub esi: u32,
    pub edi: u32,
}

/// Answers 32-bit accesses to one port.
pub trait Backdoor: Send + Sync {
    /// The port.
    fn port(&self) -> u16;
    /// Replaces the registers of the call by the answer.
    fn call(&self, registers: &mut CallRegisters);
}
