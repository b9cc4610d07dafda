//! The first qcow format, after its description (docs/interop/qcow of old QEMU documentation): two levels
//! of tables, no reference counts. Encrypted images have AES in CBC mode over each sector by itself.
//!
//! New clusters and tables go to the end of the file. Tables are written with the next flush, those that
//! are pointed to before those that point.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use async_lock::Mutex;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::blocks::write_plain_zeroes;
use super::bytes::{be32, be64, put};
use crate::driver::{Driver, Extent, Io, Packed, Preallocation, ZeroFlags};
use crate::format::Opening;
use crate::luks::Cipher;
use crate::node::Node;
use crate::open::Builder;
use crate::vector::Vector;
use crate::{Error, Result};

const MAGIC: &[u8] = b"QFI\xfb\0\0\0\x01";
const COMPRESSED: u64 = 1 << 63;
/// Entries of an L1 table at most.
const MAX_L1_ENTRIES: u64 = i32::MAX as u64 / 8;

/// What is encrypted by itself.
const SECTOR: u64 = 512;

#[derive(Clone)]
struct Header {
    backing: Option<String>,
    len: u64,
    cluster_bits: u32,
    l2_bits: u32,
    l1_at: u64,
    encrypted: bool,
}

struct State {
    l1: Vec<u64>,
    l1_changed: bool,
    /// L2 tables by their offset in the file.
    l2: HashMap<u64, Vec<u64>>,
    l2_changed: BTreeSet<u64>,
    end: u64,
}

struct Qcow1 {
    file: Arc<Node>,
    backing: Option<Arc<Node>>,
    header: Header,
    /// What opens the clusters of an encrypted image, if they are looked at.
    cipher: Option<Cipher>,
    state: Mutex<State>,
}

/// L2 tables kept in memory, in bytes.
const CACHE: u64 = 8 << 20;

/// How sure it is that an image is one of these.
pub fn probe(first: &[u8]) -> u32 {
    if first.starts_with(MAGIC) { 100 } else { 0 }
}

impl Header {
    fn parse(bytes: &[u8], file_len: u64) -> Result<Self> {
        let bad = |text: &str| Err(Error::invalid(text));
        if !bytes.starts_with(&MAGIC[..4]) {
            return bad("Image not in qcow format");
        }
        if be32(bytes, 4) != 1 {
            let text = format!("qcow (v{}) does not support qcow version {}", 1, be32(bytes, 4));
            return Err(Error::unsupported(text));
        }
        let len = be64(bytes, 24);
        let (cluster_bits, l2_bits) = (u32::from(bytes[32]), u32::from(bytes[33]));
        if len <= 1 {
            return bad("Image size is too small (must be at least 2 bytes)");
        }
        if !(9..=16).contains(&cluster_bits) {
            return bad("Cluster size must be between 512 and 64k");
        }
        if !(6..=13).contains(&l2_bits) {
            return bad("L2 table size must be between 512 and 64k");
        }
        let encrypted = match be32(bytes, 36) {
            0 => false,
            1 => true,
            _ => return bad("invalid encryption method in qcow header"),
        };
        let entries = len.div_ceil(1 << (cluster_bits + l2_bits));
        if len > u64::MAX - (1 << (cluster_bits + l2_bits)) || entries > MAX_L1_ENTRIES {
            return bad("Image too large");
        }
        let l1_at = be64(bytes, 40);
        // A table that the file cannot hold is a table that takes memory for nothing.
        if l1_at.checked_add(entries * 8).is_none_or(|end| end > file_len + 4096) {
            return bad("L1 table lies outside the image");
        }
        let (at, name_len) = (be64(bytes, 8), be32(bytes, 16));
        let backing = match at {
            0 => None,
            _ if name_len > 1023 => return bad("Backing file name too long"),
            _ => {
                let name =
                    usize::try_from(at).ok().and_then(|at| bytes.get(at..at + name_len as usize));
                let name =
                    name.ok_or_else(|| Error::invalid("Backing file name outside the header"))?;
                Some(String::from_utf8_lossy(name).into_owned())
            }
        };
        Ok(Self { backing, len, cluster_bits, l2_bits, l1_at, encrypted })
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }
}

