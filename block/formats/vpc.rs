//! Microsoft's VHD, after the "Virtual Hard Disk Image Format Specification": dynamic and fixed images.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::blocks::{Blocks, Layout, read_table, write_table};
use super::bytes::{be32, be64, put, uuid};
use crate::driver::{Driver, Io, Preallocation};
use crate::format::Opening;
use crate::node::Node;
use crate::open::Builder;
use crate::raw::Raw;
use crate::vector::Vector;
use crate::{Error, Result};

const COOKIE: &[u8] = b"conectix";
const BLOCK: u64 = 2 << 20;
const ABSENT: u32 = 0xffff_ffff;
const TABLE_AT: u64 = 1536;
/// Seconds from 1970 to 2000.
const EPOCH: u64 = 946_684_800;
/// The largest disk that cylinders, heads and sectors describe.
const MAX_GEOMETRY: u64 = 65535 * 16 * 255;
/// The largest that the format allows: 2040 GiB.
const MAX_SECTORS: u64 = 0xff00_0000;
const DYNAMIC: u32 = 3;
const FIXED: u32 = 2;

struct Vpc {
    footer: Vec<u8>,
    len: u64,
    block: u64,
    table_at: u64,
}

/// How sure it is that an image is one of these.
pub fn probe(first: &[u8]) -> u32 {
    if first.starts_with(COOKIE) { 100 } else { 0 }
}

/// Cylinders, heads and sectors for a number of sectors (specification, "CHS Calculation").
fn geometry(sectors: u64) -> (u64, u64, u64) {
    let sectors = sectors.min(MAX_GEOMETRY);
    if sectors >= 65535 * 16 * 63 {
        return (sectors / 255 / 16, 16, 255);
    }
    let mut per_track = 17;
    let mut tracks = sectors / per_track;
    let mut heads = tracks.div_ceil(1024).max(4);
    if tracks >= heads * 1024 || heads > 16 {
        (per_track, heads) = (31, 16);
        tracks = sectors / per_track;
    }
    if tracks >= heads * 1024 {
        (per_track, heads) = (63, 16);
        tracks = sectors / per_track;
    }
    (tracks / heads, heads, per_track)
}

/// The smallest geometry with room for so many sectors.
fn geometry_for(sectors: u64) -> (u64, u64, u64) {
    let mut more = 0;
    loop {
        let (cylinders, heads, per_track) = geometry(sectors + more);
        if cylinders * heads * per_track >= sectors.min(MAX_GEOMETRY) {
            return (cylinders, heads, per_track);
        }
        more += 1;
    }
}

/// Ones' complement of the sum of all bytes, with the field itself as zero.
fn checksum(bytes: &[u8], field: usize) -> u32 {
    let others = bytes.iter().enumerate().filter(|(at, _)| !(field..field + 4).contains(at));
    !others.map(|(_, &byte)| u32::from(byte)).sum::<u32>()
}

impl Layout for Vpc {
    fn name(&self) -> &'static str {
        "vpc"
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn block(&self) -> u64 {
        self.block
    }

    /// A bit for each sector: all are in use.
    fn lead(&self) -> Vec<u8> {
        vec![0xff; (self.block / 512 / 8).next_multiple_of(512) as usize]
    }

    fn store<'a>(
        &'a self,
        file: &'a Node,
        table: &'a [Option<u64>],
        changed: &'a BTreeSet<usize>,
        end: u64,
    ) -> Io<'a, ()> {
        Box::pin(async move {
            // The trailer first: the old one has become part of a block, but there is a copy in front.
            file.write(end, Vector::from(&self.footer[..])).await?;
            let lead = self.lead().len() as u64;
            let entry = |index: usize| match table[index] {
                Some(data) => (((data - lead) / 512) as u32).to_be_bytes(),
                None => ABSENT.to_be_bytes(),
            };
            write_table(file, self.table_at, table.len(), changed, entry).await
        })
    }
}

