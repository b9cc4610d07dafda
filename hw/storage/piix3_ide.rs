//! The PIIX3's IDE function (82371SB datasheet, 2.3 and 2.7) with two channels that have no drives:
//! every register of theirs reads as zero, yet the first drive's place answers commands by an
//! interrupt.

use base::device::{self, Device};
use base::irq::IrqLine;
use base::memory::{AccessSizes, Region};
use base::state::State;

use crate::pci::{
    Bar, BarKind, ConfigSpace, Identity, PciBus, PciDevice, PciError, ids, reg as pci_reg,
};

/// Ports of the two command blocks.
const COMMAND_PORTS: [u64; 2] = [0x1f0, 0x170];
/// Ports of the two control registers.
const CONTROL_PORTS: [u64; 2] = [0x3f6, 0x376];
/// ISA interrupts of the two channels.
pub const ISA_IRQS: [u32; 2] = [14, 15];

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

/// Registers of the command and control blocks.
mod reg {
    pub const DEVICE: u64 = 6;
    pub const COMMAND: u64 = 7;
}

/// In the device register: the second drive is selected.
const SECOND_DRIVE: u8 = 1 << 4;

/// Bits of the control register.
mod control {
    pub const NO_INTERRUPT: u8 = 1 << 1;
    pub const RESET: u8 = 1 << 2;
}

/// Bits of the bus master's command and status registers.
mod bus_master {
    pub const START: u8 = 1;
    pub const WRITE_TO_MEMORY: u8 = 1 << 3;
    pub const ACTIVE: u8 = 1;
    pub const ERROR: u8 = 1 << 1;
    pub const INTERRUPT: u8 = 1 << 2;
    pub const DRIVES_CAN_DMA: u8 = 3 << 5;
}

/// Registers of one channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
struct ChannelState {
    device: u8,
    control: u8,
    interrupt: bool,
    bus_master_command: u8,
    bus_master_status: u8,
    descriptors: u32,
}

/// The function.
pub struct Piix3Ide {
    irqs: [IrqLine; 2],
    st: [ChannelState; 2],
}

/// Numbers of the regions, each the first of two: one for each channel.
const CONTROL_REGIONS: u32 = 2;
const BUS_MASTER_REGIONS: u32 = 4;
const DESCRIPTOR_REGIONS: u32 = 6;

impl Piix3Ide {
    /// Plugs the function. The legacy ports are decoded whatever the guest sets.
    pub fn create(bus: &PciBus, devfn: u8, irqs: [IrqLine; 2]) -> Result<(), PciError> {
        let mut config = ConfigSpace::new(&IDENTITY);
        config.allow_device_registers();
        config.set_u16(pci_reg::STATUS, STATUS);
        config.add_bar(BUS_MASTER_BAR, Bar { kind: BarKind::Io, size: BUS_MASTER_LEN });
        bus.plug_chip("piix3-ide", devfn, config, |_| {
            let device = device::share(|_| Piix3Ide { irqs, st: Default::default() });
            let region = |number, name: &str, len| -> Region {
                device::region(&device, number, name, len, AccessSizes::UP_TO_DWORD)
            };
            for channel in 0..2 {
                let number = channel as u32;
                bus.io().add(&region(number, "ide", COMMAND_LEN), COMMAND_PORTS[channel], 0);
                let control = region(CONTROL_REGIONS + number, "ide-control", 1);
                bus.io().add(&control, CONTROL_PORTS[channel], 0);
            }
            let master = Region::container("piix-bmdma-container", BUS_MASTER_LEN.into());
            for channel in 0..2u32 {
                let registers =
                    region(BUS_MASTER_REGIONS + channel, "piix-bmdma", BUS_MASTER_QUARTER);
                let table = region(DESCRIPTOR_REGIONS + channel, "bmdma", BUS_MASTER_QUARTER);
                let at = 2 * BUS_MASTER_QUARTER * u64::from(channel);
                master.add(&registers, at, 0);
                master.add(&table, at + BUS_MASTER_QUARTER, 0);
            }
            (device, vec![(BUS_MASTER_BAR, master)])
        })?;
        Ok(())
    }

    fn set_interrupt(&mut self, channel: usize, level: bool) {
        let st = &mut self.st[channel];
        st.interrupt = level;
        if level && st.control & control::NO_INTERRUPT == 0 {
            st.bus_master_status |= bus_master::INTERRUPT;
            self.irqs[channel].raise();
        } else {
            self.irqs[channel].lower();
        }
    }

    fn write_command_block(&mut self, channel: usize, offset: u64, value: u8) {
        match offset {
            reg::DEVICE => self.st[channel].device = value,
            // The command fails at once, if there is anybody to fail it.
            reg::COMMAND if self.st[channel].device & SECOND_DRIVE == 0 => {
                self.set_interrupt(channel, true);
            }
            _ => {}
        }
    }

    fn write_control(&mut self, channel: usize, value: u8) {
        let before = std::mem::replace(&mut self.st[channel].control, value);
        let reset_ends = before & !value & control::RESET != 0;
        if reset_ends {
            self.st[channel].device = 0;
            self.set_interrupt(channel, true);
        } else if value & control::NO_INTERRUPT != 0 {
            self.irqs[channel].lower();
        }
    }

