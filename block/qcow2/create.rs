//! Making an image.

use std::sync::Arc;

use super::header::{COMPRESSION_BIT, LAZY_REFCOUNTS};
use super::meta::write_u64s;
use super::refcount;
use super::{Compression, Header};
use crate::node::Node;
use crate::vector::Vector;
use crate::{Error, Result};

/// What an image may be like.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// The guest's disk in bytes.
    pub size: u64,
    /// 2 (`compat=0.10`) or 3 (`compat=1.1`).
    pub version: u32,
    /// The cluster size in bytes.
    pub cluster_size: u64,
    /// The width of a refcount.
    pub refcount_bits: u64,
    /// How compressed clusters will be compressed.
    pub compression: Compression,
    /// The owner may keep refcounts stale behind the dirty bit.
    pub lazy_refcounts: bool,
    /// The backing file and its format.
    pub backing: Option<(String, Option<String>)>,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            size: 0,
            version: 3,
            cluster_size: 65536,
            refcount_bits: 16,
            compression: Compression::Zlib,
            lazy_refcounts: false,
            backing: None,
        }
    }
}

impl CreateOptions {
    /// The header of such an image: header, refcount table, refcount block, L1 table.
    pub fn header(&self) -> Result<Header> {
        if !self.cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&self.cluster_size) {
            let text = "Cluster size must be a power of two between 512 and 2048k";
            return Err(Error::invalid(text));
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            let text = "Refcount width must be a power of two and may not exceed 64 bits";
            return Err(Error::invalid(text));
        }
        if self.version < 3 && self.refcount_bits != 16 {
            return Err(Error::invalid(
                "Different refcount widths than 16 bits require compatibility level 1.1 or above \
                 (use version=v3 or greater)",
            ));
        }
        if self.version < 3 && self.lazy_refcounts {
            return Err(Error::invalid(
                "Lazy refcounts only supported with compatibility level 1.1 and above (use \
                 version=v3 or greater)",
            ));
        }
        if self.version < 3 && self.compression != Compression::Zlib {
            return Err(Error::invalid(
                "Non-zlib compression type is only supported with compatibility level 1.1 and \
                 above (use version=v3 or greater)",
            ));
        }
        let zstd = self.compression == Compression::Zstd;
        let mut header = Header {
            version: self.version,
            cluster_bits: self.cluster_size.ilog2(),
            size: self.size.next_multiple_of(512),
            l1_size: 0,
            l1_offset: 3 * self.cluster_size,
            reftable_offset: self.cluster_size,
            reftable_clusters: 1,
            snapshots: 0,
            snapshots_offset: 0,
            incompatible: if zstd { COMPRESSION_BIT } else { 0 },
            compatible: if self.lazy_refcounts { LAZY_REFCOUNTS } else { 0 },
            autoclear: 0,
            refcount_order: self.refcount_bits.ilog2(),
            compression: self.compression,
            backing_file: self.backing.as_ref().map(|(name, _)| name.clone()),
            backing_format: self.backing.as_ref().and_then(|(_, format)| format.clone()),
            extensions: Vec::new(),
        };
        let entries = header.l1_entries_for(header.size);
        if header.size > i64::MAX as u64 || entries * 8 > super::header::MAX_L1_BYTES {
            return Err(Error::new(
                libc::EFBIG,
                "The image size is too large (try using a larger cluster size)",
            ));
        }
        header.l1_size = entries as u32;
        Ok(header)
    }
}

/// Writes an empty image into an empty file.
pub async fn create(file: &Arc<Node>, options: &CreateOptions) -> Result<()> {
    let mut header = options.header()?;
    // The L1 table is made by growing it when it does not fit behind the first refcount block.
    let l1_entries = u64::from(header.l1_size);
    let cluster = header.cluster_size();
    let refs_per_block = cluster * 8 >> header.refcount_order;
    let l1_clusters = (l1_entries * 8).div_ceil(cluster).max(u64::from(l1_entries > 0));
    let fits = 3 + l1_clusters <= refs_per_block;
    let size = header.size;
    if !fits {
        (header.l1_size, header.size) = (0, 0);
    }
    let used = if fits { 3 + l1_clusters } else { 3 };
    let mut block = vec![0; cluster as usize];
    for index in 0..used {
        refcount::set(&mut block, header.refcount_order, index, 1);
    }
    let mut table = vec![0; cluster as usize / 8];
    table[0] = 2 * cluster;
    let mut first = header.to_bytes()?;
    first.resize(cluster as usize, 0);
    file.write(2 * cluster, Vector::from(&block[..])).await?;
    write_u64s(file, cluster, &table).await?;
    if fits && l1_entries > 0 {
        let l1 = Vector::zeroed((l1_entries as usize * 8).next_multiple_of(512));
        file.write(3 * cluster, l1).await?;
    }
    file.write(0, Vector::from(&first[..])).await?;
    file.flush().await?;
    if !fits {
        let mut meta = super::Meta::load(file.clone(), header).await?;
        meta.grow_l1(l1_entries).await?;
        meta.header.size = size;
        meta.write_header().await?;
    }
    Ok(())
}
