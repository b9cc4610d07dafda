//! Internal snapshots (docs/interop/qcow2, "Snapshots").

use std::sync::atomic::Ordering;

use super::Qcow2;
use super::draft::{Committed, NewState};
use super::entry::COPIED;
use super::header::{Header, MAX_L1_BYTES, MAX_SNAPSHOTS};
use super::meta::{Meta, Why, read_u64s, write_u64s};
use crate::driver::{Snapshot as Listed, SnapshotTime};
use crate::node::Node;
use crate::{Error, Result};

/// A record's bytes before its names.
const FIXED: usize = 40;
/// Extra data at most.
const MAX_EXTRA: u32 = 1024;
/// What is known of the extra data: state size, disk size, instructions.
const KNOWN_EXTRA: usize = 24;

/// A record of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub(super) l1_offset: u64,
    pub(super) l1_size: u32,
    pub(super) listed: Listed,
    /// The disk's length is in the record.
    has_len: bool,
    /// Extra data that is not known here.
    rest: Vec<u8>,
}

fn number(bytes: &[u8], from: usize, len: usize) -> u64 {
    let bytes = bytes.get(from..from + len).unwrap_or(&[]);
    bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

impl Snapshot {
    /// What is wrong with where the L1 table is said to be: the error of who wants to use it, and what a
    /// check says.
    pub(super) fn l1_fault(&self, header: &Header) -> Option<(Error, String)> {
        let Self { l1_offset, l1_size, .. } = *self;
        let (error, what) = if l1_offset & (header.cluster_size() - 1) != 0 || l1_offset >> 56 != 0
        {
            let error = Error::invalid("Snapshot L1 table offset invalid");
            (error, format!("l1_offset={l1_offset:#x}: L1 table is not cluster aligned"))
        } else if u64::from(l1_size) * 8 > MAX_L1_BYTES {
            let error = Error::new(libc::EFBIG, "Snapshot L1 table too large");
            (error, format!("l1_size={l1_size:#x}: L1 table is too large"))
        } else {
            return None;
        };
        let Listed { id, name, .. } = &self.listed;
        let text = format!("ERROR snapshot {id} ({name}) {what}; snapshot table entry corrupted");
        Some((error, text))
    }

    /// The L1 table.
    pub(super) async fn l1(&self, meta: &Meta) -> Result<Vec<u64>> {
        match self.l1_fault(&meta.header) {
            Some((error, _)) => Err(error),
            None => read_u64s(&meta.file, self.l1_offset, self.l1_size as usize).await,
        }
    }

    /// Whether the record lacks what each has in version 3.
    pub(super) fn is_incomplete(&self) -> bool {
        !self.has_len
    }

    /// The record with all that it should have.
    pub(super) fn completed(&self) -> Self {
        Self { has_len: true, ..self.clone() }
    }
}

/// The table.
#[derive(Default)]
pub(super) struct Table {
    pub(super) snapshots: Vec<Snapshot>,
    /// Its length in bytes.
    pub(super) bytes: u64,
    /// Records of which something had to be left out, and how long that would have been.
    pub(super) cut: Vec<(u32, u32)>,
}

/// Reads the table, or says what a check says of it.
pub(super) async fn try_load(file: &Node, header: &Header) -> Result<Table> {
    if !header.has_place_for_snapshots() {
        return Err(Error::invalid("snapshot table offset invalid"));
    }
    if header.snapshots > MAX_SNAPSHOTS {
        let text = format!(
            "snapshot table too large\nYou can force-remove all {} overhanging snapshots with qemu-img \
             check -r all",
            header.snapshots - MAX_SNAPSHOTS
        );
        return Err(Error::new(libc::EFBIG, text));
    }
    let failed = |error: Error| error.context("failed to read the snapshot table");
    load(file, header, false).await.map_err(failed)
}

/// Reads the table. Records may have too much extra data only if that is to be left out.
pub(super) async fn load(file: &Node, header: &Header, cuts: bool) -> Result<Table> {
    let mut at = header.snapshots_offset;
    let end = file.len()?;
    let mut table = Table::default();
    for index in 0..header.snapshots {
        if at >= end {
            return Err(Error::invalid(
                "Snapshot table is damaged: it goes beyond the end of the file",
            ));
        }
        let fixed = file.read_bytes(at, FIXED).await?;
        let extra = number(&fixed, 36, 4) as u32;
        if extra > MAX_EXTRA {
            if !cuts {
                let text = format!(
                    "Too much extra metadata in snapshot table entry {index}\nYou can force-remove \
                     this extra metadata with qemu-img check -r all"
                );
                return Err(Error::new(libc::EFBIG, text));
            }
            table.cut.push((index, extra));
        }
        let (id, name) = (number(&fixed, 12, 2) as usize, number(&fixed, 14, 2) as usize);
        let whole = u64::from(extra);
        let extra = extra.min(MAX_EXTRA) as usize;
        let mut more = file.read_bytes(at + FIXED as u64, extra).await?;
        more.extend(file.read_bytes(at + FIXED as u64 + whole, id + name).await?);
        let text = |from: usize, len: usize| {
            String::from_utf8_lossy(more.get(from..from + len).unwrap_or(&[])).into_owned()
        };
        let (l1_offset, l1_size) = (number(&fixed, 0, 8), number(&fixed, 8, 4) as u32);
        let known = |from: usize| (extra >= from + 8).then(|| number(&more, from, 8));
        let listed = Listed {
            id: text(extra, id),
            name: text(extra + id, name),
            time: SnapshotTime {
                seconds: number(&fixed, 16, 4),
                nanoseconds: number(&fixed, 20, 4) as u32,
                vm_clock: number(&fixed, 24, 8),
                icount: known(16).filter(|&count| count != u64::MAX),
            },
            vm_state_size: known(0).unwrap_or_else(|| number(&fixed, 32, 4)),
            disk_size: known(8).unwrap_or(header.size),
        };
        let rest = more.get(KNOWN_EXTRA..extra).unwrap_or(&[]).to_vec();
        let has_len = extra >= 16;
        table.snapshots.push(Snapshot { l1_offset, l1_size, listed, has_len, rest });
        at += ((FIXED + id + name) as u64 + whole).next_multiple_of(8);
    }
    table.bytes = at - header.snapshots_offset;
    Ok(table)
}

/// The table as it is in the file.
pub(super) fn to_bytes(snapshots: &[Snapshot]) -> Vec<u8> {
    let mut out = Vec::new();
    for snapshot in snapshots {
        let Listed { id, name, time, .. } = &snapshot.listed;
        out.extend(snapshot.l1_offset.to_be_bytes());
        out.extend(snapshot.l1_size.to_be_bytes());
        out.extend((id.len() as u16).to_be_bytes());
        out.extend((name.len() as u16).to_be_bytes());
        out.extend((time.seconds as u32).to_be_bytes());
        out.extend(time.nanoseconds.to_be_bytes());
        out.extend(time.vm_clock.to_be_bytes());
        let small = u32::try_from(snapshot.listed.vm_state_size).unwrap_or(0);
        out.extend(small.to_be_bytes());
        out.extend(((KNOWN_EXTRA + snapshot.rest.len()) as u32).to_be_bytes());
        out.extend(snapshot.listed.vm_state_size.to_be_bytes());
        out.extend(snapshot.listed.disk_size.to_be_bytes());
        out.extend(time.icount.unwrap_or(u64::MAX).to_be_bytes());
        out.extend(&snapshot.rest);
        out.extend(id.as_bytes());
        out.extend(name.as_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}

fn position(snapshots: &[Snapshot], id_or_name: &str) -> Result<usize> {
    let by_id = snapshots.iter().position(|snapshot| snapshot.listed.id == id_or_name);
    let by_name = || snapshots.iter().position(|snapshot| snapshot.listed.name == id_or_name);
    by_id.or_else(by_name).ok_or_else(|| Error::new(libc::ENOENT, "Can't find the snapshot"))
}

impl Meta {
    async fn draft_create(&mut self, listed: Listed) -> Result<Committed> {
        // The first places that are free, as long as nothing is that still is in use on the disk.
        self.first_free = 0;
        let mut l1 = self.l1.clone();
        let len = (l1.len() as u64 * 8).div_ceil(self.shape.cluster()).max(1);
        let l1_offset = self.allocate(len).await?;
        let (l1_size, rest) = (l1.len() as u32, Vec::new());
        let mut snapshots = self.snapshots.clone();
        snapshots.push(Snapshot { l1_offset, l1_size, listed, has_len: true, rest });
        self.store_snapshots(snapshots).await?;
        self.count_tree(&l1, true).await?;
        // Nobody looks at a snapshot's flags: they are never set.
        let mut kept: Vec<u64> = l1.iter().map(|entry| entry & !COPIED).collect();
        kept.resize((len * self.shape.cluster() / 8) as usize, 0);
        write_u64s(&self.file, l1_offset, &kept).await?;
        self.refresh_tables(&mut l1, true).await?;
        self.commit_draft(NewState { l1, snapshots: self.snapshots.clone() }).await
    }

    async fn draft_delete(&mut self, index: usize) -> Result<Committed> {
        self.first_free = 0;
        let mut snapshots = self.snapshots.clone();
        let gone = snapshots.remove(index);
        let old = gone.l1(self).await?;
        self.store_snapshots(snapshots).await?;
        self.count_tree(&old, false).await?;
        let len = (u64::from(gone.l1_size) * 8).div_ceil(self.shape.cluster());
        self.release_run(gone.l1_offset, len).await?;
        let mut l1 = self.l1.clone();
        self.refresh_tables(&mut l1, false).await?;
        self.commit_draft(NewState { l1, snapshots: self.snapshots.clone() }).await
    }

    async fn draft_apply(&mut self, index: usize) -> Result<Committed> {
        let snapshots = self.snapshots.clone();
        let wanted = &snapshots[index];
        let mut l1 = wanted.l1(self).await?;
        if wanted.has_len {
            self.header.size = wanted.listed.disk_size;
        }
        let needed = self.header.l1_entries_for(self.header.size) as usize;
        if needed as u64 * 8 > MAX_L1_BYTES {
            return Err(Error::new(libc::EFBIG, "Active L1 table too large"));
        }
        l1.resize(l1.len().max(needed), 0);
        // Down first: counts may be at their limit. Nothing is reused before the draft is true.
        let old = self.l1.clone();
        self.count_tree(&old, false).await?;
        self.count_tree(&l1, true).await?;
        self.refresh_tables(&mut l1, false).await?;
        self.l2.clear();
        self.commit_draft(NewState { l1, snapshots }).await
    }
}

/// What a draft changes about snapshots.
enum Action {
    Create(Listed),
    Delete(String),
    Apply(String),
}

impl Qcow2 {
    /// All snapshots.
    pub async fn all_snapshots(&self) -> Vec<Listed> {
        self.meta.read().await.snapshots.iter().map(|snapshot| snapshot.listed.clone()).collect()
    }

    async fn change_snapshots(&self, action: Action) -> Result<()> {
        if self.shape.data_file {
            return Err(Error::from_errno(libc::ENOTSUP));
        }
        let _gate = self.gate.write().await;
        let mut meta = self.meta.write().await;
        meta.begin_draft(true).await?;
        let done = match action {
            Action::Create(listed) => meta.draft_create(listed).await,
            Action::Delete(name) => match position(&meta.snapshots, &name) {
                Ok(index) => meta
                    .draft_delete(index)
                    .await
                    .map_err(|error| error.context("Failed to remove snapshot from snapshot list")),
                Err(error) => Err(error),
            },
            Action::Apply(name) => match position(&meta.snapshots, &name) {
                Ok(index) => {
                    let applied = meta.draft_apply(index).await;
                    applied.map_err(|error| error.context("Failed to load snapshot"))
                }
                Err(error) => Err(error),
            },
        };
        match done {
            Ok(done) => {
                let freed = meta.bring_home(done).await?;
                if self.settings().passes(Why::Snapshot) {
                    meta.give_back(freed).await?;
                }
            }
            Err(error) => {
                meta.abandon_draft().await?;
                return Err(error);
            }
        }
        self.len.store(meta.header.size, Ordering::Release);
        meta.survey_all().await
    }

    /// Keeps the disk as it is now under a name. Its id is one more than the largest.
    pub async fn create_snapshot(&self, name: &str, time: SnapshotTime) -> Result<()> {
        if name.len() > usize::from(u16::MAX) {
            return Err(Error::invalid("Snapshot name is too long"));
        }
        let (last, count) = {
            let meta = self.meta.read().await;
            let ids =
                meta.snapshots.iter().filter_map(|snapshot| snapshot.listed.id.parse::<u64>().ok());
            (ids.max().unwrap_or(0), meta.snapshots.len())
        };
        if count >= MAX_SNAPSHOTS as usize {
            return Err(Error::from_errno(libc::EFBIG));
        }
        let listed = Listed {
            id: last.saturating_add(1).to_string(),
            name: name.to_owned(),
            time,
            vm_state_size: 0,
            disk_size: self.size(),
        };
        self.change_snapshots(Action::Create(listed)).await
    }

    /// Brings the disk back to what it was.
    pub async fn apply_snapshot(&self, id_or_name: &str) -> Result<()> {
        self.change_snapshots(Action::Apply(id_or_name.to_owned())).await
    }

    /// Forgets a snapshot.
    pub async fn delete_snapshot(&self, id_or_name: &str) -> Result<()> {
        self.change_snapshots(Action::Delete(id_or_name.to_owned())).await
    }
    /// Has reads show a snapshot.
    pub async fn show_snapshot(&self, id_or_name: &str) -> Result<()> {
        if self.is_writable() {
            return Err(Error::unsupported("Snapshots are shown by images open for reading"));
        }
        let _gate = self.gate.write().await;
        let mut meta = self.meta.write().await;
        let index = position(&meta.snapshots, id_or_name)?;
        meta.l1 = meta.snapshots[index].l1(&meta).await?;
        meta.l2.clear();
        Ok(())
    }
}
