//! PCI: configuration space, functions and their BARs, the bus, the host's access to it.

mod bus;
pub mod config;
mod function;
pub mod host;
pub mod i440fx;
pub mod ids;
pub mod pam;
pub mod piix3;
pub mod piix4_pm;

pub use bus::{PciBus, PciError};
pub use config::{BAR_SIZES, Bar, BarKind, ConfigSpace, Identity, ROM_BAR, reg};
pub use function::{PciDevice, PciFunction, PciWires};

/// Puts slot and function number together.
pub const fn devfn(slot: u8, function: u8) -> u8 {
    slot << 3 | function & 7
}

/// Lets the guest write all registers behind the header, as bridges whose every bit is a setting do.
fn allow_device_registers(config: &mut ConfigSpace) {
    for offset in 0x40..0x100 {
        config.allow_u8(offset, 0xff);
    }
}
