//! Writing.

use super::Qcow2;
use super::compress::compress;
use super::entry::{Entry, Kind, Shape};
use super::meta::{Meta, Why};
use crate::driver::Packed;
use crate::vector::Vector;
use crate::{Error, Result};

/// Clusters that are allocated in one go, in bytes.
const MAX_RUN: u64 = 16 << 20;

/// Most bytes that are read for nothing so that one request will do.
const SPLICED: usize = 16 << 10;

impl Meta {
    /// The pointer of an entry is gone; what it held becomes free when that is on the disk.
    pub(super) fn free_entry(&mut self, entry: Entry, why: Why) -> Result<()> {
        let bits = self.header.cluster_bits;
        if entry.is_compressed() {
            let (host, len) = self.shape.packed(entry);
            // The bytes end inside the last sector that is counted.
            let clusters = host >> bits..=(host + len - 1) >> bits;
            self.freed.extend(clusters.map(|cluster| (cluster << bits, why)));
        } else if !self.shape.data_file {
            match self.shape.host(entry) {
                Ok(host) => self.freed.extend(host.map(|host| (host, why))),
                Err(_) => {
                    let text = format!("Cannot free unaligned cluster {:#x}", entry.place());
                    // Told of when the request has ended; it need not fail.
                    drop(self.damage(&text, None, false));
                }
            }
        }
        Ok(())
    }
}

/// A run of clusters that get data and, unless they have one, a place.
struct Plan {
    /// The guest offset of the first cluster.
    start: u64,
    /// Their entries as they are.
    old: Vec<Entry>,
    /// The place of the first one.
    host: u64,
    /// They keep the places that they have.
    kept: bool,
    /// The places read as zeroes.
    blank: bool,
}

/// Bytes of a cluster beside those of a write that get a place with them.
struct Edge {
    from: u64,
    to: u64,
    /// They are read from what was there before; otherwise they are zeroes.
    stored: bool,
}

