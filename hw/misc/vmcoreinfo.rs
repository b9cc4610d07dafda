//! The guest's note on where its kernel keeps what a crash dump needs (QEMU's "VMCoreInfo device"
//! specification).

use std::sync::Arc;

use base::device::{AnyDevice, Shared};
use parking_lot::Mutex;

use crate::firmware::fw_cfg::{FileHooks, FwCfg, FwCfgError};

const FILE: &str = "etc/vmcoreinfo";
/// The format that dumps are written in.
const ELF: u16 = 1;
const LEN: usize = 16;

/// What the guest has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// Bytes in the note.
    pub size: u32,
    /// Where it is in guest memory.
    pub address: u64,
}

/// The device.
pub struct VmCoreInfo {
    fw_cfg: Shared<FwCfg>,
    note: Arc<Mutex<Option<Note>>>,
}

fn at_reset() -> Vec<u8> {
    let mut bytes = vec![0; LEN];
    bytes[..2].copy_from_slice(&ELF.to_le_bytes());
    bytes
}

/// Host format, guest format, size, address; little-endian.
fn parse(bytes: &[u8]) -> Option<Note> {
    let guest_format = u16::from_le_bytes(*bytes.get(2..)?.first_chunk()?);
    let size = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
    let address = u64::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
    (guest_format == ELF && size > 0).then_some(Note { size, address })
}

impl VmCoreInfo {
    /// The device with its file.
    pub fn create(fw_cfg: &Shared<FwCfg>) -> Result<Arc<Self>, FwCfgError> {
        let note = Arc::<Mutex<Option<Note>>>::default();
        let told = note.clone();
        let written = Box::new(move |bytes: &[u8]| *told.lock() = parse(bytes));
        let hooks = FileHooks { written: Some(written), refresh: None };
        fw_cfg.lock().add_file(FILE, at_reset(), hooks)?;
        Ok(Arc::new(VmCoreInfo { fw_cfg: fw_cfg.clone(), note }))
    }

    /// What the guest has told, if it has.
    pub fn note(&self) -> Option<Note> {
        *self.note.lock()
    }
}

impl AnyDevice for VmCoreInfo {
    fn reset(&self) {
        *self.note.lock() = None;
        // The file exists: it was made with the device.
        let _ = self.fw_cfg.lock().set_file(FILE, at_reset());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_needs_a_format_and_a_size() {
        let mut bytes = at_reset();
        assert_eq!(parse(&bytes), None);
        bytes[2] = 1;
        bytes[4] = 0x40;
        bytes[9] = 0x10;
        assert_eq!(parse(&bytes), Some(Note { size: 0x40, address: 0x1000 }));
        assert_eq!(parse(&bytes[..15]), None);
    }
}
