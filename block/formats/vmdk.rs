//! VMware's VMDK, after the "Virtual Disk Format" specification: a text that describes the disk, and
//! extents that are flat files or have grains in two levels of tables. Not yet: parents by CID checks
//! beyond what opening the parent finds, and ESX' own extents.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use async_lock::Mutex;
use serde_json::{Map, Value, json};

use super::blocks::write_plain_zeroes;
use super::bytes::{le16, le32, le64, put};
use crate::driver::{
    CheckReport, Driver, Extent as Found, Io, Packed, Preallocation, Repair, ZeroFlags,
};
use crate::format::Opening;
use crate::node::{Node, Role};
use crate::open::{Builder, full_backing_name};
use crate::vector::Vector;
use crate::{Error, Result};

const MAGIC: &[u8] = b"KDMV";
const SECTOR: u64 = 512;
/// A grain in bytes, in new images.
const GRAIN: u64 = 65536;
/// Entries of a grain table, in new images.
const TABLE_ENTRIES: u64 = 512;
/// An entry that stands for a grain of zeroes, where the image has such.
const ZERO_GRAIN: u32 = 1;
const HAS_ZERO_GRAINS: u32 = 4;
const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;
/// How grains are compressed, if they are.
const DEFLATE: u16 = 1;
/// An extent of 2 GiB at most.
const SPLIT: u64 = 2 << 30;
/// Descriptors are small texts.
const MAX_DESCRIPTOR: u64 = 1 << 20;

