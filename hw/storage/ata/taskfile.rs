//! The registers that carry a command's parameters. Each remembers what was written before last, for
//! 48-bit addresses (ATA/ATAPI-7 volume 2, 5.3).

use base::state::State;

use super::spec::{device, reg};
use crate::storage::props::Geometry;

/// How a command names sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, State)]
pub enum Width {
    /// 28 bits, or cylinder, head and sector.
    Narrow,
    /// 48 bits.
    Wide,
}

/// A register and what it held before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, State)]
struct Pair {
    current: u8,
    previous: u8,
}

impl Pair {
    fn write(&mut self, value: u8) {
        *self = Pair { current: value, previous: self.current };
    }
}

/// The registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct Taskfile {
    features: Pair,
    count: Pair,
    low: Pair,
    mid: Pair,
    high: Pair,
    device: u8,
}

impl Taskfile {
    fn pair(&mut self, register: u64) -> Option<&mut Pair> {
        match register {
            reg::ERROR => Some(&mut self.features),
            reg::COUNT => Some(&mut self.count),
            reg::LBA_LOW => Some(&mut self.low),
            reg::LBA_MID => Some(&mut self.mid),
            reg::LBA_HIGH => Some(&mut self.high),
            _ => None,
        }
    }

    /// The guest writes a register.
    pub fn write(&mut self, register: u64, value: u8) {
        if register == reg::DEVICE {
            self.device = value | device::OBSOLETE;
        } else if let Some(pair) = self.pair(register) {
            pair.write(value);
        }
    }

    /// The guest reads a register, or what it held before.
    pub fn read(&mut self, register: u64, previous: bool) -> u8 {
        if register == reg::DEVICE {
            return self.device;
        }
        let pair = self.pair(register).copied().unwrap_or_default();
        if previous { pair.previous } else { pair.current }
    }

    /// The subcommand.
    pub fn features(&self) -> u8 {
        self.features.current
    }

    /// The count register by itself.
    pub fn count(&self) -> u8 {
        self.count.current
    }

    /// The three address registers by themselves, lowest first.
    pub fn address(&self) -> [u8; 3] {
        [self.low, self.mid, self.high].map(|pair| pair.current)
    }

    /// The device shows something in its count register.
    pub fn set_count(&mut self, value: u8) {
        self.count.current = value;
    }

    /// The device shows something in the middle and high address registers.
    pub fn set_mid_high(&mut self, value: u16) {
        [self.mid.current, self.high.current] = value.to_le_bytes();
    }

    /// How many sectors a command is about; zero stands for the most.
    pub fn sectors(&self, width: Width) -> u32 {
        let (count, most) = match width {
            Width::Narrow => (u32::from(self.count.current), 0x100),
            Width::Wide => {
                (u32::from_be_bytes([0, 0, self.count.previous, self.count.current]), 0x1_0000)
            }
        };
        if count == 0 { most } else { count }
    }

    /// Shows how many sectors are left.
    pub fn set_sectors(&mut self, left: u32) {
        self.count.current = left as u8;
        self.count.previous = (left >> 8) as u8;
    }

    fn is_linear(&self) -> bool {
        self.device & device::LBA != 0
    }

    /// The sector that the registers name, if any.
    pub fn sector(&self, width: Width, geometry: Geometry) -> Option<u64> {
        let [low, mid, high] = self.address();
        let narrow = u64::from(u32::from_le_bytes([low, mid, high, 0]));
        let head = u64::from(self.device & device::HEAD);
        match width {
            Width::Wide => {
                let previous = [self.low.previous, self.mid.previous, self.high.previous, 0];
                Some(narrow | u64::from(u32::from_le_bytes(previous)) << 24)
            }
            Width::Narrow if self.is_linear() => Some(narrow | head << 24),
            Width::Narrow => {
                let track = (narrow >> 8) * u64::from(geometry.heads) + head;
                (track * u64::from(geometry.sectors) + u64::from(low)).checked_sub(1)
            }
        }
    }

    /// Names a sector, in the way that the command did.
    pub fn set_sector(&mut self, sector: u64, width: Width, geometry: Geometry) {
        let [low, mid, high, fourth, fifth, sixth, ..] = sector.to_le_bytes();
        let (low, mid, high) = match width {
            Width::Wide => {
                self.low.previous = fourth;
                self.mid.previous = fifth;
                self.high.previous = sixth;
                (low, mid, high)
            }
            Width::Narrow => {
                let (head, low, mid, high) = if self.is_linear() {
                    (fourth, low, mid, high)
                } else {
                    let per_track = u64::from(geometry.sectors.max(1));
                    let heads = u64::from(geometry.heads.max(1));
                    let track = sector / per_track;
                    let [mid, high, ..] = (track / heads).to_le_bytes();
                    ((track % heads) as u8, (sector % per_track) as u8 + 1, mid, high)
                };
                self.device = self.device & !device::HEAD | head & device::HEAD;
                (low, mid, high)
            }
        };
        (self.low.current, self.mid.current, self.high.current) = (low, mid, high);
    }

    /// What a reset leaves: the signature by which hosts tell kinds of devices apart.
    pub fn show_signature(&mut self, mid_high: u16) {
        self.device = device::OBSOLETE;
        self.count.current = 1;
        self.low.current = 1;
        self.set_mid_high(mid_high);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GEOMETRY: Geometry = Geometry { cylinders: 1024, heads: 16, sectors: 63 };

    proptest! {
        #[test]
        fn a_sector_that_is_named_is_read_back(
            wide in any::<bool>(),
            linear in any::<bool>(),
            sector in 0..1u64 << 28,
        ) {
            let mut taskfile = Taskfile::default();
            taskfile.write(reg::DEVICE, if linear { device::LBA } else { 0 });
            let width = if wide { Width::Wide } else { Width::Narrow };
            let limit = if linear || wide { u64::MAX } else { 1 << 16 << 4 };
            let sector = sector.min(limit);
            taskfile.set_sector(sector, width, GEOMETRY);
            prop_assert_eq!(taskfile.sector(width, GEOMETRY), Some(sector));
        }
    }

    #[test]
    fn counts_and_addresses_have_two_halves() {
        let mut taskfile = Taskfile::default();
        for (register, value) in
            [(2, 0x01), (2, 0x02), (3, 6), (3, 3), (4, 5), (4, 2), (5, 4), (5, 1)]
        {
            taskfile.write(register, value);
        }
        assert_eq!(taskfile.sectors(Width::Narrow), 2);
        assert_eq!(taskfile.sectors(Width::Wide), 0x102);
        assert_eq!(taskfile.sector(Width::Wide, GEOMETRY), Some(0x0405_0601_0203));
        assert_eq!((taskfile.read(reg::COUNT, false), taskfile.read(reg::COUNT, true)), (2, 1));
        taskfile.set_sectors(0);
        assert_eq!(taskfile.sectors(Width::Wide), 0x1_0000);
        taskfile.write(reg::LBA_LOW, 0);
        taskfile.write(reg::LBA_MID, 0);
        taskfile.write(reg::LBA_HIGH, 0);
        assert_eq!(taskfile.sector(Width::Narrow, GEOMETRY), None, "there is no sector 0");
    }
}
