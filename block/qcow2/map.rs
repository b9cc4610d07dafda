//! From guest offsets to clusters of the file, and reading.

use std::sync::Arc;

use async_lock::RwLockReadGuard;

use super::compress::decompress;
use super::meta::{COMPRESSED, COPIED, Meta, OFFSET_MASK, ZERO};
use super::{Header, Qcow2};
use crate::driver::Extent;
use crate::node::Node;
use crate::vector::Vector;
use crate::{Error, Result};

/// Where the bytes of a cluster are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapping {
    /// In the backing file, or nowhere.
    Unallocated,
    /// They are zeroes; a cluster may be kept for them (0: none).
    Zero { host: u64 },
    /// At a host offset; alone there when `copied`.
    Data { host: u64, copied: bool },
    /// Compressed, `len` bytes at most from a host offset.
    Compressed { host: u64, len: u64 },
}

impl Mapping {
    /// Reads an L2 entry (docs/interop/qcow2, "Cluster mapping").
    pub(super) fn of(entry: u64, header: &Header) -> Result<Self> {
        if entry & COMPRESSED != 0 {
            let split = 62 - (header.cluster_bits - 8);
            let host = entry & ((1 << split) - 1);
            let sectors = (entry & (COMPRESSED - 1)) >> split;
            let len = (sectors + 1) * 512 - (host & 511);
            return Ok(Self::Compressed { host, len });
        }
        if header.version >= 3 && entry & ZERO != 0 {
            return Ok(Self::Zero { host: entry & OFFSET_MASK });
        }
        let host = entry & OFFSET_MASK;
        if host & (header.cluster_size() - 1) != 0 {
            let text = format!("qcow2: Cluster allocation offset {host:#x} unaligned");
            return Err(Error::new(libc::EIO, text));
        }
        Ok(match host {
            0 => Self::Unallocated,
            _ => Self::Data { host, copied: entry & COPIED != 0 },
        })
    }

    /// Whether `next`, of the cluster `bytes` further on, continues this.
    fn continues(self, next: Self, bytes: u64) -> bool {
        match (self, next) {
            (Self::Data { host, copied }, Self::Data { host: there, copied: too }) => {
                host + bytes == there && copied == too
            }
            (Self::Zero { host }, Self::Zero { host: there }) if host != 0 => host + bytes == there,
            (Self::Compressed { .. }, _) => false,
            _ => self == next,
        }
    }
}

impl Qcow2 {
    /// The mapping at an offset and how far it goes, at most `len`. While the guard lives nothing moves.
    pub(super) async fn find(
        &self,
        at: u64,
        len: u64,
    ) -> Result<(RwLockReadGuard<'_, Meta>, Mapping, u64)> {
        loop {
            let meta = self.meta.read().await;
            let (l1_index, index) = meta.indices(at);
            let cluster = self.cluster_size();
            let in_cluster = at & (cluster - 1);
            let to_table_end = (meta.l2_entries() - index as u64) * cluster - in_cluster;
            let Some(table) = meta.l2_offset(l1_index)? else {
                return Ok((meta, Mapping::Unallocated, len.min(to_table_end)));
            };
            let Some(entry) = meta.cached_l2_entry(table, index) else {
                drop(meta);
                self.meta.write().await.load_l2(table).await?;
                continue;
            };
            let mapping = Mapping::of(entry, &meta.header)?;
            let mut run = cluster - in_cluster;
            while run < len.min(to_table_end) {
                let next = index + ((in_cluster + run) / cluster) as usize;
                let entry = meta.cached_l2_entry(table, next).unwrap_or(0);
                let same = Mapping::of(entry, &meta.header)
                    .is_ok_and(|next| mapping.continues(next, in_cluster + run));
                if !same {
                    break;
                }
                run += cluster;
            }
            return Ok((meta, mapping, run.min(len)));
        }
    }

    pub(super) async fn find_extent(&self, at: u64, len: u64) -> Result<Extent> {
        let len = len.min(self.len.load(std::sync::atomic::Ordering::Acquire).saturating_sub(at));
        let (_guard, mapping, run) = self.find(at, len).await?;
        let in_cluster = at & (self.cluster_size() - 1);
        let extent = Extent { len: run, allocated: true, ..Extent::default() };
        Ok(match mapping {
            Mapping::Unallocated => {
                Extent { allocated: false, zero: self.backing.is_none(), ..extent }
            }
            Mapping::Zero { host: 0 } => Extent { zero: true, ..extent },
            Mapping::Zero { host } => {
                Extent { zero: true, offset: Some(host + in_cluster), ..extent }
            }
            Mapping::Data { host, .. } => {
                Extent { data: true, offset: Some(host + in_cluster), ..extent }
            }
            Mapping::Compressed { .. } => Extent { data: true, compressed: true, ..extent },
        })
    }

    pub(super) async fn read_mapped(&self, at: u64, into: Vector) -> Result<()> {
        let mut done = 0;
        while done < into.len() {
            let here = at + done as u64;
            let (_guard, mapping, run) = self.find(here, (into.len() - done) as u64).await?;
            let part = into.slice(done, run as usize);
            done += part.len();
            self.read_from(mapping, here, part).await?;
        }
        Ok(())
    }

    /// Reads what a mapping says is at a guest offset. The caller holds the metadata.
    pub(super) async fn read_from(&self, mapping: Mapping, at: u64, into: Vector) -> Result<()> {
        let in_cluster = at & (self.cluster_size() - 1);
        match mapping {
            Mapping::Zero { .. } => into.fill(0),
            Mapping::Unallocated => read_backing(self.backing.as_ref(), at, into).await?,
            Mapping::Data { host, .. } => {
                self.file.driver().read(host + in_cluster, into).await?;
            }
            Mapping::Compressed { host, len } => {
                // No more than a cluster's worth is asked for, whatever the entry claims.
                let len = len.min(2 * self.cluster_size());
                let packed = self.file.read_bytes(host, len as usize).await?;
                let mut cluster = vec![0; self.cluster_size() as usize];
                decompress(self.fixed.compression, &packed, &mut cluster)?;
                let from = in_cluster as usize;
                into.write(0, &cluster[from..from + into.len()]);
            }
        }
        Ok(())
    }
}

/// Reads from a backing file that may be shorter.
async fn read_backing(backing: Option<&Arc<Node>>, at: u64, into: Vector) -> Result<()> {
    let there = match backing {
        Some(backing) => backing.len()?.saturating_sub(at).min(into.len() as u64) as usize,
        None => 0,
    };
    into.slice(there, into.len()).fill(0);
    match backing {
        Some(backing) if there > 0 => backing.read(at, into.slice(0, there)).await,
        _ => Ok(()),
    }
}
