//! Where things are: the two headers, the region table, the metadata ([MS-VHDX] 2.2 and 2.6).

use super::super::bytes::{field, le32, le64, put, uuid};
use super::crc::crc32c;
use crate::node::Node;
use crate::vector::Vector;
use crate::{Error, Result};

pub(super) const MIB: u64 = 1 << 20;
/// Both headers, and what is read and written of each.
pub(super) const HEADERS_AT: [u64; 2] = [64 << 10, 128 << 10];
const HEADER: usize = 4096;
pub(super) const REGIONS_AT: [u64; 2] = [192 << 10, 256 << 10];
pub(super) const REGION_TABLE: usize = 64 << 10;
pub(super) const METADATA_TABLE: usize = 64 << 10;

pub(super) const FILE_SIGNATURE: &[u8] = b"vhdxfile";
pub(super) const REGION_SIGNATURE: &[u8] = b"regi";
pub(super) const METADATA_SIGNATURE: &[u8] = b"metadata";

/// GUIDs as they are stored.
pub(super) type Guid = [u8; 16];

const fn guid(first: u32, second: u16, third: u16, rest: [u8; 8]) -> Guid {
    let (a, b, c) = (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes());
    let r = rest;
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7]]
}

pub(super) const BAT: Guid =
    guid(0x2dc2_7766, 0xf623, 0x4200, [0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08]);
pub(super) const METADATA: Guid =
    guid(0x8b7c_a206, 0x4790, 0x4b9a, [0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e]);
pub(super) const FILE_PARAMETERS: Guid =
    guid(0xcaa1_6737, 0xfa36, 0x4d43, [0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b]);
pub(super) const DISK_SIZE: Guid =
    guid(0x2fa5_4224, 0xcd1b, 0x4876, [0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8]);
pub(super) const DISK_ID: Guid =
    guid(0xbeca_12ab, 0xb2e6, 0x4523, [0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46]);
pub(super) const LOGICAL_SECTOR: Guid =
    guid(0x8141_bf1d, 0xa96f, 0x4709, [0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f]);
pub(super) const PHYSICAL_SECTOR: Guid =
    guid(0xcda3_48c7, 0x445d, 0x4471, [0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56]);

/// What is refused without further words.
pub(super) fn refused(file: &Node, errno: i32) -> Error {
    Error::from_errno(errno).context(format!("Could not open '{}'", file.filename()))
}

/// The header that counts, and how it is replaced.
#[derive(Clone, Debug)]
pub(super) struct Header {
    /// Which of the two places it is in.
    place: usize,
    sequence: u64,
    pub(super) file_write: Guid,
    pub(super) data_write: Guid,
    /// All zeroes: the log holds nothing that matters.
    pub(super) log: Guid,
    pub(super) log_at: u64,
    pub(super) log_len: u64,
}

impl Header {
    pub(super) fn new(sequence: u64, log_at: u64, log_len: u64) -> Result<Self> {
        let (file_write, data_write) = (uuid()?, uuid()?);
        Ok(Self { place: 1, sequence, file_write, data_write, log: [0; 16], log_at, log_len })
    }

    fn parse(place: usize, bytes: &[u8]) -> Option<Self> {
        let sound = bytes.starts_with(b"head")
            && le32(bytes, 4) == crc32c(bytes, 4)
            && field::<2>(bytes, 66) == [1, 0];
        sound.then(|| Self {
            place,
            sequence: le64(bytes, 8),
            file_write: field(bytes, 16),
            data_write: field(bytes, 32),
            log: field(bytes, 48),
            log_len: le32(bytes, 68).into(),
            log_at: le64(bytes, 72),
        })
    }

    pub(super) async fn read(file: &Node) -> Result<Self> {
        let mut best: Option<Self> = None;
        for (place, at) in HEADERS_AT.into_iter().enumerate() {
            let header = Self::parse(place, &file.read_bytes(at, HEADER).await?);
            let newer = header
                .filter(|header| best.as_ref().is_none_or(|best| header.sequence > best.sequence));
            best = newer.or(best);
        }
        best.ok_or_else(|| Error::invalid("No valid VHDX header found"))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        put(&mut bytes, 0, b"head");
        put(&mut bytes, 8, &self.sequence.to_le_bytes());
        put(&mut bytes, 16, &self.file_write);
        put(&mut bytes, 32, &self.data_write);
        put(&mut bytes, 48, &self.log);
        put(&mut bytes, 66, &1_u16.to_le_bytes());
        put(&mut bytes, 68, &(self.log_len as u32).to_le_bytes());
        put(&mut bytes, 72, &self.log_at.to_le_bytes());
        let crc = crc32c(&bytes, 4);
        put(&mut bytes, 4, &crc.to_le_bytes());
        bytes
    }

