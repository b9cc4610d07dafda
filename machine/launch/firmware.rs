//! Where firmware images are found.

use std::path::{Path, PathBuf};

use crate::config::{ConfigError, MachineConfig};

/// Where distributions put firmware.
const DIRECTORIES: [&str; 5] = [
    "/usr/share/seabios",
    "/usr/share/qemu",
    "/usr/local/share/qemu",
    "/usr/share/OVMF",
    "/usr/lib/ipxe/qemu",
];

/// The BIOS that runs when none is named.
const DEFAULT_BIOS: &str = "bios-256k.bin";

/// Most bytes of a BIOS image.
const MAX_SIZE: u64 = 16 << 20;
/// BIOS images are whole multiples of this.
const GRANULE: u64 = 64 << 10;

/// Where data files are looked for: first in `own`, `-L`'s directories.
pub fn data_dirs(own: &[String]) -> impl Iterator<Item = &str> {
    own.iter().map(String::as_str).chain(DIRECTORIES)
}

/// Looks for a data file: as it is named, in `-L`'s directories, in the distribution's.
pub(super) fn find(config: &MachineConfig, name: &str) -> Option<PathBuf> {
    let direct = Path::new(name);
    if direct.exists() {
        return Some(direct.into());
    }
    data_dirs(&config.data_dirs).map(|dir| Path::new(dir).join(name)).find(|path| path.exists())
}

/// Reads the BIOS.
pub(super) fn bios(config: &MachineConfig) -> Result<Vec<u8>, ConfigError> {
    let name = config.firmware.as_deref().unwrap_or(DEFAULT_BIOS);
    let refuse = |hint: &str| ConfigError::new(format!("could not load PC BIOS '{name}'{hint}"));
    let path = find(config, name).ok_or_else(|| {
        refuse(if config.firmware.is_none() { " (install the package seabios)" } else { "" })
    })?;
    let image = std::fs::read(&path).map_err(|error| refuse(&format!(": {error}")))?;
    let size = image.len() as u64;
    if size == 0 || !size.is_multiple_of(GRANULE) || size > MAX_SIZE {
        return Err(refuse(""));
    }
    Ok(image)
}
