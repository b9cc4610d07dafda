//! Drives and formats of floppy disks.

/// Types of drives, by their number in CMOS memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriveKind {
    /// 1.2 MB, 5.25 inches.
    High5 = 2,
    /// 1.44 MB, 3.5 inches.
    High3 = 4,
    /// 2.88 MB, 3.5 inches.
    Extended3 = 5,
}

/// Data rates, by their number in the configuration control register.
mod rate {
    pub const K500: u8 = 0;
    pub const K300: u8 = 1;
    pub const K250: u8 = 2;
    pub const M1: u8 = 3;
}

/// How a disk is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// The drive that it is for.
    pub drive: DriveKind,
    /// Sectors of a track.
    pub sectors: u8,
    /// Cylinders.
    pub cylinders: u8,
    /// Sides.
    pub heads: u8,
    /// Data rate.
    pub rate: u8,
}

const fn format(drive: DriveKind, sectors: u8, cylinders: u8, heads: u8, rate: u8) -> Format {
    Format { drive, sectors, cylinders, heads, rate }
}

/// Formats in use; the first of a drive is its own.
const FORMATS: [Format; 28] = [
    format(DriveKind::High3, 18, 80, 2, rate::K500),
    format(DriveKind::High3, 20, 80, 2, rate::K500),
    format(DriveKind::High3, 21, 80, 2, rate::K500),
    format(DriveKind::High3, 21, 82, 2, rate::K500),
    format(DriveKind::High3, 21, 83, 2, rate::K500),
    format(DriveKind::High3, 22, 80, 2, rate::K500),
    format(DriveKind::High3, 23, 80, 2, rate::K500),
    format(DriveKind::High3, 24, 80, 2, rate::K500),
    format(DriveKind::Extended3, 36, 80, 2, rate::M1),
    format(DriveKind::Extended3, 39, 80, 2, rate::M1),
    format(DriveKind::Extended3, 40, 80, 2, rate::M1),
    format(DriveKind::Extended3, 44, 80, 2, rate::M1),
    format(DriveKind::Extended3, 48, 80, 2, rate::M1),
    format(DriveKind::High3, 9, 80, 2, rate::K250),
    format(DriveKind::High3, 10, 80, 2, rate::K250),
    format(DriveKind::High5, 15, 80, 2, rate::K500),
    format(DriveKind::High5, 18, 82, 2, rate::K500),
    format(DriveKind::High5, 18, 83, 2, rate::K500),
    format(DriveKind::High5, 9, 40, 2, rate::K300),
    format(DriveKind::High5, 9, 40, 1, rate::K300),
    format(DriveKind::High5, 10, 41, 2, rate::K300),
    format(DriveKind::High5, 10, 42, 2, rate::K300),
    format(DriveKind::High5, 8, 40, 2, rate::K250),
    format(DriveKind::High5, 8, 40, 1, rate::K250),
    format(DriveKind::High3, 9, 80, 1, rate::K250),
    format(DriveKind::High3, 13, 80, 2, rate::K250),
    format(DriveKind::High3, 14, 80, 2, rate::K250),
    format(DriveKind::High5, 20, 80, 2, rate::K500),
];

impl Format {
    /// Sectors of a disk.
    pub fn total(&self) -> u64 {
        u64::from(self.sectors) * u64::from(self.cylinders) * u64::from(self.heads)
    }

    /// The format of a disk of so many sectors in a drive; without one that fits, the drive's own.
    pub fn of(drive: DriveKind, sectors: u64) -> Self {
        let mut fitting = FORMATS.iter().filter(|format| format.drive == drive);
        let own = fitting.clone().next().copied();
        let found = fitting.find(|format| format.total() == sectors).copied();
        found.or(own).unwrap_or(FORMATS[0])
    }

    /// The sector's number, if there is one at this place.
    pub fn sector(&self, cylinder: u8, head: u8, sector: u8) -> Option<u64> {
        let exists =
            cylinder < self.cylinders && head < self.heads && (1..=self.sectors).contains(&sector);
        let track = u64::from(cylinder) * u64::from(self.heads) + u64::from(head);
        exists.then(|| track * u64::from(self.sectors) + u64::from(sector) - 1)
    }
}

impl DriveKind {
    /// The drive for a disk of so many sectors, if that is a format of its own.
    pub fn for_disk(sectors: u64) -> Option<Self> {
        FORMATS.iter().find(|format| format.total() == sectors).map(|format| format.drive)
    }

    /// The last cylinder, the most sectors and the last side of all its formats.
    pub fn limits(self) -> (u32, u32, u32) {
        FORMATS.iter().filter(|format| format.drive == self).fold((0, 0, 0), |(c, s, h), format| {
            (
                c.max(u32::from(format.cylinders) - 1),
                s.max(format.sectors.into()),
                h.max(u32::from(format.heads) - 1),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_follow_from_sizes() {
        for (kilobytes, drive, sectors) in [
            (1440, DriveKind::High3, 18),
            (2880, DriveKind::Extended3, 36),
            (1200, DriveKind::High5, 15),
            (720, DriveKind::High3, 9),
            (360, DriveKind::High5, 9),
            (160, DriveKind::High5, 8),
            (1680, DriveKind::High3, 21),
        ] {
            let total = kilobytes * 2;
            assert_eq!(DriveKind::for_disk(total), Some(drive), "{kilobytes}");
            assert_eq!(Format::of(drive, total).sectors, sectors, "{kilobytes}");
        }
        assert_eq!(DriveKind::for_disk(1000), None);
        assert_eq!(Format::of(DriveKind::High3, 1000).sectors, 18);
        assert_eq!(DriveKind::Extended3.limits(), (79, 48, 1));
        let format = Format::of(DriveKind::High3, 2880);
        assert_eq!(format.sector(79, 1, 18), Some(2879));
        for place in [(80, 0, 1), (0, 2, 1), (0, 0, 0), (0, 0, 19)] {
            assert_eq!(format.sector(place.0, place.1, place.2), None, "{place:?}");
        }
    }
}
