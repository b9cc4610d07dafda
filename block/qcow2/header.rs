//! The header of a qcow2 image (docs/interop/qcow2, "Header", "Header extensions").

use crate::{Error, Result};

/// `QFI\xfb`
pub const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Limits that keep tables in memory bounded, as QEMU has them.
pub const MAX_L1_BYTES: u64 = 32 << 20;
/// The refcount table in bytes, at most.
pub const MAX_REFTABLE_BYTES: u64 = 8 << 20;
/// Snapshots in one image, at most.
pub const MAX_SNAPSHOTS: u32 = 65536;
/// Bitmaps in one image, at most.
pub const MAX_BITMAPS: u32 = 65535;

/// Incompatible feature bits.
pub const DIRTY: u64 = 1;
/// The image must not be written before it is repaired.
pub const CORRUPT: u64 = 2;
/// Data is in another file.
pub const DATA_FILE: u64 = 4;
/// Clusters are not compressed by zlib.
pub const COMPRESSION_BIT: u64 = 8;
/// L2 entries have bitmaps of subclusters.
pub const EXTENDED_L2: u64 = 16;
/// Compatible feature bits.
pub const LAZY_REFCOUNTS: u64 = 1;
/// Autoclear feature bits: the bitmaps are true.
pub const BITMAPS: u64 = 1;
/// The data file reads as a raw image.
pub const RAW_DATA_FILE: u64 = 2;

const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const DATA_FILE_NAME: u32 = 0x4441_5441;
const ENCRYPTION: u32 = 0x0537_be77;
const BITMAP_DIRECTORY: u32 = 0x2385_2875;

/// Features that are understood.
const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_BIT | EXTENDED_L2;

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate with a window of 4 KiB.
    Zlib,
    /// A zstd frame.
    Zstd,
}

impl Compression {
    /// The name in `compression_type=`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
        }
    }
}

/// How clusters are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// They are not.
    #[default]
    None,
    /// AES-CBC with the password as the key.
    Aes,
    /// By a LUKS header at an offset of the file, with its length.
    Luks {
        /// Where the LUKS header is.
        at: u64,
        /// How long it is, with its key slots.
        len: u64,
    },
}

/// The extension that says where the bitmaps are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BitmapDirectory {
    /// How many there are.
    pub count: u32,
    /// Where their directory is.
    pub at: u64,
    /// How long it is.
    pub len: u64,
}

/// What the header says. Offsets have been checked against each other and against limits, not against
/// the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// log2 of the cluster size.
    pub cluster_bits: u32,
    /// The guest's disk in bytes.
    pub size: u64,
    /// Entries of the L1 table.
    pub l1_size: u32,
    /// Where it is.
    pub l1_offset: u64,
    /// Where the refcount table is.
    pub reftable_offset: u64,
    /// How long it is.
    pub reftable_clusters: u32,
    /// Internal snapshots.
    pub snapshots: u32,
    /// Where their table is.
    pub snapshots_offset: u64,
    /// Features without which the image must not be opened.
    pub incompatible: u64,
    /// Features that may be ignored.
    pub compatible: u64,
    /// Features whose bit a writer clears that does not know them.
    pub autoclear: u64,
    /// log2 of a refcount's width in bits.
    pub refcount_order: u32,
    /// How compressed clusters are compressed.
    pub compression: Compression,
    /// The backing file's name.
    pub backing_file: Option<String>,
    /// Its format.
    pub backing_format: Option<String>,
    /// The name of the file with the data.
    pub data_file: Option<String>,
    /// How clusters are encrypted.
    pub encryption: Encryption,
    /// Where bitmaps are.
    pub bitmaps: Option<BitmapDirectory>,
    /// Extensions kept as they are.
    pub extensions: Vec<(u32, Vec<u8>)>,
    /// What the image calls incompatible features that are not known here: (bit, name).
    pub unknown_names: Vec<(u32, String)>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes)
}

impl Header {
    /// The cluster size in bytes.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// How many entries an L1 table needs for a disk of `size` bytes.
    pub fn l1_entries_for(&self, size: u64) -> u64 {
        let entry_bits = if self.has_extended_l2() { 4 } else { 3 };
        size.div_ceil(1 << (2 * self.cluster_bits - entry_bits))
    }

    /// L2 entries have bitmaps of subclusters.
    pub fn has_extended_l2(&self) -> bool {
        self.incompatible & EXTENDED_L2 != 0
    }

    /// Data is in another file.
    pub fn has_data_file(&self) -> bool {
        self.incompatible & DATA_FILE != 0
    }

