//! The PCI hot-plug controller that the DSDT drives ("ACPI PCI hotplug" in QEMU's specifications): a
//! bus selector, and bit masks of the selected bus's slots.

use base::device::{self, Device, Shared};
use base::irq::IrqLine;
use base::memory::{AccessSizes, Region};
use base::state::State;

/// First port on the i440FX board.
pub const PCI_HOTPLUG_PORT: u64 = 0xae00;
const PORTS: u64 = 0x18;

/// General-purpose event of the controller.
pub const PCI_HOTPLUG_GPE: u8 = 1;

/// Numbers that a bus may have.
const BUSES: u32 = 256;
/// Slots of a bus.
const SLOTS: u8 = 32;

mod reg {
    /// Slots with new devices; reading clears.
    pub const UP: u64 = 0x00;
    /// Slots whose devices are to go, until they have.
    pub const DOWN: u64 = 0x04;
    /// Written: slots whose devices the guest lets go of. Reads as features, of which there are none.
    pub const EJECT: u64 = 0x08;
    /// Slots whose devices can be taken out.
    pub const REMOVABLE: u64 = 0x0c;
    pub const BUS: u64 = 0x10;
    /// Written: a slot, as a bit mask; reads as the label index of its device.
    pub const LABEL: u64 = 0x14;
}

/// What the controller asks of the bus behind it.
pub trait HotplugBus: Send + Sync {
    /// Whether what is in a slot stays there. Empty slots take devices, so they count as removable.
    fn is_fixed(&self, slot: u8) -> bool;
    /// The label index (`acpi-index`) of a slot's device; zero if it has none.
    fn label(&self, slot: u8) -> u32;
    /// The guest lets go of a slot's device.
    fn eject(&self, slot: u8);
}

/// Registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct PciHotplugState {
    bus: u32,
    up: u32,
    down: u32,
    label: u32,
}

/// The controller. The bus it serves is number 0.
pub struct PciHotplug {
    gpe: IrqLine,
    bus: Box<dyn HotplugBus>,
    st: PciHotplugState,
}

impl PciHotplug {
    /// The controller and its ports. `gpe` is pulsed when the guest has to look.
    pub fn create(bus: Box<dyn HotplugBus>, gpe: IrqLine) -> (Shared<Self>, Region) {
        let controller = device::share(|_| PciHotplug { gpe, bus, st: PciHotplugState::default() });
        let ports =
            device::region(&controller, 0, "acpi-pci-hotplug", PORTS, AccessSizes::UP_TO_DWORD);
        (controller, ports)
    }

    /// A device was put into a slot while the guest runs.
    pub fn plug(&mut self, slot: u8) {
        self.st.up |= 1 << (slot % SLOTS);
        self.gpe.pulse();
    }

    /// Asks the guest to let go of a slot's device.
    pub fn request_removal(&mut self, slot: u8) {
        self.st.down |= 1 << (slot % SLOTS);
        self.gpe.pulse();
    }

    fn slots(&self, chosen: impl Fn(u8) -> bool) -> u32 {
        (0..SLOTS).filter(|&slot| chosen(slot)).fold(0, |mask, slot| mask | 1 << slot)
    }

    fn here(&self) -> bool {
        self.st.bus == 0
    }
}

impl Device for PciHotplug {
    fn read(&mut self, _: u32, offset: u64, size: u8) -> u64 {
        // Doublewords only; bytes and words are not there.
        if size != 4 {
            return 0;
        }
        let value = match offset {
            reg::UP if self.here() => std::mem::take(&mut self.st.up),
            reg::DOWN if self.here() => self.st.down,
            reg::REMOVABLE if self.here() => self.slots(|slot| !self.bus.is_fixed(slot)),
            reg::REMOVABLE if self.st.bus < BUSES => !0,
            reg::BUS if self.st.bus < BUSES => self.st.bus,
            reg::LABEL => self.st.label,
            _ => 0,
        };
        value.into()
    }

    fn write(&mut self, _: u32, offset: u64, size: u8, value: u64) {
        let value = value as u32;
        match offset {
            _ if size != 4 => {}
            reg::EJECT if self.here() => {
                for slot in (0..SLOTS).filter(|slot| value & 1 << slot != 0) {
                    self.st.down &= !(1 << slot);
                    if !self.bus.is_fixed(slot) {
                        self.bus.eject(slot);
                    }
                }
            }
            reg::BUS => self.st.bus = value,
            reg::LABEL if self.here() && value != 0 => {
                self.st.label = self.bus.label(value.trailing_zeros() as u8);
            }
            _ => {}
        }
    }

