//! Zeroing and discarding.

use super::Qcow2;
use super::entry::{ALL_ZERO, Entry, Kind};
use super::meta::{Meta, Why};
use crate::driver::ZeroFlags;
use crate::vector::Vector;
use crate::{Error, Result};

/// Freed clusters that are not kept waiting for a flush.
const MANY_FREED: usize = 4096;

impl Qcow2 {
    /// Zeroes a range. The caller holds the gate.
    pub(super) async fn zero_range(&self, at: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        let (sub, end) = (self.shape().sub(), at + len);
        // The last cluster of the disk may be a short one.
        let disk_end = self.size();
        let first = at.next_multiple_of(sub).min(end);
        let last = if end == disk_end { end } else { (end & !(sub - 1)).max(first) };
        self.write_plain_zeroes(at, first - at).await?;
        if self.raw_data_file && first < last {
            // It is a disk of its own.
            self.data().write_zeroes(first, last - first, flags).await?;
        }
        if !self.shape().zero_flag && self.has_backing() {
            self.write_plain_zeroes(first, last - first).await?;
        } else {
            let cluster = self.shape().cluster();
            let (inner, outer) = (first.next_multiple_of(cluster).min(last), last & !(cluster - 1));
            let outer = if last == disk_end { last } else { outer.max(inner) };
            for (from, to) in [(first, inner), (inner, outer), (outer, last)] {
                // A compressed cluster has no subclusters.
                if from < to && (from, to) != (inner, outer) && self.is_packed(from).await? {
                    self.write_plain_zeroes(from, to - from).await?;
                } else {
                    self.each_cluster(from, to, |from, to| Change::Zero { from, to, flags })
                        .await?;
                }
            }
        }
        self.write_plain_zeroes(last, end - last).await
    }

    /// Zeroes that are written as data are, where they are not zeroes already.
    async fn write_plain_zeroes(&self, at: u64, len: u64) -> Result<()> {
        let mut done = 0;
        while done < len {
            let run = self.find(at + done, (len - done).min(1 << 20), false).await?;
            let is_zero = match run.kind {
                Kind::Zero => true,
                Kind::Unallocated => !self.has_backing(),
                Kind::Data | Kind::Compressed => false,
            };
            if !is_zero {
                self.write_sectors(at + done, Vector::zeroed(run.len as usize)).await?;
            }
            done += run.len;
        }
        Ok(())
    }

    /// Discards a range. The caller holds the gate.
    pub(super) async fn discard_range(&self, at: u64, len: u64) -> Result<()> {
        let (cluster, end) = (self.shape().cluster(), at + len);
        if !self.shape().zero_flag && self.has_backing() {
            // What is behind would show.
            return Err(Error::from_errno(libc::ENOTSUP));
        }
        let first = at.next_multiple_of(cluster);
        let last = if end == self.size() { end } else { end & !(cluster - 1) };
        self.each_cluster(first, last.max(first), |_, _| Change::Discard).await?;
        if self.shape().data_file && last > first && self.settings().passes(Why::Request) {
            self.data().discard(first, last - first).await?;
        }
        Ok(())
    }

    /// Changes the entries of a range, cluster by cluster, when nobody is giving them places.
    pub(super) async fn each_cluster(
        &self,
        first: u64,
        last: u64,
        change: impl Fn(u64, u64) -> Change,
    ) -> Result<()> {
        let cluster = self.shape().cluster();
        let mut at = first;
        while at < last {
            let mut meta = self.meta.write().await;
            let begin = at & !(cluster - 1);
            let room = match self.flights.clear(begin..last) {
                Ok(room) => room,
                Err(landing) => {
                    drop(meta);
                    landing.await;
                    continue;
                }
            };
            // Others may have their turn from time to time.
            let stop = last.min(begin + room).min(begin + (cluster << 10));
            while at < stop {
                let to = (at & !(cluster - 1)).saturating_add(cluster).min(last);
                // Where there is no table there is nothing to discard.
                let idle = match change(at, to) {
                    Change::Drop => true,
                    Change::Discard => !self.has_backing(),
                    Change::Zero { .. } => false,
                };
                if idle && meta.l2_offset(meta.indices(at).0)?.is_none() {
                    let table = cluster * self.shape().entries();
                    at = (at / table + 1).saturating_mul(table).min(last);
                    continue;
                }
                self.change(&mut meta, at, change(at, to)).await?;
                at = to;
            }
            if meta.freed.len() > MANY_FREED {
                meta.write_back().await?;
            }
        }
        Ok(())
    }