    /// The other file reads as a raw image.
    pub fn is_data_file_raw(&self) -> bool {
        self.has_data_file() && self.autoclear & RAW_DATA_FILE != 0
    }

    /// Whether a feature bit is set that forbids writing.
    pub fn is_corrupt(&self) -> bool {
        self.incompatible & CORRUPT != 0
    }

    /// Reads the first cluster (or as much as there is) of a file of `file_len` bytes.
    pub fn parse(bytes: &[u8], file_len: u64) -> Result<Self> {
        if bytes.len() < 4 || bytes[..4] != MAGIC {
            return Err(Error::invalid("Image is not in qcow2 format"));
        }
        if bytes.len() < 72 {
            return Err(Error::invalid("qcow2 header too short"));
        }
        let version = u32_at(bytes, 4);
        if !(2..=3).contains(&version) {
            return Err(Error::unsupported(format!("Unsupported qcow2 version {version}")));
        }
        let cluster_bits = u32_at(bytes, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(Error::invalid(format!("Unsupported cluster size: 2^{cluster_bits}")));
        }
        let cluster = 1_u64 << cluster_bits;
        let mut header = Self {
            version,
            cluster_bits,
            size: u64_at(bytes, 24),
            l1_size: u32_at(bytes, 36),
            l1_offset: u64_at(bytes, 40),
            reftable_offset: u64_at(bytes, 48),
            reftable_clusters: u32_at(bytes, 56),
            snapshots: u32_at(bytes, 60),
            snapshots_offset: u64_at(bytes, 64),
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: 4,
            compression: Compression::Zlib,
            backing_file: None,
            backing_format: None,
            data_file: None,
            encryption: Encryption::None,
            bitmaps: None,
            extensions: Vec::new(),
            unknown_names: Vec::new(),
        };
        let header_length = if version == 2 { 72 } else { header.parse_version_3(bytes)? };
        header.parse_extensions(bytes, header_length)?;
        header.check_features()?;
        header.parse_encryption(u32_at(bytes, 32))?;
        header.check_tables()?;
        header.parse_backing(bytes, header_length, cluster)?;
        // Nothing larger than what the file could describe.
        if header.l1_size as u64 * 8 > file_len.max(MAX_L1_BYTES) {
            return Err(Error::invalid("Active L1 table too large"));
        }
        Ok(header)
    }

    fn parse_version_3(&mut self, bytes: &[u8]) -> Result<usize> {
        self.incompatible = u64_at(bytes, 72);
        self.compatible = u64_at(bytes, 80);
        self.autoclear = u64_at(bytes, 88);
        self.refcount_order = u32_at(bytes, 96);
        let length = u32_at(bytes, 100) as usize;
        if bytes.len() < 104 || length < 104 {
            return Err(Error::invalid("qcow2 header too short"));
        }
        if length > 1 << self.cluster_bits || length > bytes.len() {
            return Err(Error::invalid("qcow2 header exceeds cluster size"));
        }
        if self.refcount_order > 6 {
            return Err(Error::invalid(
                "Reference count entry width too large; may not exceed 64 bits",
            ));
        }
        if length > 104 {
            self.compression = match bytes.get(104) {
                Some(0) => Compression::Zlib,
                Some(1) => Compression::Zstd,
                Some(kind) => {
                    let text = format!("qcow2: unknown compression type: {kind}");
                    return Err(Error::unsupported(text));
                }
                None => return Err(Error::invalid("qcow2 header too short")),
            };
        }
        let marked = self.incompatible & COMPRESSION_BIT != 0;
        if marked != (self.compression != Compression::Zlib) {
            let must = if marked { "must not be set" } else { "must be set" };
            return Err(Error::invalid(format!(
                "qcow2: Compression type incompatible feature bit {must}"
            )));
        }
        Ok(length)
    }

    fn check_features(&self) -> Result<()> {
        let unknown = self.incompatible & !KNOWN;
        if unknown != 0 {
            // The image may name its own features (`parse_extensions` has put the names here).
            let named = |bit: u32| {
                let name = self.unknown_names.iter().find(|(known, _)| *known == bit);
                name.map(|(_, name)| name.clone())
            };
            let bits = (0..64_u32).filter(|bit| unknown >> bit & 1 != 0);
            let mut names: Vec<String> = bits.clone().filter_map(named).collect();
            let rest = bits.filter(|&bit| named(bit).is_none());
            let rest = rest.fold(0_u64, |mask, bit| mask | 1 << bit);
            if rest != 0 {
                names.push(format!("Unknown incompatible feature: {rest:x}"));
            }
            let text = format!("Unsupported qcow2 feature(s): {}", names.join(", "));
            return Err(Error::unsupported(text));
        }
        if self.has_extended_l2() && self.cluster_bits < 14 {
            return Err(Error::invalid(
                "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
            ));
        }
        Ok(())
    }

