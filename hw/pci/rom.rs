//! Expansion ROMs: an image from a file, seen through a BAR or given to firmware as a file.

use std::path::PathBuf;
use std::sync::Arc;

use base::memory::{RamBlock, RamError, Region};

use super::config::{Bar, BarKind, ConfigSpace, ROM_BAR, reg};
use super::props::PciProps;
use crate::firmware::fw_cfg::FwCfgError;

/// What a bus asks the machine about ROM images.
pub trait RomFiles: Send + Sync {
    /// Looks for the image of this name where data files are.
    fn find(&self, name: &str) -> Option<PathBuf>;

    /// Gives firmware an image that no BAR shows. Those of displays run first.
    fn give_to_firmware(&self, name: &str, image: Vec<u8>, display: bool)
    -> Result<(), FwCfgError>;
}

/// Why there is no ROM.
#[derive(Debug, thiserror::Error)]
pub enum RomError {
    /// It is nowhere.
    #[error("failed to find romfile \"{0}\"")]
    Missing(String),
    /// It is there and cannot be read.
    #[error("failed to load romfile \"{name}\": {reason}")]
    Unreadable {
        /// The file.
        name: String,
        /// Why not.
        reason: String,
    },
    /// There is nothing in it.
    #[error("romfile \"{0}\" is empty")]
    Empty(String),
    /// It is absurdly large.
    #[error("romfile \"{0}\" too large (size cannot exceed 2 GiB)")]
    Huge(String),
    /// `romsize` cannot be that of a BAR.
    #[error("ROM size {0} is not a power of two")]
    NoPowerOfTwo(u32),
    /// It does not fit into `romsize`.
    #[error("romfile \"{name}\" ({len} bytes) is too large for ROM size {size}")]
    TooLarge {
        /// The file.
        name: String,
        /// What is in it.
        len: u64,
        /// What there is room for.
        size: u64,
    },
    /// Memory for it.
    #[error(transparent)]
    Memory(#[from] RamError),
    /// Firmware's file of it.
    #[error(transparent)]
    FwCfg(#[from] FwCfgError),
}

/// As listings show that no size was chosen.
pub(super) const ANY_SIZE: u32 = u32::MAX;
const MAX_SIZE: u64 = 2 << 30;

/// Loads the ROM that the properties name, or the `usual` one if they name none and the distribution
/// has it. What is returned is to be shown through [`ROM_BAR`], which
/// is declared then.
pub(super) fn load(
    props: &PciProps,
    usual: Option<&str>,
    config: &mut ConfigSpace,
    files: &dyn RomFiles,
) -> Result<Option<Region>, RomError> {
    if props.romsize != ANY_SIZE && !props.romsize.is_power_of_two() {
        return Err(RomError::NoPowerOfTwo(props.romsize));
    }
    let found = |name: &&str| files.find(name).is_some();
    let (name, is_usual) = match (props.romfile.as_deref(), usual.filter(found)) {
        (Some(""), _) | (None, None) => return Ok(None),
        (Some(name), _) => (name, false),
        (None, Some(name)) => (name, true),
    };
    let mut image = read(name, files)?;
    if is_usual {
        adopt(&mut image, config);
    }
    let len = image.len() as u64;
    if props.rombar == 0 {
        const DISPLAY: u8 = 3;
        let display = config.u8(reg::SUBCLASS) == 0 && config.u8(reg::SUBCLASS + 1) == DISPLAY;
        files.give_to_firmware(name, image, display)?;
        return Ok(None);
    }
    let size = match props.romsize {
        ANY_SIZE => len.next_power_of_two(),
        size => size.into(),
    };
    if len > size {
        return Err(RomError::TooLarge { name: name.into(), len, size });
    }
    let block = RamBlock::anonymous(&format!("{name}.rom"), size)?;
    block.write(0, &image);
    config.add_bar(ROM_BAR, Bar { kind: BarKind::Memory32 { prefetchable: false }, size });
    Ok(Some(Region::rom(Arc::new(block))))
}

/// Gives firmware an image of a device that has no BAR to show it.
pub fn give_to_firmware(name: &str, display: bool, files: &dyn RomFiles) -> Result<(), RomError> {
    let image = read(name, files)?;
    Ok(files.give_to_firmware(name, image, display)?)
}

/// Has an image that serves several devices name this one (PCI Firmware 3.0, 5.1.2): firmware runs no
/// other's. The sum of its bytes stays as it is.
fn adopt(image: &mut [u8], config: &ConfigSpace) {
    const DATA_AT: usize = 0x18;
    const IDS: usize = 4;
    /// A byte that nothing else uses.
    const FILLER: usize = 6;
    let Some([low, high]) = image.get(DATA_AT..DATA_AT + 2) else { return };
    let data = usize::from(u16::from_le_bytes([*low, *high]));
    if image.get(data..data + IDS) != Some(b"PCIR") {
        return;
    }
    let own = config.u32(reg::VENDOR).to_le_bytes();
    let Some(ids) = image.get_mut(data + IDS..data + 2 * IDS) else { return };
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    let change = sum(ids).wrapping_sub(sum(&own));
    ids.copy_from_slice(&own);
    image[FILLER] = image[FILLER].wrapping_add(change);
}

fn read(name: &str, files: &dyn RomFiles) -> Result<Vec<u8>, RomError> {
    let path = files.find(name).ok_or_else(|| RomError::Missing(name.into()))?;
    let unreadable = |error: std::io::Error| RomError::Unreadable {
        name: name.into(),
        reason: base::report::strerror(&error),
    };
    match std::fs::metadata(&path).map_err(unreadable)?.len() {
        0 => Err(RomError::Empty(name.into())),
        len if len > MAX_SIZE => Err(RomError::Huge(name.into())),
        _ => std::fs::read(&path).map_err(unreadable),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use parking_lot::Mutex;

    use super::*;
    use crate::pci::Identity;

    /// Files by their own names; keeps what firmware is given.
    #[derive(Default)]
    pub(crate) struct PlainFiles(Mutex<Vec<(String, usize, bool)>>);

    impl RomFiles for PlainFiles {
        fn find(&self, name: &str) -> Option<PathBuf> {
            let path = Path::new(name);
            path.exists().then(|| path.into())
        }
        fn give_to_firmware(
            &self,
            name: &str,
            image: Vec<u8>,
            display: bool,
        ) -> Result<(), FwCfgError> {
            self.0.lock().push((name.into(), image.len(), display));
            Ok(())
        }
    }

    fn config(class: u32) -> ConfigSpace {
        let (vendor, device) = (0x1234, 0x1111);
        let revision = 0;
        ConfigSpace::new(&Identity {
            vendor,
            device,
            revision,
            class,
            subsystem: None,
            interrupt_pin: 0,
        })
    }

    fn image(len: usize) -> (tempfile::NamedTempFile, PciProps) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0x5a; len]).unwrap();
        let romfile = Some(file.path().to_str().unwrap().to_owned());
        (file, PciProps { romfile, ..PciProps::default() })
    }

