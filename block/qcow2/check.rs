//! Comparing the refcounts of an image with the pointers that are there, and mending them.

use std::collections::HashMap;

use super::Qcow2;
use super::header::{CORRUPT, DIRTY};
use super::map::Mapping;
use super::meta::{COPIED, Meta, OFFSET_MASK, read_u64s};
use crate::driver::{CheckReport, Repair};
use crate::{Error, Result};

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
                 cluster or more: offset {at:#x} size {len:#x}"
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
    pub(super) async fn check_metadata(&self, repair: Repair) -> Result<CheckReport> {
        let mut meta = self.meta.write().await;
        let mut report = CheckReport::default();
        let references = count_references(&mut meta, &mut report).await?;
        compare_refcounts(&mut meta, &references, repair, &mut report).await?;
        if repair == Repair::All && report.corruptions_fixed > 0 {
            meta.write_back().await?;
        }
        check_copied(&mut meta, repair, &mut report).await?;
        let bits = meta.header.cluster_bits;
        report.image_end_offset = references.end() << bits;
        report.total_clusters = meta.header.size.div_ceil(meta.header.cluster_size());
        if repair != Repair::Nothing {
            meta.write_back().await?;
            if report.corruptions == 0 && report.errors == 0 && repair == Repair::All {
                let marks = DIRTY | CORRUPT;
                if meta.header.incompatible & marks != 0 {
                    meta.header.incompatible &= !marks;
                    meta.write_header().await?;
                }
            }
        }
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
    let mut at = header.snapshots_offset;
    for _ in 0..header.snapshots {
        let (l1_offset, l1_size, len) = snapshot(meta, at).await?;
        let l1 = read_u64s(&meta.file, l1_offset, l1_size as usize).await?;
        count_l1(meta, &l1, l1_offset, &mut refs, report, false).await?;
        at += len;
    }
    refs.add(header.snapshots_offset, at - header.snapshots_offset, report);
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

/// (L1 table, its entries, bytes of the record) of a snapshot (docs/interop/qcow2, "Snapshots").
async fn snapshot(meta: &Meta, at: u64) -> Result<(u64, u32, u64)> {
    let bytes = meta.file.read_bytes(at, 40).await?;
    let number = |from: usize, len: usize| {
        bytes[from..from + len].iter().fold(0_u64, |value, &byte| value << 8 | u64::from(byte))
    };
    let (l1_offset, l1_size) = (number(0, 8), number(8, 4));
    let extra = number(36, 4);
    let in_cluster = meta.header.cluster_size() - 1;
    if l1_offset & in_cluster != 0 || l1_offset >> 62 != 0 || extra > 1024 {
        return Err(Error::invalid("Snapshot table is damaged"));
    }
    if l1_size * 8 > super::header::MAX_L1_BYTES {
        return Err(Error::new(libc::EFBIG, "Snapshot L1 table too large"));
    }
    let len = (40 + extra + number(12, 2) + number(14, 2)).next_multiple_of(8);
    Ok((l1_offset, l1_size as u32, len))
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
        let entries = read_u64s(&meta.file, table, cluster as usize / 8).await?;
        for &entry in &entries {
            count_entry(meta, entry, refs, report, active, &mut next_host);
        }
    }
    Ok(())
}

fn count_entry(
    meta: &Meta,
    entry: u64,
    refs: &mut References,
    report: &mut CheckReport,
    active: bool,
    next_host: &mut u64,
) {
    let cluster = meta.header.cluster_size();
    match Mapping::of(entry, &meta.header) {
        Ok(Mapping::Compressed { host, len }) => {
            refs.add(host, len, report);
            if active {
                report.allocated_clusters += 1;
                report.compressed_clusters += 1;
                // Compressed clusters are fragmented by their nature.
                report.fragmented_clusters += 1;
            }
        }
        Ok(Mapping::Data { .. } | Mapping::Zero { .. }) if entry & OFFSET_MASK != 0 => {
            let host = entry & OFFSET_MASK;
            refs.add(host, cluster, report);
            if active {
                report.allocated_clusters += 1;
                if *next_host != 0 && host != *next_host {
                    report.fragmented_clusters += 1;
                }
                *next_host = host + cluster;
            }
        }
        Ok(_) => {}
        Err(_) => {
            let host = entry & OFFSET_MASK;
            report.corruptions += 1;
            report.messages.push(format!(
                "ERROR offset={host:x}: Data cluster is not properly aligned; L2 entry corrupted."
            ));
        }
    }
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
            meta.first_free = 0;
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
        let entries = read_u64s(&meta.file, table, cluster as usize / 8).await?;
        for (l2_index, &entry) in entries.iter().enumerate() {
            let at = ((index as u64 * meta.l2_entries()) + l2_index as u64) * cluster;
            let host = entry & OFFSET_MASK;
            let compressed =
                matches!(Mapping::of(entry, &meta.header), Ok(Mapping::Compressed { .. }));
            if compressed || host == 0 {
                continue;
            }
            let count = meta.refcount(host).await?;
            if (count == 1) != (entry & COPIED != 0) {
                finding(
                    report,
                    repair,
                    format!("OFLAG_COPIED data cluster: l2_entry={entry:x} refcount={count}"),
                );
                if repair == Repair::All && at < meta.header.size {
                    let flag = if count == 1 { COPIED } else { 0 };
                    meta.set_l2_entry(at, entry & !COPIED | flag).await?;
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
