//! The back door of VMware's machines, by which guests ask what they run on (VMware knowledge base,
//! article 1009458, and the descriptions of the commands that its guest tools use).

use std::sync::Arc;

use base::backdoor::{Backdoor, CallRegisters};

use crate::input::vmmouse::VmMouse;

/// The port.
pub const VMPORT: u16 = 0x5658;

/// What has to be in EAX: "VMXh".
const MAGIC: u32 = 0x564d_5868;
/// No such command, or not known.
const NONE: u32 = u32::MAX;

/// Commands, in the low half of ECX.
mod command {
    pub const GET_VERSION: u16 = 0x0a;
    pub const GET_UUID: u16 = 0x13;
    pub const GET_RAM_SIZE: u16 = 0x14;
    pub const GET_FREQUENCY: u16 = 0x2d;
    pub const GET_VCPU_INFO: u16 = 0x44;
}

/// Version of the virtual hardware, and the product: a server.
const VERSION: u32 = 6;
const PRODUCT: u32 = 2;
const RAM_SIZE_KNOWN: u32 = 0x1177;
/// A processor can use the x2APIC although interrupts are not remapped.
const VCPU_LEGACY_X2APIC: u32 = 1 << 3;

/// What the machine tells.
pub struct VmPort {
    /// Bytes of RAM.
    pub ram: u64,
    /// The machine's identity.
    pub uuid: [u8; 16],
    /// Whether the x2APIC can be used.
    pub x2apic: bool,
    /// The pointer, which comes with a PS/2 mouse.
    pub mouse: Option<Arc<VmMouse>>,
}

impl Backdoor for VmPort {
    fn port(&self) -> u16 {
        VMPORT
    }

    fn call(&self, registers: &mut CallRegisters) {
        if registers.eax != MAGIC {
            registers.eax = NONE;
            return;
        }
        match registers.ecx as u16 {
            command::GET_VERSION => {
                (registers.eax, registers.ebx, registers.ecx) = (VERSION, MAGIC, PRODUCT);
            }
            command::GET_UUID => {
                let word = |n: usize| {
                    let bytes = &self.uuid[4 * n..];
                    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
                };
                (registers.eax, registers.ebx) = (word(0), word(1));
                (registers.ecx, registers.edx) = (word(2), word(3));
            }
            command::GET_RAM_SIZE => {
                (registers.eax, registers.ebx) = (self.ram as u32, RAM_SIZE_KNOWN);
            }
            command::GET_FREQUENCY => registers.ebx = NONE,
            command::GET_VCPU_INFO => {
                registers.eax = if self.x2apic { VCPU_LEGACY_X2APIC } else { 0 };
            }
            _ if self.mouse.as_ref().is_some_and(|mouse| mouse.call(registers)) => {}
            _ => registers.eax = NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from QEMU 10.0.2: EAX, EBX, ECX and EDX after a command.
    #[test]
    fn answers() {
        let uuid = std::array::from_fn(|n| 0x11 * n as u8);
        let port = VmPort { ram: 256 << 20, uuid, x2apic: false, mouse: None };
        for (eax, ecx, answer) in [
            (MAGIC, 0x0a, [6, MAGIC, 2, 0x5658]),
            (MAGIC, 0x1_000a, [6, MAGIC, 2, 0x5658]),
            (MAGIC, 0x14, [0x1000_0000, 0x1177, 0x14, 0x5658]),
            (MAGIC, 0x13, [0x3322_1100, 0x7766_5544, 0xbbaa_9988, 0xffee_ddcc]),
            (MAGIC, 0x2d, [MAGIC, NONE, 0x2d, 0x5658]),
            (MAGIC, 0x44, [0, 0, 0x44, 0x5658]),
            (MAGIC, 1, [NONE, 0, 1, 0x5658]),
            (0x1234_5678, 0x0a, [NONE, 0, 0x0a, 0x5658]),
        ] {
            let mut call = CallRegisters { eax, ecx, edx: 0x5658, ..CallRegisters::default() };
            port.call(&mut call);
            assert_eq!([call.eax, call.ebx, call.ecx, call.edx], answer, "command {ecx:#x}");
        }
    }
}
