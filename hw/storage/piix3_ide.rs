//! The PIIX3's IDE function (82371SB datasheet, 2.3 and 2.7): two channels at their legacy ports, and
//! their bus masters.

use std::sync::Arc;

use base::device::{self, Device, Shared, WeakShared};
use base::irq::IrqLine;
use base::memory::{AccessSizes, Dma, Region};

use super::ata::channel::Channel;
use crate::pci::{
    Bar, BarKind, ConfigSpace, Identity, PciBus, PciDevice, PciError, ids, reg as pci_reg,
};

/// Ports of the two command blocks.
const COMMAND_PORTS: [u64; 2] = [0x1f0, 0x170];
/// Ports of the two control registers.
const CONTROL_PORTS: [u64; 2] = [0x3f6, 0x376];
/// ISA interrupts of the two channels.
pub const ISA_IRQS: [u32; 2] = [14, 15];

/// Channels of the function.
pub const CHANNELS: usize = 2;

const COMMAND_LEN: u64 = 8;
const BUS_MASTER_BAR: usize = 4;
const BUS_MASTER_LEN: u64 = 16;
/// Length of one channel's command and status registers, and of its descriptor table address.
const BUS_MASTER_QUARTER: u64 = 4;

const IDENTITY: Identity = Identity {
    vendor: ids::INTEL,
    device: ids::INTEL_PIIX3_IDE,
    revision: 0,
    class: 0x010180,
    subsystem: Some((ids::QUMRANET, ids::QUMRANET_DEFAULT_SUBSYSTEM)),
    interrupt_pin: 0,
};
/// Fast back-to-back capable, medium DEVSEL timing.
const STATUS: u16 = 0x0280;

/// Numbers of the regions, each the first of two: one for each channel.
const CONTROL_REGIONS: u32 = 2;
const BUS_MASTER_REGIONS: u32 = 4;
const DESCRIPTOR_REGIONS: u32 = 6;

/// The function.
pub struct Piix3Ide {
    channels: [Channel; CHANNELS],
}

impl Piix3Ide {
    /// Plugs the function. The legacy ports are decoded whatever the guest sets.
    pub fn create(
        bus: &PciBus,
        devfn: u8,
        irqs: [IrqLine; CHANNELS],
    ) -> Result<Shared<Self>, PciError> {
        let mut config = ConfigSpace::new(&IDENTITY);
        config.allow_device_registers();
        config.set_u16(pci_reg::STATUS, STATUS);
        config.add_bar(BUS_MASTER_BAR, Bar { kind: BarKind::Io, size: BUS_MASTER_LEN });
        let mut created = None;
        bus.plug_chip("piix3-ide", devfn, config, |wires| {
            let device = device::share(|me| Self::new(irqs, &wires.dma, me));
            created = Some(device.clone());
            let region = |number, name: &str, len| -> Region {
                device::region(&device, number, name, len, AccessSizes::UP_TO_DWORD)
            };
            for channel in 0..CHANNELS {
                let number = channel as u32;
                bus.io().add(&region(number, "ide", COMMAND_LEN), COMMAND_PORTS[channel], 0);
                let control = region(CONTROL_REGIONS + number, "ide-control", 1);
                bus.io().add(&control, CONTROL_PORTS[channel], 0);
            }
            let master = Region::container("piix-bmdma-container", BUS_MASTER_LEN.into());
            for channel in 0..CHANNELS as u32 {
                let registers =
                    region(BUS_MASTER_REGIONS + channel, "piix-bmdma", BUS_MASTER_QUARTER);
                let table = region(DESCRIPTOR_REGIONS + channel, "bmdma", BUS_MASTER_QUARTER);
                let at = 2 * BUS_MASTER_QUARTER * u64::from(channel);
                master.add(&registers, at, 0);
                master.add(&table, at + BUS_MASTER_QUARTER, 0);
            }
            (device, vec![(BUS_MASTER_BAR, master)])
        })?;
        // The bus calls the builder exactly once when it has a place.
        created.ok_or_else(|| PciError::Full("piix3-ide".into()))
    }

    pub(super) fn new(irqs: [IrqLine; CHANNELS], dma: &Dma, me: &WeakShared<Self>) -> Self {
        let mut number = 0;
        let channels = irqs.map(|irq| {
            let (me, channel) = (me.clone(), number);
            number += 1;
            let messenger = Arc::new(move |message| {
                if let Some(ide) = me.upgrade() {
                    ide.lock().channels[channel].hear(message);
                }
            });
            Channel::new(irq, dma.clone(), messenger)
        });
        Piix3Ide { channels }
    }

    /// One of the channels.
    pub fn channel(&mut self, number: usize) -> Option<&mut Channel> {
        self.channels.get_mut(number)
    }
}

impl Device for Piix3Ide {
    fn read(&mut self, region: u32, offset: u64, size: u8) -> u64 {
        let channel = &mut self.channels[region as usize & 1];
        match region & !1 {
            BUS_MASTER_REGIONS => channel.master().read(offset, size),
            DESCRIPTOR_REGIONS => channel.master().read_table(offset),
            CONTROL_REGIONS => channel.alternate_status().into(),
            _ => channel.read(offset, size),
        }
    }

