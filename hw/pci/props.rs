//! The properties that every PCI device has.

use base::props::{PciAddr, Props};

use super::config::{ConfigSpace, reg};

/// Where a device sits on its bus.
#[derive(Debug, Props)]
pub struct PciProps {
    /// Slot and function.
    pub addr: PciAddr,
    /// Whether other functions share the slot.
    pub multifunction: bool,
}

impl PciProps {
    /// The place on the bus, if one was chosen.
    pub fn devfn(&self) -> Option<u8> {
        self.addr.devfn()
    }

    /// Shows in the header what the properties say.
    pub fn apply(&self, config: &mut ConfigSpace) {
        if self.multifunction {
            config.set_u8(reg::HEADER_TYPE, config.u8(reg::HEADER_TYPE) | reg::MULTIFUNCTION);
        }
    }
}
