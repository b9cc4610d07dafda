//! Changes of many tables that become true all at once: snapshots, other refcount widths.
//!
//! The header's first sector says where the L1 table, the refcount table and the snapshots are. So a
//! change writes new tables to clusters that nobody uses, then that one sector. A power cut before it
//! leaves the image as it was, one after it leaves the new state. Nothing that the old state needs is
//! reused while a draft is made; nothing of it is written.

use std::collections::HashSet;

use super::entry::{COPIED, OFFSET_MASK};
use super::header::Header;
use super::home::Moved;
use super::meta::{Meta, read_u64s, write_u64s};
use super::snapshot::{self, Snapshot};
use crate::Result;
use crate::vector::Vector;

/// What is known while a draft is made.
pub struct Draft {
    /// Refcount blocks that the image on the disk does not know.
    pub(super) fresh: HashSet<u64>,
    /// Clusters that are free when it is true.
    pub(super) freed: Vec<u64>,
    /// Tables come home afterwards: also where they get new places, they are elsewhere meanwhile.
    pub(super) returns: bool,
    /// What it gives another place.
    pub(super) moved: Moved,
    /// The image as it is on the disk.
    before: (Header, Vec<u64>),
}

impl Draft {
    /// An empty one, of an image as it is on the disk.
    pub(super) fn of(before: (Header, Vec<u64>), returns: bool, file_len: u64) -> Self {
        let moved = Moved { file_len, ..Moved::default() };
        Self { fresh: HashSet::new(), freed: Vec::new(), returns, moved, before }
    }
}

/// What a draft that has become true leaves.
pub struct Committed {
    /// Clusters that are free now.
    pub(super) freed: Vec<u64>,
    /// Tables that have another place.
    pub(super) moved: Moved,
}

/// The new state of the tables.
pub struct NewState {
    /// The L1 table.
    pub(super) l1: Vec<u64>,
    /// All snapshots.
    pub(super) snapshots: Vec<Snapshot>,
}

impl Meta {
    /// Begins a draft. Nobody else does anything with the image until it is committed or abandoned.
    pub(super) async fn begin_draft(&mut self, returns: bool) -> Result<()> {
        self.settle().await?;
        let unlinked = std::mem::take(&mut self.unlinked);
        self.release_these(unlinked, |_| false).await?;
        self.settle().await?;
        let before = (self.header.clone(), self.reftable.clone());
        self.first_free = self.used_end().await?.max(1);
        self.packed_end = 0;
        self.draft = Some(Draft::of(before, returns, self.file.len()?));
        Ok(())
    }

    /// Forgets a draft: what is on the disk has not changed.
    pub(super) async fn abandon_draft(&mut self) -> Result<()> {
        let Some(draft) = self.draft.take() else { return Ok(()) };
        (self.header, self.reftable) = draft.before;
        self.shape = super::entry::Shape::of(&self.header);
        self.l1 =
            read_u64s(&self.file, self.header.l1_offset, self.header.l1_size as usize).await?;
        self.l2.clear();
        self.refblocks.clear();
        (self.l1_dirty, self.reftable_dirty) = (false, false);
        (self.first_free, self.packed_end) = (0, 0);
        self.freed.clear();
        self.unlinked.clear();
        let table = snapshot::load(&self.file, &self.header, false).await?;
        (self.snapshots, self.snapshot_bytes) = (table.snapshots, table.bytes);
        self.survey();
        Ok(())
    }

    /// Makes a draft true. What `self.header` says beside the places of tables becomes true with it.
    pub(super) async fn commit_draft(&mut self, new: NewState) -> Result<Committed> {
        let bits = self.header.cluster_bits;
        let clusters = |bytes: u64| bytes.div_ceil(1 << bits);
        let (old_l1, old_len) = (self.header.l1_offset, clusters(self.l1.len() as u64 * 8));
        if new.l1 != self.l1 {
            let len = clusters(new.l1.len() as u64 * 8);
            let at = self.allocate(len.max(1)).await?;
            let mut padded = new.l1.clone();
            padded.resize((len << bits) as usize / 8, 0);
            write_u64s(&self.file, at, &padded).await?;
            (self.header.l1_offset, self.header.l1_size) = (at, new.l1.len() as u32);
            self.release_run(old_l1, old_len).await?;
            if let Some(draft) = &mut self.draft {
                draft.moved.l1 = (len == old_len).then_some(old_l1);
            }
        }
        if new.snapshots != self.snapshots {
            self.store_snapshots(new.snapshots).await?;
        }
        let table = (self.header.reftable_offset, u64::from(self.header.reftable_clusters));
        self.release_run(table.0, table.1).await?;
        // Their places take refcounts, so first all places, then the contents.
        let at = loop {
            self.move_refblocks().await?;
            let len = clusters(self.reftable.len() as u64 * 8).max(1);
            let at = self.allocate(len).await?;
            self.header.reftable_clusters = len as u32;
            self.move_refblocks().await?;
            if clusters(self.reftable.len() as u64 * 8).max(1) == len {
                break at;
            }
            self.release_run(at, len).await?;
        };
        if let Some(draft) = &mut self.draft {
            let same = u64::from(self.header.reftable_clusters) == table.1;
            draft.moved.reftable = same.then_some(table.0);
        }
        let room = (u64::from(self.header.reftable_clusters) << bits) / 8;
        self.reftable.resize(room as usize, 0);
        self.header.reftable_offset = at;
        self.refblocks.write_back(&self.file, "refblock_update").await?;
        write_u64s(&self.file, at, &self.reftable).await?;
        self.switch_from_draft().await?;
        let done = self.draft.take().map(|draft| (draft.freed, draft.moved));
        let (candidates, moved) = done.unwrap_or_default();
        let mut freed = Vec::new();
        for cluster in candidates {
            if self.refcount(cluster).await? == 0 {
                freed.push(cluster);
            }
        }
        self.l1 = new.l1;
        (self.l1_dirty, self.reftable_dirty) = (false, false);
        self.first_free = 0;
        self.survey();
        Ok(Committed { freed, moved })
    }

