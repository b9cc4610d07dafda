//! Why a device could not be added.

use base::chardev::ChardevError;
use base::props::PropError;

use crate::display::ramfb::RamfbError;
use crate::display::std_vga::VgaError;
use crate::firmware::fw_cfg::FwCfgError;
use crate::net::card::CardError;
use crate::pci::PciError;
use crate::storage::floppy::FloppyError;
use crate::storage::ide::IdeError;
use crate::usb::props::UsbDeviceError;
use crate::virtio::blk::BlkError;
use crate::virtio::gpu::GpuError;
use crate::virtio::net::NetError;
use crate::virtio::pci::VirtioPciError;

/// Why a device could not be added.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A property.
    #[error(transparent)]
    Property(#[from] PropError),
    /// A property that `-global` sets.
    #[error("can't apply global {owner}.{name}={value}: {source}")]
    Global {
        /// Type name of the device.
        owner: &'static str,
        /// The property.
        name: String,
        /// What it was to be.
        value: String,
        /// Why not.
        source: Box<PropError>,
    },
    /// Its place on the bus.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// Its firmware configuration file.
    #[error(transparent)]
    FwCfg(#[from] FwCfgError),
    /// Its back end cannot be had.
    #[error("Property '{owner}.chardev' can't take value '{id}': {source}")]
    Chardev {
        /// Type name of the device.
        owner: &'static str,
        /// The character device.
        id: String,
        /// Why.
        source: ChardevError,
    },
    /// Its disk cannot be had.
    #[error(transparent)]
    Drive(#[from] block::Error),
    /// Its disk is another device's.
    #[error("Drive '{id}' is already in use {}", in_use_by(*by_board))]
    DriveInUse {
        /// The drive.
        id: String,
        /// Whether the board connected it by itself.
        by_board: bool,
    },
    /// It needs a back end.
    #[error("Can't create {0} device, empty char device")]
    NoChardev(&'static str),
    /// It has no disk.
    #[error("drive property not set")]
    NoDrive,
    /// There is no I/O thread of this id.
    #[error("Device '{0}' not found")]
    NoThread(String),
    /// A block device.
    #[error(transparent)]
    Blk(#[from] BlkError),
    /// A network card.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The transport of a virtio device.
    #[error(transparent)]
    Virtio(#[from] VirtioPciError),
    /// A network card.
    #[error(transparent)]
    VirtioNet(#[from] NetError),
    /// A display adapter.
    #[error(transparent)]
    Vga(#[from] VgaError),
    /// A graphics adapter of virtio.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// A frame buffer in RAM.
    #[error(transparent)]
    Ramfb(#[from] RamfbError),
    /// An IDE drive.
    #[error(transparent)]
    Ide(#[from] IdeError),
    /// A floppy drive.
    #[error(transparent)]
    Floppy(#[from] FloppyError),
    /// A USB device.
    #[error(transparent)]
    Usb(#[from] UsbDeviceError),
    /// There is one already.
    #[error("at most one {0} device is permitted")]
    OnlyOne(&'static str),
    /// There are too many.
    #[error("Max. supported number of {what} ports is {limit}.")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// There is no such interrupt.
    #[error("there is no ISA interrupt {0}")]
    NoInterrupt(u32),
    /// A random identifier could not be made.
    #[error("cannot make up an identifier: {0}")]
    Random(std::io::Error),
}

fn in_use_by(board: bool) -> &'static str {
    match board {
        true => {
            "because it has been automatically connected to another device (did you need 'if=none' \
             in the drive options?)"
        }
        false => "by another device",
    }
}
