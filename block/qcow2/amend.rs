//! Changing what an image is like.

use super::Qcow2;
use super::draft::NewState;
use super::entry::{OFFSET_MASK, Shape};
use super::header;
use super::refcount;
use crate::luks::KeyChange;
use crate::vector::Vector;
use crate::{Error, Result};

use std::collections::HashSet;
use std::sync::atomic::Ordering;

/// What shall change. What is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AmendOptions {
    /// 2 (`compat=0.10`) or 3 (`compat=1.1`).
    pub version: Option<u32>,
    /// `lazy_refcounts`
    pub lazy_refcounts: Option<bool>,
    /// `refcount_bits`
    pub refcount_bits: Option<u64>,
    /// The backing file and its format; an empty name for none.
    pub backing: Option<(String, Option<String>)>,
    /// `data_file`: the name in the image.
    pub data_file: Option<String>,
    /// `data_file_raw`
    pub data_file_raw: Option<bool>,
    /// A change of key slots, and the password that opens the image.
    pub keys: Option<(KeyChange, Vec<u8>)>,
}

impl Qcow2 {
    /// Changes the image. Its length is changed by `truncate`.
    pub async fn amend(&self, options: &AmendOptions) -> Result<()> {
        let _gate = self.gate.write().await;
        self.check_amend(options)?;
        self.meta.write().await.settle().await?;
        let version = options.version.unwrap_or(self.header().version);
        if version > self.header().version {
            self.set_version(version).await?;
        }
        if let Some(bits) = options.refcount_bits
            && bits.ilog2() != self.header().refcount_order
        {
            self.set_refcount_bits(bits.ilog2()).await?;
        }
        self.change_header(options).await?;
        if let Some((change, password)) = &options.keys {
            let volume = self.volume.as_ref();
            let no_keys = || {
                Error::unsupported(
                    "Only LUKS encryption options can be amended for qcow2 with encryption format 'luks'",
                )
            };
            volume.ok_or_else(no_keys)?.change_keys(password, change).await?;
        }
        if version < self.header().version {
            self.expand_zeroes().await?;
            self.set_version(version).await?;
        }
        Ok(())
    }

    fn check_amend(&self, options: &AmendOptions) -> Result<()> {
        let header = self.header();
        let version = options.version.unwrap_or(header.version);
        if let Some(bits) = options.refcount_bits
            && !(bits.is_power_of_two() && bits <= 64)
        {
            let text = "Refcount width must be a power of two and may not exceed 64 bits";
            return Err(Error::invalid(text));
        }
        let bits = options.refcount_bits.unwrap_or(1 << header.refcount_order);
        if version < 3 {
            let unfit = header.incompatible & !header::DIRTY;
            if header.version >= 3 && unfit != 0 {
                return Err(Error::unsupported(format!(
                    "Cannot downgrade an image with incompatible features {unfit:#x} set"
                )));
            }
            if bits != 16 {
                return Err(Error::invalid(
                    "Refcount widths other than 16 bits require compatibility level 1.1 or above \
                     (use compat=1.1 or greater)",
                ));
            }
            if options.lazy_refcounts == Some(true) {
                return Err(Error::invalid(
                    "Lazy refcounts only supported with compatibility level 1.1 and above (use \
                     compat=1.1 or greater)",
                ));
            }
        }
        if options.data_file.is_some() && !header.has_data_file() {
            let text = "data-file can only be set for images that use an external data file";
            return Err(Error::invalid(text));
        }
        if options.data_file_raw.is_some_and(|raw| raw && !header.is_data_file_raw()) {
            return Err(Error::invalid("data-file-raw cannot be set on existing images"));
        }
        Ok(())
    }

    async fn change_header(&self, options: &AmendOptions) -> Result<()> {
        let mut meta = self.meta.write().await;
        let before = meta.header.clone();
        if let Some((name, format)) = &options.backing {
            if name.len() > 1023 {
                return Err(Error::invalid("Backing file name too long"));
            }
            meta.header.backing_file = Some(name.clone()).filter(|name| !name.is_empty());
            let format = format.clone().filter(|_| !name.is_empty());
            meta.header.backing_format = format;
        }
        if let Some(lazy) = options.lazy_refcounts {
            let bit = if lazy { header::LAZY_REFCOUNTS } else { 0 };
            meta.header.compatible = meta.header.compatible & !header::LAZY_REFCOUNTS | bit;
            meta.lazy = lazy && meta.header.version >= 3;
        }
        if let Some(name) = &options.data_file {
            meta.header.data_file = Some(name.clone()).filter(|name| !name.is_empty());
        }
        if options.data_file_raw == Some(false) {
            meta.header.autoclear &= !header::RAW_DATA_FILE;
        }
        if meta.header == before {
            return Ok(());
        }
        let written = meta.write_header().await;
        if written.is_err() {
            meta.header = before;
        }
        written
    }

