//! The way back from a draft: tables return to the places that they had.
//!
//! Others know an image by the places of its tables, and a file should not grow by a copy of its
//! metadata with each snapshot. Once a draft is true, nothing on the disk depends on the old places:
//! at most an L2 table that a new snapshot shares, and of that only flags change, which nobody looks at
//! in a snapshot. So all is written there, and the header's first sector says so.

use std::collections::HashMap;

use super::draft::{Committed, Draft};
use super::entry::{COPIED, OFFSET_MASK};
use super::meta::{Meta, write_u64s};
use crate::driver::Preallocation;
use crate::vector::Vector;
use crate::{Error, Result};

/// What has another place since a draft.
#[derive(Default)]
pub struct Moved {
    /// Where the L1 table was, if it is as long as it was.
    pub(super) l1: Option<u64>,
    /// L2 tables: where they were, and are.
    pub(super) tables: Vec<(u64, u64)>,
    /// Refcount blocks: which, and where they were.
    pub(super) blocks: Vec<(usize, u64)>,
    /// Refcount blocks that the draft has added.
    pub(super) added: Vec<u64>,
    /// Where the refcount table was, if it is as long as it was.
    pub(super) reftable: Option<u64>,
    /// How long the file was.
    pub(super) file_len: u64,
}

impl Meta {
    /// Brings all tables back. Returns what is free now. Where that fails they stay where they are,
    /// which is as good.
    pub(super) async fn bring_home(&mut self, done: Committed) -> Result<Vec<u64>> {
        let Committed { mut freed, moved } = done;
        let Some(reftable) = moved.reftable else { return Ok(freed) };
        if moved.l1.is_none() && !moved.tables.is_empty() {
            return Ok(freed);
        }
        self.draft = Some(Draft::of((self.header.clone(), self.reftable.clone()), false, 0));
        self.first_free = self.used_end().await?;
        match self.move_home(&moved, reftable).await {
            Ok(more) => freed.extend(more),
            Err(_) => self.abandon_draft().await?,
        }
        let end = (self.used_end().await? << self.header.cluster_bits).max(moved.file_len);
        if self.file.len()? > end {
            self.file.truncate(end, Preallocation::Off).await?;
            self.blank_from = self.blank_from.min(end);
        }
        let mut free = Vec::new();
        for cluster in freed {
            if self.refcount(cluster).await? == 0 {
                free.push(cluster);
            }
        }
        Ok(free)
    }

    async fn move_home(&mut self, moved: &Moved, reftable: u64) -> Result<Vec<u64>> {
        // What follows is counted in blocks that are where they belong.
        let mut left = Vec::new();
        for &(index, home) in &moved.blocks {
            let away = self.reftable[index] & OFFSET_MASK;
            self.load_refblock(away).await?;
            let bytes = self.refblocks.get(away).map(<[u8]>::to_vec).unwrap_or_default();
            self.refblocks.forget(away);
            self.refblocks.insert(home, bytes, true);
            self.reftable[index] = home;
            if let Some(draft) = &mut self.draft {
                draft.fresh.insert(home);
            }
            left.push(away);
        }
        for (&(_, home), away) in moved.blocks.iter().zip(left) {
            self.set_refcount(home, 1).await?;
            self.release(away).await?;
        }
        let mut l1 = self.l1.clone();
        self.move_tables(&mut l1, &moved.tables).await?;
        let bits = self.header.cluster_bits;
        if let Some(home) = moved.l1 {
            let len = (l1.len() as u64 * 8).div_ceil(1 << bits);
            let mut padded = l1.clone();
            padded.resize((len << bits) as usize / 8, 0);
            write_u64s(&self.file, home, &padded).await?;
            self.move_run(self.header.l1_offset, home, len).await?;
            self.header.l1_offset = home;
        }
        let len = u64::from(self.header.reftable_clusters);
        self.move_run(self.header.reftable_offset, reftable, len).await?;
        self.header.reftable_offset = reftable;
        for &index in &moved.added {
            self.drop_unneeded(index).await?;
        }
        // Others that the draft has added.
        self.move_refblocks().await?;
        if self.reftable.len() as u64 * 8 > len << bits {
            return Err(Error::from_errno(libc::EFBIG));
        }
        self.refblocks.write_back(&self.file, "refblock_update").await?;
        write_u64s(&self.file, reftable, &self.reftable).await?;
        self.switch_from_draft().await?;
        self.l1 = l1;
        self.first_free = 0;
        self.reftable_dirty = false;
        self.survey();
        Ok(self.draft.take().map(|draft| draft.freed).unwrap_or_default())
    }

    /// A refcount block goes if nothing is counted in it but itself.
    async fn drop_unneeded(&mut self, index: u64) -> Result<()> {
        let first = index * self.refs_per_block();
        let Some(block) = self.refblock_offset(first)? else { return Ok(()) };
        for cluster in first..first + self.refs_per_block() {
            let at = cluster << self.header.cluster_bits;
            if at != block && self.refcount(at).await? != 0 {
                return Ok(());
            }
        }
        self.release(block).await?;
        self.refblocks.forget(block);
        self.reftable[index as usize] = 0;
        Ok(())
    }

    /// L2 tables, and what points to them.
    async fn move_tables(&mut self, l1: &mut [u64], tables: &[(u64, u64)]) -> Result<()> {
        let mut homes = HashMap::new();
        for &(home, away) in tables {
            let bytes = self.file.read_bytes(away, self.shape.cluster() as usize).await?;
            self.file.write(home, Vector::from(&bytes[..])).await?;
            let count = self.refcount(home).await? + 1;
            self.set_refcount(home, count).await?;
            self.release(away).await?;
            self.l2.forget(away);
            homes.insert(away, home | if count == 1 { COPIED } else { 0 });
        }
        for entry in l1 {
            if let Some(&home) = homes.get(&(*entry & OFFSET_MASK)) {
                *entry = home;
            }
        }
        Ok(())
    }

    /// The place of a run, which nobody else has.
    async fn move_run(&mut self, from: u64, to: u64, clusters: u64) -> Result<()> {
        for i in 0..clusters {
            self.set_refcount(to + (i << self.header.cluster_bits), 1).await?;
        }
        self.release_run(from, clusters).await
    }
}
