//! qcow2 images, versions 2 and 3, after the public description of the format (docs/interop/qcow2 of
//! QEMU's documentation).
//!
//! Requests on clusters that have their place run at the same time, under a shared lock of the
//! metadata; what moves clusters (allocating, zeroing, discarding) holds it alone, so that nobody
//! writes to a cluster that has just become somebody else's.

mod check;
mod compress;
mod create;
mod header;
mod map;
mod meta;
mod refcount;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_lock::RwLock;
use serde_json::{Map, Value, json};

pub use create::{CreateOptions, create};
pub use header::{Compression, Header, MAGIC};
use meta::Meta;

use crate::driver::{CheckReport, Driver, Extent, Io, Preallocation, Repair, ZeroFlags};
use crate::node::Node;
use crate::vector::Vector;
use crate::{Error, Result};

/// An open image.
pub struct Qcow2 {
    file: Arc<Node>,
    backing: Option<Arc<Node>>,
    meta: RwLock<Meta>,
    /// What the header said when it was opened: the parts that do not change.
    fixed: Header,
    len: AtomicU64,
}

impl Qcow2 {
    /// Reads and checks a header.
    pub async fn read_header(file: &Node) -> Result<Header> {
        let len = file.len()?;
        // The largest cluster there is; a header is no longer.
        let bytes = file.read_bytes(0, len.min(2 << 20) as usize).await?;
        let cluster_bits = bytes.get(20..24).map_or(21, |_| u32::from(bytes[23]).clamp(9, 21));
        let first = bytes.len().min(1 << cluster_bits);
        Header::parse(&bytes[..first], len)
    }

    /// Opens an image whose header has been read. A writable one is made consistent first.
    pub async fn open(
        file: Arc<Node>,
        header: Header,
        backing: Option<Arc<Node>>,
        purpose: Purpose,
    ) -> Result<Self> {
        let writable = purpose != Purpose::Read;
        if purpose == Purpose::Write && header.is_corrupt() {
            return Err(Error::new(
                libc::EACCES,
                "qcow2: Image is corrupt; cannot be opened read/write",
            ));
        }
        let mut meta = Meta::load(file.clone(), header.clone()).await?;
        if writable && header.autoclear != 0 {
            meta.header.autoclear = 0;
            meta.write_header().await?;
        }
        let len = AtomicU64::new(header.size);
        let image = Self { file, backing, meta: RwLock::new(meta), fixed: header, len };
        if purpose == Purpose::Write && image.fixed.incompatible & header::DIRTY != 0 {
            let report = image.check_metadata(Repair::All).await?;
            if report.corruptions != 0 || report.errors != 0 {
                return Err(Error::new(libc::EIO, "Could not repair dirty image"));
            }
        }
        Ok(image)
    }

    fn cluster_size(&self) -> u64 {
        self.fixed.cluster_size()
    }
}

/// What an image is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Repairing: also an image marked corrupt is opened for writing.
    Repair,
}

impl Driver for Qcow2 {
    fn name(&self) -> &'static str {
        "qcow2"
    }

    fn len(&self) -> Result<u64> {
        Ok(self.len.load(Ordering::Acquire))
    }

    fn read(&self, at: u64, into: Vector) -> Io<'_, ()> {
        Box::pin(self.read_mapped(at, into))
    }

    fn write(&self, at: u64, from: Vector) -> Io<'_, ()> {
        Box::pin(self.write_mapped(at, from))
    }

    fn write_compressed(&self, at: u64, from: Vector) -> Io<'_, ()> {
        Box::pin(self.write_packed(at, from))
    }

    fn write_zeroes(&self, at: u64, len: u64, flags: ZeroFlags) -> Io<'_, ()> {
        Box::pin(self.zero_range(at, len, flags))
    }

    fn discard(&self, at: u64, len: u64) -> Io<'_, ()> {
        Box::pin(self.discard_range(at, len))
    }

    fn flush(&self) -> Io<'_, ()> {
        Box::pin(async move { self.meta.write().await.write_back().await })
    }

    fn truncate(&self, len: u64, preallocation: Preallocation) -> Io<'_, ()> {
        Box::pin(async move {
            if !len.is_multiple_of(512) {
                return Err(Error::invalid("The new size must be a multiple of 512"));
            }
            self.resize(len, preallocation).await
        })
    }

    fn status(&self, at: u64, len: u64) -> Io<'_, Extent> {
        Box::pin(self.find_extent(at, len))
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.fixed.cluster_size())
    }

    fn backing_name(&self) -> Option<(String, Option<String>)> {
        Some((self.fixed.backing_file.clone()?, self.fixed.backing_format.clone()))
    }

    fn specific_info(&self) -> Option<Map<String, Value>> {
        let header = &self.fixed;
        let mut info = Map::new();
        let compat = if header.version == 2 { "0.10" } else { "1.1" };
        info.insert("compat".into(), json!(compat));
        info.insert("compression-type".into(), json!(header.compression.name()));
        if header.version == 3 {
            let lazy = header.compatible & header::LAZY_REFCOUNTS != 0;
            info.insert("lazy-refcounts".into(), json!(lazy));
        }
        info.insert("refcount-bits".into(), json!(1 << header.refcount_order));
        if header.version == 3 {
            info.insert("corrupt".into(), json!(header.is_corrupt()));
            info.insert("extended-l2".into(), json!(false));
        }
        Some(info)
    }

    fn is_dirty(&self) -> bool {
        self.fixed.incompatible & header::DIRTY != 0
    }

    fn allocated_size(&self) -> Result<Option<u64>> {
        self.file.driver().allocated_size()
    }

    fn vm_state_offset(&self) -> u64 {
        self.fixed.l1_entries_for(self.len.load(Ordering::Acquire))
            << (2 * self.fixed.cluster_bits - 3)
    }

    fn check(&self, repair: Repair) -> Io<'_, CheckReport> {
        Box::pin(self.check_metadata(repair))
    }
}
