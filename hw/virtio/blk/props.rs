//! Properties of block devices.

use base::props::{LinkId, Props};

use crate::storage::props::{DiskPropError, DiskProps, GeometryProps};
use crate::virtio::pci::VirtioPciError;

/// As many queues as there are processors.
pub(super) const PER_PROCESSOR: u16 = u16::MAX;
/// Sectors that a request may be about, at most.
pub(super) const MAX_SECTORS: u32 = i32::MAX as u32 >> 9;
const MAX_QUEUE: u16 = 1024;
const MIN_QUEUE: u16 = 2;

/// Properties of a block device.
#[derive(Debug, Props)]
pub struct BlkProps {
    /// The disk.
    #[prop(flatten)]
    pub disk: DiskProps,
    /// Its geometry.
    #[prop(flatten)]
    pub geometry: GeometryProps,
    /// Whether the driver may switch the write cache.
    #[prop(name = "config-wce", default = true)]
    pub config_wce: bool,
    /// Whether the driver may discard.
    #[prop(default = true)]
    pub discard: bool,
    /// The thread that takes requests from the queues.
    pub iothread: Option<LinkId>,
    /// Sectors that a discard may be about.
    #[prop(name = "max-discard-sectors", default = MAX_SECTORS)]
    pub max_discard_sectors: u32,
    /// Sectors that zeroing may be about.
    #[prop(name = "max-write-zeroes-sectors", default = MAX_SECTORS)]
    pub max_write_zeroes_sectors: u32,
    /// How many queues there are.
    #[prop(name = "num-queues", default = PER_PROCESSOR)]
    pub num_queues: u16,
    /// Descriptors of a queue.
    #[prop(name = "queue-size", default = 256)]
    pub queue_size: u16,
    /// Whether the driver is told how much is discarded at once.
    #[prop(name = "report-discard-granularity", default = true)]
    pub report_discard_granularity: bool,
    /// Whether requests for neighbouring sectors become one.
    #[prop(name = "request-merging", default = true)]
    pub request_merging: bool,
    /// Whether requests may have as many buffers as fit into a queue.
    #[prop(name = "seg-max-adjust", default = true)]
    pub seg_max_adjust: bool,
    /// Serial number.
    pub serial: Option<String>,
    /// Whether the driver may write zeroes.
    #[prop(name = "write-zeroes", default = true)]
    pub write_zeroes: bool,
}

/// Why a block device could not be plugged.
#[derive(Debug, thiserror::Error)]
pub enum BlkError {
    /// There must be a queue.
    #[error("num-queues property must be larger than 0")]
    NoQueues,
    /// There must be one for each vector at most.
    #[error("num-queues property must be at most {MAX_QUEUES}")]
    TooManyQueues,
    /// Too many descriptors, or a number that is not a power of two.
    #[error("invalid queue-size property ({0}), must be a power of 2 (max {MAX_QUEUE})")]
    QueueSize(u16),
    /// Too few descriptors.
    #[error("invalid queue-size property ({0}), must be > {MIN_QUEUE}")]
    SmallQueue(u16),
    /// A number of sectors.
    #[error("invalid {name} property ({value}), must be between 1 and {MAX_SECTORS}")]
    Sectors {
        /// Name of the property.
        name: &'static str,
        /// Its value.
        value: u32,
    },
    /// A property of disks.
    #[error(transparent)]
    Disk(#[from] DiskPropError),
    /// The transport.
    #[error(transparent)]
    Pci(#[from] VirtioPciError),
    /// The back end.
    #[error(transparent)]
    Backend(#[from] block::Error),
}

/// Queues that the transport has places for.
pub(super) const MAX_QUEUES: u16 = 1024;

impl BlkProps {
    pub(super) fn check(&self) -> Result<(), BlkError> {
        match self.num_queues {
            0 => return Err(BlkError::NoQueues),
            PER_PROCESSOR | 1..=MAX_QUEUES => {}
            _ => return Err(BlkError::TooManyQueues),
        }
        match self.queue_size {
            size if size <= MIN_QUEUE => return Err(BlkError::SmallQueue(size)),
            size if !size.is_power_of_two() || size > MAX_QUEUE => {
                return Err(BlkError::QueueSize(size));
            }
            _ => {}
        }
        for (on, name, value) in [
            (self.discard, "max-discard-sectors", self.max_discard_sectors),
            (self.write_zeroes, "max-write-zeroes-sectors", self.max_write_zeroes_sectors),
        ] {
            if on && !(1..=MAX_SECTORS).contains(&value) {
                return Err(BlkError::Sectors { name, value });
            }
        }
        Ok(())
    }
}
