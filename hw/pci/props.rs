//! The properties that every PCI device has.

use base::props::{PciAddr, Props};

use super::config::{ConfigSpace, reg};
use super::rom::ANY_SIZE;

/// Where a device sits on its bus.
#[derive(Clone, Debug, Props)]
pub struct PciProps {
    /// Slot and function.
    pub addr: PciAddr,
    /// Whether other functions share the slot.
    pub multifunction: bool,
    /// Image of the expansion ROM.
    pub romfile: Option<String>,
    /// Size of the ROM's BAR, if it is not to follow from the image.
    #[prop(default = ANY_SIZE)]
    pub romsize: u32,
    /// Whether a BAR shows the ROM (0: firmware is given a file); by default it does.
    #[prop(default = -1)]
    pub rombar: i32,
}

impl PciProps {
    /// The place on the bus, if one was chosen.
    pub(super) fn devfn(&self) -> Option<u8> {
        self.addr.devfn()
    }

    /// Shows in the header what the properties say.
    pub(super) fn apply(&self, config: &mut ConfigSpace) {
        if self.multifunction {
            config.set_u8(reg::HEADER_TYPE, config.u8(reg::HEADER_TYPE) | reg::MULTIFUNCTION);
        }
    }
}
