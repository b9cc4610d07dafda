//! Metadata in memory, and the order in which it reaches the disk.
//!
//! A power cut may leave any part of what was written since the last barrier. So that it leaves lost
//! clusters at worst: what a pointer points to, and its refcount, is on the disk before the pointer;
//! and a cluster's refcount goes down only after the last pointer to it is gone from the disk. With
//! lazy refcounts the dirty bit stands for refcounts that are not there yet.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::cache::Cache;
use super::draft::Draft;
use super::entry::{COPIED, Entry, OFFSET_MASK, Shape, hex};
use super::header::{DIRTY, Header, MAX_L1_BYTES};
use super::overlap::{Corruption, Place, Places, Protected};
use super::snapshot::{self, Snapshot};
use crate::node::Node;
use crate::vector::Vector;
use crate::{Error, Result};

/// Why a cluster lost a pointer: it decides whether its storage is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The guest gave it back.
    Request,
    /// A snapshot went.
    Snapshot,
    /// Something took its place.
    Other,
}

/// Everything about an image that changes.
pub struct Meta {
    pub(super) file: Arc<Node>,
    /// The other file, where there is one.
    pub(super) data_file: Option<Arc<Node>>,
    pub(super) header: Header,
    pub(super) shape: Shape,
    pub(super) l1: Vec<u64>,
    pub(super) reftable: Vec<u64>,
    pub(super) snapshots: Vec<Snapshot>,
    /// Bytes of the table of snapshots.
    pub(super) snapshot_bytes: u64,
    /// Why that could not be read, where it is about to be checked.
    pub(super) snapshot_fault: Option<Error>,
    pub(super) l2: Cache,
    pub(super) refblocks: Cache,
    pub(super) l1_dirty: bool,
    pub(super) reftable_dirty: bool,
    pub(super) lazy: bool,
    /// A change that becomes true all at once.
    pub(super) draft: Option<Draft>,
    /// Clusters whose last pointer is gone here, but perhaps not on the disk.
    pub(super) freed: Vec<(u64, Why)>,
    /// Clusters whose last pointer is gone from the disk; somebody may still be reading them.
    pub(super) unlinked: Vec<(u64, Why)>,
    /// Where the search for free clusters begins.
    pub(super) first_free: u64,
    /// Where the next compressed cluster may go.
    pub(super) packed_end: u64,
    /// From here on nobody has ever written.
    pub(super) blank_from: u64,
    /// The last run that was allocated had never been written.
    pub(super) allocated_blank: bool,
    /// What writes are kept away from, and where that is.
    pub(super) protected: Protected,
    pub(super) places: Places,
    /// The L2 tables of snapshots, where they are to be protected.
    pub(super) inactive: HashSet<u64>,
    /// What was found that cannot be, until somebody is told.
    pub(super) found: Arc<Mutex<Option<Corruption>>>,
    /// The header, for those who only want to know.
    pub(super) published: Arc<Mutex<Arc<Header>>>,
}

impl Meta {
    /// How many L2 tables and refcount blocks are in memory at most, from now on.
    pub(super) fn set_limits(&mut self, (l2, refblocks): (usize, usize)) {
        self.l2.set_limit(l2);
        self.refblocks.set_limit(refblocks);
    }

    /// Reads the tables that stay in memory. `limits`: L2 tables and refcount blocks in memory; `checks`:
    /// what is wrong is about to be looked for.
    pub async fn load(
        file: Arc<Node>,
        data_file: Option<Arc<Node>>,
        header: Header,
        limits: (usize, usize),
        checks: bool,
    ) -> Result<Self> {
        let l1 = read_u64s(&file, header.l1_offset, header.l1_size as usize).await?;
        let entries = (u64::from(header.reftable_clusters) << header.cluster_bits) / 8;
        file.event("reftable_load").await;
        let reftable = read_u64s(&file, header.reftable_offset, entries as usize).await;
        let reftable =
            reftable.map_err(|error| error.context("Could not initialize refcount handling"))?;
        let (table, snapshot_fault) = match checks {
            false => (snapshot::load(&file, &header, false).await?, None),
            true => match snapshot::try_load(&file, &header).await {
                Ok(table) => (table, None),
                Err(fault) => (snapshot::Table::default(), Some(fault)),
            },
        };
        let blank_from = file.len()?;
        let published = Arc::new(Mutex::new(Arc::new(header.clone())));
        let mut meta = Self {
            file,
            data_file,
            shape: Shape::of(&header),
            header,
            l1,
            reftable,
            snapshots: table.snapshots,
            snapshot_bytes: table.bytes,
            snapshot_fault,
            l2: Cache::new(limits.0),
            refblocks: Cache::new(limits.1),
            l1_dirty: false,
            reftable_dirty: false,
            lazy: false,
            draft: None,
            freed: Vec::new(),
            unlinked: Vec::new(),
            first_free: 0,
            packed_end: 0,
            blank_from,
            allocated_blank: false,
            protected: Protected::NOTHING,
            places: Places::default(),
            inactive: HashSet::new(),
            found: Arc::default(),
            published,
        };
        meta.survey();
        Ok(meta)
    }

