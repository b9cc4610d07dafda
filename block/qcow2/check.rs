//! Comparing the refcounts of an image with the pointers that are there, and mending them.

use std::collections::{BTreeSet, HashMap};

use super::draft::NewState;
use super::entry::{COPIED, Entry, OFFSET_MASK, Shape, hex};
use super::header::{CORRUPT, DIRTY, Encryption, MAX_SNAPSHOTS};
use super::meta::{Meta, read_u64s};
use super::overlap::{Corruption, Place};
use super::snapshot::{self, Snapshot};
use super::{Qcow2, bitmap};
use crate::driver::{CheckReport, Preallocation, Repair};
use crate::vector::Vector;
use crate::{Error, Result};

/// Bits of entries that mean nothing (docs/interop/qcow2, "Refcount table entry", "L1 table entry" and
/// "L2 table entry").
const REFTABLE_RESERVED: u64 = 0x1ff;
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;

/// Pointers to each cluster of the file. In pieces, so that holes of the file cost nothing.
pub(super) struct References {
    pieces: HashMap<u64, Vec<u32>>,
    clusters: u64,
    cluster_bits: u32,
    /// What a refcount can be at most.
    most: u64,
    /// Refcounts are missing altogether, or are nowhere to be found: mending single ones is no use.
    broken: bool,
}

const PIECE: u64 = 4096;

impl References {
    pub(super) fn get(&self, cluster: u64) -> u64 {
        let piece = self.pieces.get(&(cluster / PIECE));
        piece.map_or(0, |piece| u64::from(piece[(cluster % PIECE) as usize]))
    }

    /// Counts a region. One that lies outside the file is not counted.
    fn add(&mut self, at: u64, len: u64, report: &mut CheckReport) {
        if len == 0 {
            return;
        }
        let last = (at + len - 1) >> self.cluster_bits;
        // A file may end inside its last cluster, and before it when that was never written.
        if last > self.clusters {
            report.corruptions += 1;
            report.messages.push(format!(
                "ERROR: counting reference for region exceeding the end of the file by one \
                 cluster or more: offset {} size {}",
                hex(at),
                hex(len)
            ));
            return;
        }
        for cluster in at >> self.cluster_bits..=last {
            if self.get(cluster) < self.most {
                self.mark(cluster);
                continue;
            }
            report.corruptions += 1;
            report.messages.push(format!(
                "ERROR: overflow cluster offset={}\nUse qemu-img amend to increase the refcount entry \
                 width or qemu-img convert to create a clean copy if the image cannot be opened for \
                 writing",
                hex(cluster << self.cluster_bits)
            ));
        }
    }

    /// One pointer more.
    pub(super) fn mark(&mut self, cluster: u64) {
        let piece = self.pieces.entry(cluster / PIECE);
        let piece = piece.or_insert_with(|| vec![0; PIECE as usize]);
        let count = &mut piece[(cluster % PIECE) as usize];
        *count = count.saturating_add(1);
    }

    /// One pointer less.
    pub(super) fn unmark(&mut self, cluster: u64) {
        if let Some(piece) = self.pieces.get_mut(&(cluster / PIECE)) {
            let count = &mut piece[(cluster % PIECE) as usize];
            *count = count.saturating_sub(1);
        }
    }

    /// The first run of clusters, from one on, that nothing points to.
    pub(super) fn find_free(&self, from: u64, count: u64) -> u64 {
        let (mut start, mut cluster) = (from, from);
        while cluster < start + count {
            if self.get(cluster) != 0 {
                start = cluster + 1;
            }
            cluster += 1;
        }
        start
    }

    /// The parts of the file, by so many clusters, that something points to.
    pub(super) fn parts(&self, size: u64) -> BTreeSet<u64> {
        let used = self.pieces.iter().flat_map(|(piece, counts)| {
            let used = (0..).zip(counts).filter(|(_, count)| **count > 0);
            used.map(move |(index, _)| piece * PIECE + index)
        });
        used.map(|cluster| cluster / size).collect()
    }

    fn end(&self) -> u64 {
        let last = self.pieces.iter().filter_map(|(index, piece)| {
            let last = piece.iter().rposition(|&count| count > 0)?;
            Some(index * PIECE + last as u64 + 1)
        });
        last.max().unwrap_or(0)
    }
}

