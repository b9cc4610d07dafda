//! Cylinders, heads and sectors of disks, as firmware and old guests want to have them, and how
//! firmware translates them.

use std::sync::Arc;

use block::backend::Backend;
use block::engine;

use super::props::{DiskPropError, Geometry, GeometryProps};

/// What IDE can express.
const LIMITS: Geometry = Geometry { cylinders: 65535, heads: 16, sectors: 255 };
/// What the BIOS can, without translation.
const BIOS_CYLINDERS: u32 = 1024;
const BIOS_SECTORS: u32 = 63;
const MAX_CYLINDERS: u32 = 16383;
/// Up to so many tracks, translations of old double the heads and halve the cylinders.
const MAX_LARGE_TRACKS: u32 = 1 << 17;

const SECTOR: u64 = 512;

base::prop_enum! {
    /// How firmware is to translate a geometry.
    pub enum TranslationChoice: "BiosAtaTranslation", "Logical CHS translation algorithm  (auto/none/lba/large/rechs)" {
        /// As it must.
        Auto = "auto",
        /// Not at all.
        None = "none",
        /// By linear addresses.
        Lba = "lba",
        /// By doubling heads and halving cylinders.
        Large = "large",
        /// The same, for 15 heads.
        Rechs = "rechs",
    }
}

/// How firmware translates a geometry, by its number in CMOS memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Translation {
    None = 0,
    Lba = 1,
    Large = 2,
    Rechs = 3,
}

impl TranslationChoice {
    fn chosen(self) -> Option<Translation> {
        match self {
            TranslationChoice::Auto => None,
            TranslationChoice::None => Some(Translation::None),
            TranslationChoice::Lba => Some(Translation::Lba),
            TranslationChoice::Large => Some(Translation::Large),
            TranslationChoice::Rechs => Some(Translation::Rechs),
        }
    }
}

impl From<Translation> for TranslationChoice {
    fn from(translation: Translation) -> Self {
        match translation {
            Translation::None => TranslationChoice::None,
            Translation::Lba => TranslationChoice::Lba,
            Translation::Large => TranslationChoice::Large,
            Translation::Rechs => TranslationChoice::Rechs,
        }
    }
}

/// What the partition table was made for: heads and sectors of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hint {
    heads: u32,
    sectors: u32,
}

/// Looks into a master boot record for where the first partition ends.
fn hint(record: &[u8]) -> Option<Hint> {
    const SIGNATURE: [u8; 2] = [0x55, 0xaa];
    const TABLE: usize = 446;
    const ENTRY: usize = 16;
    if record.get(510..512)? != SIGNATURE {
        return None;
    }
    record.get(TABLE..510)?.chunks_exact(ENTRY).find_map(|entry| {
        let (head, sector) = (u32::from(entry[5]), u32::from(entry[6] & 0x3f));
        let used = entry[12..16] != [0; 4];
        (used && head > 0 && sector > 0).then_some(Hint { heads: head + 1, sectors: sector })
    })
}

/// The geometry of a disk of so many bytes, whose first sector may tell of another.
fn guess(len: u64, record: &[u8]) -> (Geometry, Translation) {
    let usual = Geometry::of(len);
    let lba = usual.cylinders > BIOS_CYLINDERS;
    let usually = (usual, if lba { Translation::Lba } else { Translation::None });
    let Some(Hint { heads, sectors }) = hint(record) else { return usually };
    let cylinders = len / SECTOR / u64::from(heads * sectors);
    if cylinders == 0 || cylinders > MAX_CYLINDERS.into() {
        usually
    } else if heads <= LIMITS.heads {
        (Geometry { cylinders: cylinders as u32, heads, sectors }, Translation::None)
    } else {
        // No drive has so many: the table was made for a translation.
        let large = usual.cylinders * usual.heads <= MAX_LARGE_TRACKS;
        (usual, if large { Translation::Large } else { Translation::Lba })
    }
}

/// The geometry of a disk: as given, or as its contents have it.
pub fn choose(
    backend: &Arc<Backend>,
    props: &GeometryProps,
    translation: TranslationChoice,
) -> Result<(Geometry, Translation), DiskPropError> {
    let len = backend.len().unwrap_or(0);
    let (geometry, needed) = if (props.cyls, props.heads, props.secs) == (0, 0, 0) {
        let record = backend.node().and_then(|node| {
            let count = len.min(SECTOR) as usize;
            engine::block_on(node.read_bytes(0, count)).ok()
        });
        guess(len, &record.unwrap_or_default())
    } else {
        let geometry = props.decide(len, LIMITS)?;
        let plain = geometry.cylinders <= BIOS_CYLINDERS && geometry.sectors <= BIOS_SECTORS;
        (geometry, if plain { Translation::None } else { Translation::Lba })
    };
    Ok((geometry, translation.chosen().unwrap_or(needed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn record(head: u8, sector: u8) -> Vec<u8> {
        let mut record = vec![0; 512];
        record[510..].copy_from_slice(&[0x55, 0xaa]);
        record[446 + 5] = head;
        record[446 + 6] = sector;
        record[446 + 12] = 1;
        record
    }

    fn seen(len: u64, record: &[u8]) -> (u32, u32, u32, Translation) {
        let (geometry, translation) = guess(len, record);
        (geometry.cylinders, geometry.heads, geometry.sectors, translation)
    }

    /// What QEMU 10.0 makes of the same disks.
    #[test]
    fn geometry_follows_from_length_and_partitions() {
        use Translation::{Large, Lba, None};
        for (len, cylinders, translation) in [
            (300 * 512, 2, None),
            (10 * MIB, 20, None),
            (504 * MIB, 1024, None),
            (600 * MIB, 1219, Lba),
            (100 << 30, 16383, Lba),
        ] {
            assert_eq!(seen(len, &[]), (cylinders, 16, 63, translation), "{len}");
        }
        for (len, head, sector, wanted) in [
            (100 * MIB, 15, 63, (203, 16, 63, None)),
            (4 << 30, 15, 63, (8322, 16, 63, None)),
            (100 * MIB, 254, 63, (203, 16, 63, Large)),
            (4 << 30, 254, 63, (8322, 16, 63, Lba)),
            (100 * MIB, 7, 32, (800, 8, 32, None)),
            (4 << 30, 7, 32, (8322, 16, 63, Lba)),
            (4 << 30, 0, 63, (8322, 16, 63, Lba)),
            (4 << 30, 15, 0, (8322, 16, 63, Lba)),
        ] {
            assert_eq!(seen(len, &record(head, sector)), wanted, "{len} {head} {sector}");
        }
    }
}
