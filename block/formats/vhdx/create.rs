//! New images.

use super::super::bytes::{le64, put, uuid};
use super::FILE_SIGNATURE;
use super::PRESENT;
use super::crc::crc32c;
use super::header::{
    BAT, DISK_ID, DISK_SIZE, FILE_PARAMETERS, Guid, Header, LOGICAL_SECTOR, MAX_SIZE, METADATA,
    METADATA_SIGNATURE, METADATA_TABLE, MIB, PHYSICAL_SECTOR, REGION_SIGNATURE, REGION_TABLE,
    REGIONS_AT, Region, Shape,
};
use crate::driver::Preallocation;
use crate::node::Node;
use crate::vector::Vector;
use crate::{Error, Result};

/// Between the metadata and the first block.
const GAP: u64 = 4 * MIB;
/// Blocks that read as zeroes; strictly, their contents are undefined.
const ZERO: u64 = 2;

/// What a new image is like.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions {
    /// The disk's length.
    pub size: u64,
    /// Of the log; rounded up.
    pub log_size: u64,
    /// 0: by the disk's length.
    pub block_size: u64,
    /// All blocks are there from the beginning.
    pub fixed: bool,
    /// Blocks that hold nothing say that they are zeroes.
    pub zero_blocks: bool,
}

impl CreateOptions {
    /// The sizes of log and blocks.
    fn sizes(&self) -> Result<(u64, u64)> {
        if self.size > MAX_SIZE {
            return Err(Error::invalid("Image size too large; max of 64TB"));
        }
        if self.log_size >= 4 << 30 {
            return Err(Error::invalid("Log size must be smaller than 4 GB"));
        }
        const GIB: u64 = 1 << 30;
        let block = match self.block_size {
            0 if self.size > 32 << 40 => 64 * MIB,
            0 if self.size > 100 * GIB => 32 * MIB,
            0 if self.size > GIB => 16 * MIB,
            0 => 8 * MIB,
            block => block.next_multiple_of(MIB).min(256 * MIB),
        };
        if !block.is_power_of_two() {
            return Err(Error::invalid("Block size must be a power of two"));
        }
        Ok((self.log_size.max(MIB).next_multiple_of(MIB), block))
    }

    /// Refuses what cannot be made, and sizes that would have to be rounded.
    pub fn check_exact(&self) -> Result<()> {
        if self.size > MAX_SIZE {
            return Err(Error::invalid("Image size too large; max of 64TB"));
        }
        if self.log_size < MIB || !self.log_size.is_multiple_of(MIB) {
            return Err(Error::invalid("Log size must be a multiple of 1 MB"));
        }
        if !self.block_size.is_multiple_of(MIB) {
            return Err(Error::invalid("Block size must be a multiple of 1 MB"));
        }
        if self.block_size > 256 * MIB {
            return Err(Error::invalid("Block size must not exceed 268435456"));
        }
        self.check()
    }

    /// Refuses what cannot be made.
    pub fn check(&self) -> Result<()> {
        self.sizes().map(drop)
    }
}

/// Writes an empty image.
pub async fn create(file: &Node, options: &CreateOptions) -> Result<()> {
    let (log_size, block) = options.sizes()?;
    let shape = Shape::new(options.size, block, 512);
    let log = Region { at: MIB, len: log_size };
    let table_len = (shape.entries() * 8).next_multiple_of(MIB).max(MIB);
    let bat = Region { at: log.end(), len: table_len };
    let metadata = Region { at: bat.end(), len: MIB };
    let data_at = metadata.end() + GAP;

    let mut identifier = vec![0; 64 << 10];
    put(&mut identifier, 0, FILE_SIGNATURE);
    let creator: Vec<u8> = "QEMU v10.0.2".encode_utf16().flat_map(u16::to_le_bytes).collect();
    put(&mut identifier, FILE_SIGNATURE.len(), &creator);
    file.write(0, Vector::from(&identifier[..])).await?;

    // It only has to grow from here on.
    let sequence = le64(&uuid()?, 0) & 0xffff_ffff;
    Header::new(sequence, log.at, log.len)?.write(file).await?;

    let regions = region_table(bat, metadata);
    for at in REGIONS_AT {
        file.write(at, Vector::from(&regions[..])).await?;
    }
    let bytes = metadata_bytes(shape, metadata.len)?;
    file.write(metadata.at, Vector::from(&bytes[..])).await?;

    let full = if options.fixed { shape.len } else { 0 };
    file.truncate(data_at + full, Preallocation::Off).await?;
    let state = match (options.zero_blocks, options.fixed) {
        (true, _) => ZERO,
        (false, true) => PRESENT,
        (false, false) => return file.flush().await,
    };
    write_table(file, bat, shape, |index| match state {
        PRESENT => (data_at + index * block) & !(MIB - 1) | PRESENT,
        state => state,
    })
    .await?;
    file.flush().await
}