impl Qcow2 {
    /// Looks at everything, and mends what it may. The caller has the image for itself.
    pub(super) async fn check_metadata(&self, repair: Repair) -> Result<CheckReport> {
        let mut meta = self.meta.write().await;
        if self.is_writable() {
            meta.write_back().await?;
            let unlinked = std::mem::take(&mut meta.unlinked);
            meta.release_these(unlinked, |why| self.settings().passes(why)).await?;
            meta.write_refcounts().await?;
        }
        let mut report = CheckReport::default();
        let mends = repair == Repair::All && meta.header.has_place_for_snapshots();
        if let Some(fault) = meta.snapshot_fault.as_ref().filter(|_| !mends) {
            let text = format!("qemu-img: ERROR {fault}");
            (report.messages, report.failure) = (vec![text], Some(fault.errno()));
            return Ok(report);
        }
        let new_snapshots = check_snapshots(&mut meta, repair, &mut report).await?;
        let mut references = count_references(&mut meta, repair, &mut report).await?;
        let counted = (report.leaks, report.corruptions);
        compare_refcounts(&mut meta, &mut references, Repair::Nothing, &mut report).await?;
        match repair {
            Repair::Nothing => {}
            Repair::Leaks if references.broken => {
                report.messages.push("ERROR need to rebuild refcount structures".to_owned());
                report.failure = Some(libc::EIO);
                meta.found.lock().take();
                return Ok(report);
            }
            Repair::All if references.broken => {
                report.messages.push("Rebuilding refcount structure".to_owned());
                meta.rebuild_refcounts(&mut references).await?;
                report = recount(&mut meta, report).await?;
            }
            _ if (report.leaks, report.corruptions) != (0, 0) => {
                // Refcounts are not to be trusted: what is needed goes behind everything.
                let end = references.clusters.max(references.end());
                meta.first_free = end.max(meta.used_end().await?);
                (report.leaks, report.corruptions, report.errors) = (counted.0, counted.1, 0);
                compare_refcounts(&mut meta, &mut references, repair, &mut report).await?;
            }
            _ => {}
        }
        if repair == Repair::All && report.corruptions_fixed > 0 {
            meta.write_back().await?;
            meta.write_refcounts().await?;
        }
        check_copied(&mut meta, repair, &mut report).await?;
        if let Some(snapshots) = new_snapshots {
            meta.begin_draft(false).await?;
            let (l1, old) = (meta.l1.clone(), std::mem::take(&mut meta.snapshots));
            if let Err(error) = meta.commit_draft(NewState { l1, snapshots }).await {
                meta.abandon_draft().await?;
                meta.snapshots = old;
                return Err(error);
            }
        }
        report.total_clusters = meta.header.size.div_ceil(meta.header.cluster_size());
        if repair != Repair::Nothing {
            meta.write_back().await?;
            meta.write_refcounts().await?;
            meta.barrier().await?;
            meta.first_free = 0;
            meta.survey();
            if report.corruptions == 0 && report.errors == 0 && repair == Repair::All {
                let marks = DIRTY | CORRUPT;
                if meta.header.incompatible & marks != 0 {
                    meta.header.incompatible &= !marks;
                    meta.write_header().await?;
                }
            }
        }
        // Told already.
        meta.found.lock().take();
        Ok(report)
    }
}

/// Looks at the records of snapshots. Those that are to be written instead, if any are.
async fn check_snapshots(
    meta: &mut Meta,
    repair: Repair,
    report: &mut CheckReport,
) -> Result<Option<Vec<Snapshot>>> {
    let mut changed = false;
    if meta.snapshot_fault.is_some() {
        let over = meta.header.snapshots.saturating_sub(MAX_SNAPSHOTS);
        if over > 0 {
            report.messages.push(format!("Discarding {over} overhanging snapshots"));
            report.corruptions_fixed += u64::from(over);
            meta.header.snapshots = MAX_SNAPSHOTS;
        }
        let table = snapshot::load(&meta.file, &meta.header, true).await?;
        for (index, len) in &table.cut {
            report.messages.push(format!(
                "Discarding too much extra metadata in snapshot table entry {index} ({len} > 1024)"
            ));
            report.corruptions_fixed += 1;
        }
        changed = true;
        (meta.snapshots, meta.snapshot_bytes, meta.snapshot_fault) =
            (table.snapshots, table.bytes, None);
    }
    for (index, snapshot) in meta.snapshots.iter().enumerate() {
        if meta.header.version >= 3 && snapshot.is_incomplete() {
            finding(report, repair, format!("snapshot table entry {index} is incomplete"));
            changed |= repair == Repair::All;
        }
    }
    let completed = || meta.snapshots.iter().map(Snapshot::completed).collect();
    Ok(changed.then(completed))
}