    /// Devices that were asked to go are gone after a reset.
    fn reset(&mut self) {
        let going = std::mem::take(&mut self.st).down;
        for slot in (0..SLOTS).filter(|slot| going & 1 << slot != 0) {
            self.bus.eject(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base::irq::FnSink;
    use parking_lot::Mutex;
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Default)]
    struct Slots(Arc<Mutex<Vec<u8>>>);

    impl HotplugBus for Slots {
        fn is_fixed(&self, slot: u8) -> bool {
            slot < 2
        }
        fn label(&self, slot: u8) -> u32 {
            if slot == 3 { 77 } else { 0 }
        }
        fn eject(&self, slot: u8) {
            self.0.lock().push(slot);
        }
    }

    fn bed() -> (Shared<PciHotplug>, Slots, Arc<Mutex<u32>>) {
        let (slots, pulses) = (Slots::default(), Arc::new(Mutex::new(0)));
        let counted = pulses.clone();
        let gpe = FnSink(move |_, level| *counted.lock() += u32::from(level));
        let line = IrqLine::new(Arc::new(gpe), PCI_HOTPLUG_GPE.into());
        (PciHotplug::create(Box::new(slots.clone()), line).0, slots, pulses)
    }

    /// Values read from QEMU 10.0.2.
    #[test]
    fn registers() {
        let (controller, _, _) = bed();
        let mut controller = controller.lock();
        let mut read = |offset| controller.read(0, offset, 4);
        assert_eq!([0, 4, 8, 0xc, 0x10, 0x14].map(&mut read), [0, 0, 0, 0xffff_fffc, 0, 0]);
        assert_eq!((controller.read(0, 0xc, 1), controller.read(0, 2, 4)), (0, 0));
        controller.write(0, 0x10, 4, 1);
        assert_eq!((controller.read(0, 0xc, 4), controller.read(0, 0x10, 4)), (0xffff_ffff, 1));
        controller.write(0, 0x10, 4, 256);
        assert_eq!((controller.read(0, 0xc, 4), controller.read(0, 0x10, 4)), (0, 0));
        controller.write(0, 0x10, 4, 0);
        for (offset, value, reads) in [(0, 0xff, 0), (4, 0xff, 0), (0xc, 0, 0xffff_fffc)] {
            controller.write(0, offset, 4, value);
            assert_eq!(controller.read(0, offset, 4), reads);
        }
        for (slot, label) in [(2, 0), (3, 77)] {
            controller.write(0, 0x14, 4, 1 << slot);
            assert_eq!(controller.read(0, 0x14, 4), label);
        }
    }

    #[test]
    fn devices_come_and_go() {
        let (controller, slots, pulses) = bed();
        controller.lock().plug(5);
        assert_eq!(controller.lock().read(0, reg::UP, 4), 1 << 5);
        assert_eq!(controller.lock().read(0, reg::UP, 4), 0, "reading clears");
        controller.lock().request_removal(5);
        for _ in 0..2 {
            assert_eq!(controller.lock().read(0, reg::DOWN, 4), 1 << 5);
        }
        assert_eq!(*pulses.lock(), 2);
        controller.lock().write(0, reg::EJECT, 4, 1 << 5 | 1);
        assert_eq!(*slots.0.lock(), [5], "the host bridge stays");
        controller.lock().request_removal(7);
        controller.lock().reset();
        assert_eq!(*slots.0.lock(), [5, 7], "a reset does not wait for the guest");
    }

    proptest! {
        #[test]
        fn any_access_is_survived(
            accesses in prop::collection::vec((0u64..0x18, 0u32..3, any::<u32>()), 1..60)
        ) {
            let (controller, _, _) = bed();
            let mut controller = controller.lock();
            for (offset, size, value) in accesses {
                controller.write(0, offset, 1 << size, value.into());
                controller.read(0, offset, 1 << size);
            }
            controller.reset();
            prop_assert_eq!(&controller.st, &PciHotplugState::default());
        }
    }
}