/// What a text may describe that has its extents in other files.
const TYPES_OF_TEXTS: [&str; 4] =
    ["monolithicFlat", "vmfs", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"];
/// Tables of so many entries are read without asking how long the file is.
const FEW_TABLES: u64 = 1 << 16;
/// Tables of a new image at most: a petabyte.
const MAX_TABLES: u64 = 32 << 20;

/// How sure it is that an image is one of these.
pub fn probe(first: &[u8]) -> u32 {
    if first.starts_with(MAGIC) || first.starts_with(b"COWD") {
        return 100;
    }
    // A descriptor: comments and empty lines, then its version.
    let text = String::from_utf8_lossy(first);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let known = ["version=1", "version=2", "version=3"];
    if line.is_some_and(|line| known.contains(&line)) { 100 } else { 0 }
}

/// What the text says.
#[derive(Clone, Debug, Default, PartialEq)]
struct Descriptor {
    cid: u32,
    parent_cid: u32,
    create_type: String,
    parent: Option<String>,
    /// Sectors, kind, file, first sector in it.
    extents: Vec<(u64, String, String, u64)>,
}

impl Descriptor {
    fn parse(text: &str) -> Result<Self> {
        let mut found = Self { parent_cid: u32::MAX, ..Self::default() };
        let mut has_type = false;
        // What is left of an older, longer text stands behind its end.
        let text = text.split('\0').next().unwrap_or_default();
        for line in text.split(['\n', '\r']).map(str::trim) {
            if let Some(rest) = line.strip_prefix("RW ") {
                let invalid = || Error::invalid(format!("Invalid extent line: {line}"));
                found.extents.extend(extent_line(rest).ok_or_else(invalid)?);
                continue;
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            let value = value.trim().trim_matches('"');
            let cid = || u32::from_str_radix(value, 16).map_err(|_| Error::invalid("Invalid CID"));
            match key.trim() {
                "CID" => found.cid = cid()?,
                "parentCID" => found.parent_cid = cid()?,
                "createType" => (found.create_type, has_type) = (value.to_owned(), true),
                "parentFileNameHint" => found.parent = Some(value.to_owned()),
                _ => {}
            }
        }
        if !has_type {
            return Err(Error::invalid("invalid VMDK image descriptor"));
        }
        Ok(found)
    }
}

/// `20480 SPARSE "x.vmdk"` or `20480 FLAT "x-flat.vmdk" 0`; nothing for an extent without a file.
fn extent_line(rest: &str) -> Option<Option<(u64, String, String, u64)>> {
    let (sectors, rest) = rest.split_once(' ')?;
    let sectors: u64 = sectors.parse().ok()?;
    let Some((kind, rest)) = rest.trim_start().split_once(' ') else { return Some(None) };
    let (file, at) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
    let at = match (kind, at.trim()) {
        ("FLAT", at) => at.parse().ok()?,
        ("VMFS" | "SPARSE", "") => 0,
        _ => return None,
    };
    Some((sectors > 0).then(|| (sectors, kind.to_owned(), file.to_owned(), at)))
}

struct Grains {
    grain: u64,
    per_table: u64,
    zero_grains: bool,
    compressed: bool,
    /// Where the grain tables are, in sectors, and where their copies are.
    directory: Vec<u32>,
    copies: Option<Vec<u32>>,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    loaded: HashMap<usize, Vec<u32>>,
    changed: BTreeSet<usize>,
    end: u64,
}

/// Grain tables kept in memory at most: each maps 32 MiB of the usual image.
const CACHED_TABLES: usize = 4096;

enum Kind {
    /// Bytes in the file from an offset.
    Flat(u64),
    Sparse(Grains),
}

struct Extent {
    file: Arc<Node>,
    /// Where it begins on the disk.
    start: u64,
    len: u64,
    kind: Kind,
    label: String,
}

struct Vmdk {
    extents: Vec<Extent>,
    descriptor: Descriptor,
    backing: Option<Arc<Node>>,
    /// The files beside the one that was opened.
    files: Vec<Arc<Node>>,
}

/// Opens an image.
pub fn open<'a>(builder: &'a mut Builder<'_, '_>, file: Arc<Node>) -> Opening<'a> {
    Box::pin(async move {
        let first = file.read_bytes(0, 512).await?;
        let mut files = vec![file.clone()];
        let mut extents = Vec::new();
        let descriptor;
        if first.starts_with(MAGIC) && le64(&first, 12) > 0 {
            let at = le64(&first, 28).saturating_mul(SECTOR);
            let len = le64(&first, 36).saturating_mul(SECTOR).min(MAX_DESCRIPTOR);
            let text = file.read_bytes(at, len as usize).await?;
            let text = String::from_utf8_lossy(&text).into_owned();
            descriptor = match text.trim_end_matches('\0').is_empty() {
                true => Descriptor {
                    create_type: "monolithicSparse".into(),
                    parent_cid: u32::MAX,
                    ..Descriptor::default()
                },
                false => Descriptor::parse(&text)?,
            };
            let (kind, len) = Grains::open(&file).await?;
            extents.push(Extent {
                file: file.clone(),
                start: 0,
                len,
                kind: Kind::Sparse(kind),
                label: String::new(),
            });
        } else {
            // Who has no length is no extent, and its text is that of another.
            let at =
                if first.starts_with(MAGIC) { le64(&first, 28).saturating_mul(SECTOR) } else { 0 };
            let len = file.len()?.saturating_sub(at).min(MAX_DESCRIPTOR);
            let text = file.read_bytes(at, len as usize).await?;
            descriptor = Descriptor::parse(&String::from_utf8_lossy(&text))?;
            if !TYPES_OF_TEXTS.contains(&descriptor.create_type.as_str()) {
                let kind = &descriptor.create_type;
                return Err(Error::unsupported(format!("Unsupported image type '{kind}'")));
            }
            let mut start = 0_u64;
            for (index, (sectors, kind, name, at)) in
                descriptor.extents.clone().into_iter().enumerate()
            {
                let path = full_backing_name(&builder.name, &name);
                let key = format!("extents.{index}");
                let child = builder.open_child(&key, Role::Extent(index), Some(&path));
                let child = child.await?.ok_or_else(|| Error::invalid("No extent"))?;
                let too_large = || Error::new(libc::EFBIG, "VMDK extent is too large");
                let len = sectors.checked_mul(SECTOR).ok_or_else(too_large)?;
                let label = kind.clone();
                let kind = match kind.as_str() {
                    "SPARSE" => Kind::Sparse(Grains::open(&child).await?.0),
                    _ => Kind::Flat(at.checked_mul(SECTOR).ok_or_else(too_large)?),
                };
                files.push(child.clone());
                extents.push(Extent { file: child, start, len, kind, label });
                start = start
                    .checked_add(len)
                    .filter(|&end| end <= i64::MAX as u64)
                    .ok_or_else(too_large)?;
            }
        }
        let parent = descriptor.parent.clone().filter(|_| descriptor.parent_cid != u32::MAX);
        let backing = builder.open_backing(parent.as_deref(), Some("vmdk")).await?;
        Ok(Box::new(Vmdk { extents, descriptor, backing, files }) as Box<dyn Driver>)
    })
}