/// Whether any of a cluster is stored.
fn has_stored(shape: Shape, entry: Entry) -> Result<bool> {
    for sub in 0..shape.subs() {
        if matches!(shape.kind(entry, sub)?, Kind::Data | Kind::Compressed) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Plan {
    /// Where the first cluster's copying begins, for a write from `at`.
    fn head(&self, shape: Shape, at: u64) -> Result<u64> {
        let Some(&first) = self.old.first() else { return Ok(at) };
        Ok(match shape.kind(first, shape.sub_index(at))? {
            _ if !self.kept && has_stored(shape, first)? => self.start,
            Kind::Data => at,
            _ => at & !(shape.sub() - 1),
        })
    }

    /// Where the last cluster's copying ends, for a write until `end`.
    fn tail(&self, shape: Shape, end: u64) -> Result<u64> {
        let Some(&last) = self.old.last() else { return Ok(end) };
        let cluster_end = self.start + self.old.len() as u64 * shape.cluster();
        Ok(match shape.kind(last, shape.sub_index(end - 1))? {
            _ if !self.kept && has_stored(shape, last)? => cluster_end,
            Kind::Data => end,
            _ => end.next_multiple_of(shape.sub()),
        })
    }
}

impl Qcow2 {
    /// Writes. The caller holds the gate.
    pub(super) async fn write_mapped(&self, at: u64, from: Vector) -> Result<()> {
        let mut done = 0;
        while done < from.len() {
            let here = at + done as u64;
            let left = if done == 0 { from.clone() } else { from.slice(done, from.len() - done) };
            let run = self.find(here, left.len() as u64, true).await?;
            if let (Kind::Data, true, Some(host)) = (run.kind, run.copied, run.host) {
                done += run.len as usize;
                let part = match run.len as usize {
                    all if all == left.len() => left,
                    some => left.slice(0, some),
                };
                self.store(host, here, part).await?;
            } else {
                done += self.write_new(here, left).await?;
            }
        }
        Ok(())
    }

    /// Writes the guest's bytes to their place.
    pub(super) async fn store(&self, host: u64, at: u64, from: Vector) -> Result<()> {
        self.file.event("write_aio").await;
        if self.crypt.is_some() {
            return self.store_encrypted(host, at, from).await;
        }
        self.data().write(host, from).await
    }

    /// Writes to clusters whose entries must change; returns how many bytes it has written.
    async fn write_new(&self, at: u64, from: Vector) -> Result<usize> {
        let shape = self.shape();
        let start = at & !(shape.cluster() - 1);
        let want = (at + from.len() as u64 - start).min(MAX_RUN).max(shape.cluster());
        // One table at a time: each has its place before what it points to.
        let table = shape.cluster() * shape.entries();
        let want = want.min(table - start % table);
        let (plan, flight) = loop {
            let mut meta = self.meta.write().await;
            let room =
                match self.flights.clear(start..start + want.next_multiple_of(shape.cluster())) {
                    Ok(room) => room,
                    Err(landing) => {
                        drop(meta);
                        landing.await;
                        continue;
                    }
                };
            let end = (at + from.len() as u64).min(start + room);
            // Somebody may have been here while nobody held the metadata.
            let Some(plan) = self.plan(&mut meta, at, end).await? else { return Ok(0) };
            let len = plan.old.len() as u64 * shape.cluster();
            break (plan, self.flights.begin(start..start + len));
        };
        let end = (at + from.len() as u64).min(start + plan.old.len() as u64 * shape.cluster());
        let (head, tail) = (plan.head(shape, at)?, plan.tail(shape, end)?);
        let written = from.slice(0, (end - at) as usize);
        let stored = self.store_with_edges(&plan, (head, at), (end, tail), written.clone()).await;
        let mut meta = self.meta.write().await;
        if let Err(error) = stored {
            if !plan.kept {
                meta.release_run(plan.host, plan.old.len() as u64).await?;
            }
            return Err(error);
        }
        for (i, &old) in (0..).zip(&plan.old) {
            let here = start + i * shape.cluster();
            let first = shape.sub_index(head.max(here));
            let last = shape.sub_index(tail.min(here + shape.cluster()) - 1);
            let entry = shape.stored(old, plan.host + i * shape.cluster(), first, last);
            meta.set_entry(here, entry).await?;
            if !plan.kept {
                meta.free_entry(old, Why::Other)?;
            }
        }
        drop(meta);
        drop(flight);
        Ok(written.len())
    }

    /// Finds the clusters from `at` that can be treated alike, and a place for them.
    async fn plan(&self, meta: &mut Meta, at: u64, end: u64) -> Result<Option<Plan>> {
        let shape = self.shape();
        let start = at & !(shape.cluster() - 1);
        let mut old = Vec::new();
        let mut place = None;
        let mut next = start;
        while next < end {
            let entry = meta.entry(next).await?;
            let own = match shape.host(entry)? {
                _ if shape.data_file => Some(next),
                Some(host) if entry.is_copied() => Some(host),
                _ => None,
            };
            let touched = shape.sub_index(at.max(next))
                ..=shape.sub_index((end - 1).min(next + shape.cluster() - 1));
            let mut ready = own.is_some();
            for sub in touched {
                ready &= shape.kind(entry, sub)? == Kind::Data;
            }
            let follows = match place {
                None => true,
                Some(None) => own.is_none(),
                Some(Some(first)) => own == Some(first + (next - start)),
            };
            if ready && entry.is_copied() || !follows {
                break;
            }
            place.get_or_insert(own);
            old.push(entry);
            next += shape.cluster();
        }
        let Some(place) = place else { return Ok(None) };
        if let Some(host) = place {
            return Ok(Some(Plan { start, old, host, kept: true, blank: false }));
        }
        meta.own_table(start).await?;
        let host = meta.allocate(old.len() as u64).await?;
        Ok(Some(Plan { start, old, host, kept: false, blank: meta.allocated_blank }))
    }

    /// Whether a range of one cluster reads as zeroes, so far as its entry tells.
    fn is_void(&self, entry: Entry, from: u64, to: u64) -> Result<bool> {
        let shape = self.shape();
        let behind = match self.backing() {
            Some(backing) => backing.len()?,
            None => 0,
        };
        for sub in shape.sub_index(from)..=shape.sub_index(to - 1) {
            match shape.kind(entry, sub)? {
                Kind::Zero => {}
                Kind::Unallocated if from >= behind => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Writes data and what the guest does not write of the first and the last cluster, at once.
    async fn store_with_edges(
        &self,
        plan: &Plan,
        head: (u64, u64),
        tail: (u64, u64),
        data: Vector,
    ) -> Result<()> {
        let before = self.edge(plan, head, plan.old.first())?;
        let after = self.edge(plan, tail, plan.old.last())?;
        let read = match (&before, &after) {
            (Some(before), Some(after)) if before.stored && after.stored => data.len() <= SPLICED,
            _ => false,
        };
        let [before, after] = if read {
            // Both with what lies between them, by one request.
            let all = self.scratch.take((tail.1 - head.0) as usize);
            self.copied(head.0, all.clone()).await?;
            let len = (tail.1 - tail.0) as usize;
            [Some(all.slice(0, (head.1 - head.0) as usize)), Some(all.slice(all.len() - len, len))]
        } else {
            [self.fetch(before).await?, self.fetch(after).await?]
        };
        let at = if before.is_some() { head.0 } else { head.1 };
        let pieces: Vec<Vector> = before.into_iter().chain([data.clone()]).chain(after).collect();
        let whole = if pieces.len() == 1 {
            data
        } else {
            self.file.event("cow_write").await;
            Vector::concat(&pieces)
        };
        self.store(plan.host + (at - plan.start), at, whole).await
    }

    /// What becomes of an edge; `None`: it is empty, or reads as it shall already.
    fn edge(
        &self,
        plan: &Plan,
        (from, to): (u64, u64),
        entry: Option<&Entry>,
    ) -> Result<Option<Edge>> {
        if from == to {
            return Ok(None);
        }
        let void = entry.map_or(Ok(false), |&entry| self.is_void(entry, from, to))?;
        let there = void && plan.blank && self.crypt.is_none();
        Ok((!there).then_some(Edge { from, to, stored: !void }))
    }

    /// The bytes of an edge.
    async fn fetch(&self, edge: Option<Edge>) -> Result<Option<Vector>> {
        let Some(Edge { from, to, stored }) = edge else { return Ok(None) };
        let len = (to - from) as usize;
        if !stored {
            return Ok(Some(Vector::zeroed(len)));
        }
        let piece = self.scratch.take(len);
        self.copied(from, piece.clone()).await?;
        Ok(Some(piece))
    }

    /// Reads what is copied on a write.
    async fn copied(&self, from: u64, into: Vector) -> Result<()> {
        self.file.event("cow_read").await;
        self.read_mapped(from, into).await
    }

    /// A cluster in its compressed form.
    pub(super) fn compressed(&self, from: &Vector) -> Result<Packed> {
        let mut bytes = from.to_vec();
        bytes.resize(self.shape().cluster() as usize, 0);
        Ok(compress(self.compression, &bytes)?.map_or(Packed::Plain, Packed::Bytes))
    }

    pub(super) async fn store_packed(&self, at: u64, from: Vector, packed: Packed) -> Result<()> {
        let shape = self.shape();
        let at_end = at + from.len() as u64 == self.size();
        if shape.in_cluster(at) != 0 || (from.len() as u64 != shape.cluster() && !at_end) {
            return Err(Error::from_errno(libc::EINVAL));
        }
        if shape.data_file || self.crypt.is_some() {
            return Err(Error::from_errno(libc::ENOTSUP));
        }
        let _gate = self.gate.read().await;
        let Packed::Bytes(packed) = packed else { return self.write_mapped(at, from).await };
        let mut meta = self.meta.write().await;
        let free = self.flights.clear(at..at + shape.cluster()).is_ok();
        let old = meta.entry(at).await?;
        if !free || old.is_compressed() || shape.host(old)?.is_some() {
            // Compressed clusters are for filling an image, not for changing it.
            return Err(Error::from_errno(libc::EIO));
        }
        meta.own_table(at).await?;
        let len = packed.len() as u64;
        let host = self.place_packed(&mut meta, len).await?;
        // The entry first: only its table in memory can know of it, until the next barrier.
        self.file.event("l2_update_compressed").await;
        meta.set_entry(at, shape.pack(host, len)).await?;
        self.file.event("write_compressed").await;
        self.file.write(host, Vector::from(&packed[..])).await
    }

    /// Room for `len` bytes, less than a cluster, behind the last compressed bytes if there is any.
    async fn place_packed(&self, meta: &mut Meta, len: u64) -> Result<u64> {
        self.file.event("cluster_alloc_bytes").await;
        let cluster = self.shape().cluster();
        let begin = meta.packed_end;
        let room = begin.next_multiple_of(cluster) - begin;
        // The sector count covers whole sectors: keep it inside what is counted below.
        let sector_end = (begin + len).next_multiple_of(512);
        if room > 0 {
            let here = begin & !(cluster - 1);
            let count = meta.refcount(here).await?;
            if count > 0 && count < meta.max_refcount() && sector_end <= here + cluster {
                meta.set_refcount(here, count + 1).await?;
                meta.packed_end = begin + len;
                return Ok(begin);
            }
        }
        let host = meta.allocate(1).await?;
        meta.packed_end = host + len;
        Ok(host)
    }
}
