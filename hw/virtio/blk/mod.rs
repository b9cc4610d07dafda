//! The block device (virtio 1.2, 5.2).

mod disk;
mod props;
mod request;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::interrupt::MsiSink;
use block::backend::{Backend, Drive, Use};

use super::Model;
use super::features::{ANY_LAYOUT, VERSION_1};
use super::pci::{Kind, Place, Shape, VirtioPci, VirtioPciError, Wiring};
use crate::pci::{PciBus, PciFunction, ids};
use crate::registry::{self, Identity};

pub use props::{BlkError, BlkProps};

use disk::{Disk, Shown};
use worker::Worker;

const KIND: Kind =
    Kind { id: 2, transitional: ids::QUMRANET_VIRTIO_BLOCK, class: 0x01_0000, rom: None };

/// Feature bits (5.2.3).
mod feature {
    pub const SEG_MAX: u64 = 1 << 2;
    pub const GEOMETRY: u64 = 1 << 4;
    pub const READ_ONLY: u64 = 1 << 5;
    pub const BLOCK_SIZE: u64 = 1 << 6;
    /// Legacy: SCSI commands, which are refused one by one.
    pub const SCSI: u64 = 1 << 7;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const CONFIG_WRITE_CACHE: u64 = 1 << 11;
    pub const MULTI_QUEUE: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// Configuration (5.2.4).
mod config {
    pub const CAPACITY: usize = 0;
    pub const SEG_MAX: usize = 12;
    pub const CYLINDERS: usize = 16;
    pub const HEADS: usize = 18;
    pub const SECTORS: usize = 19;
    pub const BLOCK_SIZE: usize = 20;
    pub const PHYSICAL_EXPONENT: usize = 24;
    pub const MIN_IO: usize = 26;
    pub const OPT_IO: usize = 28;
    pub const WRITE_CACHE: usize = 32;
    pub const QUEUES: usize = 34;
    pub const MAX_DISCARD: usize = 36;
    pub const MAX_DISCARD_SEGMENTS: usize = 40;
    pub const DISCARD_ALIGNMENT: usize = 44;
    pub const MAX_ZEROES: usize = 48;
    pub const MAX_ZEROES_SEGMENTS: usize = 52;
    pub const ZEROES_MAY_UNMAP: usize = 56;
    /// Bytes, with and without what concerns discarding.
    pub const LEN: usize = 60;
    pub const SHORT_LEN: usize = 36;
}

const SECTOR: u64 = 512;

/// Where a block device goes, and who serves it.
pub struct Placement<'a> {
    /// The bus.
    pub bus: &'a PciBus,
    /// Its transport.
    pub place: Place<'a>,
    /// Who it is.
    pub identity: Identity,
    /// The thread that takes requests from its queues.
    pub worker: registry::Worker,
    /// Processors of the machine.
    pub processors: u32,
    /// Where messages go.
    pub msi: Arc<dyn MsiSink>,
}

/// The model.
pub struct Blk {
    disk: Arc<Disk>,
    workers: Vec<Arc<Worker>>,
    /// The write cache before the driver changes it.
    write_cache: bool,
    thread: registry::Worker,
}

impl Blk {
    /// Plugs a block device with a back end.
    pub fn plug(
        placement: Placement<'_>,
        props: &BlkProps,
        backend: Arc<Backend>,
    ) -> Result<Arc<PciFunction>, BlkError> {
        let Placement { bus, place, identity, worker, processors, msi } = placement;
        // Refused in QEMU's order: the place comes before the disk.
        bus.check_place(place.type_name, &place.props.pci).map_err(VirtioPciError::from)?;
        let shown = Shown::decide(props, &backend, processors)?;
        let what = Use {
            id: identity.id,
            // QEMU's name for what is behind the transport.
            path: format!("{}/virtio-backend", identity.path),
            needs_medium: true,
            must_write: false,
            writes: !backend.info().read_only,
            resizes: true,
            shares_writes: props.disk.block.share_rw,
        };
        let shape = Shape {
            queue_sizes: vec![props.queue_size; shown.queues.into()],
            config_len: shown.config_len(),
        };
        let disk = Disk::new(shown, backend.clone());
        let weak = Arc::downgrade(&disk);
        backend.plug(what, Some(weak as _))?;
        props.disk.apply(&backend);
        let plugged = VirtioPci::plug(bus, &KIND, place, &shape, msi, |wiring| {
            Box::new(Blk::new(disk, wiring, worker))
        });
        plugged.map_err(|error| {
            backend.unplug();
            error.into()
        })
    }

    fn new(disk: Arc<Disk>, wiring: &Wiring, thread: registry::Worker) -> Self {
        disk.connect(&wiring.driver);
        let workers =
            wiring.queues.iter().map(|queue| Worker::start(&disk, queue, &thread.event_loop));
        let write_cache = disk.backend.write_cache();
        Blk { workers: workers.collect(), write_cache, disk, thread }
    }
}

impl Model for Blk {
    fn features(&self, common: u64) -> u64 {
        let shown = &self.disk.shown;
        let mut offered =
            common | feature::SEG_MAX | feature::GEOMETRY | feature::BLOCK_SIZE | feature::TOPOLOGY;
        if common & VERSION_1 == 0 {
            offered = offered & !ANY_LAYOUT | feature::SCSI;
        }
        for (on, bit) in [
            (shown.config_write_cache, feature::CONFIG_WRITE_CACHE),
            (self.write_cache || shown.config_write_cache, feature::FLUSH),
            (self.disk.backend.is_read_only(), feature::READ_ONLY),
            (shown.queues > 1, feature::MULTI_QUEUE),
            (shown.max_discard > 0, feature::DISCARD),
            (shown.max_zeroes > 0, feature::WRITE_ZEROES),
        ] {
            if on {
                offered |= bit;
            }
        }
        offered
    }

    fn config(&self) -> Vec<u8> {
        self.disk.config()
    }

    fn write_config(&mut self, at: usize, bytes: &[u8]) {
        if self.disk.shown.config_write_cache
            && let Some(byte) = config::WRITE_CACHE.checked_sub(at).and_then(|at| bytes.get(at))
        {
            self.disk.set_write_cache(*byte != 0);
        }
    }

    fn activate(&mut self, features: u64) {
        // A driver that can neither flush nor switch the cache relies on there being none (5.2.6.2).
        if features & feature::CONFIG_WRITE_CACHE == 0 {
            self.disk.set_write_cache(features & feature::FLUSH != 0);
        }
    }

    fn reset(&mut self) {
        self.disk.backend.forget_parked();
        self.disk.backend.set_write_cache(self.write_cache);
    }

    fn unplug(&mut self) {
        // The queues give no more chains; whoever still serves one comes to its end first.
        self.thread.settle();
        self.workers.clear();
        let backend = &self.disk.backend;
        // What fails while it is waited for may be parked.
        backend.forget_parked();
        backend.drain();
        backend.forget_parked();
        backend.unplug();
    }
}

impl Drive for Disk {
    fn resized(&self) {
        if let Some(driver) = self.driver.get() {
            self.len.store(self.backend.len().unwrap_or(0), Ordering::Release);
            driver.config_changed();
        }
    }
}
