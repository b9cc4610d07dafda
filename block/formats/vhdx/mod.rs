//! Microsoft's VHDX, after its published specification [MS-VHDX]: one table of blocks, whose changes go
//! through a log. Images that only hold what differs from a parent are refused.

mod crc;
mod create;
mod header;
mod log;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use create::{CreateOptions, create};
use header::{FILE_SIGNATURE, Header, MIB, Region, Shape, refused};

use super::blocks::{Blocks, Layout, State};
use super::bytes::{le64, put, uuid};
use crate::Result;
use crate::driver::{CheckReport, Driver, Io, Repair};
use crate::format::Opening;
use crate::node::Node;
use crate::open::Builder;
use crate::qcow2::Purpose;

/// States of a block: those below read as zeroes, whatever they are called.
const PRESENT: u64 = 6;
const FIRST_STORED: u64 = 4;
const STATE_MASK: u64 = 7;

struct Vhdx {
    shape: Shape,
    bat: Region,
    metadata: Region,
    header: async_lock::Mutex<Header>,
    /// The disk was changed: the header says so.
    changed: AtomicBool,
    /// Opening has done what the log held.
    replayed: bool,
}

/// How sure it is that an image is one of these.
pub fn probe(first: &[u8]) -> u32 {
    if first.starts_with(FILE_SIGNATURE) { 100 } else { 0 }
}

/// Opens an image.
pub fn open<'a>(builder: &'a mut Builder<'_, '_>, file: Arc<Node>) -> Opening<'a> {
    let writable = builder.purpose() != Purpose::Read;
    Box::pin(async move { Ok(Box::new(open_file(file, writable).await?) as Box<dyn Driver>) })
}

async fn open_file(file: Arc<Node>, writable: bool) -> Result<Blocks<Vhdx>> {
    let bad = || refused(&file, libc::EINVAL);
    if probe(&file.read_bytes(0, 8).await?) == 0 {
        return Err(bad());
    }
    let mut header = Header::read(&file).await?;
    let log = Region { at: header.log_at, len: header.log_len };
    let whole = log.at.is_multiple_of(MIB) && log.len.is_multiple_of(MIB);
    if !whole || log.at < MIB || log.len == 0 || log.end() > file.len()? {
        return Err(bad());
    }
    let replayed = log::replay(&file, &mut header, writable).await?;
    let (bat, metadata) = header::read_regions(&file, log).await?;
    let shape = header::read_metadata(&file, metadata).await?;
    if shape.entries() * 8 > bat.len || bat.end() > file.len()?.next_multiple_of(MIB) {
        return Err(bad());
    }
    let table = read_table(&file, bat, shape).await?;
    let ends = table.iter().flatten().map(|data| data + shape.block);
    let end = ends.max().unwrap_or(0).max(file.len()?).next_multiple_of(MIB);
    let (header, changed) = (async_lock::Mutex::new(header), AtomicBool::new(false));
    let layout = Vhdx { shape, bat, metadata, header, changed, replayed };
    Ok(Blocks::new(file, layout, table, end))
}

async fn read_table(file: &Node, bat: Region, shape: Shape) -> Result<Vec<Option<u64>>> {
    let mut table = Vec::with_capacity(shape.blocks() as usize);
    let (bytes, entries) = (shape.entries() * 8, shape.chunk + 1);
    for at in (0..bytes).step_by(MIB as usize) {
        let piece = file.read_bytes(bat.at + at, (bytes - at).min(MIB) as usize).await?;
        for (index, entry) in piece.chunks_exact(8).enumerate() {
            // The last of each group is for bitmaps, which only children of a parent have.
            if (at / 8 + index as u64) % entries == shape.chunk {
                continue;
            }
            let entry = le64(entry, 0);
            let (state, data) = (entry & STATE_MASK, entry & !(MIB - 1));
            let inside = data.checked_add(shape.block).is_some_and(|end| end <= i64::MAX as u64);
            table.push(match state {
                PRESENT if inside => Some(data),
                0..FIRST_STORED => None,
                _ => return Err(refused(file, libc::EINVAL)),
            });
        }
    }
    Ok(table)
}

impl Layout for Vhdx {
    fn name(&self) -> &'static str {
        "vhdx"
    }

    fn len(&self) -> u64 {
        self.shape.len
    }

    fn block(&self) -> u64 {
        self.shape.block
    }

    fn tells_places(&self) -> bool {
        false
    }

    fn begin_change<'a>(&'a self, file: &'a Node) -> Io<'a, ()> {
        Box::pin(async move {
            if self.changed.load(Ordering::Acquire) {
                return Ok(());
            }
            let mut header = self.header.lock().await;
            if !self.changed.load(Ordering::Acquire) {
                (header.file_write, header.data_write) = (uuid()?, uuid()?);
                header.write(file).await?;
                self.changed.store(true, Ordering::Release);
            }
            Ok(())
        })
    }

    fn store<'a>(
        &'a self,
        file: &'a Node,
        table: &'a [Option<u64>],
        changed: &'a BTreeSet<usize>,
        _end: u64,
    ) -> Io<'a, ()> {
        Box::pin(async move {
            let mut sectors: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
            for &block in changed {
                let at = self.bat.at + self.shape.entry(block as u64) * 8;
                let (start, inside) = (at & !(log::SECTOR as u64 - 1), at as usize % log::SECTOR);
                let sector = match sectors.entry(start) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => new.insert(file.read_bytes(start, log::SECTOR).await?),
                };
                let entry = table[block].map_or(0, |data| data | PRESENT);
                put(sector, inside, &entry.to_le_bytes());
            }
            let sectors: Vec<_> = sectors.into_iter().collect();
            log::write(file, &mut *self.header.lock().await, &sectors).await
        })
    }

    fn check<'a>(
        &'a self,
        file: &'a Node,
        state: &'a mut State,
        _repair: Repair,
    ) -> Io<'a, CheckReport> {
        Box::pin(async move {
            let table = &state.table;
            let mut report =
                CheckReport { corruptions_fixed: self.replayed.into(), ..CheckReport::default() };
            let len = file.len()?;
            let header = self.header.lock().await;
            let log = Region { at: header.log_at, len: header.log_len };
            let regions = [self.metadata, self.bat, log, Region { at: 0, len: MIB }];
            for (block, data) in table.iter().enumerate() {
                let Some(data) = *data else { continue };
                // The last block of a fixed image may be a part of one.
                let rest = self.shape.len - block as u64 * self.shape.block;
                let here = Region { at: data, len: self.shape.block.min(rest) };
                let problem = if here.at >= len {
                    Some(("start", here.at))
                } else if here.end() > len {
                    Some(("end", here.end() - 1))
                } else {
                    None
                };
                if let Some((which, at)) = problem {
                    report.messages.push(format!(
                        "VHDX BAT entry {block} {which} offset {at} points after end of file \
                         ({len}). Image has probably been truncated."
                    ));
                    report.corruptions += 1;
                }
                let block = Region { len: self.shape.block, ..here };
                if let Some(region) = regions.iter().find(|region| region.overlaps(block)) {
                    report.messages.push(format!(
                        "VHDX region {}-{} overlaps with region {}-{}",
                        block.at,
                        block.end(),
                        region.at,
                        region.end()
                    ));
                    report.corruptions += 1;
                }
            }
            Ok(report)
        })
    }
}