    /// Wide accesses to the byte registers go nowhere.
    fn read_bus_master(&self, channel: usize, offset: u64, size: u8) -> u64 {
        let st = &self.st[channel];
        match (offset, size) {
            (0, 1) => st.bus_master_command.into(),
            (2, 1) => st.bus_master_status.into(),
            _ => u64::MAX,
        }
    }

    fn write_bus_master(&mut self, channel: usize, offset: u64, size: u8, value: u8) {
        let st = &mut self.st[channel];
        match (offset, size) {
            (0, 1) => {
                let value = value & (bus_master::START | bus_master::WRITE_TO_MEMORY);
                // Without a drive a transfer that was started stays active until it is stopped.
                if (st.bus_master_command ^ value) & bus_master::START != 0 {
                    st.bus_master_status &= !bus_master::ACTIVE;
                    if value & bus_master::START != 0 {
                        st.bus_master_status |= bus_master::ACTIVE;
                    }
                }
                st.bus_master_command = value;
            }
            (2, 1) => {
                let cleared = value & (bus_master::INTERRUPT | bus_master::ERROR);
                let kept = st.bus_master_status & !bus_master::DRIVES_CAN_DMA & !cleared;
                st.bus_master_status = kept | value & bus_master::DRIVES_CAN_DMA;
            }
            _ => {}
        }
    }

    fn write_descriptors(&mut self, channel: usize, offset: u64, size: u8, value: u32) {
        let st = &mut self.st[channel];
        let mask = u32::MAX >> (32 - 8 * u32::from(size.clamp(1, 4)));
        let shift = 8 * (offset & 3) as u32;
        let new = (value & mask) << shift;
        st.descriptors = (st.descriptors & !(mask << shift) | new) & !3;
    }
}

impl Device for Piix3Ide {
    fn read(&mut self, region: u32, offset: u64, size: u8) -> u64 {
        let channel = region as usize & 1;
        match region & !1 {
            BUS_MASTER_REGIONS => self.read_bus_master(channel, offset, size),
            DESCRIPTOR_REGIONS => u64::from(self.st[channel].descriptors) >> (8 * (offset & 3)),
            CONTROL_REGIONS => 0,
            _ => {
                if offset == reg::COMMAND {
                    // Reading the status acknowledges the interrupt.
                    self.set_interrupt(channel, false);
                }
                // Only the data register is as wide as that.
                if size == 4 && offset > 0 { u64::MAX } else { 0 }
            }
        }
    }

    fn write(&mut self, region: u32, offset: u64, size: u8, value: u64) {
        let channel = region as usize & 1;
        match region & !1 {
            BUS_MASTER_REGIONS => self.write_bus_master(channel, offset, size, value as u8),
            DESCRIPTOR_REGIONS => self.write_descriptors(channel, offset, size, value as u32),
            CONTROL_REGIONS => self.write_control(channel, value as u8),
            _ => self.write_command_block(channel, offset, value as u8),
        }
    }

    fn reset(&mut self) {
        self.st = Default::default();
        self.irqs.iter().for_each(IrqLine::lower);
    }
}

impl PciDevice for Piix3Ide {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base::irq::{FnSink, IrqSink};
    use proptest::prelude::*;

    use super::*;

    fn device() -> Piix3Ide {
        let sink: Arc<dyn IrqSink> = Arc::new(FnSink(|_, _| ()));
        Piix3Ide { irqs: ISA_IRQS.map(|n| IrqLine::new(sink.clone(), n)), st: Default::default() }
    }

    /// Observed on QEMU 10.0, like the other values here.
    #[test]
    fn the_first_place_answers_commands_by_an_interrupt() {
        let mut ide = device();
        ide.write(0, reg::COMMAND, 1, 0xec);
        assert!(ide.irqs[0].level() && !ide.irqs[1].level());
        assert_eq!(ide.read(CONTROL_REGIONS, 0, 1), 0);
        assert!(ide.irqs[0].level(), "the alternate status does not acknowledge");
        assert_eq!(ide.read(0, reg::COMMAND, 1), 0);
        assert!(!ide.irqs[0].level());
        ide.write(CONTROL_REGIONS, 0, 1, control::NO_INTERRUPT.into());
        ide.write(0, reg::COMMAND, 1, 0xec);
        assert!(!ide.irqs[0].level());
        ide.write(CONTROL_REGIONS, 0, 1, 0);
        ide.write(0, reg::DEVICE, 1, 0xb0);
        ide.write(0, reg::COMMAND, 1, 0xec);
        assert!(!ide.irqs[0].level(), "there is no second drive");
        ide.write(CONTROL_REGIONS, 0, 1, control::RESET.into());
        assert!(!ide.irqs[0].level());
        ide.write(CONTROL_REGIONS, 0, 1, 0);
        assert!(ide.irqs[0].level());
    }

    #[test]
    fn the_bus_master_has_its_registers() {
        let mut ide = device();
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
            let mut ide = device();
            for (write, region, offset, size, value) in accesses {
                if write {
                    ide.write(region, offset, 1 << size, value);
                } else {
                    ide.read(region, offset, 1 << size);
                }
            }
            ide.reset();
            prop_assert_eq!(ide.st, <[ChannelState; 2]>::default());
        }
    }
}