/// Opens an image.
pub fn open<'a>(builder: &'a mut Builder<'_, '_>, file: Arc<Node>) -> Opening<'a> {
    Box::pin(async move {
        let file_len = file.len()?;
        let bytes = file.read_bytes(0, 4096).await?;
        let header = Header::parse(&bytes, file_len)?;
        let cipher = open_cipher(builder, header.encrypted)?;
        let backing = builder.open_backing(header.backing.as_deref(), None).await?;
        let entries = header.len.div_ceil(1 << (header.cluster_bits + header.l2_bits));
        let l1 = read_entries(&file, header.l1_at, entries as usize).await?;
        let state = State {
            l1,
            l1_changed: false,
            l2: HashMap::new(),
            l2_changed: BTreeSet::new(),
            end: file_len,
        };
        let image = Qcow1 { file, backing, header, cipher, state: Mutex::new(state) };
        Ok(Box::new(image) as Box<dyn Driver>)
    })
}

/// The cipher of an image, by the password that was named.
fn open_cipher(builder: &mut Builder<'_, '_>, encrypted: bool) -> Result<Option<Cipher>> {
    let format = builder.options.text("encrypt.format");
    let secret = builder.options.text("encrypt.key-secret");
    if !encrypted {
        return match format.or(secret.map(|_| "aes".into())) {
            None => Ok(None),
            Some(format) => Err(Error::invalid(format!(
                "No encryption in image header, but options specified format '{format}'"
            ))),
        };
    }
    if builder.graph().is_some() {
        return Err(Error::unsupported(
            "Use of AES-CBC encrypted qcow images is no longer supported in system emulators",
        ));
    }
    if let Some(format) = format.filter(|format| format != "aes") {
        return Err(Error::invalid(format!(
            "Header reported 'aes' encryption format but options specify '{format}'"
        )));
    }
    match secret {
        Some(id) => Cipher::of_old_qcow(&builder.how().secrets.get(&id)?).map(Some),
        None if builder.how().no_io => Ok(None),
        None => Err(Error::invalid("Parameter 'encrypt.key-secret' is required for cipher")),
    }
}

async fn read_entries(file: &Node, at: u64, count: usize) -> Result<Vec<u64>> {
    let bytes = file.read_bytes(at, count * 8).await?;
    Ok(bytes.chunks_exact(8).map(|entry| be64(entry, 0)).collect())
}

async fn write_entries(file: &Node, at: u64, entries: &[u64]) -> Result<()> {
    let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
    file.write(at, Vector::from(&bytes[..])).await
}

/// Writes an empty image.
pub async fn create(file: &Node, size: u64, backing: Option<&str>, encrypted: bool) -> Result<()> {
    if size == 0 {
        return Err(Error::invalid("Image size is too small, cannot be zero length"));
    }
    let backing = backing.filter(|name| *name != "fat:").map(str::as_bytes).unwrap_or_default();
    // Small clusters copy less from below.
    let (cluster_bits, l2_bits) = if backing.is_empty() { (12, 9) } else { (9, 12) };
    let l1_at = (48 + backing.len()).next_multiple_of(8);
    let entries = size.div_ceil(1 << (cluster_bits + l2_bits));
    if entries > MAX_L1_ENTRIES {
        let text = "The image size is too large for file format 'qcow'";
        return Err(Error::new(libc::EFBIG, text));
    }
    let mut header = vec![0; l1_at];
    put(&mut header, 0, MAGIC);
    if !backing.is_empty() {
        put(&mut header, 8, &48_u64.to_be_bytes());
        put(&mut header, 16, &(backing.len() as u32).to_be_bytes());
        put(&mut header, 48, backing);
    }
    put(&mut header, 24, &size.to_be_bytes());
    (header[32], header[33]) = (cluster_bits as u8, l2_bits as u8);
    header[39] = u8::from(encrypted);
    put(&mut header, 40, &(l1_at as u64).to_be_bytes());
    file.write(0, Vector::from(&header[..])).await?;
    let end = l1_at as u64 + (entries * 8).next_multiple_of(512);
    file.truncate(end, Preallocation::Off).await?;
    file.flush().await
}

impl Qcow1 {
    /// Where a cluster's entry is: index in L1, index in L2.
    fn indices(&self, at: u64) -> (usize, usize) {
        let cluster = at >> self.header.cluster_bits;
        let l2 = cluster & ((1 << self.header.l2_bits) - 1);
        ((cluster >> self.header.l2_bits) as usize, l2 as usize)
    }

