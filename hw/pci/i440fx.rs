//! The 82441FX host bridge: memory attributes and SMRAM.

use base::device::{self, Device, Shared};

use super::bus::{PciBus, PciError};
use super::config::{ConfigSpace, Identity};
use super::function::PciDevice;
use super::ids;
use super::pam::{LowMemory, PAM_REGISTERS, Pam};

const PAM0: usize = 0x59;
const SMRAM: usize = 0x72;
const SMRAM_LOCK: u8 = 1 << 4;
const SMRAM_OPEN: u8 = 1 << 6;

const IDENTITY: Identity = Identity {
    vendor: ids::INTEL,
    device: ids::INTEL_82441FX,
    revision: 2,
    class: 0x060000,
    subsystem: Some((ids::QUMRANET, ids::QUMRANET_DEFAULT_SUBSYSTEM)),
    interrupt_pin: 0,
};

/// The host bridge's own function.
pub struct I440Fx {
    pam: Pam,
}

impl I440Fx {
    /// Plugs the bridge as function 0:0.0.
    pub fn create(bus: &PciBus, low: &LowMemory) -> Result<Shared<Self>, PciError> {
        let mut config = ConfigSpace::new(&IDENTITY);
        config.allow_device_registers();
        // DRAM row boundaries and timing: what firmware expects to find and does not interpret.
        config.set_u8(0x57, 0x10);
        config.set_u8(SMRAM, 0x02);
        let bridge = device::share(|_| I440Fx { pam: Pam::new(low) });
        bus.plug_chip("i440FX", 0, config, |_| (bridge.clone(), Vec::new()))?;
        Ok(bridge)
    }
}

impl PciDevice for I440Fx {
    fn config_written(&mut self, config: &mut ConfigSpace, _: usize, _: u8) {
        for n in 0..PAM_REGISTERS {
            self.pam.set_attributes(n, config.u8(PAM0 + n));
        }
        let smram = config.u8(SMRAM);
        self.pam.set_smram(smram);
        if smram & SMRAM_LOCK != 0 {
            // Until reset nobody opens SMRAM again.
            config.set_u8(SMRAM, smram & !SMRAM_OPEN);
            self.pam.set_smram(smram & !SMRAM_OPEN);
            config.allow_u8(SMRAM, 0);
        }
    }
}

impl Device for I440Fx {
    fn read(&mut self, _: u32, _: u64, _: u8) -> u64 {
        !0
    }
    fn write(&mut self, _: u32, _: u64, _: u8, _: u64) {}
    fn reset(&mut self) {}
}

/// How the board wires INTx pins: each slot turned by one (so that slot 1's INTA# is PIRQA).
pub fn intx_map(devfn: u8, pin: u8) -> usize {
    usize::from((devfn >> 3).wrapping_sub(1).wrapping_add(pin.wrapping_sub(1)) & 3)
}
