//! Metadata in memory, and the order in which it reaches the disk.
//!
//! A power cut may leave any part of what was written since the last barrier. So that it leaves lost
//! clusters at worst: what a pointer points to, and its refcount, is on the disk before the pointer;
//! and a cluster's refcount goes down only after the last pointer to it is gone from the disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::header::Header;
use crate::node::Node;
use crate::vector::Vector;
use crate::{Error, Result};

/// Bits of an L1 or L2 entry that hold an offset.
pub const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// The refcount of what this points to is exactly one.
pub const COPIED: u64 = 1 << 63;
/// The cluster is compressed.
pub const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeroes (version 3).
pub const ZERO: u64 = 1;

/// Tables in memory at most, in bytes, for each kind.
const CACHE_BYTES: u64 = 32 << 20;

struct Table {
    bytes: Vec<u8>,
    dirty: bool,
    used: AtomicU64,
}

/// Tables of one kind, by their place in the file.
#[derive(Default)]
struct Cache {
    tables: HashMap<u64, Table>,
    clock: AtomicU64,
}

impl Cache {
    fn get(&self, at: u64) -> Option<&Table> {
        let table = self.tables.get(&at)?;
        table.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        Some(table)
    }

    fn insert(&mut self, at: u64, bytes: Vec<u8>, dirty: bool) {
        let used = AtomicU64::new(self.clock.fetch_add(1, Ordering::Relaxed));
        self.tables.insert(at, Table { bytes, dirty, used });
    }

    fn is_dirty(&self) -> bool {
        self.tables.values().any(|table| table.dirty)
    }

    async fn write_back(&mut self, file: &Node) -> Result<()> {
        let dirty = self.tables.iter_mut().filter(|(_, table)| table.dirty);
        let mut dirty: Vec<_> = dirty.collect();
        dirty.sort_by_key(|(at, _)| **at);
        for (at, table) in dirty {
            file.write(*at, Vector::from(&table.bytes[..])).await?;
            table.dirty = false;
        }
        Ok(())
    }

    /// Forgets the older half; nothing is dirty.
    fn shrink(&mut self) {
        let mut ages: Vec<u64> =
            self.tables.values().map(|table| table.used.load(Ordering::Relaxed)).collect();
        ages.sort_unstable();
        let middle = ages.get(ages.len() / 2).copied().unwrap_or(0);
        self.tables.retain(|_, table| *table.used.get_mut() >= middle);
    }
}

/// Everything about an image that changes.
pub struct Meta {
    pub(super) file: Arc<Node>,
    pub(super) header: Header,
    pub(super) l1: Vec<u64>,
    pub(super) reftable: Vec<u64>,
    l2: Cache,
    refblocks: Cache,
    l1_dirty: bool,
    reftable_dirty: bool,
    /// Clusters whose last pointer is gone here, but perhaps not on the disk.
    pub(super) freed: Vec<u64>,
    /// No cluster below is free.
    pub(super) first_free: u64,
    /// Where the next compressed cluster may go.
    pub(super) packed_end: u64,
}

fn damaged(what: &str) -> Error {
    Error::new(libc::EIO, format!("qcow2: {what}"))
}

impl Meta {
    /// Reads the tables that stay in memory.
    pub async fn load(file: Arc<Node>, header: Header) -> Result<Self> {
        let l1 = read_u64s(&file, header.l1_offset, header.l1_size as usize).await?;
        let entries = (u64::from(header.reftable_clusters) << header.cluster_bits) / 8;
        let reftable = read_u64s(&file, header.reftable_offset, entries as usize).await?;
        Ok(Self {
            file,
            header,
            l1,
            reftable,
            l2: Cache::default(),
            refblocks: Cache::default(),
            l1_dirty: false,
            reftable_dirty: false,
            freed: Vec::new(),
            first_free: 0,
            packed_end: 0,
        })
    }

    fn limit(&self) -> usize {
        (CACHE_BYTES >> self.header.cluster_bits).max(8) as usize
    }

    /// Entries of an L2 table.
    pub fn l2_entries(&self) -> u64 {
        self.header.cluster_size() / 8
    }

