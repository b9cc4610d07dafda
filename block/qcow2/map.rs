//! From guest offsets to clusters of the file, and reading.

use super::Qcow2;
use super::compress::decompress;
use super::entry::{Entry, Kind, hex};
use super::meta::Meta;
use crate::driver::{Driver, Extent};
use crate::vector::Vector;
use crate::{Error, Result};

/// What is alike from a guest offset on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// What it is.
    pub(super) kind: Kind,
    /// Where the guest offset is in the data's file, if it has a place there.
    pub(super) host: Option<u64>,
    /// The place is this image's alone.
    pub(super) copied: bool,
    /// How many bytes.
    pub(super) len: u64,
    /// The L2 entry of the first cluster.
    pub(super) entry: Entry,
}

impl Meta {
    fn classify(
        &self,
        table: u64,
        index: usize,
        entry: Entry,
        at: u64,
    ) -> Result<(Kind, Option<u64>)> {
        let shape = self.shape;
        let both = shape.kind(entry, shape.sub_index(at)).and_then(|kind| {
            let host = shape.host(entry)?;
            Ok((kind, host.map(|host| host + shape.in_cluster(at))))
        });
        both.map_err(|error| {
            let (table_at, index) = (hex(table), hex(index as u64));
            let text = format!("{error} (L2 offset: {table_at}, L2 index: {index})");
            self.damage(&text, None, true)
        })
    }

    /// What is at an offset and how far it goes, at most `len` bytes; nothing if the L2 table is not
    /// in memory.
    fn run(&self, at: u64, len: u64) -> Result<std::result::Result<Run, u64>> {
        let shape = self.shape;
        let (l1_index, index) = self.indices(at);
        let begin = shape.in_cluster(at);
        let limit = len.min((shape.entries() - index as u64) * shape.cluster() - begin);
        let Some(table) = self.l2_offset(l1_index)? else {
            let (kind, entry) = (Kind::Unallocated, Entry::default());
            return Ok(Ok(Run { kind, host: None, copied: false, len: limit, entry }));
        };
        let Some(entry) = self.cached_entry(table, index) else { return Ok(Err(table)) };
        let (kind, host) = self.classify(table, index, entry, at)?;
        let copied = entry.is_copied();
        let step = if kind == Kind::Compressed { shape.cluster() } else { shape.sub() };
        let mut end = step - (at & (step - 1));
        while end < limit && kind != Kind::Compressed {
            let there = index + ((begin + end) >> shape.cluster_bits) as usize;
            let Some(next) = self.cached_entry(table, there) else { break };
            let continues = match self.classify(table, there, next, at + end) {
                Ok((next_kind, place)) => {
                    next_kind == kind
                        && next.is_copied() == copied
                        && place == host.map(|host| host + end)
                }
                // It is for who asks for that cluster.
                Err(_) => {
                    self.found.lock().take();
                    false
                }
            };
            if !continues {
                break;
            }
            end += step;
        }
        Ok(Ok(Run { kind, host, copied, len: end.min(limit), entry }))
    }
}

impl Qcow2 {
    /// What is at an offset and how far it goes, at most `len`. The caller holds the gate, so that
    /// the place stays what it is.
    pub(super) async fn find(&self, at: u64, len: u64, write: bool) -> Result<Run> {
        loop {
            let table = {
                let meta = self.meta.read().await;
                match meta.run(at, len)? {
                    Ok(run) => {
                        if let (true, Kind::Data, Some(host)) = (write, run.kind, run.host)
                            && !self.shape().data_file
                        {
                            meta.may_write(host, run.len, None)?;
                        }
                        return Ok(run);
                    }
                    Err(table) => table,
                }
            };
            self.meta.write().await.load_l2(table).await?;
        }
    }

    pub(super) async fn find_extent(&self, at: u64, len: u64) -> Result<Extent> {
        let len = len.min(self.size().saturating_sub(at));
        let run = self.find(at, len, false).await?;
        let extent = Extent { len: run.len, allocated: true, ..Extent::default() };
        // What is encrypted is not there as it is.
        let offset = run.host.filter(|_| self.crypt.is_none());
        Ok(match run.kind {
            Kind::Unallocated => {
                Extent { allocated: false, zero: !self.has_backing(), offset, ..extent }
            }
            Kind::Zero => Extent { zero: true, offset, ..extent },
            Kind::Data => {
                let (zero, len) = match offset {
                    Some(host) => self.untouched(host, run.len).await?,
                    None => (false, run.len),
                };
                Extent { data: true, zero, len, offset, ..extent }
            }
            Kind::Compressed => Extent { data: true, compressed: true, ..extent },
        })
    }

