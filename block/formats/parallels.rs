//! Parallels' expandable images, after the description in QEMU's documentation (docs/interop/parallels).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::blocks::{Blocks, Layout, State, read_table, write_table};
use super::bytes::{le32, le64, put};
use crate::driver::{CheckReport, Driver, Io, Preallocation, Repair};
use crate::format::Opening;
use crate::node::Node;
use crate::open::Builder;
use crate::vector::Vector;
use crate::{Error, Result};

/// Entries of the table count sectors, or (the second) clusters.
const MAGICS: [&[u8]; 2] = [b"WithoutFreeSpace", b"WithouFreSpacExt"];
const TABLE_AT: u64 = 64;
/// Where the header says that somebody is writing, and how.
const IN_USE_AT: usize = 44;
const IN_USE: u32 = 0x746f_6e59;
/// Where it says where the blocks begin, in sectors.
const DATA_AT: usize = 48;
/// Entries of the table at most: it stays in memory.
const MAX_ENTRIES: u64 = i32::MAX as u64 / 4;

struct Parallels {
    len: u64,
    cluster: u64,
    /// What an entry counts.
    unit: u64,
}

/// How sure it is that an image is one of these.
pub fn probe(first: &[u8]) -> u32 {
    let ours = MAGICS.iter().any(|magic| first.starts_with(magic)) && le32(first, 16) == 2;
    if ours { 100 } else { 0 }
}

/// One thing that is wrong, which is or is not to be mended.
fn complain(report: &mut CheckReport, mend: bool, what: &str) {
    let verb = if mend { "Repairing" } else { "ERROR" };
    report.messages.push(format!("{verb} {what}"));
    match mend {
        true => report.corruptions_fixed += 1,
        false => report.corruptions += 1,
    }
}

impl Parallels {
    /// Where the first block can be.
    fn first_block(&self, entries: usize) -> u64 {
        (TABLE_AT + entries as u64 * 4).next_multiple_of(self.unit)
    }

    /// Checks the header, and mends it.
    async fn check_header(
        &self,
        file: &Node,
        entries: usize,
        mend: bool,
        report: &mut CheckReport,
    ) -> Result<()> {
        let header = file.read_bytes(0, TABLE_AT as usize).await?;
        if le32(&header, IN_USE_AT) == IN_USE {
            complain(report, mend, "image was not closed correctly");
            if mend {
                file.write(IN_USE_AT as u64, Vector::zeroed(4)).await?;
            }
        }
        let (first, there) = (self.first_block(entries), le32(&header, DATA_AT));
        let may_be_unsaid = there == 0 && header.starts_with(MAGICS[0]);
        let place = u64::from(there) * 512;
        if !may_be_unsaid && (place < first || place > file.len()?) {
            complain(report, mend, "data_off field has incorrect value");
            if mend {
                let sectors = ((first / 512) as u32).to_le_bytes();
                file.write(DATA_AT as u64, Vector::from(&sectors[..])).await?;
            }
        }
        Ok(())
    }

    /// Forgets blocks that are not in the file.
    fn check_places(&self, state: &mut State, len: u64, mend: bool, report: &mut CheckReport) {
        let mut end = self.first_block(state.table.len()).next_multiple_of(self.cluster);
        for index in 0..state.table.len() {
            let Some(data) = state.table[index] else { continue };
            if data.checked_add(self.cluster).is_some_and(|behind| behind <= len) {
                end = end.max((data + self.cluster).next_multiple_of(self.cluster));
                continue;
            }
            complain(report, mend, &format!("cluster {index} is outside image"));
            if mend {
                state.table[index] = None;
                state.changed.insert(index);
            }
        }
        state.end = end;
    }

    /// Gives each of several that share a block its own.
    async fn check_sharing(
        &self,
        file: &Node,
        state: &mut State,
        mend: bool,
        report: &mut CheckReport,
    ) -> Result<()> {
        let mut seen = BTreeSet::new();
        for index in 0..state.table.len() {
            let Some(data) = state.table[index].filter(|&data| !seen.insert(data)) else {
                continue;
            };
            complain(report, mend, &format!("duplicate offset in BAT entry {index}"));
            if mend {
                let block = file.read_bytes(data, self.cluster as usize).await?;
                file.write(state.end, Vector::from(&block[..])).await?;
                state.table[index] = Some(state.end);
                state.changed.insert(index);
                seen.insert(state.end);
                state.end += self.cluster;
            }
        }
        Ok(())
    }

    fn count(&self, state: &State, report: &mut CheckReport) {
        report.total_clusters = state.table.len() as u64;
        report.image_end_offset = state.end;
        let mut before = None;
        for data in state.table.iter().flatten().copied() {
            report.allocated_clusters += 1;
            let follows = before.is_none_or(|before| data == before + self.cluster);
            report.fragmented_clusters += u64::from(!follows);
            before = Some(data);
        }
    }
}

impl Layout for Parallels {
    fn name(&self) -> &'static str {
        "parallels"
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn block(&self) -> u64 {
        self.cluster
    }

    fn tells_block(&self) -> bool {
        false
    }

    fn shows_below(&self) -> bool {
        true
    }

