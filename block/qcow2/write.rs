//! Writing, zeroing, discarding, resizing.

use std::sync::atomic::Ordering;

use super::Qcow2;
use super::compress::compress;
use super::map::Mapping;
use super::meta::{COMPRESSED, COPIED, Meta, OFFSET_MASK, ZERO};
use crate::driver::{Preallocation, ZeroFlags};
use crate::vector::Vector;
use crate::{Error, Result};

/// Clusters that are allocated in one go, in bytes.
const MAX_RUN: u64 = 16 << 20;

impl Meta {
    /// The pointer of an entry is gone; what it held becomes free with the next barrier.
    fn free_entry(&mut self, entry: u64) -> Result<()> {
        if let Mapping::Compressed { host, len } = Mapping::of(entry, &self.header)? {
            let bits = self.header.cluster_bits;
            // The bytes end inside the last sector that is counted.
            let (first, last) = (host >> bits, (host + len - 1) >> bits);
            self.freed.extend((first..=last).map(|cluster| cluster << bits));
        } else if entry & OFFSET_MASK != 0 {
            self.freed.push(entry & OFFSET_MASK);
        }
        Ok(())
    }
}

impl Qcow2 {
    fn check_range(&self, at: u64, len: u64) -> Result<()> {
        match at.checked_add(len) {
            Some(end) if end <= self.len.load(Ordering::Acquire) => Ok(()),
            _ => Err(Error::from_errno(libc::EIO)),
        }
    }

    pub(super) async fn write_mapped(&self, at: u64, from: Vector) -> Result<()> {
        self.check_range(at, from.len() as u64)?;
        let mut done = 0;
        while done < from.len() {
            let here = at + done as u64;
            let left = from.slice(done, from.len() - done);
            let (guard, mapping, run) = self.find(here, left.len() as u64).await?;
            if let Mapping::Data { host, copied: true } = mapping {
                let in_cluster = here & (self.cluster_size() - 1);
                self.file.write(host + in_cluster, left.slice(0, run as usize)).await?;
                done += run as usize;
                drop(guard);
            } else {
                drop(guard);
                done += self.write_new(here, left).await?;
            }
        }
        Ok(())
    }

    /// Writes to clusters that must be allocated first; returns how many bytes it has written.
    async fn write_new(&self, at: u64, from: Vector) -> Result<usize> {
        let mut meta = self.meta.write().await;
        let cluster = self.cluster_size();
        let start = at & !(cluster - 1);
        let mut old = Vec::new();
        let mut next = start;
        // Somebody may have been here while nobody held the metadata.
        while next < at + from.len() as u64 && next - start < MAX_RUN.max(cluster) {
            let entry = meta.l2_entry(next).await?;
            if matches!(Mapping::of(entry, &meta.header)?, Mapping::Data { copied: true, .. }) {
                break;
            }
            old.push(entry);
            next += cluster;
        }
        let (Some(&first), Some(&last)) = (old.first(), old.last()) else { return Ok(0) };
        let written = (next - at).min(from.len() as u64);
        let end = at + written;
        let host = meta.allocate(old.len() as u64).await?;
        // What the guest does not write of the first and the last cluster comes along.
        for (entry, from_at, to) in [(first, start, at), (last, end, next)] {
            if from_at < to {
                let piece = Vector::zeroed((to - from_at) as usize);
                let mapping = Mapping::of(entry, &meta.header)?;
                self.read_from(mapping, from_at, piece.clone()).await?;
                self.file.write(host + (from_at - start), piece).await?;
            }
        }
        self.file.write(host + (at - start), from.slice(0, written as usize)).await?;
        for (i, &entry) in (0..).zip(&old) {
            meta.set_l2_entry(start + i * cluster, host + i * cluster | COPIED).await?;
            meta.free_entry(entry)?;
        }
        Ok(written as usize)
    }

    pub(super) async fn write_packed(&self, at: u64, from: Vector) -> Result<()> {
        self.check_range(at, from.len() as u64)?;
        let cluster = self.cluster_size();
        let at_end = at + from.len() as u64 == self.len.load(Ordering::Acquire);
        if at & (cluster - 1) != 0 || (from.len() as u64 != cluster && !at_end) {
            return Err(Error::from_errno(libc::EINVAL));
        }
        let mut bytes = from.to_vec();
        bytes.resize(cluster as usize, 0);
        let Some(mut packed) = compress(self.fixed.compression, &bytes)? else {
            return self.write_mapped(at, from).await;
        };
        let mut meta = self.meta.write().await;
        let old = meta.l2_entry(at).await?;
        if Mapping::of(old, &meta.header)? != Mapping::Unallocated {
            // Compressed clusters are for filling an image, not for changing it.
            drop(meta);
            return self.write_mapped(at, from).await;
        }
        let host = self.place_packed(&mut meta, packed.len() as u64).await?;
        let sectors = (host + packed.len() as u64 - 1) / 512 - host / 512;
        // Whole sectors are read: the file must not end inside one.
        packed.resize(((host / 512 + sectors + 1) * 512 - host) as usize, 0);
        self.file.write(host, Vector::from(&packed[..])).await?;
        let split = 62 - (meta.header.cluster_bits - 8);
        meta.set_l2_entry(at, COMPRESSED | sectors << split | host).await
    }