    async fn change(&self, meta: &mut Meta, at: u64, change: Change) -> Result<()> {
        let shape = self.shape();
        let cluster = at & !(shape.cluster() - 1);
        let old = meta.entry(at).await?;
        // What has no place that can be is dropped; the rest cannot be there.
        let misplaced = shape.host(old).is_err();
        if !misplaced {
            shape.kind(old, 0)?;
        }
        let host = shape.host(old).unwrap_or(None);
        let own = host.filter(|_| old.is_copied());
        let zero = |host| if shape.zero_flag { shape.zero(host) } else { Entry::default() };
        let new = match change {
            Change::Zero { from, to, .. }
                if shape.in_cluster(from) != 0
                    || shape.in_cluster(to) != 0 && to != self.size() =>
            {
                return self.zero_part(meta, old, from, to).await;
            }
            Change::Zero { flags, .. } => match own.filter(|_| shape.zero_flag) {
                _ if shape.is_zero(old) && !misplaced && (host.is_none() || !flags.unmap) => {
                    return Ok(());
                }
                Some(host)
                    if !flags.unmap || self.settings().discard_no_unref || shape.data_file =>
                {
                    zero(Some(host))
                }
                _ => zero(None),
            },
            Change::Discard => match own.filter(|_| shape.zero_flag) {
                _ if shape.is_zero(old) && !misplaced && host.is_none() => return Ok(()),
                _ if shape.is_empty(old) && !self.has_backing() => return Ok(()),
                Some(host) if self.settings().discard_no_unref => zero(Some(host)),
                _ => zero(None),
            },
            Change::Drop => Entry::default(),
        };
        if new == old {
            return Ok(());
        }
        meta.set_entry(cluster, new).await?;
        let kept = shape.host(new)?.is_some();
        if kept && self.settings().discard_no_unref && self.settings().passes(Why::Request) {
            if let Some(host) = host {
                self.file.discard(host, shape.cluster()).await?;
            }
        } else if !kept {
            let why = if matches!(change, Change::Discard) { Why::Request } else { Why::Other };
            meta.free_entry(old, why)?;
        }
        Ok(())
    }

    /// Zeroes some subclusters of a cluster.
    async fn zero_part(&self, meta: &mut Meta, old: Entry, from: u64, to: u64) -> Result<()> {
        let shape = self.shape();
        let subs = shape.sub_index(from)..=shape.sub_index(to - 1);
        let count = subs.end() - subs.start() + 1;
        let touched = (u64::from(u32::MAX) >> (32 - count)) << subs.start();
        if old.is_compressed() {
            return Err(Error::from_errno(libc::ENOTSUP));
        }
        let mut new = Entry { word: old.word, bitmap: (old.bitmap | touched << 32) & !touched };
        if new.bitmap == ALL_ZERO && new.word & super::entry::OFFSET_MASK == 0 {
            new = shape.zero(None);
        }
        if new != old { meta.set_entry(from, new).await } else { Ok(()) }
    }

    /// Whether a cluster is compressed.
    pub(super) async fn is_packed(&self, at: u64) -> Result<bool> {
        Ok(self.find(at, 1, false).await?.kind == Kind::Compressed)
    }
}

/// What becomes of a cluster, or a part of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    /// It reads as zeroes.
    Zero { from: u64, to: u64, flags: ZeroFlags },
    /// Its storage is not needed.
    Discard,
    /// It is gone: the disk ends before it, or the backing file shows.
    Drop,
}
