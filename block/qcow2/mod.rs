//! qcow2 images, versions 2 and 3, after the public description of the format (docs/interop/qcow2 of
//! QEMU's documentation).
//!
//! Three things keep requests apart:
//! - `meta`, a lock of the tables in memory, held while they are looked at or changed, never while
//!   the guest's bytes move;
//! - `flights`, the ranges that are being given a place: written outside the lock, linked afterwards;
//! - `gate`, held in common by every request while it uses places that it has looked up. Who changes
//!   the image as a whole (snapshots, length, repair) takes it alone; and clusters that were freed
//!   are only used again when everybody has passed it once.

mod amend;
mod bitmap;
mod cache;
mod check;
mod compress;
mod create;
mod draft;
mod empty;
mod encrypted;
mod entry;
mod flight;
mod header;
mod home;
mod image;
mod map;
mod meta;
mod open;
mod overlap;
mod rebuild;
mod refcount;
mod resize;
mod settings;
mod snapshot;
mod write;
mod zero;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

pub use amend::AmendOptions;
use bitmap::LiveBitmaps;
pub use create::{CreateOptions, NewEncryption, create, create_with_data};
use encrypted::Crypt;
use entry::Shape;
use flight::Flights;
pub use header::{Compression, Encryption, Header, MAGIC};
use meta::Meta;
pub(crate) use open::open;
pub use overlap::Corruption;
pub use settings::{OnCorruption, Purpose, Settings};

use crate::driver::Repair;
use crate::engine::block_on;
use crate::lock::RwLock;
use crate::luks::Volume;
use crate::node::Node;
use crate::vector::Scratch;
use crate::{Error, Result};

/// An open image.
pub struct Qcow2 {
    file: Arc<Node>,
    backing: parking_lot::RwLock<Option<Arc<Node>>>,
    data_file: Option<Arc<Node>>,
    settings: parking_lot::RwLock<Arc<Settings>>,
    gate: RwLock<()>,
    meta: RwLock<Meta>,
    /// For what a write copies.
    scratch: Scratch,
    flights: Arc<Flights>,
    /// Writes of parts of encrypted sectors, one at a time.
    partial: async_lock::Mutex<()>,
    /// The keys, where they can be changed.
    volume: Option<Volume>,
    crypt: Option<Crypt>,
    compression: Compression,
    raw_data_file: bool,
    bitmaps: LiveBitmaps,
    /// Entries, as version 3 has them.
    shape: Shape,
    /// The image has become version 2, or 3, since.
    zero_flag: AtomicBool,
    len: AtomicU64,
    /// What the header says.
    published: Arc<Mutex<Arc<Header>>>,
    found: Arc<Mutex<Option<Corruption>>>,
    /// It is open for writing.
    writable: AtomicBool,
    /// The image is corrupt beyond use.
    dead: AtomicBool,
    complained: AtomicBool,
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
    pub async fn open(file: Arc<Node>, header: Header, mut settings: Settings) -> Result<Self> {
        let purpose = settings.purpose;
        if purpose == Purpose::Write {
            refuse_corrupt(&header)?;
        }
        if !settings.checks {
            header.refuse_broken()?;
        }
        let raw = header.autoclear & header::RAW_DATA_FILE != 0;
        if raw && !header.has_data_file() && !settings.no_data {
            return Err(Error::invalid("data-file-raw requires a data file"));
        }
        if header.has_data_file() && settings.data_file.is_none() && !settings.no_data {
            return Err(Error::invalid("'data-file' is required for this image"));
        }
        if !header.has_data_file() && settings.data_file.is_some() {
            return Err(Error::invalid(
                "'data-file' can only be set for images with an external data file",
            ));
        }
        let (volume, crypt) = encrypted::open_keys(&file, &header, &settings).await?;
        let limits = settings.limits(&header);
        let data_file = settings.data_file.clone();
        let (data, checks) = (data_file.clone(), settings.checks);
        let mut meta = Meta::load(file.clone(), data, header.clone(), limits, checks).await?;
        meta.lazy = settings.is_lazy(&header);
        let bitmaps = LiveBitmaps::load(&file, &header).await?;
        let image = Self {
            bitmaps,
            backing: parking_lot::RwLock::new(settings.backing.take()),
            data_file,
            gate: RwLock::new(()),
            flights: Arc::default(),
            scratch: Scratch::default(),
            partial: async_lock::Mutex::new(()),
            volume,
            crypt,
            compression: header.compression,
            raw_data_file: header.is_data_file_raw(),
            shape: Shape::of(&header),
            zero_flag: AtomicBool::new(header.version >= 3),
            len: AtomicU64::new(header.size),
            published: meta.published.clone(),
            found: meta.found.clone(),
            writable: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            complained: AtomicBool::new(false),
            meta: RwLock::new(meta),
            file,
            settings: parking_lot::RwLock::new(Arc::new(settings)),
        };
        if purpose != Purpose::Read {
            image.begin_writing().await?;
        }
        Ok(image)
    }

