//! Who owns which cluster of the file (docs/interop/qcow2, "Host cluster management").

use super::header::MAX_REFTABLE_BYTES;
use super::meta::{Meta, OFFSET_MASK, write_u64s};
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

    fn max_refcount(&self) -> u64 {
        u64::MAX >> (64 - (1 << self.header.refcount_order))
    }

    /// Where the refcount block of a cluster number is, if there is one.
    pub fn refblock_offset(&self, cluster: u64) -> Result<Option<u64>> {
        let index = (cluster / self.refs_per_block()) as usize;
        let offset = self.reftable.get(index).copied().unwrap_or(0) & OFFSET_MASK;
        if offset & (self.header.cluster_size() - 1) != 0 {
            return Err(Error::new(libc::EIO, "qcow2: refcount block is not aligned"));
        }
        Ok((offset != 0).then_some(offset))
    }

    /// How many pointers there are to the cluster at a host offset.
    pub async fn refcount(&mut self, at: u64) -> Result<u64> {
        let cluster = at >> self.header.cluster_bits;
        let Some(block) = self.refblock_offset(cluster)? else { return Ok(0) };
        self.load_refblock(block).await?;
        let (order, index) = (self.header.refcount_order, cluster % self.refs_per_block());
        Ok(self.refblock(block).map_or(0, |bytes| get(bytes, order, index)))
    }

    /// Sets a refcount. The refcount block is made when it is missing.
    pub async fn set_refcount(&mut self, at: u64, value: u64) -> Result<()> {
        if value > self.max_refcount() {
            return Err(Error::invalid("qcow2: refcount too large"));
        }
        let cluster = at >> self.header.cluster_bits;
        let block = match self.refblock_offset(cluster)? {
            Some(block) => block,
            None => self.add_block_for(cluster).await?,
        };
        self.load_refblock(block).await?;
        let (order, index) = (self.header.refcount_order, cluster % self.refs_per_block());
        if let Some(bytes) = self.refblock_mut(block) {
            set(bytes, order, index, value);
        }
        Ok(())
    }

    /// One pointer less; for what no pointer on the disk needs any more.
    pub(super) async fn release(&mut self, at: u64) -> Result<()> {
        let count = self.refcount(at).await?;
        if count == 0 {
            return Err(Error::new(libc::EIO, "qcow2: a cluster was freed twice"));
        }
        self.set_refcount(at, count - 1).await?;
        if count == 1 {
            let cluster = at >> self.header.cluster_bits;
            self.first_free = self.first_free.min(cluster);
            // Whoever gets it next must not find compressed bytes added to it.
            if self.packed_end >> self.header.cluster_bits == cluster {
                self.packed_end = 0;
            }
        }
        Ok(())
    }

    /// A run of clusters that nobody uses, each with refcount 1. Returns the host offset.
    pub async fn allocate(&mut self, count: u64) -> Result<u64> {
        loop {
            let start = self.find_free(count).await?;
            // Making a refcount block takes a cluster itself, perhaps one of these: look again then.
            let blocks = self.reftable.clone();
            for cluster in start..start + count {
                if self.refblock_offset(cluster)?.is_none() {
                    self.add_block_for(cluster).await?;
                }
            }
            if blocks != self.reftable {
                continue;
            }
            for cluster in start..start + count {
                self.set_refcount(cluster << self.header.cluster_bits, 1).await?;
            }
            if start == self.first_free {
                self.first_free = start + count;
            }
            return Ok(start << self.header.cluster_bits);
        }
    }

    async fn find_free(&mut self, count: u64) -> Result<u64> {
        let mut start = self.first_free;
        let mut cluster = start;
        // Bounded: beyond the refcount table everything is free.
        while cluster < start + count {
            if cluster >> (62 - self.header.cluster_bits) != 0 {
                return Err(full());
            }
            if self.refcount(cluster << self.header.cluster_bits).await? != 0 {
                if start == self.first_free && cluster == start {
                    self.first_free = cluster + 1;
                }
                start = cluster + 1;
            }
            cluster += 1;
        }
        Ok(start)
    }

    /// A refcount block for the range of `cluster`. It takes a free cluster that has its refcount
    /// already, so that ranges stay whole; else the first cluster of the range that it describes.
    async fn add_block_for(&mut self, cluster: u64) -> Result<u64> {
        let per_block = self.refs_per_block();
        let index = cluster / per_block;
        if index >= self.reftable.len() as u64 {
            self.grow_reftable(index + 1).await?;
        }
        if let Some(block) = self.refblock_offset(cluster)? {
            return Ok(block);
        }
        let free = self.find_free(1).await?;
        let covered = self.refblock_offset(free)?.is_some();
        let place = if covered { free } else { index * per_block };
        let block = place << self.header.cluster_bits;
        self.add_refblock(index as usize, block);
        self.set_existing(place, 1);
        Ok(block)
    }

    /// A longer refcount table, at the beginning of the range that the first missing block describes,
    /// behind that block.
    async fn grow_reftable(&mut self, entries: u64) -> Result<()> {
        let cluster_size = self.header.cluster_size();
        let per_block = self.refs_per_block();
        let old = (self.header.reftable_offset, u64::from(self.header.reftable_clusters));
        let first_index = self.reftable.len() as u64;
        // Room for half as much again, so that growing is rare.
        let clusters = (entries.max(first_index * 3 / 2) * 8).div_ceil(cluster_size);
        let blocks = (clusters + 1).div_ceil(per_block - 1);
        let clusters = clusters.max(((first_index + blocks) * 8).div_ceil(cluster_size));
        if clusters * cluster_size > MAX_REFTABLE_BYTES {
            return Err(full());
        }
        let mut table = self.reftable.clone();
        table.resize((clusters * cluster_size / 8) as usize, 0);
        self.reftable = table;
        let base = first_index * per_block;
        // Blocks first, one after the other, then the table.
        for i in 0..blocks {
            let block = (base + i) << self.header.cluster_bits;
            self.add_refblock((first_index + i) as usize, block);
        }
        for cluster in base..base + blocks + clusters {
            self.set_existing(cluster, 1);
        }
        let offset = (base + blocks) << self.header.cluster_bits;
        self.write_refblocks().await?;
        write_u64s(&self.file, offset, &self.reftable).await?;
        (self.header.reftable_offset, self.header.reftable_clusters) = (offset, clusters as u32);
        self.write_header().await?;
        self.freed.extend((0..old.1).map(|i| old.0 + (i << self.header.cluster_bits)));
        Ok(())
    }

    fn set_existing(&mut self, cluster: u64, value: u64) {
        let (order, index) = (self.header.refcount_order, cluster % self.refs_per_block());
        if let Ok(Some(block)) = self.refblock_offset(cluster)
            && let Some(bytes) = self.refblock_mut(block)
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
            let mut meta = Meta::load(file.clone(), options.header().unwrap()).await.unwrap();
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