    async fn load<'a>(&self, state: &'a mut State, table: u64) -> Result<&'a mut Vec<u64>> {
        let entries = 1_usize << self.header.l2_bits;
        if !state.l2.contains_key(&table) {
            let room = CACHE / (entries as u64 * 8);
            if state.l2.len() as u64 >= room.max(1) {
                self.write_back(state).await?;
                state.l2.clear();
            }
            state.l2.insert(table, read_entries(&self.file, table, entries).await?);
        }
        state.l2.get_mut(&table).ok_or_else(|| Error::from_errno(libc::EIO))
    }

    async fn entry(&self, state: &mut State, at: u64) -> Result<u64> {
        let (l1, l2) = self.indices(at);
        let table = state.l1.get(l1).copied().unwrap_or(0);
        if table == 0 {
            return Ok(0);
        }
        Ok(self.load(state, table).await?.get(l2).copied().unwrap_or(0))
    }

    /// Sees to it that a cluster has a table for its entry.
    fn add_table(&self, state: &mut State, at: u64) {
        let (l1, _) = self.indices(at);
        if state.l1[l1] == 0 {
            let entries = 1_usize << self.header.l2_bits;
            let table = self.take(state, entries as u64 * 8);
            state.l1[l1] = table;
            state.l1_changed = true;
            state.l2.insert(table, vec![0; entries]);
            state.l2_changed.insert(table);
        }
    }

    async fn set_entry(&self, state: &mut State, at: u64, entry: u64) -> Result<()> {
        let (l1, l2) = self.indices(at);
        let table = state.l1[l1];
        self.load(state, table).await?[l2] = entry;
        state.l2_changed.insert(table);
        Ok(())
    }

    /// Room at the end of the file.
    fn take(&self, state: &mut State, len: u64) -> u64 {
        let at = state.end.next_multiple_of(self.header.cluster());
        state.end = at + len;
        at
    }

    async fn write_back(&self, state: &mut State) -> Result<()> {
        if state.l2_changed.is_empty() && !state.l1_changed {
            return Ok(());
        }
        self.file.flush().await?;
        for &table in &state.l2_changed {
            write_entries(&self.file, table, &state.l2[&table]).await?;
        }
        state.l2_changed.clear();
        if state.l1_changed {
            self.file.flush().await?;
            write_entries(&self.file, self.header.l1_at, &state.l1).await?;
            state.l1_changed = false;
        }
        Ok(())
    }

    async fn read_cluster(&self, entry: u64, at: u64, into: Vector) -> Result<()> {
        let cluster = self.header.cluster();
        let inside = at & (cluster - 1);
        if entry & COMPRESSED != 0 {
            let split = 63 - self.header.cluster_bits;
            let len = (entry >> split) & (cluster - 1);
            let packed = self.file.read_bytes(entry & ((1 << split) - 1), len as usize).await?;
            let mut bytes = vec![0; cluster as usize];
            let mut inflate = Decompress::new(false);
            let done = inflate.decompress(&packed, &mut bytes, FlushDecompress::Finish);
            if done.is_err() || inflate.total_out() != cluster {
                return Err(Error::from_errno(libc::EIO));
            }
            into.write(0, &bytes[inside as usize..]);
            return Ok(());
        }
        if entry != 0 && self.header.encrypted {
            let mut bytes = self.file.read_bytes(entry, cluster as usize).await?;
            self.cipher()?.decrypt((at - inside) / SECTOR, &mut bytes)?;
            into.write(0, &bytes[inside as usize..]);
            return Ok(());
        }
        if entry != 0 {
            return self.file.driver().read(entry + inside, into).await;
        }
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

    fn cipher(&self) -> Result<&Cipher> {
        self.cipher.as_ref().ok_or_else(|| Error::from_errno(libc::EINVAL))
    }

    async fn read_range(&self, at: u64, into: Vector) -> Result<()> {
        let cluster = self.header.cluster();
        let mut done = 0;
        while done < into.len() {
            let here = at + done as u64;
            let len = (cluster - here % cluster).min((into.len() - done) as u64) as usize;
            let entry = self.entry(&mut *self.state.lock().await, here).await?;
            self.read_cluster(entry, here, into.slice(done, len)).await?;
            done += len;
        }
        Ok(())
    }

    async fn write_range(&self, at: u64, from: Vector) -> Result<()> {
        let cluster = self.header.cluster();
        let mut done = 0;
        while done < from.len() {
            let here = at + done as u64;
            let inside = here % cluster;
            let len = (cluster - inside).min((from.len() - done) as u64) as usize;
            let part = from.slice(done, len);
            let mut state = self.state.lock().await;
            let entry = self.entry(&mut state, here).await?;
            done += len;
            let plain = entry != 0 && entry & COMPRESSED == 0;
            if plain && !self.header.encrypted {
                drop(state);
                self.file.write(entry + inside, part).await?;
                continue;
            }
            let mut whole = Vector::zeroed(cluster as usize);
            self.read_cluster(entry, here - inside, whole.clone()).await?;
            whole.copy(inside as usize, &part);
            if self.header.encrypted {
                let mut bytes = whole.to_vec();
                self.cipher()?.encrypt((here - inside) / SECTOR, &mut bytes)?;
                whole = Vector::from(&bytes[..]);
            }
            if plain {
                self.file.write(entry, whole).await?;
                continue;
            }
            self.add_table(&mut state, here);
            let host = self.take(&mut state, cluster);
            self.file.write(host, whole).await?;
            self.set_entry(&mut state, here, host).await?;
        }
        Ok(())
    }

    async fn find(&self, at: u64, len: u64) -> Result<Extent> {
        let cluster = self.header.cluster();
        let mut state = self.state.lock().await;
        let first = self.entry(&mut state, at).await?;
        let inside = at % cluster;
        let mut run = cluster - inside;
        let plain = first & COMPRESSED == 0;
        while run < len && plain {
            let next = self.entry(&mut state, at + run).await?;
            let same = if first == 0 { next == 0 } else { next == first + inside + run };
            if !same {
                break;
            }
            run += cluster;
        }
        let extent = Extent { len: run.min(len), ..Extent::default() };
        Ok(match first {
            0 => Extent { zero: self.backing.is_none(), ..extent },
            _ if !plain => Extent { data: true, allocated: true, compressed: true, ..extent },
            _ => Extent { data: true, allocated: true, offset: Some(first + inside), ..extent },
        })
    }
}