impl Grains {
    /// Reads header and directory of a sparse extent; also its length.
    async fn open(file: &Node) -> Result<(Self, u64)> {
        let bad = |text: &str| Error::invalid(text);
        let file_len = file.len()?;
        let mut header = file.read_bytes(0, 512).await?;
        if !header.starts_with(MAGIC) {
            return Err(bad("Invalid sparse extent"));
        }
        // Written as a stream, the directory's place is only known in a copy at the end.
        if le64(&header, 56) == u64::MAX {
            header = file.read_bytes(file_len.saturating_sub(1024), 512).await?;
            if !header.starts_with(MAGIC) {
                return Err(bad("Footer of the image is damaged"));
            }
        }
        let version = le32(&header, 4);
        if version > 3 {
            return Err(Error::unsupported(format!("Unsupported VMDK version {version}")));
        }
        let flags = le32(&header, 8);
        let (sectors, grain) = (le64(&header, 12), le64(&header, 20).saturating_mul(SECTOR));
        let per_table = u64::from(le32(&header, 44));
        if per_table == 0 || per_table > 512 {
            return Err(bad("L2 table size too big"));
        }
        if !(4096..=GRAIN * 64).contains(&grain) || !grain.is_power_of_two() {
            return Err(bad("Invalid granularity, image may be corrupt"));
        }
        // The directory must be in the file, so that a small file cannot ask for much memory.
        let tables = sectors.div_ceil(grain / SECTOR * per_table);
        if tables > FEW_TABLES.max(file_len / 4) {
            return Err(bad("L1 size too big"));
        }
        let len = sectors.checked_mul(SECTOR).filter(|&len| len <= i64::MAX as u64);
        let len = len.ok_or_else(|| Error::new(libc::EFBIG, "VMDK extent is too large"))?;
        let data_at = le64(&header, 64).saturating_mul(SECTOR);
        if data_at > file_len {
            let text = format!("File truncated, expecting at least {data_at} bytes");
            return Err(Error::invalid(text));
        }
        let directory = read_table(file, le64(&header, 56), tables as usize).await?;
        let copies = match flags & 2 != 0 {
            true => Some(read_table(file, le64(&header, 48), tables as usize).await?),
            false => None,
        };
        let tables = Mutex::new(Tables { end: file_len, ..Tables::default() });
        let zero_grains = flags & HAS_ZERO_GRAINS != 0;
        let compressed = le16(&header, 77) == DEFLATE;
        Ok((Self { grain, per_table, zero_grains, compressed, directory, copies, tables }, len))
    }

    /// The entry of a grain.
    async fn entry(&self, file: &Node, tables: &mut Tables, grain: u64) -> Result<u32> {
        let (table, index) = ((grain / self.per_table) as usize, (grain % self.per_table) as usize);
        let at = self.directory.get(table).copied().unwrap_or(0);
        if at == 0 {
            return Ok(0);
        }
        if !tables.loaded.contains_key(&table) {
            if tables.loaded.len() >= CACHED_TABLES {
                self.write_back(file, tables).await?;
                tables.loaded.clear();
            }
            let entries = read_table(file, at.into(), self.per_table as usize).await?;
            tables.loaded.insert(table, entries);
        }
        Ok(tables.loaded[&table][index])
    }

    /// Changes the entry of a grain whose table is loaded.
    fn set(&self, tables: &mut Tables, grain: u64, entry: u32) -> Result<()> {
        let (table, index) = ((grain / self.per_table) as usize, (grain % self.per_table) as usize);
        let missing = || Error::new(libc::EIO, "No grain table");
        tables.loaded.get_mut(&table).ok_or_else(missing)?[index] = entry;
        tables.changed.insert(table);
        Ok(())
    }

    async fn write_back(&self, file: &Node, tables: &mut Tables) -> Result<()> {
        if tables.changed.is_empty() {
            return Ok(());
        }
        file.flush().await?;
        for &table in &tables.changed {
            let bytes: Vec<u8> =
                tables.loaded[&table].iter().flat_map(|e| e.to_le_bytes()).collect();
            for directory in [Some(&self.directory), self.copies.as_ref()].into_iter().flatten() {
                let at = u64::from(directory[table]) * SECTOR;
                if at > 0 {
                    file.write(at, Vector::from(&bytes[..])).await?;
                }
            }
        }
        tables.changed.clear();
        Ok(())
    }

    /// A grain as it is stored.
    fn pack(&self, from: &Vector) -> Result<Vec<u8>> {
        let mut bytes = from.to_vec();
        bytes.resize(self.grain as usize, 0);
        let mut packed = Vec::with_capacity(bytes.len() + 1024);
        let mut deflate = flate2::Compress::new(flate2::Compression::default(), true);
        match deflate.compress_vec(&bytes, &mut packed, flate2::FlushCompress::Finish) {
            Ok(flate2::Status::StreamEnd) => Ok(packed),
            _ => Err(Error::from_errno(libc::EIO)),
        }
    }