    /// (index into L1, index into L2) of a guest offset.
    pub fn indices(&self, at: u64) -> (usize, usize) {
        let cluster = at >> self.header.cluster_bits;
        ((cluster / self.l2_entries()) as usize, (cluster % self.l2_entries()) as usize)
    }

    /// Where the L2 table of an L1 entry is, if there is one.
    pub fn l2_offset(&self, l1_index: usize) -> Result<Option<u64>> {
        let offset = self.l1.get(l1_index).copied().unwrap_or(0) & OFFSET_MASK;
        if offset & (self.header.cluster_size() - 1) != 0 {
            return Err(damaged("L2 table is not aligned"));
        }
        Ok((offset != 0).then_some(offset))
    }

    /// An entry of an L2 table, if the table is in memory.
    pub fn cached_l2_entry(&self, table: u64, index: usize) -> Option<u64> {
        let bytes = &self.l2.get(table)?.bytes;
        Some(u64::from_be_bytes(bytes.get(index * 8..index * 8 + 8)?.try_into().ok()?))
    }

    /// Brings an L2 table into memory.
    pub async fn load_l2(&mut self, table: u64) -> Result<()> {
        if self.l2.get(table).is_none() {
            self.make_room().await?;
            let len = self.header.cluster_size() as usize;
            self.l2.insert(table, self.file.read_bytes(table, len).await?, false);
        }
        Ok(())
    }

    /// The L2 entry of a guest offset; 0 where there is no table.
    pub async fn l2_entry(&mut self, at: u64) -> Result<u64> {
        let (l1_index, index) = self.indices(at);
        let Some(table) = self.l2_offset(l1_index)? else { return Ok(0) };
        self.load_l2(table).await?;
        self.cached_l2_entry(table, index).ok_or_else(|| damaged("L2 table is too short"))
    }

    /// Changes the L2 entry of a guest offset. The table is allocated, and unshared, when it must be.
    pub async fn set_l2_entry(&mut self, at: u64, entry: u64) -> Result<()> {
        let (l1_index, index) = self.indices(at);
        let old = self.l2_offset(l1_index)?;
        let table = match old {
            Some(table) if self.l1[l1_index] & COPIED != 0 => {
                self.load_l2(table).await?;
                table
            }
            _ => {
                let bytes = match old {
                    Some(shared) => {
                        self.file.read_bytes(shared, self.header.cluster_size() as usize).await?
                    }
                    None => vec![0; self.header.cluster_size() as usize],
                };
                let table = self.allocate(1).await?;
                self.make_room().await?;
                self.l2.insert(table, bytes, true);
                *self.l1.get_mut(l1_index).ok_or_else(|| damaged("beyond the L1 table"))? =
                    table | COPIED;
                self.l1_dirty = true;
                self.freed.extend(old);
                table
            }
        };
        let slot = self.l2.tables.get_mut(&table);
        let slot = slot.ok_or_else(|| damaged("an L2 table was lost"))?;
        slot.bytes[index * 8..index * 8 + 8].copy_from_slice(&entry.to_be_bytes());
        slot.dirty = true;
        Ok(())
    }

    /// Whether the L2 table of an L1 entry may be written where it is.
    pub(super) fn set_l1_copied(&mut self, index: usize, copied: bool) {
        if let Some(entry) = self.l1.get_mut(index) {
            *entry = *entry & !COPIED | if copied { COPIED } else { 0 };
            self.l1_dirty = true;
        }
    }

    async fn make_room(&mut self) -> Result<()> {
        let limit = self.limit();
        if self.l2.tables.len() >= limit || self.refblocks.tables.len() >= limit {
            self.write_back().await?;
            for cache in [&mut self.l2, &mut self.refblocks] {
                if cache.tables.len() >= limit {
                    cache.shrink();
                }
            }
        }
        Ok(())
    }

    /// Brings a refcount block into memory. Clean ones can go at any time; dirty ones stay until
    /// `write_back`.
    pub(super) async fn load_refblock(&mut self, block: u64) -> Result<()> {
        if self.refblocks.get(block).is_none() {
            let len = self.header.cluster_size() as usize;
            self.refblocks.insert(block, self.file.read_bytes(block, len).await?, false);
        }
        Ok(())
    }

    pub(super) fn refblock(&self, block: u64) -> Option<&[u8]> {
        Some(&self.refblocks.get(block)?.bytes)
    }

