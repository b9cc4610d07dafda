//! Dirty bitmaps in the image (docs/interop/qcow2, "Bitmaps").

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Qcow2;
use super::entry::OFFSET_MASK;
use super::header::{BITMAPS, BitmapDirectory, Header, MAX_BITMAPS};
use super::meta::{Meta, Why, read_u64s, write_u64s};
use crate::dirty::{Bits, Chunk, MAX_NAME, missing};
use crate::driver::{BitmapChange, BitmapInfo};
use crate::node::Node;
use crate::vector::Vector;
use crate::{Error, Result};

/// It was being changed by somebody who has not come back.
pub(super) const IN_USE: u32 = 1;
/// It records writes.
pub(super) const AUTO: u32 = 2;

/// An entry's bytes before its extra data and name.
const FIXED: usize = 24;
/// A table's entries, at most.
const MAX_TABLE: u32 = 0x800_0000;

/// An entry of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub(super) table_offset: u64,
    pub(super) table_size: u32,
    pub(super) flags: u32,
    pub(super) granularity_bits: u8,
    pub(super) name: String,
    kind: u8,
    extra: Vec<u8>,
}

/// All entries of the directory; none when they are not to be trusted.
pub(super) async fn load(file: &Node, header: &Header) -> Result<Vec<Stored>> {
    let Some(BitmapDirectory { count, at, len }) = header.bitmaps else { return Ok(Vec::new()) };
    if header.autoclear & BITMAPS == 0 {
        return Ok(Vec::new());
    }
    let damaged = || Error::invalid("Broken bitmap directory");
    if at.saturating_add(len) > file.len()?.next_multiple_of(header.cluster_size()) {
        return Err(damaged());
    }
    let bytes = file.read_bytes(at, len as usize).await?;
    let (mut rest, mut all) = (&bytes[..], Vec::new());
    while rest.len() >= FIXED {
        let number = |from: usize, len: usize| {
            rest[from..from + len].iter().fold(0_u64, |value, &byte| value << 8 | u64::from(byte))
        };
        let (name, extra) = (number(18, 2) as usize, number(20, 4) as usize);
        let whole = FIXED.checked_add(extra).and_then(|len| len.checked_add(name));
        let whole = whole.map(|len| len.next_multiple_of(8)).filter(|&len| len <= rest.len());
        let whole = whole.ok_or_else(damaged)?;
        let stored = Stored {
            table_offset: number(0, 8),
            table_size: number(8, 4) as u32,
            flags: number(12, 4) as u32,
            kind: rest[16],
            granularity_bits: rest[17],
            extra: rest[FIXED..FIXED + extra].to_vec(),
            name: String::from_utf8_lossy(&rest[FIXED + extra..FIXED + extra + name]).into_owned(),
        };
        let aligned = stored.table_offset & (header.cluster_size() - 1) == 0;
        if !aligned || stored.table_size > MAX_TABLE || !(9..=31).contains(&stored.granularity_bits)
        {
            return Err(damaged());
        }
        all.push(stored);
        rest = &rest[whole..];
    }
    if all.len() != count as usize {
        return Err(damaged());
    }
    Ok(all)
}