    /// Fills from a grain that has its place.
    async fn read(&self, file: &Node, entry: u32, inside: u64, into: Vector) -> Result<()> {
        let at = u64::from(entry) * SECTOR;
        if !self.compressed {
            return file.driver().read(at + inside, into).await;
        }
        let marker = file.read_bytes(at, 12).await?;
        let len = u64::from(le32(&marker, 8));
        if len > 2 * self.grain {
            return Err(Error::from_errno(libc::EIO));
        }
        let packed = file.read_bytes(at + 12, len as usize).await?;
        let mut bytes = vec![0; self.grain as usize];
        let mut inflate = flate2::Decompress::new(true);
        inflate
            .decompress(&packed, &mut bytes, flate2::FlushDecompress::Finish)
            .map_err(|_| Error::invalid("Damaged grain"))?;
        into.write(0, &bytes[inside as usize..]);
        Ok(())
    }
}

async fn read_table(file: &Node, sector: u64, entries: usize) -> Result<Vec<u32>> {
    let at = sector.checked_mul(SECTOR).ok_or_else(|| Error::from_errno(libc::EINVAL))?;
    let bytes = file.read_bytes(at, entries * 4).await?;
    Ok(bytes.chunks_exact(4).map(|entry| le32(entry, 0)).collect())
}

impl Extent {
    /// The first place in the extent whose grain lies behind the end of the file.
    async fn first_beyond_end(&self) -> Result<Option<u64>> {
        let Kind::Sparse(grains) = &self.kind else { return Ok(None) };
        let sectors = self.file.len()?.div_ceil(SECTOR);
        let mut tables = grains.tables.lock().await;
        for (table, _) in grains.directory.iter().enumerate().filter(|(_, at)| **at != 0) {
            let first = table as u64 * grains.per_table;
            for grain in first..(first + grains.per_table).min(self.len.div_ceil(grains.grain)) {
                let entry = grains.entry(&self.file, &mut tables, grain).await?;
                let stored = entry > ZERO_GRAIN || entry == ZERO_GRAIN && !grains.zero_grains;
                if stored && u64::from(entry) >= sectors {
                    return Ok(Some(grain * grains.grain));
                }
            }
        }
        Ok(None)
    }
}

impl Vmdk {
    fn extent(&self, at: u64) -> Result<&Extent> {
        let found = self
            .extents
            .iter()
            .find(|extent| at - extent.start.min(at) < extent.len && at >= extent.start);
        found.ok_or_else(|| Error::from_errno(libc::EIO))
    }

    async fn read_below(&self, at: u64, into: Vector) -> Result<()> {
        let there = match &self.backing {
            Some(backing) => backing.len()?.saturating_sub(at).min(into.len() as u64) as usize,
            None => 0,
        };
        into.slice(there, into.len()).fill(0);
        match &self.backing {
            Some(backing) if there > 0 => backing.read(at, into.slice(0, there)).await,
            _ => Ok(()),
        }
    }

    async fn read_range(&self, at: u64, into: Vector) -> Result<()> {
        let mut done = 0;
        while done < into.len() {
            let here = at + done as u64;
            let extent = self.extent(here)?;
            let inside = here - extent.start;
            let mut len = (extent.len - inside).min((into.len() - done) as u64);
            match &extent.kind {
                Kind::Flat(from) => {
                    let part = into.slice(done, len as usize);
                    extent.file.driver().read(from + inside, part).await?;
                }
                Kind::Sparse(grains) => {
                    let in_grain = inside % grains.grain;
                    len = len.min(grains.grain - in_grain);
                    let part = into.slice(done, len as usize);
                    let mut tables = grains.tables.lock().await;
                    let entry =
                        grains.entry(&extent.file, &mut tables, inside / grains.grain).await?;
                    drop(tables);
                    match entry {
                        0 => self.read_below(here, part).await?,
                        ZERO_GRAIN if grains.zero_grains => part.fill(0),
                        _ => grains.read(&extent.file, entry, in_grain, part).await?,
                    }
                }
            }
            done += len as usize;
        }
        Ok(())
    }

    async fn write_range(&self, at: u64, from: Vector) -> Result<()> {
        let mut done = 0;
        while done < from.len() {
            let here = at + done as u64;
            let extent = self.extent(here)?;
            let inside = here - extent.start;
            let mut len = (extent.len - inside).min((from.len() - done) as u64);
            match &extent.kind {
                Kind::Flat(to) => {
                    extent.file.write(to + inside, from.slice(done, len as usize)).await?;
                }
                Kind::Sparse(grains) => {
                    len = len.min(grains.grain - inside % grains.grain);
                    let part = from.slice(done, len as usize);
                    self.write_grain(extent, grains, here, part).await?;
                }
            }
            done += len as usize;
        }
        Ok(())
    }

