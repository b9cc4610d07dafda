//! Who owns which cluster of the file (docs/interop/qcow2, "Host cluster management").

use super::entry::{OFFSET_MASK, hex};
use super::header::MAX_REFTABLE_BYTES;
use super::meta::{Meta, Why, write_u64s};
use crate::driver::Preallocation;
use crate::{Error, Result};

/// Entry `index` of a refcount block; `order` is log2 of the width in bits.
pub fn get(block: &[u8], order: u32, index: u64) -> u64 {
    if order < 3 {
        let per_byte = 8 >> order;
        let byte = block.get((index / per_byte) as usize).copied().unwrap_or(0);
        let shift = (index % per_byte) << order;
        return u64::from(byte >> shift) & ((1 << (1 << order)) - 1);
    }
    let width = 1_usize << (order - 3);
    let bytes = block.get(index as usize * width..(index as usize + 1) * width).unwrap_or(&[]);
    bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Sets entry `index` of a refcount block.
pub fn set(block: &mut [u8], order: u32, index: u64, value: u64) {
    if order < 3 {
        let per_byte = 8 >> order;
        let shift = (index % per_byte) << order;
        let mask = ((1_u16 << (1 << order)) - 1) as u8;
        if let Some(byte) = block.get_mut((index / per_byte) as usize) {
            *byte = *byte & !(mask << shift) | (value as u8 & mask) << shift;
        }
        return;
    }
    let width = 1_usize << (order - 3);
    if let Some(bytes) = block.get_mut(index as usize * width..(index as usize + 1) * width) {
        bytes.copy_from_slice(&value.to_be_bytes()[8 - width..]);
    }
}

fn full() -> Error {
    Error::from_errno(libc::EFBIG)
}

impl Meta {
    /// Refcounts in one block.
    pub fn refs_per_block(&self) -> u64 {
        self.header.cluster_size() * 8 >> self.header.refcount_order
    }

    pub(super) fn max_refcount(&self) -> u64 {
        u64::MAX >> (64 - (1 << self.header.refcount_order))
    }

    /// Where the refcount block of a cluster number is, if there is one.
    pub fn refblock_offset(&self, cluster: u64) -> Result<Option<u64>> {
        let index = (cluster / self.refs_per_block()) as usize;
        let offset = self.reftable.get(index).copied().unwrap_or(0) & OFFSET_MASK;
        if self.shape.in_cluster(offset) != 0 {
            let index = hex(index as u64);
            let text = format!("Refblock offset {offset:#x} unaligned (reftable index: {index})");
            return Err(self.damage(&text, None, true));
        }
        Ok((offset != 0).then_some(offset))
    }

    /// How many pointers there are to the cluster at a host offset.
    pub async fn refcount(&mut self, at: u64) -> Result<u64> {
        let cluster = at >> self.header.cluster_bits;
        let Some(block) = self.refblock_offset(cluster)? else { return Ok(0) };
        self.load_refblock(block).await?;
        let (order, index) = (self.header.refcount_order, cluster % self.refs_per_block());
        Ok(self.refblocks.get(block).map_or(0, |bytes| get(bytes, order, index)))
    }

    /// Sets a refcount. The refcount block is made when it is missing.
    pub async fn set_refcount(&mut self, at: u64, value: u64) -> Result<()> {
        if value > self.max_refcount() {
            return Err(Error::from_errno(libc::EINVAL));
        }
        let cluster = at >> self.header.cluster_bits;
        self.file.event("refblock_alloc").await;
        let block = match self.refblock_offset(cluster)? {
            Some(block) => block,
            None => self.add_block_for(cluster, self.first_free).await?,
        };
        self.file.event("refblock_load").await;
        self.load_refblock(block).await?;
        let (order, index) = (self.header.refcount_order, cluster % self.refs_per_block());
        if let Some(bytes) = self.refblocks.get_mut(block) {
            set(bytes, order, index, value);
        }
        Ok(())
    }

    /// Gives back what is behind the last cluster in use.
    pub(super) async fn cut_file(&mut self) -> Result<()> {
        let cluster = self.header.cluster_size();
        let len = self.file.len()?;
        let mut clusters = len.div_ceil(cluster);
        while clusters > 0 && self.refcount((clusters - 1) * cluster).await? == 0 {
            clusters -= 1;
        }
        match clusters * cluster < len {
            true => self.file.truncate(clusters * cluster, Preallocation::Off).await,
            false => Ok(()),
        }
    }

    /// One pointer less, for what no pointer on the disk needs any more. Returns how many are left.
    pub(super) async fn release(&mut self, at: u64) -> Result<u64> {
        let count = self.refcount(at).await?;
        if count == 0 {
            let text = format!("qcow2: the cluster at {at:#x} was freed twice");
            return Err(Error::new(libc::EIO, text));
        }
        self.set_refcount(at, count - 1).await?;
        if count == 1 {
            let cluster = at >> self.header.cluster_bits;
            match &mut self.draft {
                None => self.first_free = self.first_free.min(cluster),
                Some(draft) => draft.freed.push(at),
            }
            self.places.remove(cluster);
            // Whoever gets it next must not find compressed bytes added to it.
            if self.packed_end >> self.header.cluster_bits == cluster {
                self.packed_end = 0;
            }
        }
        Ok(count - 1)
    }

    /// A run of clusters that nobody uses, each with refcount 1. Returns the host offset.
    pub async fn allocate(&mut self, count: u64) -> Result<u64> {
        self.allocate_for("data cluster", count).await
    }

    /// The same, for what has a name.
    pub(super) async fn allocate_for(&mut self, what: &str, count: u64) -> Result<u64> {
        self.file.event("cluster_alloc").await;
        let bits = self.header.cluster_bits;
        loop {
            let start = self.find_free(self.first_free, count).await?;
            let mut missing = None;
            for cluster in start..start + count {
                if self.refblock_offset(cluster)?.is_none() {
                    missing = Some(cluster);
                    break;
                }
            }
            // Its refcount block goes behind them. That may need others: look again then.
            if let Some(cluster) = missing {
                // What is counted before reaches the disk with the block: where that fails for good,
                // it is lost, as tests of failing disks expect.
                self.set_run(start, cluster, 1).await?;
                let added = self.add_block_for(cluster, start + count).await;
                self.set_run(start, cluster, 0).await?;
                added?;
                continue;
            }
            if start == 0 {
                let text = format!("Preventing invalid allocation of {what} at offset 0");
                return Err(self.damage(&text, None, true));
            }
            self.may_write(start << bits, count << bits, None)?;
            self.set_run(start, start + count, 1).await?;
            self.first_free = start + count;
            self.allocated_blank = self.touch(start << bits, count << bits);
            return Ok(start << bits);
        }
    }

    async fn set_run(&mut self, from: u64, to: u64, value: u64) -> Result<()> {
        for cluster in from..to {
            self.set_refcount(cluster << self.header.cluster_bits, value).await?;
        }
        Ok(())
    }

    /// A range will be written; returns whether nobody has ever written there.
    pub(super) fn touch(&mut self, at: u64, len: u64) -> bool {
        let blank = at >= self.blank_from;
        self.blank_from = self.blank_from.max(at + len);
        blank
    }

    /// The first run of free clusters from one on.
    async fn find_free(&mut self, from: u64, count: u64) -> Result<u64> {
        let mut start = from;
        let mut cluster = start;
        // Bounded: beyond the refcount table everything is free.
        while cluster < start + count {
            if cluster >> (56 - self.header.cluster_bits) != 0 {
                return Err(full());
            }
            if self.refcount(cluster << self.header.cluster_bits).await? != 0 {
                start = cluster + 1;
            }
            cluster += 1;
        }
        Ok(start)
    }

    /// The first cluster behind all that are in use.
    pub(super) async fn used_end(&mut self) -> Result<u64> {
        let per_block = self.refs_per_block();
        let order = self.header.refcount_order;
        for index in (0..self.reftable.len() as u64).rev() {
            let Some(block) = self.refblock_offset(index * per_block)? else { continue };
            self.load_refblock(block).await?;
            let bytes = self.refblocks.get(block).unwrap_or(&[]);
            if let Some(last) = (0..per_block).rev().find(|&i| get(bytes, order, i) != 0) {
                return Ok(index * per_block + last + 1);
            }
        }
        Ok(0)
    }

    /// A refcount block for the range of `cluster`, in a free cluster behind `after`. When that one has
    /// no refcount yet, it gets a block that describes itself first.
    async fn add_block_for(&mut self, cluster: u64, after: u64) -> Result<u64> {
        let per_block = self.refs_per_block();
        let wanted = cluster / per_block;
        loop {
            if wanted >= self.reftable.len() as u64 {
                self.grow_reftable(wanted + 1).await?;
            }
            if let Some(block) = self.refblock_offset(cluster)? {
                return Ok(block);
            }
            let free = self.find_free(after, 1).await?;
            let covered = self.refblock_offset(free)?.is_some();
            let index = if covered { wanted } else { free / per_block };
            if index >= self.reftable.len() as u64 {
                self.grow_reftable(index + 1).await?;
                continue;
            }
            let block = free << self.header.cluster_bits;
            if block == 0 {
                let text = "Preventing invalid allocation of refcount block at offset 0";
                return Err(self.damage(text, None, true));
            }
            self.may_write(block, 1, None)?;
            let table_was_dirty = self.reftable_dirty;
            self.add_refblock(index as usize, block);
            self.set_existing(free, 1);
            if let Some(draft) = &mut self.draft {
                if !draft.returns {
                    draft.fresh.insert(block);
                }
                draft.moved.added.push(index);
                continue;
            }
            let linked = self.hook_up(index).await;
            self.reftable_dirty = table_was_dirty;
            if let Err(error) = linked {
                self.set_existing(free, 0);
                self.refblocks.forget(block);
                self.places.remove(free);
                self.reftable[index as usize] = 0;
                return Err(error);
            }
        }
    }

    /// Writes a new refcount block, then the entry of the table that points to it.
    async fn hook_up(&mut self, index: u64) -> Result<()> {
        self.file.event("refblock_alloc_write").await;
        self.refblocks.write_back(&self.file, "refblock_update_part").await?;
        self.file.flush().await?;
        self.file.event("refblock_alloc_hookup").await;
        let at = self.header.reftable_offset + index * 8;
        write_u64s(&self.file, at, &self.reftable[index as usize..=index as usize]).await
    }

    /// A longer refcount table, at the beginning of the range that the first missing block describes,
    /// behind that block.
    async fn grow_reftable(&mut self, entries: u64) -> Result<()> {
        let cluster_size = self.header.cluster_size();
        let per_block = self.refs_per_block();
        if entries * 8 > MAX_REFTABLE_BYTES {
            return Err(full());
        }
        if self.draft.is_some() {
            // It gets its place when the draft is done.
            self.reftable.resize(entries as usize, 0);
            return Ok(());
        }
        let old = (self.header.reftable_offset, u64::from(self.header.reftable_clusters));
        let first_index = self.reftable.len() as u64;
        // Room for half as much again, so that growing is rare.
        let clusters = (entries.max(first_index * 3 / 2) * 8).div_ceil(cluster_size);
        let blocks = (clusters + 1).div_ceil(per_block - 1);
        let clusters = clusters.max(((first_index + blocks) * 8).div_ceil(cluster_size));
        if clusters * cluster_size > MAX_REFTABLE_BYTES {
            return Err(full());
        }
        let (base, bits) = (first_index * per_block, self.header.cluster_bits);
        let before = self.reftable.clone();
        self.reftable.resize((clusters * cluster_size / 8) as usize, 0);
        // Blocks first, one after the other, then the table.
        for i in 0..blocks {
            self.add_refblock((first_index + i) as usize, (base + i) << bits);
        }
        for cluster in base..base + blocks + clusters {
            self.set_existing(cluster, 1);
        }
        let offset = (base + blocks) << bits;
        self.touch(offset, clusters * cluster_size);
        if let Err(error) = self.switch_reftable(offset, clusters).await {
            for cluster in base..base + blocks {
                self.refblocks.forget(cluster << bits);
                self.places.remove(cluster);
            }
            self.reftable = before;
            return Err(error);
        }
        self.unlinked.extend((0..old.1).map(|i| (old.0 + (i << bits), Why::Other)));
        self.survey();
        Ok(())
    }

    /// Writes the refcount table to another place, then the header that knows it.
    async fn switch_reftable(&mut self, offset: u64, clusters: u64) -> Result<()> {
        self.file.event("reftable_grow").await;
        self.file.event("refblock_alloc_write_blocks").await;
        self.refblocks.write_back(&self.file, "refblock_update_part").await?;
        self.file.flush().await?;
        self.file.event("refblock_alloc_write_table").await;
        write_u64s(&self.file, offset, &self.reftable).await?;
        self.file.event("refblock_alloc_switch_table").await;
        let mut header = self.header.clone();
        (header.reftable_offset, header.reftable_clusters) = (offset, clusters as u32);
        self.switch_header(header).await?;
        self.reftable_dirty = false;
        Ok(())
    }

    fn set_existing(&mut self, cluster: u64, value: u64) {
        let (order, index) = (self.header.refcount_order, cluster % self.refs_per_block());
        if let Ok(Some(block)) = self.refblock_offset(cluster)
            && let Some(bytes) = self.refblocks.get_mut(block)
        {
            set(bytes, order, index, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Inline, block_on};
    use crate::open::create_file;
    use crate::qcow2::{CreateOptions, create};
    use proptest::prelude::*;
    use std::sync::Arc;

    #[test]
    fn a_run_may_be_longer_than_what_a_block_describes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let options = CreateOptions {
            size: 1 << 20,
            cluster_size: 512,
            refcount_bits: 64,
            ..CreateOptions::default()
        };
        block_on(async {
            let file = create_file(file.path().to_str().unwrap(), Arc::new(Inline)).await.unwrap();
            create(&file, &options).await.unwrap();
            let mut meta = Meta::load(file.clone(), None, options.header().unwrap(), (8, 8), false)
                .await
                .unwrap();
            meta.protected = Default::default();
            meta.survey();
            let run = meta.allocate(2000).await.unwrap();
            assert!(run < 1 << 20, "{run}");
            for cluster in 0..2000 {
                assert_eq!(meta.refcount(run + cluster * 512).await.unwrap(), 1);
            }
            let next = meta.allocate(1).await.unwrap();
            assert!(!(run..run + 2000 * 512).contains(&next));
        });
    }

    proptest! {
        #[test]
        fn entries_of_each_width_are_independent(
            order in 0..7_u32, writes in proptest::collection::vec((0..64_u64, any::<u64>()), 1..80)
        ) {
            let mut block = vec![0; 512];
            let mut model = [0; 64];
            for (index, value) in writes {
                let value = value & (u64::MAX >> (64 - (1 << order)));
                set(&mut block, order, index, value);
                model[index as usize] = value;
            }
            for (index, value) in model.into_iter().enumerate() {
                prop_assert_eq!(get(&block, order, index as u64), value);
            }
        }
    }
}
