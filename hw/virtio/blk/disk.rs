//! The disk behind a block device, which all its queues share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use block::backend::{Backend, Request};

use super::props::{BlkError, BlkProps, MAX_QUEUES, PER_PROCESSOR};
use super::{SECTOR, config};
use crate::storage::props::{BlockSizes, Geometry};
use crate::virtio::ToDriver;

/// Buffers of a request where the size of the queue does not matter.
const FIXED_SEG_MAX: u32 = 126;
const LIMITS: Geometry = Geometry { cylinders: 65535, heads: 255, sectors: 255 };

/// What the driver is shown, decided once.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub sizes: BlockSizes,
    geometry: Geometry,
    pub queues: u16,
    seg_max: u32,
    pub config_write_cache: bool,
    /// Sectors; zero if that can not be done.
    pub max_discard: u32,
    /// Sectors; zero if that can not be done.
    pub max_zeroes: u32,
    report_discard_granularity: bool,
    pub serial: Vec<u8>,
    pub merges: bool,
}

impl Shown {
    pub fn decide(props: &BlkProps, backend: &Backend, processors: u32) -> Result<Self, BlkError> {
        props.check()?;
        let sizes = props.disk.block.sizes()?;
        let geometry = props.geometry.decide(backend.len().unwrap_or(0), LIMITS)?;
        let queues = match props.num_queues {
            PER_PROCESSOR => processors.clamp(1, MAX_QUEUES.into()) as u16,
            queues => queues,
        };
        let seg_max = match props.seg_max_adjust {
            true => u32::from(props.queue_size) - 2,
            false => FIXED_SEG_MAX,
        };
        Ok(Shown {
            sizes,
            geometry,
            queues,
            seg_max,
            config_write_cache: props.config_wce,
            max_discard: if props.discard { props.max_discard_sectors } else { 0 },
            max_zeroes: if props.write_zeroes { props.max_write_zeroes_sectors } else { 0 },
            report_discard_granularity: props.report_discard_granularity,
            serial: props.serial.clone().unwrap_or_default().into_bytes(),
            merges: props.request_merging,
        })
    }

    pub fn config_len(&self) -> usize {
        let discards = self.max_discard > 0 || self.max_zeroes > 0;
        if discards { config::LEN } else { config::SHORT_LEN }
    }
}

/// The disk.
pub(super) struct Disk {
    pub shown: Shown,
    pub backend: Arc<Backend>,
    pub driver: OnceLock<Arc<ToDriver>>,
    /// Length in bytes.
    pub len: AtomicU64,
}

impl Disk {
    pub fn new(shown: Shown, backend: Arc<Backend>) -> Arc<Self> {
        let len = AtomicU64::new(backend.len().unwrap_or(0));
        Arc::new(Disk { shown, backend, driver: OnceLock::new(), len })
    }

    pub fn connect(&self, driver: &Arc<ToDriver>) {
        self.driver.get_or_init(|| driver.clone());
    }

    /// Whether a request for these bytes is inside, and made of whole blocks.
    pub fn takes(&self, at: u64, len: u64) -> bool {
        let logical = u64::from(self.shown.sizes.logical);
        let whole = at.is_multiple_of(logical) && len.is_multiple_of(logical);
        whole && at.checked_add(len).is_some_and(|end| end <= self.len.load(Ordering::Acquire))
    }

    pub fn set_write_cache(&self, on: bool) {
        let was = self.backend.write_cache();
        self.backend.set_write_cache(on);
        if was && !on {
            // What is in the cache is to survive, too.
            self.backend.submit(Request::Flush, Box::new(|_| ()));
        }
    }

    /// The device's configuration.
    pub fn config(&self) -> Vec<u8> {
        let Shown { sizes, geometry, .. } = &self.shown;
        let mut bytes = vec![0; config::LEN];
        let mut put = |at: usize, value: u64, len: usize| {
            bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        };
        let blocks = sizes.logical / SECTOR as u32;
        put(config::CAPACITY, self.len.load(Ordering::Acquire) / SECTOR, 8);
        put(config::SEG_MAX, self.shown.seg_max.into(), 4);
        put(config::CYLINDERS, geometry.cylinders.into(), 2);
        put(config::HEADS, geometry.heads.into(), 1);
        // A track has whole blocks.
        put(config::SECTORS, (geometry.sectors & !(blocks - 1)).into(), 1);
        put(config::BLOCK_SIZE, sizes.logical.into(), 4);
        put(config::PHYSICAL_EXPONENT, (sizes.physical / sizes.logical).ilog2().into(), 1);
        put(config::MIN_IO, (sizes.min_io / sizes.logical).into(), 2);
        put(config::OPT_IO, (sizes.opt_io / sizes.logical).into(), 4);
        put(config::WRITE_CACHE, self.backend.write_cache().into(), 1);
        put(config::QUEUES, self.shown.queues.into(), 2);
        if self.shown.max_discard > 0 {
            let granularity = match sizes.discard {
                Some(size) if size > 0 && self.shown.report_discard_granularity => size,
                _ => sizes.logical,
            };
            put(config::MAX_DISCARD, self.shown.max_discard.into(), 4);
            put(config::MAX_DISCARD_SEGMENTS, 1, 4);
            put(config::DISCARD_ALIGNMENT, u64::from(granularity) / SECTOR, 4);
        }
        if self.shown.max_zeroes > 0 {
            put(config::MAX_ZEROES, self.shown.max_zeroes.into(), 4);
            put(config::MAX_ZEROES_SEGMENTS, 1, 4);
            put(config::ZEROES_MAY_UNMAP, 1, 1);
        }
        bytes.truncate(self.shown.config_len());
        bytes
    }
}