/// After refcounts have been made anew: everything that was found is mended, and what the old ones took
/// is given back.
async fn recount(meta: &mut Meta, mut before: CheckReport) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    let mut references = count_references(meta, Repair::Nothing, &mut report).await?;
    let end = references.clusters.max(references.end());
    meta.first_free = end.max(meta.used_end().await?);
    compare_refcounts(meta, &mut references, Repair::Leaks, &mut report).await?;
    before.messages.append(&mut report.messages);
    Ok(CheckReport {
        messages: before.messages,
        leaks_fixed: before.leaks_fixed + before.leaks,
        corruptions_fixed: before.corruptions_fixed + before.corruptions,
        ..report
    })
}

async fn count_references(
    meta: &mut Meta,
    repair: Repair,
    report: &mut CheckReport,
) -> Result<References> {
    let header = meta.header.clone();
    let (bits, cluster) = (header.cluster_bits, header.cluster_size());
    let clusters = meta.file.len()?.div_ceil(cluster);
    let mut refs = References {
        pieces: HashMap::new(),
        clusters,
        cluster_bits: bits,
        most: meta.max_refcount(),
        broken: false,
    };
    refs.add(0, cluster, report);
    let l1 = meta.l1.clone();
    count_l1(meta, &l1, header.l1_offset, &mut refs, (repair, true), report).await?;
    for snapshot in meta.snapshots.clone() {
        if let Some((_, text)) = snapshot.l1_fault(&header) {
            report.corruptions += 1;
            report.messages.push(text);
            continue;
        }
        let l1 = snapshot.l1(meta).await?;
        count_l1(meta, &l1, snapshot.l1_offset, &mut refs, (repair, false), report).await?;
    }
    refs.add(header.snapshots_offset, meta.snapshot_bytes, report);
    if let Encryption::Luks { at, len } = header.encryption {
        refs.add(at, len, report);
    }
    let bitmaps = bitmap::load(&meta.file, &header).await?;
    if let Some(directory) = header.bitmaps.filter(|_| !bitmaps.is_empty()) {
        refs.add(directory.at, directory.len, report);
    }
    for bitmap in bitmaps {
        refs.add(bitmap.table_offset, u64::from(bitmap.table_size) * 8, report);
        let table = read_u64s(&meta.file, bitmap.table_offset, bitmap.table_size as usize).await?;
        for host in table.iter().map(|entry| entry & OFFSET_MASK).filter(|&host| host != 0) {
            refs.add(host, cluster, report);
        }
    }
    refs.add(header.reftable_offset, u64::from(header.reftable_clusters) << bits, report);
    count_refblocks(meta, &mut refs, repair, report).await?;
    Ok(refs)
}

/// Counts the blocks of refcounts, and looks whether they can be that.
async fn count_refblocks(
    meta: &Meta,
    refs: &mut References,
    repair: Repair,
    report: &mut CheckReport,
) -> Result<()> {
    let (bits, cluster) = (meta.header.cluster_bits, meta.header.cluster_size());
    for (index, &entry) in meta.reftable.iter().enumerate() {
        let block = entry & !REFTABLE_RESERVED;
        let mut wrong = |refs: &mut References, text: String| {
            report.corruptions += 1;
            report.messages.push(text);
            refs.broken = true;
        };
        if entry & REFTABLE_RESERVED != 0 {
            wrong(refs, format!("ERROR refcount table entry {index} has reserved bits set"));
        } else if block == 0 {
            continue;
        } else if block & (cluster - 1) != 0 {
            let text = format!(
                "ERROR refcount block {index} is not cluster aligned; refcount table entry corrupted"
            );
            wrong(refs, text);
        } else if block >> bits >= refs.clusters {
            let outside = format!("refcount block {index} is outside image");
            if repair != Repair::All {
                report.corruptions += 1;
                report.messages.push(format!("ERROR {outside}"));
                continue;
            }
            report.messages.push(format!("Repairing {outside}"));
            match grow_to_hold(meta, block).await {
                Ok(clusters) => {
                    refs.clusters = clusters;
                    report.corruptions_fixed += 1;
                    refs.add(block, cluster, report);
                }
                Err(error) => {
                    if error.errno() != libc::EINVAL {
                        let text = format!("qemu-img: Could not resize file: {error}");
                        report.messages.push(text);
                    }
                    let text = format!("ERROR could not resize image: {error}");
                    report.corruptions += 1;
                    report.messages.push(text);
                    refs.broken = true;
                }
            }
        } else {
            refs.add(block, cluster, report);
            let count = refs.get(block >> bits);
            if count > 1 {
                report.corruptions += 1;
                report.messages.push(format!("ERROR refcount block {index} refcount={count}"));
                refs.broken = true;
            }
        }
    }
    Ok(())
}

