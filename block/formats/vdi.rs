//! VirtualBox' VDI, after the published header: one table of 1 MiB blocks. Dynamic and static images.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::blocks::{Blocks, Layout, State, read_table, write_table};
use super::bytes::{le32, le64, put, uuid};
use crate::driver::{CheckReport, Driver, Io, Preallocation, Repair};
use crate::format::Opening;
use crate::node::Node;
use crate::open::Builder;
use crate::vector::Vector;
use crate::{Error, Result};

const SIGNATURE: u32 = 0xbeda_107f;
const BLOCK: u64 = 1 << 20;
/// Entries that point nowhere: never written, and discarded.
const ABSENT: u32 = 0xffff_ffff;
const DISCARDED: u32 = 0xffff_fffe;

/// Types of images.
const DYNAMIC: u32 = 1;
const STATIC: u32 = 2;

/// The largest disk.
const MAX_SIZE: u64 = 0x1_ffff_f800_0000;
const MAX_BLOCKS: u64 = MAX_SIZE / BLOCK;

struct Vdi {
    header: Vec<u8>,
    len: u64,
    table_at: u64,
    data_at: u64,
}

/// How sure it is that an image is one of these.
pub fn probe(first: &[u8]) -> u32 {
    if le32(first, 64) == SIGNATURE { 100 } else { 0 }
}

impl Vdi {
    fn parse(header: Vec<u8>) -> Result<(Self, u64)> {
        let bad = |text: String| Err(Error::invalid(text));
        let unsupported = |text: String| Err(Error::unsupported(text));
        let (size, block, blocks) =
            (le64(&header, 0x170), le32(&header, 0x178), le32(&header, 0x180));
        if le32(&header, 64) != SIGNATURE {
            let text = format!("Image not in VDI format (bad signature {:08x})", le32(&header, 64));
            return bad(text);
        }
        if size > MAX_SIZE {
            return unsupported(format!(
                "Unsupported VDI image size (size is {size:#x}, max supported is {MAX_SIZE:#x})"
            ));
        }
        // The last sector may be a part of one.
        let len = size.next_multiple_of(512);
        let version = le32(&header, 68);
        if version != 0x0001_0001 {
            let (major, minor) = (version >> 16, version & 0xffff);
            return unsupported(format!("unsupported VDI image (version {major}.{minor})"));
        }
        let (table_at, data_at) = (le32(&header, 0x154), le32(&header, 0x158));
        for (offset, name) in [(table_at, "block map"), (data_at, "data")] {
            if offset % 512 != 0 {
                let text = format!("unsupported VDI image (unaligned {name} offset {offset:#x})");
                return unsupported(text);
            }
        }
        if le32(&header, 0x168) != 512 {
            let sector = le32(&header, 0x168);
            let text = format!("unsupported VDI image (sector size {sector} is not 512)");
            return unsupported(text);
        }
        if u64::from(block) != BLOCK {
            let text = format!("unsupported VDI image (block size {block} is not {BLOCK})");
            return unsupported(text);
        }
        if len > u64::from(blocks) * BLOCK {
            let room = u64::from(blocks) * BLOCK;
            return unsupported(format!(
                "unsupported VDI image (disk size {len}, image bitmap has room for {room})"
            ));
        }
        if u64::from(blocks) > MAX_BLOCKS {
            return unsupported(format!(
                "unsupported VDI image (too many blocks {blocks}, max is {MAX_BLOCKS})"
            ));
        }
        for (at, name) in [(0x1a8, "link"), (0x1b8, "parent")] {
            if header.get(at..at + 16).is_some_and(|uuid| uuid.iter().any(|&byte| byte != 0)) {
                return unsupported(format!("unsupported VDI image (non-NULL {name} UUID)"));
            }
        }
        let vdi = Self { header, len, table_at: table_at.into(), data_at: data_at.into() };
        Ok((vdi, blocks.into()))
    }
}

impl Vdi {
    fn check_table(&self, table: &[Option<u64>]) -> CheckReport {
        let mut report = CheckReport::default();
        let mut used = vec![false; table.len()];
        let mut count = 0;
        for (block, data) in table.iter().enumerate() {
            let Some(data) = data else { continue };
            let index = (data - self.data_at) / BLOCK;
            match used.get_mut(index as usize) {
                Some(used) => {
                    count += 1;
                    if std::mem::replace(used, true) {
                        let text = format!("ERROR: block index {index} also used by {index}");
                        report.messages.push(text);
                        report.corruptions += 1;
                    }
                }
                None => {
                    let text = format!("ERROR: block index {block} too large, is {index}");
                    report.messages.push(text);
                    report.corruptions += 1;
                }
            }
        }
        let said = le32(&self.header, 0x184);
        if count != said {
            let text = format!("ERROR: allocated blocks mismatch, is {count}, should be {said}");
            report.messages.push(text);
            report.corruptions += 1;
        }
        report
    }
}

