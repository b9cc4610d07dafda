//! What can go wrong while a machine is built.

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum MachineError {
    #[error(transparent)]
    Ram(#[from] base::memory::RamError),
    #[error(transparent)]
    Pci(#[from] hw::pci::PciError),
}