    /// Room for `len` bytes, less than a cluster, behind the last compressed bytes if there is any.
    async fn place_packed(&self, meta: &mut Meta, len: u64) -> Result<u64> {
        let cluster = self.cluster_size();
        let begin = meta.packed_end;
        let room = begin.next_multiple_of(cluster) - begin;
        // The sector count covers whole sectors: keep it inside what is counted below.
        let sector_end = (begin + len).next_multiple_of(512);
        if room > 0 {
            let here = begin & !(cluster - 1);
            let count = meta.refcount(here).await?;
            let counted = count > 0 && count < u64::MAX >> (64 - (1 << self.fixed.refcount_order));
            if counted && sector_end <= here + cluster {
                meta.set_refcount(here, count + 1).await?;
                meta.packed_end = begin + len;
                return Ok(begin);
            }
        }
        let host = meta.allocate(1).await?;
        meta.packed_end = host + len;
        Ok(host)
    }

    pub(super) async fn zero_range(&self, at: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.check_range(at, len)?;
        let (cluster, end) = (self.cluster_size(), at + len);
        // The last cluster of the disk may be a short one.
        let disk_end = self.len.load(Ordering::Acquire);
        let first = at.next_multiple_of(cluster).min(end);
        let last = if end == disk_end { end } else { (end & !(cluster - 1)).max(first) };
        self.write_plain_zeroes(at, first - at).await?;
        if self.fixed.version < 3 && self.backing.is_some() {
            self.write_plain_zeroes(first, last - first).await?;
        } else {
            let mut meta = self.meta.write().await;
            for here in (first..last).step_by(cluster as usize) {
                self.zero_cluster(&mut meta, here, flags).await?;
            }
        }
        self.write_plain_zeroes(last, end - last).await
    }

    async fn zero_cluster(&self, meta: &mut Meta, at: u64, flags: ZeroFlags) -> Result<()> {
        let old = meta.l2_entry(at).await?;
        let mapping = Mapping::of(old, &meta.header)?;
        if matches!(mapping, Mapping::Zero { host } if host == 0 || !flags.unmap) {
            return Ok(());
        }
        if meta.header.version < 3 {
            return self.drop_cluster(meta, at, old, 0).await;
        }
        if matches!(mapping, Mapping::Data { copied: true, .. }) && !flags.unmap {
            return meta.set_l2_entry(at, old | ZERO).await;
        }
        self.drop_cluster(meta, at, old, ZERO).await
    }

    async fn drop_cluster(&self, meta: &mut Meta, at: u64, old: u64, new: u64) -> Result<()> {
        if old != new {
            meta.set_l2_entry(at, new).await?;
            meta.free_entry(old)?;
        }
        Ok(())
    }

    /// Zeroes that are written as data are, where they are not zeroes already.
    async fn write_plain_zeroes(&self, at: u64, len: u64) -> Result<()> {
        let mut done = 0;
        while done < len {
            let extent = self.find_extent(at + done, (len - done).min(1 << 20)).await?;
            if !extent.zero {
                self.write_mapped(at + done, Vector::zeroed(extent.len as usize)).await?;
            }
            done += extent.len;
        }
        Ok(())
    }

    pub(super) async fn discard_range(&self, at: u64, len: u64) -> Result<()> {
        self.check_range(at, len)?;
        let (cluster, end) = (self.cluster_size(), at + len);
        let disk_end = self.len.load(Ordering::Acquire);
        let first = at.next_multiple_of(cluster);
        let last = if end == disk_end { end } else { end & !(cluster - 1) };
        let new = match (self.fixed.version, &self.backing) {
            (2, Some(_)) => return Ok(()),
            (2, None) => 0,
            _ => ZERO,
        };
        let mut meta = self.meta.write().await;
        for here in (first..last.max(first)).step_by(cluster as usize) {
            let old = meta.l2_entry(here).await?;
            if Mapping::of(old, &meta.header)? != Mapping::Unallocated {
                self.drop_cluster(&mut meta, here, old, new).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn resize(&self, len: u64, preallocation: Preallocation) -> Result<()> {
        if preallocation != Preallocation::Off {
            return Err(Error::unsupported("Growing with preallocation is not supported"));
        }
        let mut meta = self.meta.write().await;
        if meta.header.snapshots > 0 {
            let text = "Can't resize an image which has snapshots";
            return Err(Error::unsupported(text));
        }
        let before = self.len.load(Ordering::Acquire);
        if len < before {
            let first = len.next_multiple_of(self.cluster_size());
            for at in (first..before).step_by(self.cluster_size() as usize) {
                let old = meta.l2_entry(at).await?;
                self.drop_cluster(&mut meta, at, old, 0).await?;
            }
            meta.write_back().await?;
        } else {
            let entries = meta.header.l1_entries_for(len);
            meta.grow_l1(entries).await?;
        }
        meta.header.size = len;
        meta.write_header().await?;
        self.len.store(len, Ordering::Release);
        drop(meta);
        // What was behind the old end must not appear: the rest of its cluster, or the backing file.
        let behind = match &self.backing {
            Some(backing) => backing.len()?,
            None => before.next_multiple_of(self.cluster_size()),
        };
        let stale = behind.max(before.next_multiple_of(self.cluster_size())).min(len);
        if stale > before {
            self.zero_range(before, stale - before, ZeroFlags::default()).await?;
        }
        Ok(())
    }
}
