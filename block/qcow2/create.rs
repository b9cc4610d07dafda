//! Making an image.

use std::sync::Arc;

use super::header::{COMPRESSION_BIT, DATA_FILE, EXTENDED_L2, LAZY_REFCOUNTS, RAW_DATA_FILE};
use super::meta::{Meta, write_u64s};
use super::{Compression, Encryption, Header, Purpose, Qcow2, Settings, refcount};
use crate::driver::Preallocation;
use crate::luks::{LuksHeader, LuksOptions, Volume};
use crate::node::Node;
use crate::vector::Vector;
use crate::{Error, Result};

/// What an image may be like.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// The guest's disk in bytes.
    pub size: u64,
    /// 2 (`compat=0.10`) or 3 (`compat=1.1`).
    pub version: u32,
    /// The cluster size in bytes.
    pub cluster_size: u64,
    /// The width of a refcount.
    pub refcount_bits: u64,
    /// How compressed clusters will be compressed.
    pub compression: Compression,
    /// The owner may keep refcounts stale behind the dirty bit.
    pub lazy_refcounts: bool,
    /// L2 entries have bitmaps of subclusters.
    pub extended_l2: bool,
    /// The backing file and its format.
    pub backing: Option<(String, Option<String>)>,
    /// The name of the file with the data, if that is kept apart.
    pub data_file: Option<String>,
    /// That file shall read as a raw image.
    pub data_file_raw: bool,
    /// Places ahead of time.
    pub preallocation: Preallocation,
    /// How data is encrypted.
    pub encryption: NewEncryption,
}

/// How a new image is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NewEncryption {
    /// It is not.
    #[default]
    None,
    /// The old way, with a password.
    Aes(Vec<u8>),
    /// By LUKS, with a password.
    Luks(LuksOptions, Vec<u8>),
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            size: 0,
            version: 3,
            cluster_size: 65536,
            refcount_bits: 16,
            compression: Compression::Zlib,
            lazy_refcounts: false,
            extended_l2: false,
            backing: None,
            data_file: None,
            data_file_raw: false,
            preallocation: Preallocation::Off,
            encryption: NewEncryption::None,
        }
    }
}

impl CreateOptions {
    /// The header of such an image: header, refcount table, refcount block, L1 table.
    pub fn header(&self) -> Result<Header> {
        if !self.cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&self.cluster_size) {
            let text = "Cluster size must be a power of two between 512 and 2048k";
            return Err(Error::invalid(text));
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            let text = "Refcount width must be a power of two and may not exceed 64 bits";
            return Err(Error::invalid(text));
        }
        if self.version < 3 && self.refcount_bits != 16 {
            return Err(Error::invalid(
                "Different refcount widths than 16 bits require compatibility level 1.1 or above \
                 (use version=v3 or greater)",
            ));
        }
        if self.version < 3 && self.lazy_refcounts {
            return Err(Error::invalid(
                "Lazy refcounts only supported with compatibility level 1.1 and above (use \
                 version=v3 or greater)",
            ));
        }
        if self.version < 3 && self.compression != Compression::Zlib {
            return Err(Error::invalid(
                "Non-zlib compression type is only supported with compatibility level 1.1 and \
                 above (use version=v3 or greater)",
            ));
        }
        if self.version < 3 && self.extended_l2 {
            return Err(Error::invalid(
                "Extended L2 entries are only supported with compatibility level 1.1 and above \
                 (use version=v3 or greater)",
            ));
        }
        if self.extended_l2 && self.cluster_size < 16384 {
            return Err(Error::invalid(
                "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
            ));
        }
        if self.data_file_raw && self.data_file.is_none() {
            return Err(Error::invalid("data-file-raw requires data-file"));
        }
        if self.data_file_raw && self.backing.is_some() {
            return Err(Error::invalid(
                "Backing file and data-file-raw cannot be used at the same time",
            ));
        }
        if self.version < 3 && self.data_file.is_some() {
            return Err(Error::invalid(
                "External data files are only supported with compatibility level 1.1 and above \
                 (use version=v3 or greater)",
            ));
        }
        let places = self.preallocation != Preallocation::Off;
        if places && self.backing.is_some() && !self.extended_l2 {
            let text = "Backing file and preallocation can only be used at the same time if \
                        extended_l2 is on";
            return Err(Error::invalid(text));
        }
        let flag = |set: bool, bit: u64| if set { bit } else { 0 };
        let zstd = self.compression == Compression::Zstd;
        let mut header = Header {
            version: self.version,
            cluster_bits: self.cluster_size.ilog2(),
            size: self.size.next_multiple_of(512),
            l1_size: 0,
            l1_offset: 3 * self.cluster_size,
            reftable_offset: self.cluster_size,
            reftable_clusters: 1,
            snapshots: 0,
            snapshots_offset: 0,
            incompatible: flag(zstd, COMPRESSION_BIT)
                | flag(self.extended_l2, EXTENDED_L2)
                | flag(self.data_file.is_some(), DATA_FILE),
            compatible: flag(self.lazy_refcounts, LAZY_REFCOUNTS),
            autoclear: flag(self.data_file_raw, RAW_DATA_FILE),
            refcount_order: self.refcount_bits.ilog2(),
            compression: self.compression,
            backing_file: self.backing.as_ref().map(|(name, _)| name.clone()),
            backing_format: self.backing.as_ref().and_then(|(_, format)| format.clone()),
            data_file: self.data_file.clone(),
            encryption: Encryption::None,
            bitmaps: None,
            extensions: Vec::new(),
            unknown_names: Vec::new(),
        };
        let entries = header.l1_entries_for(header.size);
        if header.size > i64::MAX as u64 || entries * 8 > super::header::MAX_L1_BYTES {
            return Err(Error::new(
                libc::EFBIG,
                "The image size is too large (try using a larger cluster size)",
            ));
        }
        header.l1_size = entries as u32;
        Ok(header)
    }
}

