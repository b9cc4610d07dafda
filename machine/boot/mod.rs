//! Starting a kernel without firmware: Linux images, PVH and Multiboot kernels.
//!
//! [`load`] takes bytes and gives bytes: what to write where in guest memory, and the state in which the first CPU
//! starts. It touches no machine, and trusts nothing in an image.

mod elf;
pub mod entry;
mod linux;
mod low;
pub mod mtrr;
pub mod multiboot;
mod pvh;
pub mod starter;
pub mod tables;

use std::ops::Range;

use hw::firmware::e820::Entry;
use thiserror::Error;

pub use entry::{CpuEntry, Mode, Segment};
pub use multiboot::{ModuleName, split_modules};

/// Why an image cannot be started.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BootError {
    /// The file is empty.
    #[error("could not load kernel '{0}': No such file or directory")]
    Empty(String),
    /// None of the formats we know.
    #[error("invalid kernel header")]
    UnknownFormat,
    /// An ELF file without the note that PVH needs.
    #[error("Error loading uncompressed kernel without PVH ELF Note")]
    NoPvhNote,
    /// A header or offset points outside of the image.
    #[error("kernel '{file}' is damaged: {what}")]
    Damaged {
        /// Image.
        file: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The image does not fit in guest memory.
    #[error("kernel '{file}' does not fit in guest memory ({need:#x} bytes, {room:#x} available)")]
    KernelTooLarge {
        /// Image.
        file: String,
        /// Bytes it needs.
        need: u64,
        /// Bytes there are.
        room: u64,
    },
    /// The initial RAM disk does not fit beside the kernel.
    #[error("initrd is too large, cannot support.(max: {max}, need {need})")]
    InitrdTooLarge {
        /// Highest address it may use.
        max: u64,
        /// Its size.
        need: u64,
    },
    /// The command line does not fit.
    #[error("kernel command line is too long (max: {max}, need {need})")]
    CommandLineTooLong {
        /// Bytes there are.
        max: u64,
        /// Bytes it needs.
        need: u64,
    },
    /// The kernel leaves no room for what it is to be told.
    #[error("no memory below 640 KiB is left for {need} bytes of boot information")]
    NoLowMemory {
        /// Bytes it needs.
        need: u64,
    },
    /// A Multiboot kernel insists on something we do not provide.
    #[error("multiboot kernel '{file}' requires unsupported features (flags {flags:#x})")]
    MultibootFlags {
        /// Image.
        file: String,
        /// The flags.
        flags: u32,
    },
    /// No room for the tables that firmware would have made.
    #[error("no guest memory left for firmware tables")]
    NoRoomForTables,
}

/// A file that is handed to the kernel, with the text that goes with it.
#[derive(Clone, Debug)]
pub struct Module {
    /// File name and arguments; only Multiboot and PVH kernels see them.
    pub text: String,
    /// Contents.
    pub data: Vec<u8>,
}

/// What is to be started, and on what.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// File name of the kernel.
    pub name: &'a str,
    /// Contents of the file.
    pub kernel: &'a [u8],
    /// Arguments of the kernel.
    pub command_line: &'a str,
    /// The initial RAM disk, or the modules of a Multiboot kernel.
    pub modules: &'a [Module],
    /// The memory map.
    pub memory_map: &'a [Entry],
    /// End of the memory below 4 GiB that the kernel and its files may occupy.
    pub usable_below_4g: u64,
    /// Address of the ACPI root pointer.
    pub rsdp: Option<u64>,
    /// A device tree, which Linux takes besides what firmware tells.
    pub device_tree: Option<&'a [u8]>,
    /// Whether the CPU has long mode.
    pub long_mode: bool,
}

/// A kernel ready to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootImage {
    /// Bytes to write, with their addresses. A later write wins.
    pub writes: Vec<(u64, Vec<u8>)>,
    /// Ranges to clear first: address and length.
    pub clears: Vec<(u64, u64)>,
    /// Where Linux finds what is on the screen.
    pub screen_info: Option<u64>,
    /// State of the first CPU.
    pub entry: CpuEntry,
}

/// What firmware needs to start a Linux kernel by itself: contents with their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoaderFiles {
    /// The setup code.
    pub setup: (u64, Vec<u8>),
    /// The rest of the kernel.
    pub code: (u64, Vec<u8>),
    /// Arguments of the kernel, with a zero at the end.
    pub command_line: (u64, Vec<u8>),
    /// The initial RAM disk, which may be empty.
    pub initrd: (u64, Vec<u8>),
}

/// Where memory gives way to the display and to ROMs, and where it goes on.
const HOLE: Range<u64> = 0xa_0000..LOWEST_KERNEL;
const LOWEST_KERNEL: u64 = 0x10_0000;
const PAGE: u64 = 0x1000;

/// Loads a kernel of any format.
pub fn load(request: &Request<'_>) -> Result<BootImage, BootError> {
    if request.kernel.is_empty() {
        return Err(BootError::Empty(request.name.into()));
    }
    if linux::is_linux(request.kernel) {
        return linux::load(request);
    }
    if let Some(header) = multiboot::find_header(request.kernel) {
        return multiboot::load(request, &header);
    }
    if elf::is_elf(request.kernel) {
        return pvh::load(request);
    }
    Err(BootError::UnknownFormat)
}

/// Whether a kernel may call the BIOS. Firmware has to run before it.
pub fn calls_bios(request: &Request<'_>) -> bool {
    match linux::is_linux(request.kernel) {
        true => linux::calls_bios(request),
        false => multiboot::find_header(request.kernel).is_some(),
    }
}

/// What firmware needs to start a kernel by itself, if it can.
pub fn for_loader(request: &Request<'_>) -> Result<Option<LoaderFiles>, BootError> {
    linux::is_linux(request.kernel).then(|| linux::for_loader(request)).transpose()
}

impl Request<'_> {
    fn damaged(&self, what: &'static str) -> BootError {
        BootError::Damaged { file: self.name.into(), what }
    }

    /// Fails unless `start..start + length` is memory that the kernel may occupy.
    fn check_room(&self, start: u64, length: u64) -> Result<u64, BootError> {
        let room = self.usable_below_4g.saturating_sub(start);
        if start > self.usable_below_4g || length > room {
            return Err(BootError::KernelTooLarge { file: self.name.into(), need: length, room });
        }
        Ok(start + length)
    }
}

#[cfg(test)]
mod tests;