    async fn write_grain(
        &self,
        extent: &Extent,
        grains: &Grains,
        at: u64,
        part: Vector,
    ) -> Result<()> {
        if grains.compressed {
            let packed = grains.pack(&part)?;
            return self.store_packed(at, part.len() as u64, &packed).await;
        }
        let inside = at - extent.start;
        let (grain, in_grain) = (inside / grains.grain, inside % grains.grain);
        let mut tables = grains.tables.lock().await;
        let entry = grains.entry(&extent.file, &mut tables, grain).await?;
        if entry > 1 || (entry == 1 && !grains.zero_grains) {
            drop(tables);
            return extent.file.write(u64::from(entry) * SECTOR + in_grain, part).await;
        }
        // What is not written of the grain comes along.
        let whole = Vector::zeroed(grains.grain as usize);
        if entry == 0 && (part.len() as u64) < grains.grain {
            let there = grains.grain.min(extent.len - grain * grains.grain) as usize;
            self.read_below(at - in_grain, whole.slice(0, there)).await?;
        }
        whole.copy(in_grain as usize, &part);
        let host = tables.end.next_multiple_of(SECTOR);
        let sector = u32::try_from(host / SECTOR).map_err(|_| Error::from_errno(libc::EFBIG))?;
        extent.file.write(host, whole).await?;
        tables.end = host + grains.grain;
        grains.set(&mut tables, grain, sector)
    }

    async fn store_packed(&self, at: u64, len: u64, packed: &[u8]) -> Result<()> {
        let extent = self.extent(at)?;
        let inside = at - extent.start;
        let Kind::Sparse(grains) = &extent.kind else {
            return Err(Error::from_errno(libc::ENOTSUP));
        };
        let last = at + len == extent.start + extent.len;
        if !inside.is_multiple_of(grains.grain) || len != grains.grain && !last {
            return Err(Error::from_errno(libc::EINVAL));
        }
        let mut tables = grains.tables.lock().await;
        let entry = grains.entry(&extent.file, &mut tables, inside / grains.grain).await?;
        if entry != 0 {
            return Err(Error::from_errno(libc::EIO));
        }
        let mut marked = (inside / SECTOR).to_le_bytes().to_vec();
        marked.extend((packed.len() as u32).to_le_bytes());
        marked.extend(packed);
        marked.resize(marked.len().next_multiple_of(SECTOR as usize), 0);
        let host = tables.end.next_multiple_of(SECTOR);
        let sector = u32::try_from(host / SECTOR).map_err(|_| Error::from_errno(libc::EFBIG))?;
        extent.file.write(host, Vector::from(&marked[..])).await?;
        tables.end = host + marked.len() as u64;
        grains.set(&mut tables, inside / grains.grain, sector)
    }

    /// Whole grains can be zeroes without a place, in some images; the rest is written.
    async fn zero_range(&self, at: u64, len: u64) -> Result<()> {
        let mut done = 0;
        while done < len {
            let here = at + done;
            let extent = self.extent(here)?;
            let inside = here - extent.start;
            let mut now = (extent.len - inside).min(len - done);
            if let Kind::Sparse(grains) = &extent.kind {
                now = now.min(grains.grain - inside % grains.grain);
                if grains.zero_grains && now == grains.grain {
                    let mut tables = grains.tables.lock().await;
                    let grain = inside / grains.grain;
                    grains.entry(&extent.file, &mut tables, grain).await?;
                    grains.set(&mut tables, grain, ZERO_GRAIN)?;
                    done += now;
                    continue;
                }
            }
            write_plain_zeroes(self, here, now).await?;
            done += now;
        }
        Ok(())
    }