fn region_table(bat: Region, metadata: Region) -> Vec<u8> {
    let mut bytes = vec![0; REGION_TABLE];
    put(&mut bytes, 0, REGION_SIGNATURE);
    put(&mut bytes, 8, &2_u32.to_le_bytes());
    for (index, (guid, region)) in [(BAT, bat), (METADATA, metadata)].into_iter().enumerate() {
        let at = 16 + index * 32;
        put(&mut bytes, at, &guid);
        put(&mut bytes, at + 16, &region.at.to_le_bytes());
        put(&mut bytes, at + 24, &(region.len as u32).to_le_bytes());
    }
    let crc = crc32c(&bytes, 4);
    put(&mut bytes, 4, &crc.to_le_bytes());
    bytes
}

fn metadata_bytes(shape: Shape, len: u64) -> Result<Vec<u8>> {
    const REQUIRED: u32 = 4;
    const OF_DISK: u32 = 2;
    let mut bytes = vec![0; len as usize];
    let parameters = shape.block.to_le_bytes();
    let (size, id, sector) = (shape.len.to_le_bytes(), uuid()?, 512_u32.to_le_bytes());
    let items: [(Guid, &[u8], u32); 5] = [
        (FILE_PARAMETERS, &parameters, REQUIRED),
        (DISK_SIZE, &size, REQUIRED | OF_DISK),
        (DISK_ID, &id, REQUIRED | OF_DISK),
        (LOGICAL_SECTOR, &sector, REQUIRED | OF_DISK),
        (PHYSICAL_SECTOR, &sector, REQUIRED | OF_DISK),
    ];
    put(&mut bytes, 0, METADATA_SIGNATURE);
    put(&mut bytes, 10, &(items.len() as u16).to_le_bytes());
    let mut at = METADATA_TABLE;
    for (index, (guid, value, flags)) in items.into_iter().enumerate() {
        let entry = 32 + index * 32;
        put(&mut bytes, entry, &guid);
        put(&mut bytes, entry + 16, &(at as u32).to_le_bytes());
        put(&mut bytes, entry + 20, &(value.len() as u32).to_le_bytes());
        put(&mut bytes, entry + 24, &flags.to_le_bytes());
        put(&mut bytes, at, value);
        at += value.len();
    }
    Ok(bytes)
}

/// Writes the entries of all blocks, those of bitmaps stay empty.
async fn write_table(
    file: &Node,
    bat: Region,
    shape: Shape,
    entry: impl Fn(u64) -> u64,
) -> Result<()> {
    let per_piece = MIB / 8;
    for first in (0..shape.entries()).step_by(per_piece as usize) {
        let range = first..shape.entries().min(first + per_piece);
        let value = |index: u64| match index % (shape.chunk + 1) {
            last if last == shape.chunk => 0,
            _ => entry(index - index / (shape.chunk + 1)),
        };
        let bytes: Vec<u8> = range.flat_map(|index| value(index).to_le_bytes()).collect();
        file.write(bat.at + first * 8, Vector::from(&bytes[..])).await?;
    }
    Ok(())
}