/// Writes an empty image into an empty file.
pub async fn create(file: &Arc<Node>, options: &CreateOptions) -> Result<()> {
    create_with_data(file, None, options).await
}

/// Writes an empty image into an empty file; its data will be in another one.
pub async fn create_with_data(
    file: &Arc<Node>,
    data_file: Option<Arc<Node>>,
    options: &CreateOptions,
) -> Result<()> {
    if data_file.is_some() != options.data_file.is_some() {
        return Err(Error::invalid("data-file is required for this image"));
    }
    write_tables(file, options).await?;
    let header = Qcow2::read_header(file).await?;
    let mut settings = Settings::new(Purpose::Write);
    settings.data_file = data_file.clone();
    match &options.encryption {
        NewEncryption::None => {}
        NewEncryption::Aes(password) => {
            let mut meta = Meta::load(file.clone(), None, header.clone(), (8, 8), false).await?;
            meta.header.encryption = Encryption::Aes;
            meta.write_header().await?;
            settings.password = Some(password.clone());
        }
        NewEncryption::Luks(luks, password) => {
            let mut meta = Meta::load(file.clone(), None, header.clone(), (8, 8), false).await?;
            let (draft, _) = LuksHeader::create(luks, 1000)?;
            let len = Volume::len_of_keys(&draft);
            let at = meta.allocate(len.div_ceil(header.cluster_size())).await?;
            Volume::create(file.clone(), at, luks, password).await?;
            meta.settle().await?;
            let end = at + len.next_multiple_of(header.cluster_size());
            if file.len()? < end {
                file.truncate(end, Preallocation::Off).await?;
            }
            meta.header.encryption = Encryption::Luks { at, len };
            meta.write_header().await?;
            settings.password = Some(password.clone());
        }
    }
    if let Some(data) = &data_file {
        data.truncate(header.size, Preallocation::Off).await?;
    }
    let mode = match options.preallocation {
        // Who reads the raw file must not find less than the image has.
        Preallocation::Off if options.data_file_raw => Preallocation::Metadata,
        mode => mode,
    };
    if mode != Preallocation::Off {
        let header = Qcow2::read_header(file).await?;
        let size = header.size;
        let image = Qcow2::open(file.clone(), header, settings).await?;
        image.preallocate(0, size, mode).await?;
        image.settle().await?;
    }
    Ok(())
}

async fn write_tables(file: &Arc<Node>, options: &CreateOptions) -> Result<()> {
    let mut header = options.header()?;
    // The L1 table is made by growing it when it does not fit behind the first refcount block.
    let l1_entries = u64::from(header.l1_size);
    let cluster = header.cluster_size();
    let refs_per_block = cluster * 8 >> header.refcount_order;
    let l1_clusters = (l1_entries * 8).div_ceil(cluster).max(u64::from(l1_entries > 0));
    let fits = 3 + l1_clusters <= refs_per_block;
    let size = header.size;
    if !fits {
        (header.l1_size, header.size) = (0, 0);
    }
    let used = if fits { 3 + l1_clusters } else { 3 };
    let mut block = vec![0; cluster as usize];
    for index in 0..used {
        refcount::set(&mut block, header.refcount_order, index, 1);
    }
    let mut table = vec![0; cluster as usize / 8];
    table[0] = 2 * cluster;
    let mut first = header.to_bytes()?;
    first.resize(cluster as usize, 0);
    file.write(2 * cluster, Vector::from(&block[..])).await?;
    write_u64s(file, cluster, &table).await?;
    if fits && l1_entries > 0 {
        file.write(3 * cluster, Vector::zeroed(l1_entries as usize * 8)).await?;
    }
    file.write(0, Vector::from(&first[..])).await?;
    file.flush().await?;
    if !fits {
        let mut meta = Meta::load(file.clone(), None, header, (8, 8), false).await?;
        meta.grow_l1(l1_entries).await?;
        meta.header.size = size;
        meta.write_header().await?;
    }
    Ok(())
}
