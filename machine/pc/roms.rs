//! Option ROMs that firmware is given as files; it copies them into the first MiB and runs them.

use std::path::{Path, PathBuf};

use base::device::Shared;
use hw::firmware::fw_cfg::{FwCfg, FwCfgError};
use hw::pci::rom::RomFiles;

use crate::data_files::DataFiles;

/// Directory of the ROMs of displays, which firmware runs first.
const DISPLAYS: &str = "vgaroms";
/// Directory of all others.
const OTHERS: &str = "genroms";

/// Adds an option ROM to firmware's files, named after its file.
pub fn add(
    fw_cfg: &mut FwCfg,
    path: &str,
    image: Vec<u8>,
    display: bool,
) -> Result<(), FwCfgError> {
    fw_cfg.add_file(&file_name(path, display), image, Default::default())
}

/// What firmware knows an option ROM by.
pub fn file_name(path: &str, display: bool) -> String {
    let directory = if display { DISPLAYS } else { OTHERS };
    let name = Path::new(path).file_name().unwrap_or(path.as_ref()).to_string_lossy();
    format!("{directory}/{name}")
}

/// The display's ROM that firmware would run first.
pub fn first_display(fw_cfg: &FwCfg) -> Option<&[u8]> {
    fw_cfg.first_file_in(DISPLAYS)
}

/// Where the PCI bus has its ROMs from, and leaves those without a BAR.
pub(super) struct OptionRoms {
    pub files: DataFiles,
    pub fw_cfg: Shared<FwCfg>,
}

impl RomFiles for OptionRoms {
    fn find(&self, name: &str) -> Option<PathBuf> {
        self.files.find(name)
    }

    fn give_to_firmware(
        &self,
        name: &str,
        image: Vec<u8>,
        display: bool,
    ) -> Result<(), FwCfgError> {
        add(&mut self.fw_cfg.lock(), name, image, display)
    }
}
