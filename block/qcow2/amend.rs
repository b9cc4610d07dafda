//! Changing what an image is like.

use super::Qcow2;
use super::draft::NewState;
use super::entry::{Kind, OFFSET_MASK, Shape};
use super::header::{self, Encryption};
use super::refcount;
use crate::driver::Preallocation;
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
    /// The length of the disk.
    pub size: Option<u64>,
    /// A change of key slots.
    pub keys: Option<KeyChange>,
}

fn no_keys() -> Error {
    Error::invalid("Can't amend encryption options - encryption not present")
}

/// Told how far a change is, from 0 to 1.
pub type Watch<'a> = &'a dyn Fn(f64);

impl Qcow2 {
    /// Changes the image.
    pub async fn amend(&self, options: &AmendOptions) -> Result<()> {
        self.amend_watched(options, &|_| {}).await
    }

    /// Changes the image; `watch` is told of the steps that take long.
    pub async fn amend_watched(&self, options: &AmendOptions, watch: Watch<'_>) -> Result<()> {
        let before = self.header();
        let version = options.version.unwrap_or(before.version);
        let bits = options.refcount_bits.and_then(u64::checked_ilog2);
        let bits = bits.filter(|&bits| bits != before.refcount_order);
        let steps = [version > before.version, bits.is_some(), version < before.version];
        let steps = steps.into_iter().filter(|&step| step).count() as f64;
        {
            let _gate = self.gate.write().await;
            self.check_amend(options).await?;
            self.meta.write().await.settle().await?;
            let mut done = 0.0;
            if version > before.version {
                watch(0.0);
                self.set_version(version).await?;
                watch(0.5 / steps);
                watch(1.0 / steps);
                done += 1.0;
            }
            if let Some(bits) = bits {
                self.set_refcount_bits(bits, &|part| watch((done + part) / steps)).await?;
            }
            self.change_header(options).await?;
        }
        if let Some(size) = options.size {
            self.resize(size, Preallocation::Off).await?;
        }
        if let Some(change) = &options.keys {
            self.volume.as_ref().ok_or_else(no_keys)?.change_keys(change).await?;
        }
        if version < before.version {
            let _gate = self.gate.write().await;
            self.expand_zeroes(&|part| watch((steps - 1.0 + part) / steps)).await?;
            self.set_version(version).await?;
        }
        Ok(())
    }

    async fn check_amend(&self, options: &AmendOptions) -> Result<()> {
        let header = self.header();
        if let Some(bits) = options.refcount_bits
            && !(bits.is_power_of_two() && bits <= 64)
        {
            let text = "Refcount width must be a power of two and may not exceed 64 bits";
            return Err(Error::invalid(text));
        }
        if options.version.unwrap_or(header.version) < 3 {
            self.check_version_2(options).await?;
        }
        if options.keys.is_some() {
            match header.encryption {
                Encryption::Luks { .. } => {}
                Encryption::Aes => {
                    return Err(Error::unsupported("Only LUKS encryption options can be amended"));
                }
                Encryption::None => return Err(no_keys()),
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

    /// Whether any cluster is compressed.
    async fn has_compressed(&self) -> Result<bool> {
        let (mut at, len) = (0, self.size());
        while at < len {
            let run = self.find(at, len - at, false).await?;
            if run.kind == Kind::Compressed {
                return Ok(true);
            }
            at += run.len;
        }
        Ok(false)
    }

    /// Refuses what an image of version 2 cannot have.
    async fn check_version_2(&self, options: &AmendOptions) -> Result<()> {
        let header = self.header();
        let unfit = header.incompatible & !header::DIRTY;
        if header.has_data_file() {
            return Err(Error::unsupported("Cannot downgrade an image with a data file"));
        }
        if unfit & header::COMPRESSION_BIT != 0 && self.has_compressed().await? {
            return Err(Error::unsupported(
                "Cannot downgrade an image with zstd compression type and existing compressed \
                 clusters",
            ));
        }
        if header.version >= 3 && unfit != 0 {
            return Err(Error::unsupported(format!(
                "Cannot downgrade an image with incompatible features {unfit:#x} set"
            )));
        }
        if options.refcount_bits.is_some_and(|bits| bits != 16) {
            return Err(Error::invalid(
                "Refcount widths other than 16 bits require compatibility level 1.1 or above (use \
                 compat=1.1 or greater)",
            ));
        }
        if options.refcount_bits.is_none() && header.refcount_order != 4 {
            return Err(Error::invalid("compat=0.10 requires refcount_bits=16"));
        }
        if header.version < 3 && options.lazy_refcounts == Some(true) {
            return Err(Error::invalid(
                "Lazy refcounts only supported with compatibility level 1.1 and above (use \
                 compat=1.1 or greater)",
            ));
        }
        let len = options.size.unwrap_or(self.size());
        let unfit = |snapshot: &crate::driver::Snapshot| {
            snapshot.disk_size != len || u32::try_from(snapshot.vm_state_size).is_err()
        };
        if header.version >= 3 && self.all_snapshots().await.iter().any(unfit) {
            return Err(Error::unsupported("Internal snapshots prevent downgrade of image"));
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
    async fn expand_zeroes(&self, watch: Watch<'_>) -> Result<()> {
        let mut meta = self.meta.write().await;
        let shape = meta.shape;
        for snapshot in meta.snapshots.clone() {
            let l1 = snapshot.l1(&meta).await?;
            for table in l1.iter().map(|entry| entry & OFFSET_MASK).filter(|&at| at != 0) {
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
        let tables = meta.l1.len() as u64;
        for l1_index in 0..tables {
            let none = meta.l2_offset(l1_index as usize)?.is_none();
            let entries = if none { 0 } else { shape.entries() };
            for index in 0..entries {
                let at = l1_index * span + index * shape.cluster();
                let old = meta.entry(at).await?;
                if !shape.is_zero(old) {
                    continue;
                }
                let own = shape.host(old)?.filter(|_| old.is_copied());
                if !self.has_backing() {
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
            watch((l1_index + 1) as f64 / tables as f64);
        }
        meta.settle().await?;
        let unlinked = std::mem::take(&mut meta.unlinked);
        meta.release_these(unlinked, |why| self.settings().passes(why)).await?;
        meta.settle().await
    }

    /// Writes all refcounts anew, in another width.
    async fn set_refcount_bits(&self, order: u32, watch: Watch<'_>) -> Result<()> {
        let mut meta = self.meta.write().await;
        meta.begin_draft(false).await?;
        let done = meta.draft_refcounts(order, watch).await;
        if done.is_err() {
            meta.abandon_draft().await?;
        }
        done
    }
}

impl super::Meta {
    async fn draft_refcounts(&mut self, order: u32, watch: Watch<'_>) -> Result<()> {
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
            watch(index as f64 / old_table.len() as f64);
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
        self.commit_draft(new).await?;
        watch(1.0);
        Ok(())
    }
}