    fn parse_encryption(&mut self, method: u32) -> Result<()> {
        match (method, self.encryption) {
            (0, _) => self.encryption = Encryption::None,
            (1, _) => self.encryption = Encryption::Aes,
            (2, Encryption::Luks { .. }) => {}
            (2, _) => {
                let text = "CRYPT_LUKS header is missing in an image with LUKS encryption";
                return Err(Error::invalid(text));
            }
            _ => {
                // As a signed number, as everybody prints it.
                let text = format!("Unsupported encryption method {}", method as i32);
                return Err(Error::invalid(text));
            }
        }
        Ok(())
    }

    /// Refuses what is of no use but to who checks it.
    pub(super) fn refuse_broken(&self) -> Result<()> {
        if self.reftable_clusters == 0 {
            return Err(Error::invalid("Image does not contain a reference count table"));
        }
        if self.snapshots > MAX_SNAPSHOTS {
            return Err(Error::new(libc::EFBIG, "Snapshot table too large"));
        }
        match self.has_place_for_snapshots() {
            true => Ok(()),
            false => Err(Error::invalid("Snapshot table offset invalid")),
        }
    }

    /// Whether a table of snapshots can be where it is said to be.
    pub(super) fn has_place_for_snapshots(&self) -> bool {
        self.snapshots_offset & (self.cluster_size() - 1) == 0
            && (self.snapshots == 0 || self.snapshots_offset < 1 << 62)
    }

    fn check_tables(&self) -> Result<()> {
        let in_cluster = self.cluster_size() - 1;
        let reftable = u64::from(self.reftable_clusters) << self.cluster_bits;
        if reftable > MAX_REFTABLE_BYTES {
            return Err(Error::invalid("Reference count table too large"));
        }
        let fits = |at: u64, len: u64| {
            at & in_cluster == 0 && at.checked_add(len).is_some_and(|end| end < 1 << 62)
        };
        if !fits(self.reftable_offset, reftable) {
            return Err(Error::invalid("Reference count table offset invalid"));
        }
        if u64::from(self.l1_size) * 8 > MAX_L1_BYTES {
            return Err(Error::new(libc::EFBIG, "Active L1 table too large"));
        }
        if self.size > i64::MAX as u64 {
            let text = "Could not refresh total sector count: File too large";
            return Err(Error::new(libc::EFBIG, text));
        }
        let needed = self.l1_entries_for(self.size);
        if needed > i32::MAX as u64 {
            return Err(Error::new(libc::EFBIG, "Image is too big"));
        }
        if u64::from(self.l1_size) < needed {
            return Err(Error::invalid("L1 table is too small"));
        }
        if !fits(self.l1_offset, u64::from(self.l1_size) * 8) {
            return Err(Error::invalid("Active L1 table offset invalid"));
        }
        Ok(())
    }

    fn parse_extensions(&mut self, bytes: &[u8], mut at: usize) -> Result<()> {
        let backing = u64_at(bytes, 8);
        let end = match usize::try_from(backing) {
            Ok(0) | Err(_) => bytes.len(),
            Ok(offset) => offset.min(bytes.len()),
        };
        while at + 8 <= end {
            let (kind, len) = (u32_at(bytes, at), u32_at(bytes, at + 4) as usize);
            at += 8;
            if kind == 0 {
                break;
            }
            let Some(data) = bytes[..end].get(at..).and_then(|rest| rest.get(..len)) else {
                return Err(Error::invalid("Header extension too large"));
            };
            match kind {
                BACKING_FORMAT => {
                    self.backing_format = Some(String::from_utf8_lossy(data).into_owned());
                }
                FEATURE_NAMES => self.read_names(data),
                DATA_FILE_NAME => {
                    self.data_file = Some(String::from_utf8_lossy(data).into_owned());
                }
                ENCRYPTION if len == 16 => {
                    let (at, len) = (u64_at(data, 0), u64_at(data, 8));
                    if at & (self.cluster_size() - 1) != 0 || at.checked_add(len).is_none() {
                        let text = format!(
                            "Encryption header offset '{at}' is not a multiple of cluster size '{}'",
                            self.cluster_size()
                        );
                        return Err(Error::invalid(text));
                    }
                    self.encryption = Encryption::Luks { at, len };
                }
                ENCRYPTION => {
                    return Err(Error::invalid(format!(
                        "CRYPTO header extension size {len}, but expected size 16"
                    )));
                }
                BITMAP_DIRECTORY if len == 24 => {
                    let count = u32_at(data, 0);
                    let (len, at) = (u64_at(data, 8), u64_at(data, 16));
                    self.bitmaps = Some(BitmapDirectory { count, at, len });
                    self.check_bitmaps()?;
                }
                BITMAP_DIRECTORY => {
                    return Err(Error::invalid("bitmaps_ext: Invalid extension length"));
                }
                _ => self.extensions.push((kind, data.to_vec())),
            }
            at = (at + len).next_multiple_of(8);
        }
        Ok(())
    }