    fn store<'a>(
        &'a self,
        file: &'a Node,
        table: &'a [Option<u64>],
        changed: &'a BTreeSet<usize>,
        _end: u64,
    ) -> Io<'a, ()> {
        let entry =
            |index: usize| table[index].map_or(0, |data| (data / self.unit) as u32).to_le_bytes();
        Box::pin(write_table(file, TABLE_AT, table.len(), changed, entry))
    }

    fn check<'a>(
        &'a self,
        file: &'a Node,
        state: &'a mut State,
        repair: Repair,
    ) -> Io<'a, CheckReport> {
        Box::pin(async move {
            let mut report = CheckReport::default();
            let (mend, len) = (repair == Repair::All, file.len()?);
            self.check_header(file, state.table.len(), mend, &mut report).await?;
            self.check_places(state, len, mend, &mut report);
            if len > state.end {
                let lost = len - state.end;
                let leaks = lost.div_ceil(self.cluster);
                let what = if repair == Repair::Nothing { "ERROR" } else { "Repairing" };
                let text = format!("{what} space leaked at the end of the image {lost}");
                report.messages.push(text);
                if repair == Repair::Nothing {
                    report.leaks = leaks;
                } else {
                    file.truncate(state.end, Preallocation::Off).await?;
                    report.leaks_fixed = leaks;
                }
            }
            self.check_sharing(file, state, mend, &mut report).await?;
            self.count(state, &mut report);
            Ok(report)
        })
    }
}

/// Opens an image.
pub fn open<'a>(builder: &'a mut Builder<'_, '_>, file: Arc<Node>) -> Opening<'a> {
    Box::pin(async move {
        builder.options.text("prealloc-size");
        builder.options.text("prealloc-mode");
        let header = file.read_bytes(0, 64).await?;
        if probe(&header) == 0 {
            return Err(Error::invalid("Image not in Parallels format"));
        }
        let sectors = match header.starts_with(MAGICS[1]) {
            true => le64(&header, 36),
            false => u64::from(le32(&header, 36)),
        };
        let tracks = le32(&header, 28);
        if tracks == 0 {
            return Err(Error::new(libc::EFBIG, "Invalid image: Zero sectors per track"));
        }
        if tracks > i32::MAX as u32 / 513 {
            return Err(Error::new(libc::EFBIG, "Invalid image: Too big cluster"));
        }
        let cluster = u64::from(tracks) * 512;
        let len = sectors.checked_mul(512).filter(|&len| len <= i64::MAX as u64);
        let text = "Could not refresh total sector count: File too large";
        let len = len.ok_or_else(|| Error::new(libc::EFBIG, text))?;
        let entries = u64::from(le32(&header, 32));
        if entries > MAX_ENTRIES {
            return Err(Error::new(libc::EFBIG, "Catalog too large"));
        }
        if len.div_ceil(cluster) > entries {
            return Err(Error::invalid("Catalog too small"));
        }
        let unit = if header.starts_with(MAGICS[1]) { cluster } else { 512 };
        let complaint = "Block table is larger than the file";
        let entries = read_table(&file, TABLE_AT, entries, u32::from_le_bytes, complaint).await?;
        let mut end = TABLE_AT + entries.len() as u64 * 4;
        end = end.max(u64::from(le32(&header, 48)) * 512).next_multiple_of(cluster);
        let table = entries.into_iter().map(|entry| {
            let data = u64::from(entry) * unit;
            (entry != 0).then(|| {
                end = end.max((data + cluster).next_multiple_of(cluster));
                data
            })
        });
        let table = table.collect();
        let layout = Parallels { len, cluster, unit };
        Ok(Box::new(Blocks::new(file, layout, table, end)) as Box<dyn Driver>)
    })
}

/// Refuses sizes that an image cannot have.
pub fn check(size: u64, cluster: u64) -> Result<()> {
    if cluster >= 4 << 30 {
        return Err(Error::invalid("Cluster size is too large"));
    }
    if cluster == 0 || !cluster.is_multiple_of(512) {
        return Err(Error::invalid("Cluster size must be a multiple of 512 bytes"));
    }
    // Entries of the table have 32 bits.
    if size.div_ceil(cluster) > MAX_ENTRIES {
        let text = "Image size is too large for this cluster size";
        return Err(Error::new(libc::E2BIG, text));
    }
    Ok(())
}

/// Writes an empty image.
pub async fn create(file: &Node, size: u64, cluster: u64) -> Result<()> {
    let cluster = cluster.next_multiple_of(512);
    check(size, cluster)?;
    let sectors = size.div_ceil(512);
    let entries = size.div_ceil(cluster);
    let data_at = (TABLE_AT + entries * 4).next_multiple_of(cluster);
    let mut header = vec![0; 64];
    put(&mut header, 0, MAGICS[1]);
    let fields = [
        (16, 2),
        (20, 16),
        (24, (sectors / 16 / 32) as u32),
        (28, (cluster / 512) as u32),
        (32, entries as u32),
        (48, (data_at / 512) as u32),
    ];
    for (at, value) in fields {
        put(&mut header, at, &value.to_le_bytes());
    }
    put(&mut header, 36, &sectors.to_le_bytes());
    header.resize(data_at as usize, 0);
    file.write(0, Vector::from(&header[..])).await?;
    file.flush().await
}