    /// From now on the image is written. It is made consistent, unless somebody is about to do that.
    async fn begin_writing(&self) -> Result<()> {
        let repairs = self.settings().purpose == Purpose::Repair;
        let dirty = {
            let mut meta = self.meta.write().await;
            if !repairs {
                refuse_corrupt(&meta.header)?;
            }
            meta.protected = self.settings().protected;
            meta.survey_all().await?;
            let known = header::BITMAPS | header::RAW_DATA_FILE;
            if meta.header.autoclear & !known != 0 {
                meta.header.autoclear &= known;
                meta.write_header().await?;
            }
            meta.header.incompatible & header::DIRTY != 0
        };
        self.writable.store(true, Ordering::Release);
        if dirty && !repairs {
            let report = self.check_metadata(Repair::All).await?;
            if report.corruptions != 0 || report.errors != 0 {
                return Err(Error::new(libc::EIO, "Could not repair dirty image"));
            }
        }
        if !repairs {
            self.mark_bitmaps().await?;
        }
        Ok(())
    }

    /// How its user wants it.
    fn settings(&self) -> Arc<Settings> {
        self.settings.read().clone()
    }

    /// Has it be used otherwise from now on.
    async fn change_settings(&self, settings: Settings) -> Result<()> {
        let mut meta = self.meta.write().await;
        let lazy = settings.is_lazy(&meta.header);
        if self.is_writable() {
            if meta.lazy && !lazy {
                meta.settle().await?;
            }
            meta.protected = settings.protected;
            meta.survey_all().await?;
        }
        meta.lazy = lazy;
        let limits = settings.limits(&meta.header);
        meta.set_limits(limits);
        *self.settings.write() = Arc::new(settings);
        Ok(())
    }

    /// What shows where the image has nothing.
    fn backing(&self) -> Option<Arc<Node>> {
        self.backing.read().clone()
    }

    fn has_backing(&self) -> bool {
        self.backing.read().is_some()
    }

    /// Whether the image is open for writing.
    fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    fn shape(&self) -> Shape {
        Shape { zero_flag: self.zero_flag.load(Ordering::Relaxed), ..self.shape }
    }

    fn size(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// The header as it is now.
    pub fn header(&self) -> Arc<Header> {
        self.published.lock().clone()
    }

    /// Whether a request may begin.
    fn check_alive(&self) -> Result<()> {
        if self.dead.load(Ordering::Relaxed) {
            return Err(Error::from_errno(libc::ENOMEDIUM));
        }
        Ok(())
    }

    /// Looks at why a request failed, or at what it came upon. When the image cannot be right, it is
    /// marked, so that nobody makes it worse, and somebody is told.
    async fn judge<T>(&self, result: Result<T>) -> Result<T> {
        let Some(mut corruption) = self.found.lock().take() else { return result };
        let writable = self.is_writable() && !self.file.is_read_only();
        corruption.fatal &= writable;
        if !self.complained.swap(true, Ordering::Relaxed) {
            match &self.settings().on_corruption {
                Some(tell) => tell(&corruption),
                None => corruption.announce(),
            }
        }
        if corruption.fatal && !self.dead.swap(true, Ordering::Relaxed) {
            let mut meta = self.meta.write().await;
            if meta.header.version >= 3 {
                meta.header.incompatible |= header::CORRUPT;
                // The error that led here matters more than one of writing this.
                let _ = meta.write_header().await;
            }
        }
        result
    }

    /// Writes back what is in memory; what is free on the disk then can be used again.
    async fn flush_all(&self) -> Result<()> {
        self.check_alive()?;
        self.file.event("flush_to_os").await;
        let is_dirty = self.meta.read().await.is_dirty();
        let unlinked = match is_dirty {
            true => {
                let mut meta = self.meta.write().await;
                meta.write_back().await?;
                std::mem::take(&mut meta.unlinked)
            }
            false => Vec::new(),
        };
        self.file.event("flush_to_disk").await;
        if let Some(data) = &self.data_file {
            data.flush().await?;
        }
        self.file.flush().await?;
        if unlinked.is_empty() {
            return Ok(());
        }
        // Everybody who may still be using one of them.
        drop(self.gate.write().await);
        let mut meta = self.meta.write().await;
        meta.release_these(unlinked, |why| self.settings().passes(why)).await
    }

    /// Ends the use of the image: nothing is left in memory, nothing on the disk is stale.
    async fn settle(&self) -> Result<()> {
        if !self.is_writable() || self.dead.load(Ordering::Relaxed) {
            return Ok(());
        }
        // What could not be written is tried again below, and that error counts.
        let _ = self.flush_all().await;
        let _gate = self.gate.write().await;
        let mut meta = self.meta.write().await;
        self.store_bitmaps(&mut meta).await?;
        meta.settle().await
    }
}

fn refuse_corrupt(header: &Header) -> Result<()> {
    match header.is_corrupt() {
        true => {
            let text = "qcow2: Image is corrupt; cannot be opened read/write";
            Err(Error::new(libc::EACCES, text))
        }
        false => Ok(()),
    }
}

/// What nobody has closed is closed here. Whoever drops the last hold on an image waits for that.
impl Drop for Qcow2 {
    fn drop(&mut self) {
        if !self.is_writable() {
            return;
        }
        let meta = self.meta.get_mut();
        let stale = meta.lazy && meta.header.incompatible & header::DIRTY != 0;
        if meta.is_dirty() || stale || self.bitmaps.is_changed() {
            // Nobody is left who could be told of an error.
            let _ = block_on(self.settle());
        }
    }
}