    /// An error for metadata that cannot be; it is remembered until the request ends.
    pub(super) fn damage(&self, text: &str, at: Option<(u64, u64)>, fatal: bool) -> Error {
        let message = text.to_owned();
        let (offset, size) = (at.map(|(at, _)| at), at.map(|(_, len)| len));
        *self.found.lock() = Some(Corruption { message, offset, size, fatal });
        Error::from_errno(libc::EIO)
    }

    /// (index into L1, index into L2) of a guest offset.
    pub fn indices(&self, at: u64) -> (usize, usize) {
        let (cluster, entries) = (at >> self.header.cluster_bits, self.shape.entries());
        ((cluster / entries) as usize, (cluster % entries) as usize)
    }

    /// Where the L2 table of an L1 entry is, if there is one.
    pub fn l2_offset(&self, l1_index: usize) -> Result<Option<u64>> {
        let offset = self.l1.get(l1_index).copied().unwrap_or(0) & OFFSET_MASK;
        if self.shape.in_cluster(offset) != 0 {
            let index = hex(l1_index as u64);
            let text = format!("L2 table offset {offset:#x} unaligned (L1 index: {index})");
            return Err(self.damage(&text, None, true));
        }
        Ok((offset != 0).then_some(offset))
    }

    /// An entry of an L2 table, if the table is in memory.
    pub fn cached_entry(&self, table: u64, index: usize) -> Option<Entry> {
        self.shape.get(self.l2.get(table)?, index)
    }

    /// Brings an L2 table into memory.
    pub async fn load_l2(&mut self, table: u64) -> Result<()> {
        if self.l2.get(table).is_none() {
            self.make_room().await?;
            let len = self.shape.cluster() as usize;
            self.file.event("l2_load").await;
            self.l2.insert(table, self.file.read_bytes(table, len).await?, false);
        }
        Ok(())
    }

    /// The L2 entry of a guest offset; an empty one where there is no table.
    pub async fn entry(&mut self, at: u64) -> Result<Entry> {
        let (l1_index, index) = self.indices(at);
        let Some(table) = self.l2_offset(l1_index)? else { return Ok(Entry::default()) };
        self.load_l2(table).await?;
        Ok(self.cached_entry(table, index).unwrap_or_default())
    }

    /// Makes the L2 table of a guest offset one that may be written. It is allocated, and unshared,
    /// when it must be; then the file knows it before anything else is put into it.
    pub(super) async fn own_table(&mut self, at: u64) -> Result<u64> {
        let (l1_index, _) = self.indices(at);
        if l1_index >= self.l1.len() {
            // Behind the disk: the state of a machine.
            let mut entries = self.l1.len().max(1) as u64;
            while entries <= l1_index as u64 {
                entries = (entries * 3).div_ceil(2);
            }
            self.grow_l1(entries).await?;
        }
        let old = self.l2_offset(l1_index)?;
        if let Some(table) = old
            && self.l1[l1_index] & COPIED != 0
        {
            if self.l1_dirty {
                // Perhaps of a table that could not be linked.
                self.file.flush().await?;
                self.write_l1(None).await?;
            }
            self.load_l2(table).await?;
            return Ok(table);
        }
        let table = self.allocate_for("L2 table", 1).await?;
        if let Err(error) = self.write_new_table(table, old).await {
            // Nothing points to it yet.
            self.l2.forget(table);
            self.release(table).await?;
            return Err(error);
        }
        self.file.flush().await?;
        self.l1[l1_index] = table | COPIED;
        if let Some(old) = old {
            self.leave_table(old);
            self.freed.push((old, Why::Other));
        }
        self.write_l1(Some(l1_index)).await?;
        Ok(table)
    }

    /// Writes an L2 table, a copy of another or an empty one, to a place of its own, after its refcount.
    async fn write_new_table(&mut self, table: u64, old: Option<u64>) -> Result<()> {
        if !self.lazy {
            self.write_refcounts().await?;
        }
        let bytes = match old {
            Some(shared) => {
                self.file.event("l2_alloc_cow_read").await;
                self.load_l2(shared).await?;
                self.l2.get(shared).map(<[u8]>::to_vec)
            }
            None => None,
        };
        let bytes = bytes.unwrap_or_else(|| vec![0; self.shape.cluster() as usize]);
        self.file.event("l2_alloc_write").await;
        self.make_room().await?;
        self.l2.insert(table, bytes, true);
        self.places.add(self.header.cluster_bits, table, 1, Place::ActiveL2);
        self.write_tables().await
    }