    async fn find(&self, at: u64, len: u64) -> Result<Found> {
        let extent = self.extent(at)?;
        let inside = at - extent.start;
        let len = len.min(extent.len - inside);
        let Kind::Sparse(grains) = &extent.kind else {
            let Kind::Flat(from) = &extent.kind else { return Err(Error::from_errno(libc::EIO)) };
            let below = extent.file.driver().status(from + inside, len).await?;
            let offset = Some(from + inside);
            return Ok(Found { allocated: true, data: true, offset, ..below });
        };
        let mut tables = grains.tables.lock().await;
        let in_grain = inside % grains.grain;
        let first = grains.entry(&extent.file, &mut tables, inside / grains.grain).await?;
        let mut run = grains.grain - in_grain;
        let plain = !grains.compressed || first == 0;
        while run < len && plain {
            let next =
                grains.entry(&extent.file, &mut tables, (inside + run) / grains.grain).await?;
            let ahead = u64::from(first) + (in_grain + run) / SECTOR;
            let same = if first <= 1 { next == first } else { u64::from(next) == ahead };
            if !same {
                break;
            }
            run += grains.grain;
        }
        let found = Found { len: run.min(len), allocated: first != 0, ..Found::default() };
        Ok(match first {
            0 => Found { zero: self.backing.is_none(), ..found },
            ZERO_GRAIN if grains.zero_grains => Found { zero: true, ..found },
            _ if grains.compressed => Found { data: true, compressed: true, ..found },
            _ => {
                let offset = Some(u64::from(first) * SECTOR + in_grain);
                Found { data: true, offset, ..found }
            }
        })
    }
}

impl Driver for Vmdk {
    fn name(&self) -> &'static str {
        "vmdk"
    }

    fn len(&self) -> Result<u64> {
        Ok(self.extents.last().map_or(0, |last| last.start + last.len))
    }

    fn read(&self, at: u64, into: Vector) -> Io<'_, ()> {
        Box::pin(self.read_range(at, into))
    }

    fn write(&self, at: u64, from: Vector) -> Io<'_, ()> {
        Box::pin(self.write_range(at, from))
    }

    fn pack(&self, from: &Vector) -> Result<Packed> {
        let [Extent { kind: Kind::Sparse(grains), .. }, ..] = self.extents.as_slice() else {
            return Ok(Packed::Plain);
        };
        match grains.compressed {
            true => Ok(Packed::Bytes(grains.pack(from)?)),
            false => Ok(Packed::Plain),
        }
    }

    fn write_packed(&self, at: u64, from: Vector, packed: Packed) -> Io<'_, ()> {
        Box::pin(async move {
            match packed {
                Packed::Bytes(packed) => self.store_packed(at, from.len() as u64, &packed).await,
                Packed::Plain => self.write_range(at, from).await,
            }
        })
    }

    fn write_zeroes(&self, at: u64, len: u64, _flags: ZeroFlags) -> Io<'_, ()> {
        Box::pin(self.zero_range(at, len))
    }

    fn discard(&self, _at: u64, _len: u64) -> Io<'_, ()> {
        // A hint; grains keep their places.
        Box::pin(std::future::ready(Ok(())))
    }

    fn flush(&self) -> Io<'_, ()> {
        Box::pin(async move {
            for extent in &self.extents {
                if let Kind::Sparse(grains) = &extent.kind {
                    grains.write_back(&extent.file, &mut *grains.tables.lock().await).await?;
                }
                extent.file.flush().await?;
            }
            Ok(())
        })
    }

    fn truncate(&self, _len: u64, _preallocation: Preallocation) -> Io<'_, ()> {
        let text = "Image format driver does not support resize";
        Box::pin(std::future::ready(Err(Error::unsupported(text))))
    }

    fn status(&self, at: u64, len: u64) -> Io<'_, Found> {
        Box::pin(self.find(at, len))
    }

    fn check(&self, repair: Repair) -> Io<'_, CheckReport> {
        Box::pin(async move {
            if repair != Repair::Nothing {
                return Err(Error::from_errno(libc::ENOTSUP));
            }
            let mut report = CheckReport::default();
            for extent in &self.extents {
                let Some(grain) = extent.first_beyond_end().await? else { continue };
                let sector = (extent.start + grain) / SECTOR;
                let text = format!("ERROR: cluster offset for sector {sector} points after EOF");
                report.messages.push(text);
                report.failure = Some(libc::EINVAL);
                break;
            }
            Ok(report)
        })
    }

    fn cluster_size(&self) -> Option<u64> {
        self.extents.iter().find_map(|extent| match &extent.kind {
            Kind::Sparse(grains) => Some(grains.grain),
            Kind::Flat(_) => None,
        })
    }

    fn backing_name(&self) -> Option<(String, Option<String>)> {
        let name = self.descriptor.parent.clone()?;
        (self.descriptor.parent_cid != u32::MAX).then(|| (name, Some("vmdk".into())))
    }

    fn specific_info(&self) -> Option<Map<String, Value>> {
        let mut info = Map::new();
        info.insert("cid".into(), json!(self.descriptor.cid));
        info.insert("parent-cid".into(), json!(self.descriptor.parent_cid));
        info.insert("create-type".into(), json!(self.descriptor.create_type));
        let extents = self.extents.iter().map(|extent| {
            let mut info = Map::new();
            if let Kind::Sparse(Grains { compressed: true, .. }) = extent.kind {
                info.insert("compressed".into(), json!(true));
            }
            info.insert("virtual-size".into(), json!(extent.len));
            info.insert("filename".into(), json!(extent.file.filename()));
            if let Kind::Sparse(grains) = &extent.kind {
                info.insert("cluster-size".into(), json!(grains.grain));
            }
            info.insert("format".into(), json!(extent.label));
            Value::Object(info)
        });
        info.insert("extents".into(), extents.collect());
        Some(info)
    }

    fn allocated_size(&self) -> Result<Option<u64>> {
        let mut sum = 0;
        for file in &self.files {
            let Some(size) = file.driver().allocated_size()? else { return Ok(None) };
            sum += size;
        }
        Ok(Some(sum))
    }
}

