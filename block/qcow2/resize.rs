//! Changing the length, and places ahead of time.

use std::sync::atomic::Ordering;

use super::Qcow2;
use super::header::Header;
use super::meta::Meta;
use super::zero::Change;
use crate::driver::{Preallocation, ZeroFlags};
use crate::vector::Vector;
use crate::{Error, Result};

impl Qcow2 {
    pub(super) async fn resize(&self, len: u64, preallocation: Preallocation) -> Result<()> {
        if !len.is_multiple_of(512) {
            return Err(Error::invalid("The new size must be a multiple of 512"));
        }
        // Nobody else is in here.
        let _gate = self.gate.write().await;
        let before = self.size();
        {
            let mut meta = self.meta.write().await;
            if meta.header.snapshots > 0 && meta.header.version < 3 {
                return Err(Error::unsupported("Can't resize a v2 image which has snapshots"));
            }
            if len < before && preallocation != Preallocation::Off {
                let text = "Preallocation can't be used for shrinking an image";
                return Err(Error::invalid(text));
            }
            if len >= before {
                let entries = meta.header.l1_entries_for(len);
                let grown = meta.grow_l1(entries).await;
                grown.map_err(|error| error.context("Failed to grow the L1 table"))?;
            }
        }
        if len < before {
            return self.shrink(len, before).await;
        }
        if let Some(data) = &self.data_file
            && data.len()? < len
        {
            data.truncate(len, preallocation_of_data(preallocation)).await?;
        }
        // What was behind the old end must not appear: the rest of its cluster, or the backing file.
        let whole = |at: u64| at.next_multiple_of(self.shape().cluster());
        let behind = match self.backing() {
            Some(backing) => whole(backing.len()?.min(len)),
            None => 0,
        };
        let stale = behind.max(whole(before).min(whole(len)));
        if stale > before {
            self.zero_range(before, stale - before, ZeroFlags::default()).await?;
        }
        if preallocation != Preallocation::Off {
            self.preallocate(before, len, preallocation).await?;
        }
        let mut meta = self.meta.write().await;
        meta.write_back().await?;
        meta.set_size(len).await?;
        self.len.store(len, Ordering::Release);
        let unlinked = std::mem::take(&mut meta.unlinked);
        meta.release_these(unlinked, |why| self.settings().passes(why)).await
    }

    async fn shrink(&self, len: u64, before: u64) -> Result<()> {
        let first = len.next_multiple_of(self.shape().cluster());
        let dropped = self.each_cluster(first, before, |_, _| Change::Drop).await;
        dropped.map_err(|error| error.context("Failed to discard cropped clusters"))?;
        let mut meta = self.meta.write().await;
        // Tables that only describe what is gone.
        let keep = meta.header.l1_entries_for(len) as usize;
        for index in keep..meta.l1.len() {
            meta.drop_table(index)?;
        }
        self.file.event("l1_shrink_write_table").await;
        let written = meta.write_back().await;
        written.map_err(|error| error.context("Failed to reduce the number of L2 tables"))?;
        let unlinked = std::mem::take(&mut meta.unlinked);
        meta.set_size(len).await?;
        self.len.store(len, Ordering::Release);
        self.file.event("l1_shrink_free_l2_clusters").await;
        let released = meta.release_these(unlinked, |why| self.settings().passes(why)).await;
        released.map_err(|error| error.context("Failed to discard unused refblocks"))?;
        meta.write_back().await?;
        meta.cut_file().await?;
        if let Some(data) = &self.data_file {
            data.truncate(len, Preallocation::Off).await?;
        }
        Ok(())
    }

    /// Gives a range its places. The caller holds the gate.
    pub(super) async fn preallocate(&self, from: u64, to: u64, mode: Preallocation) -> Result<()> {
        let shape = self.shape();
        let mut at = from & !(shape.cluster() - 1);
        while at < to {
            let mut meta = self.meta.write().await;
            let (_, index) = meta.indices(at);
            let left = (to - at).div_ceil(shape.cluster());
            let count = left.min(1024).min(shape.entries() - index as u64);
            let mut run = 0;
            while run < count {
                let entry = meta.entry(at + run * shape.cluster()).await?;
                if !shape.is_empty(entry) {
                    break;
                }
                run += 1;
            }
            if run == 0 {
                at += shape.cluster();
                continue;
            }
            meta.own_table(at).await?;
            let host = if shape.data_file { at } else { meta.allocate(run).await? };
            let (bytes, fresh) = (run * shape.cluster(), meta.allocated_blank || shape.data_file);
            let end = host + bytes;
            drop(meta);
            let file = self.data();
            match mode {
                Preallocation::Full => {
                    let chunk = Vector::zeroed(bytes.min(4 << 20) as usize);
                    let mut done = 0;
                    while done < bytes {
                        let part = chunk.slice(0, (bytes - done).min(4 << 20) as usize);
                        file.write(host + done, part).await?;
                        done += 4 << 20;
                    }
                }
                _ if shape.data_file => {}
                Preallocation::Falloc => {
                    let reserve = ZeroFlags { unmap: false };
                    file.write_zeroes(host, bytes, reserve).await?;
                }
                _ if fresh => {
                    if file.len()? < end {
                        file.truncate(end, Preallocation::Off).await?;
                    }
                }
                _ => file.write_zeroes(host, bytes, ZeroFlags { unmap: true }).await?,
            }
            let mut meta = self.meta.write().await;
            for i in 0..run {
                let offset = i * shape.cluster();
                meta.set_entry(at + offset, shape.reserved(host + offset)).await?;
            }
            at += bytes;
        }
        Ok(())
    }
}

impl Meta {
    async fn set_size(&mut self, size: u64) -> Result<()> {
        let header = Header { size, ..self.header.clone() };
        let switched = self.switch_header(header).await;
        switched.map_err(|error| error.context("Failed to update the image size"))
    }
}

fn preallocation_of_data(mode: Preallocation) -> Preallocation {
    match mode {
        Preallocation::Metadata => Preallocation::Off,
        other => other,
    }
}