    /// Writes an entry of the L1 table, or all if there are others that have changed.
    async fn write_l1(&mut self, only: Option<usize>) -> Result<()> {
        let part = match only.filter(|_| !self.l1_dirty) {
            Some(index) => index..index + 1,
            None => 0..self.l1.len(),
        };
        self.l1_dirty = true;
        self.file.event("l1_update").await;
        let at = self.header.l1_offset + part.start as u64 * 8;
        write_u64s(&self.file, at, &self.l1[part]).await?;
        self.l1_dirty = false;
        Ok(())
    }

    /// Changes the L2 entry of a guest offset.
    pub async fn set_entry(&mut self, at: u64, entry: Entry) -> Result<()> {
        let table = self.own_table(at).await?;
        let (_, index) = self.indices(at);
        if let Some(bytes) = self.l2.get_mut(table) {
            self.shape.set(bytes, index, entry);
        }
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
        if self.draft.is_none() && (self.l2.is_full() || self.refblocks.is_full()) {
            self.write_back().await?;
            if self.refblocks.is_full() {
                self.refblocks.write_back(&self.file, "refblock_update_part").await?;
            }
            for cache in [&mut self.l2, &mut self.refblocks] {
                if cache.is_full() {
                    cache.shrink();
                }
            }
        }
        Ok(())
    }

    /// Brings a refcount block into memory. Clean ones can go at any time; dirty ones stay until
    /// they are written.
    pub(super) async fn load_refblock(&mut self, block: u64) -> Result<()> {
        if self.refblocks.get(block).is_none() {
            let len = self.shape.cluster() as usize;
            if self.refblocks.is_full() {
                self.refblocks.shrink();
            }
            self.refblocks.insert(block, self.file.read_bytes(block, len).await?, false);
        }
        Ok(())
    }

    pub(super) fn add_refblock(&mut self, index: usize, block: u64) {
        let bytes = vec![0; self.shape.cluster() as usize];
        self.refblocks.insert(block, bytes, true);
        self.touch(block, self.shape.cluster());
        self.reftable[index] = block;
        self.reftable_dirty = true;
        self.places.add(self.header.cluster_bits, block, 1, Place::RefBlock);
    }

    /// Brings all refcounts to the disk.
    pub(super) async fn write_refcounts(&mut self) -> Result<()> {
        if self.refblocks.is_dirty() {
            self.refblocks.write_back(&self.file, "refblock_update_part").await?;
        }
        if self.reftable_dirty {
            self.file.flush().await?;
            self.file.event("refblock_alloc_hookup").await;
            write_u64s(&self.file, self.header.reftable_offset, &self.reftable).await?;
            self.reftable_dirty = false;
        }
        Ok(())
    }

    /// What was written to either file survives a power cut.
    pub(super) async fn barrier(&self) -> Result<()> {
        if let Some(data) = &self.data_file {
            data.flush().await?;
        }
        self.file.flush().await
    }

    /// Whether a flush has metadata to write.
    pub(super) fn is_dirty(&self) -> bool {
        self.l2.is_dirty()
            || self.l1_dirty
            || !self.freed.is_empty()
            || !self.unlinked.is_empty()
            || !self.lazy && (self.refblocks.is_dirty() || self.reftable_dirty)
    }

    /// Writes refcounts, then L2 tables.
    async fn write_tables(&mut self) -> Result<()> {
        for (places, own) in [
            (self.refblocks.dirty_places(), Place::RefBlock),
            (self.l2.dirty_places(), Place::ActiveL2),
        ] {
            for at in places {
                self.may_write(at, 1, Some(own))?;
            }
        }
        if self.lazy {
            self.mark_dirty().await?;
        } else {
            self.write_refcounts().await?;
        }
        if self.l2.is_dirty() {
            // Also the data that new pointers point to, part of which may be older than this flush.
            self.barrier().await?;
            self.l2.write_back(&self.file, "l2_update").await?;
        }
        Ok(())
    }

    /// Writes everything in order; ends with a barrier. What was freed is unlinked then.
    pub async fn write_back(&mut self) -> Result<()> {
        self.write_tables().await?;
        if self.l1_dirty {
            self.barrier().await?;
            self.write_l1(None).await?;
        }
        self.barrier().await?;
        self.unlinked.append(&mut self.freed);
        Ok(())
    }

    /// Says on the disk that refcounts may be stale, before they are.
    async fn mark_dirty(&mut self) -> Result<()> {
        let stale = self.refblocks.is_dirty() || self.reftable_dirty;
        if stale && self.header.incompatible & DIRTY == 0 {
            self.header.incompatible |= DIRTY;
            self.write_header().await?;
        }
        Ok(())
    }