/// Opens an image.
pub fn open<'a>(builder: &'a mut Builder<'_, '_>, file: Arc<Node>) -> Opening<'a> {
    Box::pin(async move {
        let force = builder.options.flag("force_size")?;
        let by_geometry = builder.options.text("force_size_calc");
        let file_len = file.len()?;
        let mut footer = file.read_bytes(0, 512).await?;
        let mut fixed = false;
        if !footer.starts_with(COOKIE) {
            footer = file.read_bytes(file_len.saturating_sub(512), 512).await?;
            if file_len < 512 || !footer.starts_with(COOKIE) || be32(&footer, 60) != FIXED {
                return Err(Error::invalid("invalid VPC image"));
            }
            fixed = true;
        }
        let claimed = be32(&footer, 64);
        if checksum(&footer, 64) != claimed {
            return Err(Error::invalid("Incorrect header checksum"));
        }
        let (heads, per_track) = (u64::from(footer[58]), u64::from(footer[59]));
        let cylinders = u64::from(be32(&footer, 56) >> 16);
        let sectors = cylinders * heads * per_track;
        // Programs whose geometry is only for show.
        let by_size = [b"win ", b"qem2", b"d2v ", b"tap\0", b"vs  ", b"wa  "]
            .iter()
            .any(|creator| footer[28..32] == creator[..]);
        let exact = match by_geometry.as_deref() {
            Some("current_size") => true,
            Some("chs") => false,
            _ => force.unwrap_or(by_size),
        };
        let len = match exact || sectors == MAX_GEOMETRY {
            true => be64(&footer, 48).checked_next_multiple_of(512).unwrap_or(u64::MAX),
            false => sectors * 512,
        };
        if len > MAX_SECTORS * 512 {
            return Err(Error::new(
                libc::EFBIG,
                "The image size is too large for file format 'vpc'",
            ));
        }
        if fixed || be32(&footer, 60) == FIXED {
            let len = len.min(file_len);
            return Ok(Box::new(Raw::named("vpc", file, 0, Some(len))?) as Box<dyn Driver>);
        }
        let header = file.read_bytes(be64(&footer, 16) % file_len.max(1), 1024).await?;
        if !header.starts_with(b"cxsparse") {
            return Err(Error::invalid("Invalid header magic"));
        }
        let block = u64::from(be32(&header, 32));
        if !block.is_power_of_two() || block < 512 {
            return Err(Error::invalid(format!("Invalid block size {block}")));
        }
        let entries = u64::from(be32(&header, 28));
        if entries * block < len {
            return Err(Error::invalid("Page table too small"));
        }
        let table_at = be64(&header, 16);
        let complaint = "Error reading pagetable";
        let entries = read_table(&file, table_at, entries, u32::from_be_bytes, complaint).await?;
        let vpc = Vpc { footer, len, block, table_at };
        let lead = vpc.lead().len() as u64;
        let mut end = table_at + (entries.len() as u64 * 4).next_multiple_of(512);
        let table = entries.into_iter().map(|entry| {
            let start = u64::from(entry) * 512;
            (entry != ABSENT).then(|| {
                end = end.max(start + lead + block);
                start + lead
            })
        });
        let table = table.collect();
        Ok(Box::new(Blocks::new(file, vpc, table, end)) as Box<dyn Driver>)
    })
}

/// How many sectors an image of a size has: exactly that many (`exact`), or as the next geometry.
pub fn sectors_for(size: u64, exact: bool) -> Result<u64> {
    let wanted = size.div_ceil(512);
    let (cylinders, heads, per_track) = geometry_for(wanted);
    let by_geometry = cylinders * heads * per_track;
    let sectors = if exact || wanted > MAX_GEOMETRY { wanted } else { by_geometry };
    if sectors > MAX_SECTORS {
        let text = "The image size is too large for file format 'vpc'";
        return Err(Error::new(libc::EFBIG, text));
    }
    Ok(sectors)
}

/// Writes an empty image: `fixed` or dynamic, of exactly that size (`exact`) or of the next geometry.
pub async fn create(file: &Node, size: u64, fixed: bool, exact: bool) -> Result<()> {
    let sectors = sectors_for(size, exact)?;
    let (cylinders, heads, per_track) = geometry_for(size.div_ceil(512));
    let len = sectors * 512;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let mut footer = vec![0; 512];
    put(&mut footer, 0, COOKIE);
    put(&mut footer, 8, &2_u32.to_be_bytes());
    put(&mut footer, 12, &0x0001_0000_u32.to_be_bytes());
    let next = if fixed { u64::MAX } else { 512 };
    put(&mut footer, 16, &next.to_be_bytes());
    put(&mut footer, 24, &(now.saturating_sub(EPOCH) as u32).to_be_bytes());
    put(&mut footer, 28, if exact { b"qem2" } else { b"qemu" });
    put(&mut footer, 32, &[0, 5, 0, 3]);
    put(&mut footer, 36, b"Wi2k");
    put(&mut footer, 40, &len.to_be_bytes());
    put(&mut footer, 48, &len.to_be_bytes());
    put(&mut footer, 56, &(cylinders as u16).to_be_bytes());
    (footer[58], footer[59]) = (heads as u8, per_track as u8);
    put(&mut footer, 60, &if fixed { FIXED } else { DYNAMIC }.to_be_bytes());
    put(&mut footer, 68, &uuid()?);
    let sum = checksum(&footer, 64);
    put(&mut footer, 64, &sum.to_be_bytes());
    if fixed {
        file.truncate(len + 512, Preallocation::Off).await?;
        file.write(len, Vector::from(&footer[..])).await?;
        return file.flush().await;
    }
    let entries = len.div_ceil(BLOCK);
    let mut header = vec![0; 1024];
    put(&mut header, 0, b"cxsparse");
    put(&mut header, 8, &u64::MAX.to_be_bytes());
    put(&mut header, 16, &TABLE_AT.to_be_bytes());
    put(&mut header, 24, &0x0001_0000_u32.to_be_bytes());
    put(&mut header, 28, &(entries as u32).to_be_bytes());
    put(&mut header, 32, &(BLOCK as u32).to_be_bytes());
    let sum = checksum(&header, 36);
    put(&mut header, 36, &sum.to_be_bytes());
    let mut image = [footer.clone(), header].concat();
    image.resize((TABLE_AT + (entries * 4).next_multiple_of(512)) as usize, 0xff);
    image.extend(&footer);
    file.write(0, Vector::from(&image[..])).await?;
    file.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometries_of_the_specification() {
        assert_eq!(geometry_for(20480), (302, 4, 17));
        assert_eq!(geometry_for(2048), (31, 4, 17));
        assert_eq!(geometry(u64::MAX), (65535, 16, 255));
    }
}