    /// Whether a range of the file belongs to clusters that got their places ahead of time and were
    /// never written, and how far that goes: the file has holes for whole clusters there.
    async fn untouched(&self, host: u64, len: u64) -> Result<(bool, u64)> {
        let file = self.file.driver();
        // Tables that are not full leave small holes, and space that is reserved looks like holes, too.
        let file_len = file.len()?;
        let sparse = file.allocated_size()?.is_some_and(|size| size < file_len / 4 * 3);
        if !sparse || self.shape().data_file {
            return Ok((false, len));
        }
        let cluster = self.shape().cluster();
        let (start, end) = (host & !(cluster - 1), host + len);
        let mut at = start;
        while at < end {
            let below = file.status(at, end - at).await?;
            let hole_end = at + below.len;
            let whole = if hole_end >= end { end } else { hole_end & !(cluster - 1) };
            if below.zero && whole > at {
                return Ok(match at <= host {
                    true => (true, whole - host),
                    false => (false, at - host),
                });
            }
            at = hole_end.max(at + 1).next_multiple_of(cluster);
        }
        Ok((false, len))
    }

    /// Reads. The caller holds the gate.
    pub(super) async fn read_mapped(&self, at: u64, into: Vector) -> Result<()> {
        let mut done = 0;
        while done < into.len() {
            let here = at + done as u64;
            let run = self.find(here, (into.len() - done) as u64, false).await?;
            let part = if done == 0 && run.len >= into.len() as u64 {
                into.clone()
            } else {
                into.slice(done, run.len as usize)
            };
            done += part.len();
            self.read_run(run, here, part).await?;
        }
        Ok(())
    }

    async fn read_run(&self, run: Run, at: u64, into: Vector) -> Result<()> {
        match (run.kind, run.host) {
            (Kind::Zero, _) => into.fill(0),
            (Kind::Data, Some(host)) if self.crypt.is_some() => {
                self.file.event("read_aio").await;
                self.read_encrypted(host, at, into).await?;
            }
            (Kind::Data, Some(host)) => {
                self.file.event("read_aio").await;
                self.data().driver().read(host, into).await?;
            }
            (Kind::Compressed, _) => {
                // No more than a cluster's worth is asked for, whatever the entry claims.
                let (host, len) = self.shape().packed(run.entry);
                let len = len.min(2 * self.shape().cluster());
                self.file.event("read_compressed").await;
                let packed = self.file.read_bytes(host, len as usize).await?;
                let mut cluster = vec![0; self.shape().cluster() as usize];
                decompress(self.compression, &packed, &mut cluster)?;
                let from = self.shape().in_cluster(at) as usize;
                into.write(0, &cluster[from..from + into.len()]);
            }
            _ => self.read_backing(at, into).await?,
        }
        Ok(())
    }

    /// Reads from a backing file that may be shorter.
    async fn read_backing(&self, at: u64, into: Vector) -> Result<()> {
        let Some(backing) = self.backing() else {
            into.fill(0);
            return Ok(());
        };
        let there = backing.len()?.saturating_sub(at).min(into.len() as u64) as usize;
        into.slice(there, into.len()).fill(0);
        if there == 0 {
            return Ok(());
        }
        self.file.event("read_backing_aio").await;
        backing.read(at, into.slice(0, there)).await
    }

    /// Where the bytes of the guest are.
    pub(super) fn data(&self) -> &crate::node::Node {
        self.data_file.as_deref().unwrap_or(&self.file)
    }

    /// The guest offset, behind the disk, of a range of the machine's state.
    pub(super) fn vm_state_at(&self, at: u64, len: usize) -> Result<u64> {
        let start = self.vm_state_offset().checked_add(at);
        let end = start.and_then(|start| start.checked_add(len as u64));
        let beyond = || Error::from_errno(libc::EFBIG);
        start.filter(|_| end.is_some_and(|end| end <= i64::MAX as u64)).ok_or_else(beyond)
    }

    pub(super) fn check_range(&self, at: u64, len: u64) -> Result<()> {
        match at.checked_add(len) {
            Some(end) if end <= self.size() => Ok(()),
            _ => Err(Error::from_errno(libc::EIO)),
        }
    }
}