    /// Names that the image has for bits which are not known here.
    fn read_names(&mut self, table: &[u8]) {
        for row in table.chunks_exact(48).filter(|row| row[0] == 0) {
            let name = String::from_utf8_lossy(&row[2..]);
            let name = name.trim_end_matches('\0').to_owned();
            if u32::from(row[1]) < 64 && KNOWN >> row[1] & 1 == 0 {
                self.unknown_names.push((u32::from(row[1]), name));
            }
        }
    }

    fn check_bitmaps(&self) -> Result<()> {
        let Some(BitmapDirectory { count, at, len }) = self.bitmaps else { return Ok(()) };
        let fail = |text| Err(Error::invalid(format!("bitmaps_ext: {text}")));
        if self.autoclear & BITMAPS == 0 {
            return Ok(());
        }
        if count == 0 {
            return fail("found bitmaps extension with zero bitmaps");
        }
        if at & (self.cluster_size() - 1) != 0 {
            return fail("invalid bitmap directory offset");
        }
        if count > MAX_BITMAPS || len > u64::from(MAX_BITMAPS) * 1024 {
            return fail("too many bitmaps");
        }
        if len < u64::from(count) * 24 || at.checked_add(len).is_none_or(|end| end >> 62 != 0) {
            return fail("bitmap directory size is wrong");
        }
        Ok(())
    }

    fn parse_backing(&mut self, bytes: &[u8], length: usize, cluster: u64) -> Result<()> {
        let (offset, len) = (u64_at(bytes, 8), u64::from(u32_at(bytes, 16)));
        if offset == 0 || len == 0 && offset <= cluster {
            return Ok(());
        }
        if offset < length as u64 || offset > cluster {
            return Err(Error::invalid("Invalid backing file offset"));
        }
        if len > 1023.min(cluster - offset) {
            return Err(Error::invalid("Backing file name too long"));
        }
        let name = bytes.get(offset as usize..(offset + len) as usize);
        let name = name.ok_or_else(|| Error::invalid("Could not read backing file name"))?;
        self.backing_file = Some(String::from_utf8_lossy(name).into_owned());
        Ok(())
    }

    /// The bytes of the first cluster, as far as they are used.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(512);
        out.extend(MAGIC);
        out.extend(self.version.to_be_bytes());
        out.extend([0; 12]);
        out.extend(self.cluster_bits.to_be_bytes());
        out.extend(self.size.to_be_bytes());
        let method = match self.encryption {
            Encryption::None => 0_u32,
            Encryption::Aes => 1,
            Encryption::Luks { .. } => 2,
        };
        out.extend(method.to_be_bytes());
        out.extend(self.l1_size.to_be_bytes());
        out.extend(self.l1_offset.to_be_bytes());
        out.extend(self.reftable_offset.to_be_bytes());
        out.extend(self.reftable_clusters.to_be_bytes());
        out.extend(self.snapshots.to_be_bytes());
        out.extend(self.snapshots_offset.to_be_bytes());
        if self.version == 3 {
            out.extend(self.incompatible.to_be_bytes());
            out.extend(self.compatible.to_be_bytes());
            out.extend(self.autoclear.to_be_bytes());
            out.extend(self.refcount_order.to_be_bytes());
            out.extend(112_u32.to_be_bytes());
            out.extend([u8::from(self.compression == Compression::Zstd), 0, 0, 0, 0, 0, 0, 0]);
        }
        let mut extensions: Vec<(u32, Vec<u8>)> = Vec::new();
        let mut extension = |kind, data: &[u8]| extensions.push((kind, data.to_vec()));
        if let Some(format) = &self.backing_format {
            extension(BACKING_FORMAT, format.as_bytes());
        }
        if let Some(name) = &self.data_file {
            extension(DATA_FILE_NAME, name.as_bytes());
        }
        if let Encryption::Luks { at, len } = self.encryption {
            extension(ENCRYPTION, &[at.to_be_bytes(), len.to_be_bytes()].concat());
        }
        if self.version == 3 {
            extension(FEATURE_NAMES, &feature_names());
        }
        if let Some(BitmapDirectory { count, at, len }) = self.bitmaps {
            let count = (u64::from(count) << 32).to_be_bytes();
            extension(BITMAP_DIRECTORY, &[count, len.to_be_bytes(), at.to_be_bytes()].concat());
        }
        extensions.extend_from_slice(&self.extensions);
        let name_len = self.backing_file.as_ref().map_or(0, String::len);
        let room = |extensions: &[(u32, Vec<u8>)]| {
            let len = |(_, data): &(u32, Vec<u8>)| 8 + data.len().next_multiple_of(8);
            out.len() + extensions.iter().map(len).sum::<usize>() + 8 + name_len
        };
        if room(&extensions) as u64 > self.cluster_size() {
            // Nice to have, but not needed.
            extensions.retain(|(kind, _)| *kind != FEATURE_NAMES);
        }
        for (kind, data) in &extensions {
            out.extend(kind.to_be_bytes());
            out.extend((data.len() as u32).to_be_bytes());
            out.extend(data);
            out.resize(out.len().next_multiple_of(8), 0);
        }
        out.extend([0; 8]);
        if let Some(name) = &self.backing_file {
            let (at, len) = (out.len() as u64, name.len() as u32);
            out[8..16].copy_from_slice(&at.to_be_bytes());
            out[16..20].copy_from_slice(&len.to_be_bytes());
            out.extend(name.as_bytes());
        }
        if out.len() as u64 > self.cluster_size() {
            return Err(Error::new(libc::ENOSPC, "Header does not fit in a cluster"));
        }
        Ok(out)
    }
}