/// What a new image is like.
pub struct CreateOptions {
    /// The disk's length.
    pub size: u64,
    /// `monolithicSparse`, `monolithicFlat`, ...
    pub subformat: String,
    /// `ide`, `lsilogic`, ...
    pub adapter: String,
    /// The version of the virtual hardware.
    pub hardware: String,
    /// The version of the guest's tools.
    pub tools: String,
    /// Grains of zeroes take no place.
    pub zero_grains: bool,
    /// The parent: its name in the image and its CID.
    pub parent: Option<(String, u32)>,
}

/// One file of a new image: its name, and what it is.
pub struct Part {
    /// The name behind the directory.
    pub name: String,
    /// How much of the disk is in it; `None` for the description alone.
    pub len: Option<u64>,
}

impl CreateOptions {
    /// Refuses what could not be opened again.
    pub fn check(&self) -> Result<()> {
        let most = MAX_TABLES * TABLE_ENTRIES * GRAIN;
        if (self.is_split() || !self.is_flat()) && self.size > most {
            let text = "The image size is too large for file format 'vmdk'";
            return Err(Error::new(libc::EFBIG, text));
        }
        Ok(())
    }

    fn is_flat(&self) -> bool {
        self.subformat.ends_with("Flat")
    }

    fn is_split(&self) -> bool {
        self.subformat.starts_with("twoGb")
    }

    /// The files that an image `name` consists of; the one that is opened comes first.
    pub fn parts(&self, name: &str) -> Vec<Part> {
        let stem = name.strip_suffix(".vmdk").unwrap_or(name);
        if !self.is_flat() && !self.is_split() {
            return vec![Part { name: name.to_owned(), len: Some(self.size) }];
        }
        let mut parts = vec![Part { name: name.to_owned(), len: None }];
        if !self.is_split() {
            parts.push(Part { name: format!("{stem}-flat.vmdk"), len: Some(self.size) });
            return parts;
        }
        let letter = if self.is_flat() { 'f' } else { 's' };
        let (mut at, mut number) = (0, 1);
        while at < self.size {
            let len = (self.size - at).min(SPLIT);
            parts.push(Part { name: format!("{stem}-{letter}{number:03}.vmdk"), len: Some(len) });
            at += len;
            number += 1;
        }
        parts
    }

    /// The text of the image, with a CID of its own.
    fn descriptor(&self, parts: &[Part]) -> Result<String> {
        let cid = le32(&super::bytes::uuid()?, 0) & 0x7fff_ffff;
        let (parent_cid, hint) = match &self.parent {
            Some((name, cid)) => (*cid, format!("parentFileNameHint=\"{name}\"\n")),
            None => (u32::MAX, String::new()),
        };
        let extents: String = (parts.iter())
            .filter_map(|part| {
                let sectors = part.len?.div_ceil(SECTOR);
                let name = part.name.rsplit('/').next().unwrap_or_default();
                Some(match self.is_flat() {
                    true => format!("RW {sectors} FLAT \"{name}\" 0\n"),
                    false => format!("RW {sectors} SPARSE \"{name}\"\n"),
                })
            })
            .collect();
        let heads = if self.adapter == "ide" { 16 } else { 255 };
        let cylinders = self.size / (63 * heads * SECTOR);
        Ok(format!(
            "# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID={parent_cid:08x}\n\
             createType=\"{}\"\n{hint}\n# Extent description\n{extents}\n# The Disk Data Base\n#DDB\n\n\
             ddb.virtualHWVersion = \"{}\"\nddb.geometry.cylinders = \"{cylinders}\"\n\
             ddb.geometry.heads = \"{heads}\"\nddb.geometry.sectors = \"63\"\n\
             ddb.adapterType = \"{}\"\nddb.toolsVersion = \"{}\"\n",
            self.subformat, self.hardware, self.adapter, self.tools
        ))
    }

