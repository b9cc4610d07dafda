//! The virtual machine's generation identifier, which changes when the machine is copied or taken
//! back in time (Microsoft, "Virtual Machine Generation ID").
//!
//! The identifier lies in a page that firmware allocates from a fw_cfg file of the ACPI tables;
//! firmware then writes the page's address into the file made here.

use std::sync::Arc;

use base::device::{AnyDevice, Shared};
use base::props::{Props, UuidOrAuto};
use parking_lot::Mutex;

use crate::firmware::acpi::GENERATION_ID_ADDRESS_FILE;
use crate::firmware::fw_cfg::{FileHooks, FwCfg, FwCfgError};

/// Properties of `vmgenid`.
#[derive(Debug, Props)]
pub struct VmGenIdProps {
    /// The identifier.
    pub guid: UuidOrAuto,
}

/// The device.
pub struct VmGenId {
    fw_cfg: Shared<FwCfg>,
    address: Arc<Mutex<u64>>,
}

/// A UUID as a GUID lies in memory: its first three fields are little-endian.
pub fn as_guid(uuid: [u8; 16]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = uuid;
    let mut guid = [d, c, b, a, f, e, h, g, 0, 0, 0, 0, 0, 0, 0, 0];
    guid[8..].copy_from_slice(&rest);
    guid
}

impl VmGenId {
    /// The device with its address file.
    pub fn create(fw_cfg: &Shared<FwCfg>) -> Result<Arc<Self>, FwCfgError> {
        let address = Arc::<Mutex<u64>>::default();
        let told = address.clone();
        let written = Box::new(move |bytes: &[u8]| {
            *told.lock() = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        });
        let hooks = FileHooks { written: Some(written), refresh: None };
        fw_cfg.lock().add_file(GENERATION_ID_ADDRESS_FILE, vec![0; 8], hooks)?;
        Ok(Arc::new(VmGenId { fw_cfg: fw_cfg.clone(), address }))
    }

    /// Where the page with the identifier is, once firmware has told.
    pub fn address(&self) -> Option<u64> {
        Some(*self.address.lock()).filter(|&address| address != 0)
    }
}

impl AnyDevice for VmGenId {
    fn reset(&self) {
        *self.address.lock() = 0;
        // The file exists: it was made with the device.
        let _ = self.fw_cfg.lock().set_file(GENERATION_ID_ADDRESS_FILE, vec![0; 8]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_is_little_endian_in_its_first_half() {
        let uuid = std::array::from_fn(|i| i as u8);
        assert_eq!(as_guid(uuid), [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]);
    }
}