    async fn set_version(&self, version: u32) -> Result<()> {
        let mut meta = self.meta.write().await;
        meta.header.version = version;
        if version < 3 {
            (meta.header.compatible, meta.header.autoclear) = (0, 0);
            meta.header.bitmaps = None;
            meta.lazy = false;
        }
        meta.write_header().await?;
        meta.shape = Shape::of(&meta.header);
        self.zero_flag.store(version >= 3, Ordering::Relaxed);
        Ok(())
    }

    /// Version 2 has no zero clusters: they go where that is the same, else they are written.
    async fn expand_zeroes(&self) -> Result<()> {
        let mut meta = self.meta.write().await;
        let shape = meta.shape;
        for snapshot in meta.snapshots.clone() {
            let l1 =
                super::meta::read_u64s(&meta.file, snapshot.l1_offset, snapshot.l1_size as usize);
            for table in l1.await?.iter().map(|entry| entry & OFFSET_MASK).filter(|&at| at != 0) {
                let bytes = meta.file.read_bytes(table, shape.cluster() as usize).await?;
                let zeroes = (0..shape.entries() as usize).any(|index| {
                    shape.get(&bytes, index).is_some_and(|entry| shape.is_zero(entry))
                });
                if zeroes {
                    let text = "Cannot downgrade an image with zero clusters in its snapshots";
                    return Err(Error::unsupported(text));
                }
            }
        }
        let span = shape.cluster() * shape.entries();
        for l1_index in 0..meta.l1.len() as u64 {
            if meta.l2_offset(l1_index as usize)?.is_none() {
                continue;
            }
            for index in 0..shape.entries() {
                let at = l1_index * span + index * shape.cluster();
                let old = meta.entry(at).await?;
                if !shape.is_zero(old) {
                    continue;
                }
                let own = shape.host(old)?.filter(|_| old.is_copied());
                if self.backing.is_none() {
                    meta.set_entry(at, super::entry::Entry::default()).await?;
                    meta.free_entry(old, super::meta::Why::Other)?;
                    continue;
                }
                let host = match own {
                    Some(host) => host,
                    None => meta.allocate(1).await?,
                };
                let zeroes = Vector::zeroed(shape.cluster() as usize);
                self.store(host, at, zeroes).await?;
                meta.set_entry(at, shape.data(host)).await?;
                if own.is_none() {
                    meta.free_entry(old, super::meta::Why::Other)?;
                }
            }
        }
        meta.settle().await?;
        let unlinked = std::mem::take(&mut meta.unlinked);
        meta.release_these(unlinked, |why| self.settings.passes(why)).await?;
        meta.settle().await
    }

    /// Writes all refcounts anew, in another width.
    async fn set_refcount_bits(&self, order: u32) -> Result<()> {
        let mut meta = self.meta.write().await;
        meta.begin_draft().await?;
        let done = meta.draft_refcounts(order).await;
        if done.is_err() {
            meta.abandon_draft().await?;
        }
        done
    }
}

impl super::Meta {
    async fn draft_refcounts(&mut self, order: u32) -> Result<()> {
        let bits = self.header.cluster_bits;
        let end = self.used_end().await?;
        let (old_order, old_table) = (self.header.refcount_order, self.reftable.clone());
        let own = self.header.reftable_offset >> bits;
        let mut gone: HashSet<u64> =
            (own..own + u64::from(self.header.reftable_clusters)).collect();
        gone.extend(
            old_table.iter().map(|entry| (entry & OFFSET_MASK) >> bits).filter(|&at| at != 0),
        );
        let per_block = self.refs_per_block();
        self.header.refcount_order = order;
        self.reftable = Vec::new();
        self.refblocks.clear();
        let limit = self.max_refcount();
        for (index, block) in (0..).zip(old_table.iter().map(|entry| entry & OFFSET_MASK)) {
            if block == 0 {
                continue;
            }
            let bytes = self.file.read_bytes(block, 1 << bits).await?;
            for cluster in (index * per_block..(index + 1) * per_block).take_while(|&c| c < end) {
                let count = refcount::get(&bytes, old_order, cluster % per_block);
                if count == 0 || gone.contains(&cluster) {
                    continue;
                }
                if count > limit {
                    return Err(Error::invalid(format!(
                        "Cannot decrease refcount entry width to {} bits: Cluster at offset {:#x} \
                         has a refcount of {count}",
                        1_u64 << order,
                        cluster << bits
                    )));
                }
                self.set_refcount(cluster << bits, count).await?;
            }
        }
        // There is no old table to give back any more.
        self.header.reftable_clusters = 0;
        let new = NewState { l1: self.l1.clone(), snapshots: self.snapshots.clone() };
        self.commit_draft(new).await.map(drop)
    }
}