/// The table of names for feature bits (type, bit, 46 bytes of name).
fn feature_names() -> Vec<u8> {
    const NAMES: [(u8, u8, &str); 8] = [
        (0, 0, "dirty bit"),
        (0, 1, "corrupt bit"),
        (0, 2, "external data file"),
        (0, 3, "compression type"),
        (0, 4, "extended L2 entries"),
        (1, 0, "lazy refcounts"),
        (2, 0, "bitmaps"),
        (2, 1, "raw external data"),
    ];
    let mut out = Vec::new();
    for (kind, bit, name) in NAMES {
        let end = out.len() + 48;
        out.extend([kind, bit]);
        out.extend(name.as_bytes());
        out.resize(end, 0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn good() -> Header {
        Header {
            version: 3,
            cluster_bits: 16,
            size: 10 << 20,
            l1_size: 1,
            l1_offset: 0x30000,
            reftable_offset: 0x10000,
            reftable_clusters: 1,
            snapshots: 0,
            snapshots_offset: 0,
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: 4,
            compression: Compression::Zlib,
            backing_file: Some("base".into()),
            backing_format: Some("raw".into()),
            data_file: None,
            encryption: Encryption::None,
            bitmaps: None,
            extensions: vec![(0x1234, vec![1, 2, 3])],
            unknown_names: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut header = good();
        assert_eq!(Header::parse(&header.to_bytes().unwrap(), 1 << 20).unwrap(), header);
        header.version = 2;
        assert_eq!(Header::parse(&header.to_bytes().unwrap(), 1 << 20).unwrap(), header);
    }

    #[test]
    fn hostile_fields_are_refused_in_known_words() {
        let cases: [(usize, &[u8], &str); 12] = [
            (0, b"X", "Image is not in qcow2 format"),
            (7, &[9], "Unsupported qcow2 version 9"),
            (23, &[30], "Unsupported cluster size: 2^30"),
            (24, &[0xff; 8], "Could not refresh total sector count: File too large"),
            (36, &[0xff; 4], "Active L1 table too large"),
            (36, &[0; 4], "L1 table is too small"),
            (46, &[1], "Active L1 table offset invalid"),
            (54, &[1], "Reference count table offset invalid"),
            (56, &[0x7f], "Reference count table too large"),
            (79, &[0x80], "Unsupported qcow2 feature(s): Unknown incompatible feature: 80"),
            (99, &[9], "Reference count entry width too large; may not exceed 64 bits"),
            (8, &[1], "Invalid backing file offset"),
        ];
        for (at, patch, text) in cases {
            let mut bytes = good().to_bytes().unwrap();
            bytes[at..at + patch.len()].copy_from_slice(patch);
            assert_eq!(Header::parse(&bytes, 1 << 20).unwrap_err().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), sane in 0..120_usize) {
            let good = good().to_bytes().unwrap();
            let keep = sane.min(bytes.len());
            bytes[..keep].copy_from_slice(&good[..keep]);
            let _ = Header::parse(&bytes, 4096);
        }
    }
}
