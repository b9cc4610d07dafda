//! Comparing the refcounts of an image with the pointers that are there, and mending them.

use std::collections::HashMap;

use super::entry::{COPIED, Entry, OFFSET_MASK, Shape, hex};
use super::header::{CORRUPT, DIRTY, Encryption};
use super::meta::{Meta, read_u64s};
use super::{Qcow2, bitmap};
use crate::Result;
use crate::driver::{CheckReport, Repair};

/// Bits of entries that mean nothing (docs/interop/qcow2, "L1 table entry" and "L2 table entry").
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;

/// Pointers to each cluster of the file. In pieces, so that holes of the file cost nothing.
struct References {
    pieces: HashMap<u64, Vec<u32>>,
    clusters: u64,
    cluster_bits: u32,
}

const PIECE: u64 = 4096;

impl References {
    fn get(&self, cluster: u64) -> u64 {
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
            let piece = self.pieces.entry(cluster / PIECE);
            let piece = piece.or_insert_with(|| vec![0; PIECE as usize]);
            let count = &mut piece[(cluster % PIECE) as usize];
            *count = count.saturating_add(1);
        }
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
            meta.release_these(unlinked, |why| self.settings.passes(why)).await?;
            meta.write_refcounts().await?;
        }
        let mut report = CheckReport::default();
        let references = count_references(&mut meta, &mut report).await?;
        if repair != Repair::Nothing {
            // Refcounts are not to be trusted: what is needed goes behind everything.
            meta.first_free = references.clusters.max(references.end()).max(meta.used_end().await?);
        }
        compare_refcounts(&mut meta, &references, repair, &mut report).await?;
        if repair == Repair::All && report.corruptions_fixed > 0 {
            meta.write_back().await?;
            meta.write_refcounts().await?;
        }
        check_copied(&mut meta, repair, &mut report).await?;
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

async fn count_references(meta: &mut Meta, report: &mut CheckReport) -> Result<References> {
    let header = meta.header.clone();
    let (bits, cluster) = (header.cluster_bits, header.cluster_size());
    let clusters = meta.file.len()?.div_ceil(cluster);
    let mut refs = References { pieces: HashMap::new(), clusters, cluster_bits: bits };
    refs.add(0, cluster, report);
    let l1 = meta.l1.clone();
    count_l1(meta, &l1, header.l1_offset, &mut refs, report, true).await?;
    for snapshot in meta.snapshots.clone() {
        let l1 = read_u64s(&meta.file, snapshot.l1_offset, snapshot.l1_size as usize).await?;
        count_l1(meta, &l1, snapshot.l1_offset, &mut refs, report, false).await?;
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
    for (index, &entry) in meta.reftable.iter().enumerate() {
        let block = entry & OFFSET_MASK;
        if block == 0 {
            continue;
        }
        if block & (cluster - 1) != 0 {
            report.corruptions += 1;
            report.messages.push(format!(
                "ERROR refcount block {index} is not cluster aligned; refcount table entry \
                 corrupted"
            ));
        } else {
            refs.add(block, cluster, report);
            if refs.get(block >> bits) > 1 {
                report.corruptions += 1;
                let count = refs.get(block >> bits);
                report.messages.push(format!("ERROR refcount block {index} refcount={count}"));
            }
        }
    }
    Ok(refs)
}

async fn count_l1(
    meta: &mut Meta,
    l1: &[u64],
    at: u64,
    refs: &mut References,
    report: &mut CheckReport,
    active: bool,
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
        let bytes = meta.file.read_bytes(table, cluster as usize).await?;
        for (_, entry) in meta.shape.used(&bytes) {
            count_entry(meta, entry, refs, report, active, &mut next_host);
        }
    }
    Ok(())
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
    if shape.host(entry).is_err() {
        let host = entry.word & OFFSET_MASK;
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
    shape.host(entry).unwrap_or(Some(entry.word & OFFSET_MASK))
}

async fn compare_refcounts(
    meta: &mut Meta,
    refs: &References,
    repair: Repair,
    report: &mut CheckReport,
) -> Result<()> {
    let bits = meta.header.cluster_bits;
    report.image_end_offset = refs.end() << bits;
    for cluster in 0..refs.clusters.max(refs.end()) {
        let (count, pointers) = (meta.refcount(cluster << bits).await?, refs.get(cluster));
        if count == pointers {
            continue;
        }
        let leaked = count > pointers;
        report.image_end_offset = report.image_end_offset.max((cluster + 1) << bits);
        let what = if leaked { "Leaked" } else { "ERROR" };
        let finding = format!("cluster {cluster} refcount={count} reference={pointers}");
        report.messages.push(format!("{what} {finding}"));
        let mend = match repair {
            Repair::All => true,
            Repair::Leaks => leaked,
            Repair::Nothing => false,
        };
        if mend {
            report.messages.push(format!("Repairing {finding}"));
            meta.set_refcount(cluster << bits, pointers).await?;
        }
        *match (leaked, mend) {
            (true, true) => &mut report.leaks_fixed,
            (true, false) => &mut report.leaks,
            (false, true) => &mut report.corruptions_fixed,
            (false, false) => &mut report.corruptions,
        } += 1;
    }
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
        let count = meta.refcount(table).await?;
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
        let bytes = meta.file.read_bytes(table, cluster as usize).await?;
        for (l2_index, mut entry) in meta.shape.used(&bytes) {
            let at = (index as u64 * meta.shape.entries() + l2_index as u64) * cluster;
            let Some(host) = claimed(meta.shape, entry) else { continue };
            let count = meta.refcount(host).await?;
            if (count == 1) != entry.is_copied() {
                let word = entry.word;
                let text = format!("OFLAG_COPIED data cluster: l2_entry={word:x} refcount={count}");
                finding(report, repair, text);
                if repair == Repair::All && at < meta.header.size {
                    entry.word ^= COPIED;
                    meta.set_entry(at, entry).await?;
                }
            }
        }
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
