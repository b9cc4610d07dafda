//! Parallels' expandable images, after the description in QEMU's documentation (docs/interop/parallels).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::blocks::{Blocks, Layout, read_table, write_table};
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

impl Parallels {
    fn check_table(&self, table: &[Option<u64>], end: u64) -> CheckReport {
        let mut report = CheckReport {
            total_clusters: table.len() as u64,
            image_end_offset: end,
            ..CheckReport::default()
        };
        let (mut seen, mut before) = (BTreeSet::new(), None);
        for (cluster, data) in table.iter().enumerate() {
            let Some(data) = *data else { continue };
            report.allocated_clusters += 1;
            let follows = before.is_none_or(|before| data == before + self.cluster);
            report.fragmented_clusters += u64::from(!follows);
            before = Some(data);
            if !seen.insert(data) {
                let text = format!("ERROR duplicate offset in BAT entry {cluster}");
                report.messages.push(text);
                report.corruptions += 1;
            }
        }
        report
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
        table: &'a [Option<u64>],
        end: u64,
        repair: Repair,
    ) -> Io<'a, CheckReport> {
        Box::pin(async move {
            let mut report = self.check_table(table, end);
            let len = file.len()?;
            if len > end {
                let lost = len - end;
                let leaks = lost.div_ceil(self.cluster);
                let what = if repair == Repair::Nothing { "ERROR" } else { "Repairing" };
                let text = format!("{what} space leaked at the end of the image {lost}");
                report.messages.push(text);
                if repair == Repair::Nothing {
                    report.leaks = leaks;
                } else {
                    file.truncate(end, Preallocation::Off).await?;
                    report.leaks_fixed = leaks;
                }
            }
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
        let len = len.ok_or_else(|| Error::new(libc::EFBIG, "Invalid image: disk too large"))?;
        let entries = u64::from(le32(&header, 32));
        if len.div_ceil(cluster) > entries {
            return Err(Error::invalid("Catalog too small"));
        }
        let unit = if header.starts_with(MAGICS[1]) { cluster } else { 512 };
        let entries = read_table(&file, TABLE_AT, entries, u32::from_le_bytes).await?;
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

/// Writes an empty image.
pub async fn create(file: &Node, size: u64, cluster: u64) -> Result<()> {
    if !cluster.is_multiple_of(512) || cluster == 0 || cluster >= 4 << 30 {
        return Err(Error::invalid("Cluster size must be a multiple of 512 bytes"));
    }
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
