//! PCI: configuration space, functions and their BARs, the bus, the host's access to it.

mod bus;
pub mod config;
mod function;
pub mod host;
pub mod i440fx;
pub mod ids;
mod msi;
mod msix;
pub mod pam;
pub mod piix3;
pub mod piix4_pm;
mod props;
pub mod rom;

pub use bus::{PciBus, PciError};
pub use config::{BAR_SIZES, Bar, BarKind, ConfigSpace, Identity, ROM_BAR, reg};
pub use function::{PciDevice, PciFunction, PciWires};
pub use msi::Msi;
pub use msix::{MAX_VECTORS, Msix, MsixState};
pub use props::PciProps;

/// Puts slot and function number together.
pub const fn devfn(slot: u8, function: u8) -> u8 {
    slot << 3 | function & 7
}