    fn write(&mut self, region: u32, offset: u64, size: u8, value: u64) {
        let channel = &mut self.channels[region as usize & 1];
        match region & !1 {
            BUS_MASTER_REGIONS => channel.write_master(offset, size, value as u8),
            DESCRIPTOR_REGIONS => channel.master().write_table(offset, size, value as u32),
            CONTROL_REGIONS => channel.write_control(value as u8),
            _ => channel.write(offset, size, value as u32),
        }
    }

    fn reset(&mut self) {
        self.channels.iter_mut().for_each(Channel::reset);
    }
}

impl PciDevice for Piix3Ide {}

#[cfg(test)]
mod tests {
    use base::irq::{FnSink, IrqSink};
    use base::memory::AddressSpace;
    use proptest::prelude::*;

    use super::super::ata::spec::{control, reg};
    use super::*;

    fn device() -> (Shared<Piix3Ide>, [IrqLine; CHANNELS]) {
        let sink: Arc<dyn IrqSink> = Arc::new(FnSink(|_, _| ()));
        let irqs = ISA_IRQS.map(|n| IrqLine::new(sink.clone(), n));
        let dma = Dma::new(AddressSpace::new("memory", Region::container("memory", 1 << 20)));
        (device::share(|me| Piix3Ide::new(irqs.clone(), &dma, me)), irqs)
    }

    /// Observed on QEMU 10.0, like the other values here.
    #[test]
    fn the_first_place_answers_commands_by_an_interrupt() {
        let (ide, irqs) = device();
        let mut ide = ide.lock();
        ide.write(0, reg::STATUS, 1, 0xec);
        assert!(irqs[0].level() && !irqs[1].level());
        assert_eq!(ide.read(CONTROL_REGIONS, 0, 1), 0);
        assert!(irqs[0].level(), "the alternate status does not acknowledge");
        assert_eq!(ide.read(0, reg::STATUS, 1), 0);
        assert!(!irqs[0].level());
        ide.write(CONTROL_REGIONS, 0, 1, control::NO_INTERRUPT.into());
        ide.write(0, reg::STATUS, 1, 0xec);
        assert!(!irqs[0].level());
        ide.write(CONTROL_REGIONS, 0, 1, 0);
        ide.write(0, reg::DEVICE, 1, 0xb0);
        ide.write(0, reg::STATUS, 1, 0xec);
        assert!(!irqs[0].level(), "there is no second drive");
        ide.write(CONTROL_REGIONS, 0, 1, control::RESET.into());
        assert!(irqs[0].level());
        ide.read(0, reg::STATUS, 1);
        ide.write(CONTROL_REGIONS, 0, 1, 0);
        assert!(!irqs[0].level());
    }

    #[test]
    fn the_bus_master_has_its_registers() {
        let (ide, _) = device();
        let mut ide = ide.lock();
        let mut write = |region, offset, size, value| {
            ide.write(region, offset, size, value);
            ide.read(region, offset, size)
        };
        assert_eq!(write(BUS_MASTER_REGIONS, 0, 1, 0xff), 0x09);
        assert_eq!(write(BUS_MASTER_REGIONS, 1, 1, 0xff) as u8, 0xff);
        assert_eq!(write(BUS_MASTER_REGIONS, 2, 1, 0xff), 0x61);
        assert_eq!(write(DESCRIPTOR_REGIONS, 0, 4, 0xffff_ffff), 0xffff_fffc);
        assert_eq!(write(DESCRIPTOR_REGIONS, 0, 4, 0), 0);
        assert_eq!(write(DESCRIPTOR_REGIONS, 1, 1, 0x55), 0x55);
        assert_eq!(write(DESCRIPTOR_REGIONS, 2, 2, 0x1234), 0x1234);
        assert_eq!(write(BUS_MASTER_REGIONS, 0, 1, 0), 0);
        assert_eq!(ide.read(DESCRIPTOR_REGIONS, 0, 4), 0x1234_5500);
        assert_eq!(ide.read(BUS_MASTER_REGIONS, 2, 1), 0x60, "stopped");
        assert_eq!(ide.read(BUS_MASTER_REGIONS + 1, 0, 1), 0, "the other channel");
    }

    proptest! {
        #[test]
        fn any_access_is_survived_and_undone_by_reset(
            accesses in prop::collection::vec(
                (any::<bool>(), 0..8u32, 0..16u64, 0..3u32, any::<u64>()), 0..200),
        ) {
            let (ide, _) = device();
            let mut ide = ide.lock();
            let fresh = ide.channels.each_ref().map(Channel::state);
            for (write, region, offset, size, value) in accesses {
                if write {
                    ide.write(region, offset, 1 << size, value);
                } else {
                    ide.read(region, offset, 1 << size);
                }
            }
            ide.reset();
            prop_assert_eq!(ide.channels.each_ref().map(Channel::state), fresh);
        }
    }
}