    /// Writes it to both places, one after the other: one of them is whole at any moment.
    pub(super) async fn write(&mut self, file: &Node) -> Result<()> {
        for _ in 0..2 {
            (self.place, self.sequence) = (1 - self.place, self.sequence.wrapping_add(1));
            file.write(HEADERS_AT[self.place], Vector::from(&self.to_bytes()[..])).await?;
            file.flush().await?;
        }
        Ok(())
    }
}

/// A part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) at: u64,
    pub(super) len: u64,
}

impl Region {
    pub(super) fn end(self) -> u64 {
        self.at.saturating_add(self.len)
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        self.at < other.end() && other.at < self.end()
    }
}

/// The region table: where the table of blocks and the metadata are.
pub(super) async fn read_regions(file: &Node, log: Region) -> Result<(Region, Region)> {
    let bad = || refused(file, libc::EINVAL);
    let bytes = file.read_bytes(REGIONS_AT[0], REGION_TABLE).await?;
    let count = le32(&bytes, 8) as usize;
    if !bytes.starts_with(REGION_SIGNATURE) || le32(&bytes, 4) != crc32c(&bytes, 4) || count > 2047
    {
        return Err(bad());
    }
    let mut found: [Option<Region>; 2] = [None, None];
    let mut taken = vec![Region { at: 0, len: MIB }, log];
    for entry in bytes[16..].chunks_exact(32).take(count) {
        let region = Region { at: le64(entry, 16), len: le32(entry, 24).into() };
        let whole = region.at.is_multiple_of(MIB) && region.len.is_multiple_of(MIB);
        if !whole || region.at < MIB || taken.iter().any(|other| other.overlaps(region)) {
            return Err(bad());
        }
        taken.push(region);
        match field::<16>(entry, 0) {
            BAT if found[0].is_none() => found[0] = Some(region),
            METADATA if found[1].is_none() => found[1] = Some(region),
            BAT | METADATA => return Err(bad()),
            // What we do not know may be needed.
            _ if le32(entry, 28) & 1 != 0 => return Err(refused(file, libc::ENOTSUP)),
            _ => {}
        }
    }
    match found {
        [Some(bat), Some(metadata)] => Ok((bat, metadata)),
        _ => Err(bad()),
    }
}

/// What the disk is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) len: u64,
    pub(super) block: u64,
    /// Blocks that share one block of sector bitmaps, whose entry stands behind theirs.
    pub(super) chunk: u64,
}

impl Shape {
    pub(super) fn new(len: u64, block: u64, sector: u64) -> Self {
        Self { len, block, chunk: (sector << 23) / block }
    }

    pub(super) fn blocks(&self) -> u64 {
        self.len.div_ceil(self.block)
    }

    /// The index of a block's entry in the table.
    pub(super) fn entry(&self, block: u64) -> u64 {
        block + block / self.chunk
    }

    /// Entries in the table.
    pub(super) fn entries(&self) -> u64 {
        self.blocks().checked_sub(1).map_or(0, |last| self.entry(last) + 1)
    }
}

/// The metadata.
pub(super) async fn read_metadata(file: &Node, region: Region) -> Result<Shape> {
    let bad = || refused(file, libc::EINVAL);
    let table = file.read_bytes(region.at, METADATA_TABLE).await?;
    let count = u16::from_le_bytes(field(&table, 10)) as usize;
    if !table.starts_with(METADATA_SIGNATURE) || count > 2047 {
        return Err(bad());
    }
    let mut items: [Option<u64>; 4] = [None; 4];
    for entry in table[32..].chunks_exact(32).take(count) {
        let (at, len, flags) = (le32(entry, 16), le32(entry, 20), le32(entry, 24));
        let which = match field::<16>(entry, 0) {
            FILE_PARAMETERS => 0,
            DISK_SIZE => 1,
            LOGICAL_SECTOR => 2,
            PHYSICAL_SECTOR => 3,
            DISK_ID => continue,
            _ if flags & 4 != 0 => return Err(refused(file, libc::ENOTSUP)),
            _ => continue,
        };
        let inside = u64::from(at) + u64::from(len) <= region.len;
        if !inside || (at as usize) < METADATA_TABLE || items[which].is_some() {
            return Err(bad());
        }
        let value = le64(&file.read_bytes(region.at + u64::from(at), 8).await?, 0);
        items[which] = Some(value);
    }
    let [Some(parameters), Some(len), Some(sector), Some(_)] = items else { return Err(bad()) };
    let (block, flags) = (parameters & 0xffff_ffff, parameters >> 32);
    if flags & 2 != 0 {
        // Only what differs from a parent is here.
        return Err(refused(file, libc::ENOTSUP));
    }
    let sector = sector & 0xffff_ffff;
    if sector != 512 {
        return Err(refused(file, libc::ENOTSUP));
    }
    let sound = block.is_power_of_two() && (MIB..=256 * MIB).contains(&block);
    if !sound || len > MAX_SIZE || !len.is_multiple_of(sector) {
        return Err(bad());
    }
    Ok(Shape::new(len, block, sector))
}

/// The largest disk.
pub(super) const MAX_SIZE: u64 = 64 << 40;