    /// Makes the header that a draft has prepared the one on the disk.
    pub(super) async fn switch_from_draft(&mut self) -> Result<()> {
        let before = self.draft.as_ref().map_or(&self.header, |draft| &draft.before.0).clone();
        let header = std::mem::replace(&mut self.header, before);
        self.switch_header(header).await
    }

    /// Writes another table of snapshots, to a place that nobody uses.
    pub(super) async fn store_snapshots(&mut self, snapshots: Vec<Snapshot>) -> Result<()> {
        let bits = self.header.cluster_bits;
        let table = snapshot::to_bytes(&snapshots);
        let old = (self.header.snapshots_offset, self.snapshot_bytes.div_ceil(1 << bits));
        let mut at = 0;
        if !table.is_empty() {
            at = self.allocate((table.len() as u64).div_ceil(1 << bits)).await?;
            self.file.write(at, Vector::from(&table[..])).await?;
        }
        self.header.snapshots_offset = at;
        self.header.snapshots = snapshots.len() as u32;
        self.snapshot_bytes = table.len() as u64;
        self.snapshots = snapshots;
        // From here on, what is free may be so in the draft alone.
        self.first_free = self.used_end().await?.max(self.first_free);
        self.release_run(old.0, old.1).await
    }

    /// Gives each refcount block with changes a place that the image on the disk does not know.
    pub(super) async fn move_refblocks(&mut self) -> Result<()> {
        loop {
            let fresh = self.draft.as_ref().map(|draft| &draft.fresh);
            let is_old = |at: &u64| !fresh.is_some_and(|fresh| fresh.contains(at));
            let Some(old) = self.refblocks.dirty_places().into_iter().find(is_old) else {
                return Ok(());
            };
            let place = self.allocate(1).await?;
            self.release(old).await?;
            let bytes = self.refblocks.get(old).map(<[u8]>::to_vec).unwrap_or_default();
            self.refblocks.forget(old);
            self.refblocks.insert(place, bytes, true);
            let index = self.reftable.iter().position(|entry| entry & OFFSET_MASK == old);
            if let Some(index) = index {
                self.reftable[index] = place;
            }
            if let Some(draft) = &mut self.draft {
                draft.fresh.insert(place);
                draft.moved.blocks.extend(index.map(|index| (index, old)));
            }
        }
    }

    pub(super) async fn release_run(&mut self, at: u64, clusters: u64) -> Result<()> {
        for i in 0..clusters {
            self.release(at + (i << self.header.cluster_bits)).await?;
        }
        Ok(())
    }

    /// Brings the flags of L1 and L2 entries in line with refcounts. Tables that change get a new
    /// place. With `shared`, also those to which somebody else points, who stays with the old one.
    pub(super) async fn refresh_tables(&mut self, l1: &mut [u64], shared: bool) -> Result<()> {
        let shape = self.shape;
        for entry in l1.iter_mut().filter(|entry| **entry & OFFSET_MASK != 0) {
            let table = *entry & OFFSET_MASK;
            let mut bytes = self.file.read_bytes(table, shape.cluster() as usize).await?;
            let mut changed = false;
            for index in 0..shape.entries() as usize {
                let mut old = shape.get(&bytes, index).unwrap_or_default();
                let Some(host) = shape.host(old)? else { continue };
                let copied = self.refcount(host).await? == 1;
                if copied != old.is_copied() {
                    old.word ^= COPIED;
                    shape.set(&mut bytes, index, old);
                    changed = true;
                }
            }
            let (mut place, mut count) = (table, self.refcount(table).await?);
            if changed && (count == 1 || shared) {
                (place, count) = (self.allocate(1).await?, 1);
                self.file.write(place, Vector::from(&bytes[..])).await?;
                self.release(table).await?;
                self.l2.forget(table);
                if let Some(draft) = &mut self.draft {
                    draft.moved.tables.push((table, place));
                }
            }
            *entry = place | if count == 1 { COPIED } else { 0 };
        }
        Ok(())
    }

    /// One pointer more (`up`) or less to everything below an L1 table.
    pub(super) async fn count_tree(&mut self, l1: &[u64], up: bool) -> Result<()> {
        let shape = self.shape;
        for table in l1.iter().map(|entry| entry & OFFSET_MASK).filter(|&table| table != 0) {
            let bytes = self.file.read_bytes(table, shape.cluster() as usize).await?;
            for index in 0..shape.entries() as usize {
                let entry = shape.get(&bytes, index).unwrap_or_default();
                if entry.is_compressed() {
                    let (host, len) = shape.packed(entry);
                    let bits = self.header.cluster_bits;
                    for cluster in host >> bits..=(host + len - 1) >> bits {
                        self.count(cluster << bits, up).await?;
                    }
                } else if let Some(host) = shape.host(entry)? {
                    self.count(host, up).await?;
                }
            }
            self.count(table, up).await?;
        }
        Ok(())
    }

    async fn count(&mut self, at: u64, up: bool) -> Result<()> {
        if !up {
            return self.release(at).await.map(drop);
        }
        let count = self.refcount(at).await?;
        self.set_refcount(at, count + 1).await
    }
}