/// Makes the file long enough for a cluster that something points to; returns how many it has then.
async fn grow_to_hold(meta: &Meta, at: u64) -> Result<u64> {
    let end = at + meta.header.cluster_size();
    if end > i64::MAX as u64 {
        return Err(Error::from_errno(libc::EINVAL));
    }
    meta.file.truncate(end, Preallocation::Off).await?;
    Ok(end >> meta.header.cluster_bits)
}

async fn count_l1(
    meta: &mut Meta,
    l1: &[u64],
    at: u64,
    refs: &mut References,
    (repair, active): (Repair, bool),
    report: &mut CheckReport,
) -> Result<()> {
    let cluster = meta.header.cluster_size();
    refs.add(at, l1.len() as u64 * 8, report);
    for &entry in l1 {
        let mut next_host = 0;
        let table = entry & OFFSET_MASK;
        if table == 0 {
            continue;
        }
        if entry & L1_RESERVED != 0 {
            report.corruptions += 1;
            let text = format!("ERROR found L1 entry with reserved bits set: {entry:x}");
            report.messages.push(text);
        }
        refs.add(table, cluster, report);
        if table & (cluster - 1) != 0 {
            report.corruptions += 1;
            report.messages.push(format!(
                "ERROR l2_offset={table:x}: Table is not cluster aligned; L1 entry corrupted"
            ));
            continue;
        }
        // Beyond the end, as `add` has found.
        if table >> meta.header.cluster_bits > refs.clusters {
            continue;
        }
        let mut bytes = meta.file.read_bytes(table, cluster as usize).await?;
        let mut mended = Vec::new();
        for (index, entry) in meta.shape.used(&bytes) {
            if meta.shape.host(entry).is_err() && meta.shape.is_zero(entry) {
                let text = format!(
                    "offset={:x}: Preallocated cluster is not properly aligned; L2 entry corrupted.",
                    entry.place()
                );
                finding(report, repair, text);
                if repair == Repair::All {
                    mended.push((index, meta.shape.zero(None)));
                    continue;
                }
            }
            count_entry(meta, entry, refs, report, active, &mut next_host);
        }
        mend_table(meta, table, &mut bytes, mended).await?;
    }
    Ok(())
}

/// Changes entries of an L2 table where it is, shared or not.
async fn mend_table(
    meta: &mut Meta,
    table: u64,
    bytes: &mut [u8],
    mended: Vec<(usize, Entry)>,
) -> Result<()> {
    if mended.is_empty() {
        return Ok(());
    }
    mended.into_iter().for_each(|(index, entry)| meta.shape.set(bytes, index, entry));
    meta.may_write(table, bytes.len() as u64, Some(Place::ActiveL2))?;
    meta.l2.forget(table);
    meta.file.write(table, Vector::from(&*bytes)).await
}

fn count_entry(
    meta: &Meta,
    entry: Entry,
    refs: &mut References,
    report: &mut CheckReport,
    active: bool,
    next_host: &mut u64,
) {
    let shape = meta.shape;
    if entry.is_compressed() {
        let (host, len) = shape.packed(entry);
        if entry.word & COPIED != 0 {
            report.corruptions += 1;
            report.messages.push(format!(
                "ERROR: coffset={}: copied flag must never be set for compressed clusters",
                hex(host)
            ));
        }
        refs.add(host, len, report);
        if active {
            report.allocated_clusters += 1;
            report.compressed_clusters += 1;
            // Compressed clusters are fragmented by their nature.
            report.fragmented_clusters += 1;
        }
        return;
    }
    for sub in 0..shape.subs() {
        if shape.host(entry).is_ok() && shape.kind(entry, sub).is_err() {
            report.corruptions += 1;
            let (word, bitmap) = (entry.word, entry.bitmap);
            report
                .messages
                .push(format!("ERROR offset={word:x}: Invalid bitmap of subclusters {bitmap:x}"));
            return;
        }
    }
    if entry.word & L2_RESERVED != 0 {
        report.corruptions += 1;
        let text = format!("ERROR found l2 entry with reserved bits set: {:x}", entry.word);
        report.messages.push(text);
    }
    if shape.host(entry).is_err() && !shape.is_zero(entry) {
        let host = entry.place();
        report.corruptions += 1;
        report.messages.push(format!(
            "ERROR offset={host:x}: Data cluster is not properly aligned; L2 entry corrupted."
        ));
    }
    match claimed(shape, entry) {
        None => {}
        Some(host) => {
            if !shape.data_file {
                refs.add(host, shape.cluster(), report);
            }
            if active {
                report.allocated_clusters += 1;
                if *next_host != 0 && host != *next_host {
                    report.fragmented_clusters += 1;
                }
                *next_host = host + shape.cluster();
            }
        }
    }
}