impl Layout for Vdi {
    fn name(&self) -> &'static str {
        "vdi"
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn block(&self) -> u64 {
        BLOCK
    }

    fn has_holes(&self) -> bool {
        le32(&self.header, 0x4c) == STATIC
    }

    fn store<'a>(
        &'a self,
        file: &'a Node,
        table: &'a [Option<u64>],
        changed: &'a BTreeSet<usize>,
        _end: u64,
    ) -> Io<'a, ()> {
        Box::pin(async move {
            let entry = |index: usize| match table[index] {
                Some(data) => (((data - self.data_at) / BLOCK) as u32).to_le_bytes(),
                None => ABSENT.to_le_bytes(),
            };
            write_table(file, self.table_at, table.len(), changed, entry).await?;
            let allocated = table.iter().flatten().count() as u32;
            let mut header = self.header.clone();
            put(&mut header, 0x184, &allocated.to_le_bytes());
            file.write(0, Vector::from(&header[..])).await
        })
    }

    fn check<'a>(
        &'a self,
        _file: &'a Node,
        state: &'a mut State,
        repair: Repair,
    ) -> Io<'a, CheckReport> {
        let report = if repair == Repair::Nothing {
            Ok(self.check_table(&state.table))
        } else {
            Err(Error::from_errno(libc::ENOTSUP))
        };
        Box::pin(std::future::ready(report))
    }
}

/// Opens an image.
pub fn open<'a>(_builder: &'a mut Builder<'_, '_>, file: Arc<Node>) -> Opening<'a> {
    Box::pin(async move {
        let (vdi, blocks) = Vdi::parse(file.read_bytes(0, 512).await?)?;
        let complaint = "Block table is larger than the file";
        let entries =
            read_table(&file, vdi.table_at, blocks, u32::from_le_bytes, complaint).await?;
        let mut end = vdi.data_at;
        let table = entries.into_iter().map(|entry| {
            if matches!(entry, ABSENT | DISCARDED) {
                return None;
            }
            let data = vdi.data_at + u64::from(entry) * BLOCK;
            end = end.max(data + BLOCK);
            Some(data)
        });
        let table = table.collect();
        Ok(Box::new(Blocks::new(file, vdi, table, end)) as Box<dyn Driver>)
    })
}

/// Refuses sizes that an image cannot have.
pub fn check(size: u64) -> Result<()> {
    if size > MAX_SIZE {
        return Err(Error::unsupported(format!(
            "Unsupported VDI image size (size is {size:#x}, max supported is {MAX_SIZE:#x})"
        )));
    }
    Ok(())
}

/// Writes an empty image; a static one has all its blocks.
pub async fn create(file: &Node, size: u64, full: Preallocation, is_static: bool) -> Result<()> {
    check(size)?;
    let blocks = size.div_ceil(BLOCK);
    let table_bytes = (blocks * 4).next_multiple_of(512);
    let data_at = 512 + table_bytes;
    let mut header = vec![0; 512];
    put(&mut header, 0, b"<<< QEMU VM Virtual Disk Image >>>\n");
    let fields = [
        (0x40, SIGNATURE),
        (0x44, 0x0001_0001),
        (0x48, 0x180),
        (0x4c, if is_static { STATIC } else { DYNAMIC }),
        (0x154, 512),
        (0x158, data_at as u32),
        (0x168, 512),
        (0x178, BLOCK as u32),
        (0x180, blocks as u32),
        (0x184, if is_static { blocks as u32 } else { 0 }),
    ];
    for (at, value) in fields {
        put(&mut header, at, &value.to_le_bytes());
    }
    put(&mut header, 0x170, &size.to_le_bytes());
    put(&mut header, 0x188, &uuid()?);
    put(&mut header, 0x198, &uuid()?);
    file.write(0, Vector::from(&header[..])).await?;
    let mut table: Vec<u8> = (0..blocks as u32)
        .flat_map(|block| if is_static { block } else { ABSENT }.to_le_bytes())
        .collect();
    table.resize(table_bytes as usize, 0);
    if !table.is_empty() {
        file.write(512, Vector::from(&table[..])).await?;
    }
    if is_static {
        file.truncate(data_at + blocks * BLOCK, full).await?;
    }
    file.flush().await
}