    /// Writes the empty files of an image.
    pub async fn write(&self, parts: &[Part], files: &[Arc<Node>]) -> Result<()> {
        let text = self.descriptor(parts)?;
        for (part, file) in parts.iter().zip(files) {
            match part.len {
                None => file.write(0, Vector::from(text.as_bytes())).await?,
                Some(len) if self.is_flat() => file.truncate(len, Preallocation::Off).await?,
                Some(len) => {
                    self.write_sparse(file, len).await?;
                    if !self.is_split() {
                        file.write(SECTOR, Vector::from(text.as_bytes())).await?;
                    }
                }
            }
            file.flush().await?;
        }
        Ok(())
    }

    /// Header, directories and empty grain tables.
    async fn write_sparse(&self, file: &Node, len: u64) -> Result<()> {
        let packed = self.subformat == "streamOptimized";
        let sectors = len.div_ceil(SECTOR);
        let grains = sectors.div_ceil(GRAIN / SECTOR);
        let tables = grains.div_ceil(TABLE_ENTRIES);
        let table_sectors = TABLE_ENTRIES * 4 / SECTOR;
        let directory_sectors = (tables * 4).div_ceil(SECTOR);
        let (text_at, text_sectors) = (1, 20);
        let copy_at = text_at + text_sectors;
        let directory_at = copy_at + directory_sectors + table_sectors * tables;
        let grains_at = directory_at + directory_sectors + table_sectors * tables;
        let grains_at = grains_at.next_multiple_of(GRAIN / SECTOR);
        let mut flags = 3;
        if packed {
            flags |= COMPRESSED | MARKERS;
        }
        if self.zero_grains {
            flags |= HAS_ZERO_GRAINS;
        }
        let version: u32 = match (packed, self.zero_grains) {
            (true, _) => 3,
            (_, true) => 2,
            _ => 1,
        };
        let mut header = vec![0; 512];
        put(&mut header, 0, MAGIC);
        put(&mut header, 4, &version.to_le_bytes());
        put(&mut header, 8, &flags.to_le_bytes());
        for (at, value) in [
            (12, sectors),
            (20, GRAIN / SECTOR),
            (28, text_at),
            (36, text_sectors),
            (48, copy_at),
            (56, directory_at),
            (64, grains_at),
        ] {
            put(&mut header, at, &value.to_le_bytes());
        }
        put(&mut header, 44, &(TABLE_ENTRIES as u32).to_le_bytes());
        put(&mut header, 73, b"\n \r\n");
        put(&mut header, 77, &u16::from(packed).to_le_bytes());
        file.truncate(grains_at * SECTOR, Preallocation::Off).await?;
        file.write(0, Vector::from(&header[..])).await?;
        for at in [copy_at, directory_at] {
            let first = at + directory_sectors;
            let entries: Vec<u8> = (0..tables)
                .flat_map(|table| ((first + table * table_sectors) as u32).to_le_bytes())
                .collect();
            if !entries.is_empty() {
                file.write(at * SECTOR, Vector::from(&entries[..])).await?;
            }
        }
        Ok(())
    }
}

/// The CID of an image, which its children name.
pub async fn cid_of(file: &Node) -> Result<u32> {
    let first = file.read_bytes(0, 512).await?;
    let (at, len) = match first.starts_with(MAGIC) {
        true => (le64(&first, 28).saturating_mul(SECTOR), le64(&first, 36).saturating_mul(SECTOR)),
        false => (0, file.len()?),
    };
    let text = file.read_bytes(at, len.min(MAX_DESCRIPTOR) as usize).await?;
    Ok(Descriptor::parse(&String::from_utf8_lossy(&text))?.cid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_say_what_there_is() {
        let text = "# Disk DescriptorFile\nversion=1\nCID=0000abcd\nparentCID=ffffffff\n\
                    createType=\"twoGbMaxExtentSparse\"\nRW 4194304 SPARSE \"a-s001.vmdk\"\n\
                    RW 100 FLAT \"b.vmdk\" 7\n";
        let parsed = Descriptor::parse(text).unwrap();
        assert_eq!((parsed.cid, parsed.parent_cid), (0xabcd, u32::MAX));
        assert_eq!(parsed.extents[1], (100, "FLAT".into(), "b.vmdk".into(), 7));
        assert_eq!(probe(text.as_bytes()), 100);
        assert!(Descriptor::parse("version=1\n").is_err());
        assert!(Descriptor::parse("createType=\"x\"\nRW many FLAT \"b\"").is_err());
    }
}