    #[test]
    fn the_bar_is_as_large_as_the_image_needs() {
        let (_file, props) = image(3000);
        let mut config = config(0xff_0000);
        let region = load(&props, None, &mut config, &PlainFiles::default()).unwrap();
        assert!(region.is_some());
        config.write(reg::ROM, 4, 0xffff_fffe);
        assert_eq!(config.u32(reg::ROM), 0xffff_f000);
        let larger = PciProps { romsize: 0x1_0000, ..props };
        load(&larger, None, &mut config, &PlainFiles::default()).unwrap();
        assert_eq!(config.bars()[ROM_BAR].unwrap().size, 0x1_0000);
    }

    #[test]
    fn the_usual_image_takes_the_devices_ids() {
        let mut bytes = vec![0; 64];
        bytes[0x18] = 0x20;
        bytes[0x20..0x28].copy_from_slice(b"PCIR\xf4\x1a\x41\x10");
        let mut adopted = bytes.clone();
        adopt(&mut adopted, &config(0));
        assert_eq!(adopted[0x24..0x28], [0x34, 0x12, 0x11, 0x11]);
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(sum(&adopted), sum(&bytes));
        let mut odd = vec![0xff; 0x1a];
        adopt(&mut odd, &config(0));
        assert_eq!(odd, [0xff; 0x1a]);
    }

    /// QEMU's words.
    #[test]
    fn unfit_images_are_refused() {
        let refusal = |props: &PciProps| {
            load(props, None, &mut config(0), &PlainFiles::default()).err().unwrap().to_string()
        };
        let (file, small) = image(3000);
        let name = file.path().display();
        let with_size =
            |romsize| PciProps { romsize, romfile: small.romfile.clone(), ..PciProps::default() };
        assert_eq!(refusal(&with_size(1000)), "ROM size 1000 is not a power of two");
        assert_eq!(
            refusal(&with_size(2048)),
            format!("romfile \"{name}\" (3000 bytes) is too large for ROM size 2048")
        );
        let (file, empty) = image(0);
        assert_eq!(refusal(&empty), format!("romfile \"{}\" is empty", file.path().display()));
        drop(file);
        assert_eq!(refusal(&empty).split('"').next(), Some("failed to find romfile "));
    }

    #[test]
    fn without_a_bar_firmware_gets_the_image() {
        let (_file, props) = image(700);
        let props = PciProps { rombar: 0, ..props };
        let files = PlainFiles::default();
        for class in [0x03_0000, 0x02_0000] {
            assert!(load(&props, None, &mut config(class), &files).unwrap().is_none());
        }
        let given: Vec<_> =
            files.0.lock().iter().map(|(_, len, display)| (*len, *display)).collect();
        assert_eq!(given, [(700, true), (700, false)]);
    }
}