    pub(super) fn refblock_mut(&mut self, block: u64) -> Option<&mut Vec<u8>> {
        let table = self.refblocks.tables.get_mut(&block)?;
        table.dirty = true;
        Some(&mut table.bytes)
    }

    pub(super) fn add_refblock(&mut self, index: usize, block: u64) {
        let bytes = vec![0; self.header.cluster_size() as usize];
        self.refblocks.insert(block, bytes, true);
        self.reftable[index] = block;
        self.reftable_dirty = true;
    }

    /// Brings all refcounts to the disk.
    pub(super) async fn write_refblocks(&mut self) -> Result<()> {
        self.refblocks.write_back(&self.file).await?;
        self.file.flush().await
    }

    /// Writes everything in order; ends with a barrier. Then the freed clusters may be used again.
    pub async fn write_back(&mut self) -> Result<()> {
        self.write_back_pointers().await?;
        self.file.flush().await?;
        for cluster in std::mem::take(&mut self.freed) {
            self.release(cluster).await?;
        }
        // Until the next barrier these may get lost, which leaves lost clusters.
        self.refblocks.write_back(&self.file).await
    }

    async fn write_back_pointers(&mut self) -> Result<()> {
        if self.refblocks.is_dirty() {
            self.refblocks.write_back(&self.file).await?;
            if self.reftable_dirty {
                self.file.flush().await?;
                write_u64s(&self.file, self.header.reftable_offset, &self.reftable).await?;
                self.reftable_dirty = false;
            }
        }
        if self.l2.is_dirty() || self.l1_dirty {
            // Also the data that new pointers point to, part of which may be older than this flush.
            self.file.flush().await?;
            self.l2.write_back(&self.file).await?;
        }
        if self.l1_dirty {
            self.file.flush().await?;
            write_u64s(&self.file, self.header.l1_offset, &self.l1).await?;
            self.l1_dirty = false;
        }
        Ok(())
    }

    /// Writes the header, between barriers.
    pub async fn write_header(&mut self) -> Result<()> {
        self.file.flush().await?;
        let mut bytes = self.header.to_bytes()?;
        // What is behind the old backing file name must not look like an extension.
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        self.file.write(0, Vector::from(&bytes[..])).await?;
        self.file.flush().await
    }

    /// A longer L1 table.
    pub async fn grow_l1(&mut self, entries: u64) -> Result<()> {
        if entries <= u64::from(self.header.l1_size) {
            return Ok(());
        }
        if entries * 8 > super::header::MAX_L1_BYTES {
            return Err(Error::new(libc::EFBIG, "Active L1 table too large"));
        }
        let clusters = |entries: u64| (entries * 8).div_ceil(self.header.cluster_size());
        let (old, old_len) = (self.header.l1_offset, clusters(u64::from(self.header.l1_size)));
        let len = clusters(entries);
        let offset = self.allocate(len).await?;
        let mut l1 = self.l1.clone();
        l1.resize(entries as usize, 0);
        self.write_back().await?;
        write_u64s(&self.file, offset, &l1).await?;
        (self.header.l1_offset, self.header.l1_size) = (offset, entries as u32);
        self.l1 = l1;
        self.write_header().await?;
        for i in 0..old_len {
            self.release(old + (i << self.header.cluster_bits)).await?;
        }
        self.write_back().await
    }
}

/// A table of 64-bit numbers.
pub(super) async fn read_u64s(file: &Node, at: u64, count: usize) -> Result<Vec<u64>> {
    // What is beyond the end of the file is zeroes; do not ask for memory on the word of a header.
    let there = file.len()?.saturating_sub(at).div_ceil(8).min(count as u64) as usize;
    let bytes = file.read_bytes(at, there * 8).await?;
    let mut table: Vec<u64> = bytes
        .chunks_exact(8)
        .map(|chunk| u64::from_be_bytes(chunk.try_into().unwrap_or_default()))
        .collect();
    table.resize(count, 0);
    Ok(table)
}

/// The other way.
pub(super) async fn write_u64s(file: &Node, at: u64, table: &[u64]) -> Result<()> {
    let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
    file.write(at, Vector::from(&bytes[..])).await
}