    /// Clusters that were unlinked become free. Nobody reads them any more.
    pub(super) async fn release_these(
        &mut self,
        unlinked: Vec<(u64, Why)>,
        pass: impl Fn(Why) -> bool,
    ) -> Result<()> {
        let mut free = Vec::new();
        if !unlinked.is_empty() {
            self.file.event("cluster_free").await;
        }
        for (cluster, why) in unlinked {
            if self.release(cluster).await? == 0 && pass(why) {
                free.push(cluster);
            }
        }
        self.give_back(free).await?;
        // Until the next barrier these may get lost, which leaves lost clusters.
        if self.lazy { Ok(()) } else { self.write_refcounts().await }
    }

    /// The storage of free clusters goes back to the file system.
    pub(super) async fn give_back(&mut self, mut free: Vec<u64>) -> Result<()> {
        free.sort_unstable();
        let cluster = self.shape.cluster();
        let mut free = free.into_iter().peekable();
        while let Some(start) = free.next() {
            let mut end = start + cluster;
            while free.next_if_eq(&end).is_some() {
                end += cluster;
            }
            // The file may end before the last one does.
            let end = end.min(self.file.len()?);
            if end > start {
                self.file.discard(start, end - start).await?;
            }
        }
        Ok(())
    }

    /// The L2 table of an L1 entry, all of whose entries are gone, is not needed any more.
    pub(super) fn drop_table(&mut self, l1_index: usize) -> Result<()> {
        if let Some(table) = self.l2_offset(l1_index)? {
            self.l1[l1_index] = 0;
            self.l1_dirty = true;
            self.l2.forget(table);
            self.leave_table(table);
            self.freed.push((table, Why::Other));
        }
        Ok(())
    }

    /// Everything reaches the disk and nothing is stale any more.
    pub(super) async fn settle(&mut self) -> Result<()> {
        self.write_back().await?;
        self.write_refcounts().await?;
        if self.lazy && self.header.incompatible & DIRTY != 0 {
            self.header.incompatible &= !DIRTY;
            self.write_header().await?;
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
        self.file.flush().await?;
        *self.published.lock() = Arc::new(self.header.clone());
        Ok(())
    }

    /// Puts a longer or another L1 table in place of the one in use. The old one is freed.
    pub(super) async fn replace_l1(&mut self, l1: Vec<u64>) -> Result<()> {
        if l1.len() as u64 * 8 > MAX_L1_BYTES {
            return Err(Error::new(libc::EFBIG, "Active L1 table too large"));
        }
        let clusters = |entries: u64| (entries * 8).div_ceil(self.shape.cluster());
        let (old, old_len) = (self.header.l1_offset, clusters(self.l1.len() as u64));
        let len = clusters(l1.len() as u64);
        self.file.event("l1_grow_alloc_table").await;
        let offset = if len > 0 { self.allocate(len).await? } else { self.header.l1_offset };
        if let Err(error) = self.switch_l1(offset, l1, len * self.shape.cluster() / 8).await {
            self.release_run(offset, len).await?;
            return Err(error);
        }
        // Only the old header knew it.
        self.release_run(old, old_len).await?;
        self.survey();
        Ok(())
    }

    /// Writes another L1 table, padded to `room` entries, then the header that knows it.
    async fn switch_l1(&mut self, offset: u64, l1: Vec<u64>, room: u64) -> Result<()> {
        self.write_back().await?;
        self.write_refcounts().await?;
        let mut padded = l1.clone();
        padded.resize(room as usize, 0);
        self.file.event("l1_grow_write_table").await;
        write_u64s(&self.file, offset, &padded).await?;
        self.file.event("l1_grow_activate_table").await;
        let mut header = self.header.clone();
        (header.l1_offset, header.l1_size) = (offset, l1.len() as u32);
        self.switch_header(header).await?;
        self.l1 = l1;
        Ok(())
    }

    /// Makes another header the one on the disk. Where that fails, the old one stays: should the disk
    /// have taken some of the new one all the same, it is written again.
    pub(super) async fn switch_header(&mut self, header: Header) -> Result<()> {
        let old = std::mem::replace(&mut self.header, header);
        if let Err(error) = self.write_header().await {
            self.header = old;
            // The error that led here matters more than one of this.
            let _ = self.write_header().await;
            return Err(error);
        }
        Ok(())
    }

    /// A longer L1 table.
    pub async fn grow_l1(&mut self, entries: u64) -> Result<()> {
        if entries <= self.l1.len() as u64 {
            return Ok(());
        }
        if entries * 8 > MAX_L1_BYTES {
            return Err(Error::new(libc::EFBIG, "Active L1 table too large"));
        }
        // What is pending goes into the old table first.
        self.write_back().await?;
        let mut l1 = self.l1.clone();
        l1.resize(entries as usize, 0);
        self.replace_l1(l1).await
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
