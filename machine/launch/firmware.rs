//! The firmware image that runs.

use crate::config::{ConfigError, MachineConfig, Origin};
use crate::data_files::DataFiles;

/// The BIOS that runs when none is named.
const DEFAULT_BIOS: &str = "bios-256k.bin";

/// Most bytes of a BIOS image.
const MAX_SIZE: u64 = 16 << 20;
/// BIOS images are whole multiples of this.
const GRANULE: u64 = 64 << 10;

/// Reads the BIOS.
pub(super) fn bios(config: &MachineConfig) -> Result<Vec<u8>, ConfigError> {
    let name = config.firmware.as_deref().unwrap_or(DEFAULT_BIOS);
    let refuse = |hint: &str| {
        ConfigError::at(&Origin::Loader, format!("could not load PC BIOS '{name}'{hint}"))
    };
    let path = DataFiles::new(&config.data_dirs).find(name).ok_or_else(|| {
        refuse(if config.firmware.is_none() { " (install the package seabios)" } else { "" })
    })?;
    let image = std::fs::read(&path).map_err(|error| refuse(&format!(": {error}")))?;
    let size = image.len() as u64;
    if size == 0 || !size.is_multiple_of(GRANULE) || size > MAX_SIZE {
        return Err(refuse(""));
    }
    Ok(image)
}