impl Driver for Qcow1 {
    fn name(&self) -> &'static str {
        "qcow"
    }

    fn len(&self) -> Result<u64> {
        Ok(self.header.len.next_multiple_of(512))
    }

    fn read(&self, at: u64, into: Vector) -> Io<'_, ()> {
        Box::pin(self.read_range(at, into))
    }

    fn write(&self, at: u64, from: Vector) -> Io<'_, ()> {
        Box::pin(self.write_range(at, from))
    }

    fn pack(&self, from: &Vector) -> Result<Packed> {
        let mut bytes = from.to_vec();
        bytes.resize(self.header.cluster() as usize, 0);
        let mut packed = Vec::with_capacity(bytes.len());
        let mut deflate = Compress::new_with_window_bits(Compression::default(), false, 12);
        match deflate.compress_vec(&bytes, &mut packed, FlushCompress::Finish) {
            Ok(Status::StreamEnd) if packed.len() < bytes.len() => Ok(Packed::Bytes(packed)),
            Ok(_) => Ok(Packed::Plain),
            Err(_) => Err(Error::from_errno(libc::EIO)),
        }
    }

    fn write_packed(&self, at: u64, from: Vector, packed: Packed) -> Io<'_, ()> {
        Box::pin(async move {
            let Packed::Bytes(packed) = packed else { return self.write_range(at, from).await };
            if !at.is_multiple_of(self.header.cluster()) {
                return Err(Error::from_errno(libc::EINVAL));
            }
            let mut state = self.state.lock().await;
            if self.entry(&mut state, at).await? != 0 {
                return Err(Error::from_errno(libc::EIO));
            }
            self.add_table(&mut state, at);
            let host = state.end;
            let split = 63 - self.header.cluster_bits;
            if host >> split != 0 {
                return Err(Error::from_errno(libc::EFBIG));
            }
            state.end = host + packed.len() as u64;
            self.file.write(host, Vector::from(&packed[..])).await?;
            let entry = COMPRESSED | (packed.len() as u64) << split | host;
            self.set_entry(&mut state, at, entry).await
        })
    }

    fn write_zeroes(&self, at: u64, len: u64, _flags: ZeroFlags) -> Io<'_, ()> {
        Box::pin(write_plain_zeroes(self, at, len))
    }

    fn discard(&self, _at: u64, _len: u64) -> Io<'_, ()> {
        // A hint; nothing is ever given back.
        Box::pin(std::future::ready(Ok(())))
    }

    fn flush(&self) -> Io<'_, ()> {
        Box::pin(async move {
            self.write_back(&mut *self.state.lock().await).await?;
            self.file.flush().await
        })
    }

    fn truncate(&self, _len: u64, _preallocation: Preallocation) -> Io<'_, ()> {
        let text = "Image format driver does not support resize";
        Box::pin(std::future::ready(Err(Error::unsupported(text))))
    }

    fn status(&self, at: u64, len: u64) -> Io<'_, Extent> {
        Box::pin(self.find(at, len))
    }

    fn is_encrypted(&self) -> bool {
        self.header.encrypted
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.header.cluster())
    }

    fn backing_name(&self) -> Option<(String, Option<String>)> {
        Some((self.header.backing.clone()?, None))
    }

    fn allocated_size(&self) -> Result<Option<u64>> {
        self.file.driver().allocated_size()
    }
}