/// The place that an entry claims, also one where no cluster can be.
fn claimed(shape: Shape, entry: Entry) -> Option<u64> {
    shape.host(entry).unwrap_or(Some(entry.place()))
}

async fn compare_refcounts(
    meta: &mut Meta,
    refs: &mut References,
    repair: Repair,
    report: &mut CheckReport,
) -> Result<()> {
    let bits = meta.header.cluster_bits;
    let writes = !meta.file.is_read_only();
    let mut end = 1;
    for cluster in 0..refs.clusters.max(refs.end()) {
        let pointers = refs.get(cluster);
        let count = match meta.refcount(cluster << bits).await {
            Ok(count) => count,
            Err(error) => {
                let why = meta.found.lock().take().filter(|_| report.errors == 0);
                if let Some(why) = why {
                    // Told once.
                    let fatal = writes;
                    report.messages.push(Corruption { fatal, ..why }.text());
                    if fatal && meta.header.version >= 3 {
                        meta.header.incompatible |= CORRUPT;
                        meta.write_header().await?;
                    }
                }
                report.messages.push(format!("Can't get refcount for cluster {cluster}: {error}"));
                report.errors += 1;
                continue;
            }
        };
        if count > 0 || pointers > 0 {
            end = cluster + 1;
        }
        if count == pointers {
            continue;
        }
        let leaked = count > pointers;
        refs.broken |= count == 0;
        let mend = match repair {
            Repair::All => true,
            Repair::Leaks => leaked,
            Repair::Nothing => false,
        };
        let what = match (mend, leaked) {
            (true, _) => "Repairing",
            (false, true) => "Leaked",
            (false, false) => "ERROR",
        };
        report
            .messages
            .push(format!("{what} cluster {cluster} refcount={count} reference={pointers}"));
        if mend {
            meta.set_refcount(cluster << bits, pointers).await?;
        }
        *match (leaked, mend) {
            (true, true) => &mut report.leaks_fixed,
            (true, false) => &mut report.leaks,
            (false, true) => &mut report.corruptions_fixed,
            (false, false) => &mut report.corruptions,
        } += 1;
    }
    report.image_end_offset = end << bits;
    Ok(())
}

/// The flag that says that a refcount is one must be true, or clusters that are shared are overwritten.
async fn check_copied(meta: &mut Meta, repair: Repair, report: &mut CheckReport) -> Result<()> {
    let cluster = meta.header.cluster_size();
    for index in 0..meta.l1.len() {
        let entry = meta.l1[index];
        let table = entry & OFFSET_MASK;
        if table == 0 || table & (cluster - 1) != 0 || table >= meta.file.len()? {
            continue;
        }
        // Who has no refcount was told of.
        let Ok(count) = meta.refcount(table).await else { continue };
        if (count == 1) != (entry & COPIED != 0) {
            finding(
                report,
                repair,
                format!(
                    "OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} refcount={count}"
                ),
            );
            if repair == Repair::All {
                meta.set_l1_copied(index, count == 1);
            }
        }
        if meta.shape.data_file {
            continue;
        }
        let mut bytes = meta.file.read_bytes(table, cluster as usize).await?;
        let mut mended = Vec::new();
        for (l2_index, mut entry) in meta.shape.used(&bytes) {
            let Some(host) = claimed(meta.shape, entry) else { continue };
            let Ok(count) = meta.refcount(host).await else { continue };
            if (count == 1) != entry.is_copied() {
                let word = entry.word;
                let text = format!("OFLAG_COPIED data cluster: l2_entry={word:x} refcount={count}");
                finding(report, repair, text);
                if repair == Repair::All {
                    entry.word ^= COPIED;
                    mended.push((l2_index, entry));
                }
            }
        }
        mend_table(meta, table, &mut bytes, mended).await?;
    }
    Ok(())
}

fn finding(report: &mut CheckReport, repair: Repair, text: String) {
    if repair == Repair::All {
        report.corruptions_fixed += 1;
        report.messages.push(format!("Repairing {text}"));
    } else {
        report.corruptions += 1;
        report.messages.push(format!("ERROR {text}"));
    }
}