fn to_bytes(all: &[Stored]) -> Vec<u8> {
    let mut out = Vec::new();
    for stored in all {
        out.extend(stored.table_offset.to_be_bytes());
        out.extend(stored.table_size.to_be_bytes());
        out.extend(stored.flags.to_be_bytes());
        out.extend([stored.kind, stored.granularity_bits]);
        out.extend((stored.name.len() as u16).to_be_bytes());
        out.extend((stored.extra.len() as u32).to_be_bytes());
        out.extend(&stored.extra);
        out.extend(stored.name.as_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}

/// A bitmap in memory.
#[derive(Clone)]
struct Live {
    stored: Stored,
    bits: Bits,
    changed: bool,
}

impl Live {
    fn is_inconsistent(&self) -> bool {
        self.stored.flags & IN_USE != 0
    }

    fn records(&self) -> bool {
        self.stored.flags & AUTO != 0 && !self.is_inconsistent()
    }
}

fn info_of(live: &Live) -> BitmapInfo {
    BitmapInfo {
        name: live.stored.name.clone(),
        granularity: live.bits.granularity(),
        enabled: live.stored.flags & AUTO != 0,
        inconsistent: live.is_inconsistent(),
    }
}

#[derive(Default)]
struct State {
    all: Vec<Live>,
    /// The directory in the image is not what it should be.
    changed: bool,
}

/// The bitmaps of an open image. Those that record are marked in the image before its first change,
/// so that after a power cut nobody trusts them.
pub(super) struct LiveBitmaps {
    state: Mutex<State>,
    /// Some record, so that every change must be told.
    recording: AtomicBool,
    /// The image says that they are in use.
    marked: AtomicBool,
    marking: async_lock::Mutex<()>,
    cluster: u64,
}

impl LiveBitmaps {
    pub(super) async fn load(file: &Node, header: &Header) -> Result<Self> {
        let cluster = header.cluster_size();
        // Many entries that point to the same cluster would take more memory than the file has bytes.
        let (mut all, mut room) = (Vec::new(), file.len()?);
        for stored in load(file, header).await? {
            let size = stored.table_size as usize;
            let table = read_u64s(file, stored.table_offset, size).await?;
            let mut bits = Bits::new(stored.granularity_bits, cluster);
            for entry in table {
                let host = entry & OFFSET_MASK;
                bits.chunks.push(match (host, entry & 1) {
                    _ if stored.flags & IN_USE != 0 => Chunk::Zeroes,
                    (0, 0) => Chunk::Zeroes,
                    (0, _) => Chunk::Ones,
                    _ if host & (cluster - 1) != 0 || host >= file.len()? => {
                        return Err(Error::invalid("Broken bitmap table"));
                    }
                    _ => {
                        let broken = || Error::invalid("Broken bitmap table");
                        room = room.checked_sub(cluster).ok_or_else(broken)?;
                        Chunk::Bytes(file.read_bytes(host, cluster as usize).await?)
                    }
                });
            }
            all.push(Live { stored, bits, changed: false });
        }
        let recording = AtomicBool::new(all.iter().any(Live::records));
        let state = Mutex::new(State { all, changed: false });
        let (marked, marking) = (AtomicBool::new(false), async_lock::Mutex::new(()));
        Ok(Self { state, recording, marked, marking, cluster })
    }

    pub(super) fn list(&self) -> Vec<BitmapInfo> {
        self.state.lock().all.iter().map(info_of).collect()
    }

    /// Whether the image does not have them as they are.
    pub(super) fn is_changed(&self) -> bool {
        self.state.lock().changed
    }

    /// As `Qcow2BitmapInfo` has it.
    pub(super) fn info(&self) -> Vec<Value> {
        let to_json = |info: BitmapInfo| {
            let in_use = info.inconsistent || self.marked.load(Ordering::Acquire);
            let flags = [("in-use", in_use), ("auto", info.enabled)];
            let flags: Vec<_> = flags.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
            json!({"flags": flags, "name": info.name, "granularity": info.granularity})
        };
        // Those that are in the image already.
        let state = self.state.lock();
        let stored = state.all.iter().filter(|live| live.stored.table_offset != 0);
        stored.map(info_of).map(to_json).collect()
    }

    pub(super) fn dirty(&self, name: &str, len: u64) -> Result<Vec<Range<u64>>> {
        let state = self.state.lock();
        let live = state.all.iter().find(|live| live.stored.name == name);
        let live = live.ok_or_else(|| missing(name))?;
        if live.is_inconsistent() {
            return Err(inconsistent(name));
        }
        Ok(live.bits.dirty(len))
    }
}

fn inconsistent(name: &str) -> Error {
    Error::invalid(format!(
        "Bitmap '{name}' is inconsistent and cannot be used\nTry block-dirty-bitmap-remove to \
         delete this bitmap from disk"
    ))
}

impl Qcow2 {
    /// The guest's bytes in a range are about to change.
    pub(super) async fn note_change(&self, at: u64, len: u64) -> Result<()> {
        let bitmaps = &self.bitmaps;
        if !bitmaps.recording.load(Ordering::Acquire) {
            return Ok(());
        }
        self.mark_bitmaps().await?;
        let mut state = bitmaps.state.lock();
        for live in state.all.iter_mut().filter(|live| live.records()) {
            live.changed |= live.bits.mark(at..at + len);
        }
        Ok(())
    }

    /// Says in the image, once until they are stored, that what it has of bitmaps may not be true any
    /// more: of all that are worth something, as soon as it can be written.
    pub(super) async fn mark_bitmaps(&self) -> Result<()> {
        let bitmaps = &self.bitmaps;
        if bitmaps.marked.load(Ordering::Acquire) {
            return Ok(());
        }
        let _alone = bitmaps.marking.lock().await;
        let has_some = bitmaps.state.lock().all.iter().any(|live| !live.is_inconsistent());
        if has_some && !bitmaps.marked.load(Ordering::Acquire) {
            self.mark_in_use().await?;
            bitmaps.marked.store(true, Ordering::Release);
        }
        Ok(())
    }

    async fn mark_in_use(&self) -> Result<()> {
        let meta = self.meta.write().await;
        let mut stored = load(&meta.file, &meta.header).await?;
        self.bitmaps.state.lock().changed = true;
        stored.iter_mut().for_each(|bitmap| bitmap.flags |= IN_USE);
        if let Some(directory) = meta.header.bitmaps.filter(|_| !stored.is_empty()) {
            meta.file.write(directory.at, Vector::from(&to_bytes(&stored)[..])).await?;
            meta.file.flush().await?;
        }
        Ok(())
    }

    pub(super) async fn change_bitmap(&self, name: &str, change: BitmapChange) -> Result<()> {
        let bitmaps = &self.bitmaps;
        let header = self.header();
        if header.version < 3 {
            return Err(Error::unsupported("Cannot store dirty bitmaps in qcow2 v2 files"));
        }
        let mut state = bitmaps.state.lock();
        let found = state.all.iter().position(|live| live.stored.name == name);
        match (found, change) {
            (Some(_), BitmapChange::Add { .. }) => {
                return Err(Error::invalid(format!("Bitmap already exists: {name}")));
            }
            (None, BitmapChange::Add { granularity, enabled }) => {
                let granularity = granularity.unwrap_or(bitmaps.cluster.clamp(4096, 65536));
                if !granularity.is_power_of_two() {
                    return Err(Error::invalid("Granularity must be power of 2"));
                }
                if granularity < 512 {
                    return Err(Error::invalid("Granularity must be at least 512"));
                }
                if granularity > 1 << 31 {
                    return Err(Error::invalid("Granularity exceeds maximum (2147483648 bytes)"));
                }
                if name.is_empty() || name.len() > MAX_NAME {
                    return Err(Error::invalid("Bitmap name is too long"));
                }
                if state.all.len() >= MAX_BITMAPS as usize {
                    return Err(Error::invalid(
                        "Maximum number of persistent bitmaps is already reached",
                    ));
                }
                let stored = Stored {
                    table_offset: 0,
                    table_size: 0,
                    flags: if enabled { AUTO } else { 0 },
                    granularity_bits: granularity.ilog2() as u8,
                    name: name.to_owned(),
                    kind: 1,
                    extra: Vec::new(),
                };
                let bits = Bits::new(stored.granularity_bits, bitmaps.cluster);
                state.all.push(Live { stored, bits, changed: true });
            }
            (None, _) => return Err(missing(name)),
            (Some(index), BitmapChange::Remove) => drop(state.all.remove(index)),
            (Some(index), _) if state.all[index].is_inconsistent() => {
                return Err(inconsistent(name));
            }
            (Some(index), BitmapChange::Clear) => {
                state.all[index].bits.chunks.clear();
                state.all[index].changed = true;
            }
            (Some(index), BitmapChange::Enable(on)) => {
                let flags = &mut state.all[index].stored.flags;
                *flags = *flags & !AUTO | if on { AUTO } else { 0 };
            }
            (Some(index), BitmapChange::Merge(ranges)) => {
                let (live, len) = (&mut state.all[index], self.size());
                for range in ranges {
                    live.bits.mark(range.start.min(len)..range.end.min(len));
                }
                live.changed = true;
            }
        }
        state.changed = true;
        let recording = state.all.iter().any(Live::records);
        bitmaps.recording.store(recording, Ordering::Release);
        Ok(())
    }

    /// Writes the bitmaps to new places, then says where they are.
    pub(super) async fn store_bitmaps(&self, meta: &mut Meta) -> Result<()> {
        let (mut all, changed) = {
            let state = self.bitmaps.state.lock();
            (state.all.clone(), state.changed)
        };
        if !changed {
            return Ok(());
        }
        let cluster = self.bitmaps.cluster;
        let old = self.clusters_of_bitmaps(meta).await?;
        let size = self.size();
        for live in all.iter_mut().filter(|live| !live.is_inconsistent()) {
            let bits = size.div_ceil(live.bits.granularity());
            live.bits.chunks.resize(bits.div_ceil(cluster * 8) as usize, Chunk::Zeroes);
            let mut table = Vec::with_capacity(live.bits.chunks.len());
            for chunk in &live.bits.chunks {
                table.push(match chunk {
                    Chunk::Zeroes => 0,
                    Chunk::Ones => 1,
                    Chunk::Bytes(bytes) => {
                        let at = meta.allocate(1).await?;
                        meta.file.write(at, Vector::from(&bytes[..])).await?;
                        at
                    }
                });
            }
            let room = (table.len() as u64 * 8).div_ceil(cluster).max(1);
            let at = meta.allocate(room).await?;
            live.stored.table_offset = at;
            live.stored.table_size = table.len() as u32;
            table.resize((room * cluster / 8) as usize, 0);
            write_u64s(&meta.file, at, &table).await?;
            live.changed = false;
        }
        let stored: Vec<Stored> = all.iter().map(|live| live.stored.clone()).collect();
        let kept = all.iter().filter(|live| live.is_inconsistent()).map(|live| &live.stored);
        let kept: Vec<u64> = self.clusters_below(meta, kept).await?;
        let directory = to_bytes(&stored);
        let mut place = None;
        if !directory.is_empty() {
            let at = meta.allocate((directory.len() as u64).div_ceil(cluster)).await?;
            meta.file.write(at, Vector::from(&directory[..])).await?;
            let (count, len) = (stored.len() as u32, directory.len() as u64);
            place = Some(BitmapDirectory { count, at, len });
        }
        meta.write_back().await?;
        meta.write_refcounts().await?;
        // The bit is in another sector than the place: first off, then the place, then on.
        if meta.header.autoclear & BITMAPS != 0
            && (place.is_none() || meta.header.bitmaps.is_none())
        {
            meta.header.autoclear &= !BITMAPS;
            meta.write_header().await?;
        }
        meta.header.bitmaps = place;
        meta.write_header().await?;
        if place.is_some() && meta.header.autoclear & BITMAPS == 0 {
            meta.header.autoclear |= BITMAPS;
            meta.write_header().await?;
        }
        let gone = old.into_iter().filter(|at| !kept.contains(at)).map(|at| (at, Why::Other));
        let gone: Vec<_> = gone.collect();
        meta.release_these(gone, |why| self.settings().passes(why)).await?;
        meta.survey();
        let mut state = self.bitmaps.state.lock();
        (state.all, state.changed) = (all, false);
        self.bitmaps.marked.store(false, Ordering::Release);
        Ok(())
    }

    async fn clusters_of_bitmaps(&self, meta: &Meta) -> Result<Vec<u64>> {
        let stored = load(&meta.file, &meta.header).await?;
        let mut clusters = self.clusters_below(meta, stored.iter()).await?;
        if let Some(directory) = meta.header.bitmaps.filter(|_| !stored.is_empty()) {
            let len = directory.len.div_ceil(self.bitmaps.cluster);
            clusters.extend((0..len).map(|i| directory.at + i * self.bitmaps.cluster));
        }
        Ok(clusters)
    }

    /// The clusters of tables, and what they point to.
    async fn clusters_below(
        &self,
        meta: &Meta,
        all: impl Iterator<Item = &Stored>,
    ) -> Result<Vec<u64>> {
        let cluster = self.bitmaps.cluster;
        let mut clusters = Vec::new();
        for stored in all {
            let table =
                read_u64s(&meta.file, stored.table_offset, stored.table_size as usize).await?;
            clusters.extend(table.iter().map(|entry| entry & OFFSET_MASK).filter(|&at| at != 0));
            let len = (u64::from(stored.table_size) * 8).div_ceil(cluster);
            clusters.extend((0..len).map(|i| stored.table_offset + i * cluster));
        }
        Ok(clusters)
    }
}
