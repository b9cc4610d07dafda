//! Properties that all disks have, whatever controller they are behind.

use base::prop_enum;
use base::props::{DriveId, OnOffAuto, Props, Size};
use block::backend::{Backend, ErrorPolicy, OnError};

use crate::registry::Slots;

prop_enum! {
    /// `werror`, `rerror`: what happens when a request fails.
    pub enum OnDiskError: "BlockdevOnError", "Error handling policy (report/ignore/enospc/stop/auto)" {
        /// As the drive says.
        Auto = "auto",
        /// The guest is told.
        Report = "report",
        /// The guest is told that it went well.
        Ignore = "ignore",
        /// The machine stops when space runs out; the guest is told of what else fails.
        NoSpace = "enospc",
        /// The machine stops.
        Stop = "stop",
    }
}

impl OnDiskError {
    fn resolve(self, drive: OnError) -> OnError {
        match self {
            OnDiskError::Auto => drive,
            OnDiskError::Report => OnError::Report,
            OnDiskError::Ignore => OnError::Ignore,
            OnDiskError::NoSpace => OnError::NoSpace,
            OnDiskError::Stop => OnError::Stop,
        }
    }
}

/// As listings show that the granularity follows from the disk.
const ANY: Size = Size(u32::MAX as u64);
const SECTOR: u64 = 512;
const MAX_BLOCK: u64 = 2 << 20;

/// Properties of whatever has a back end.
#[derive(Debug, Props)]
pub struct BlockProps {
    /// What is on it.
    pub drive: Option<DriveId>,
    /// Whether sizes follow from the host's disk.
    pub backend_defaults: OnOffAuto,
    /// Size of its blocks, to the guest.
    #[prop(name = "logical_block_size", help = "A power of two between 512 B and 2 MiB")]
    pub logical_block_size: Size,
    /// Size of blocks that are written whole.
    #[prop(name = "physical_block_size", help = "A power of two between 512 B and 2 MiB")]
    pub physical_block_size: Size,
    /// Smallest size of requests that is reasonable.
    pub min_io_size: Size,
    /// Best size of requests.
    pub opt_io_size: Size,
    /// What is discarded is whole multiples of this.
    #[prop(default = ANY)]
    pub discard_granularity: Size,
    /// Whether writes may be done before they survive a power cut.
    #[prop(name = "write-cache")]
    pub write_cache: OnOffAuto,
    /// Whether others may write to it, too.
    #[prop(name = "share-rw")]
    pub share_rw: bool,
    /// Whether requests that make no sense are counted.
    #[prop(name = "account-invalid")]
    pub account_invalid: OnOffAuto,
    /// Whether requests that fail are counted.
    #[prop(name = "account-failed")]
    pub account_failed: OnOffAuto,
}

/// Properties of a disk.
#[derive(Debug, Props)]
pub struct DiskProps {
    /// Its back end.
    #[prop(flatten)]
    pub block: BlockProps,
    /// What happens when reading fails.
    pub rerror: OnDiskError,
    /// What happens when writing fails.
    pub werror: OnDiskError,
    /// Its place in the order in which firmware tries to boot.
    pub bootindex: Option<i32>,
}

/// Cylinders, heads and sectors, if they are not to follow from the size.
#[derive(Debug, Props)]
pub struct GeometryProps {
    /// Cylinders.
    pub cyls: u32,
    /// Heads.
    pub heads: u32,
    /// Sectors of a track.
    pub secs: u32,
    /// Cylinders as the BIOS has them.
    pub lcyls: u32,
    /// Heads as the BIOS has them.
    pub lheads: u32,
    /// Sectors as the BIOS has them.
    pub lsecs: u32,
}

/// Why a disk can not be as its properties want it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskPropError {
    /// A size of blocks.
    #[error("parameter {0} must be a power of 2 between 512 and 2097152")]
    Power(&'static str),
    /// Sizes that do not fit each other.
    #[error("logical_block_size > physical_block_size not supported")]
    Physical,
    /// A size that blocks do not fit.
    #[error("{0} must be a multiple of logical_block_size")]
    Multiple(&'static str),
    /// A number of the geometry.
    #[error("{what} must be between 1 and {max}")]
    Geometry {
        /// Which.
        what: &'static str,
        /// The largest.
        max: u32,
    },
}

/// Sizes of a disk's blocks, decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Of blocks, to the guest.
    pub logical: u32,
    /// Of blocks that are written whole.
    pub physical: u32,
    /// Of the smallest reasonable request, or zero.
    pub min_io: u32,
    /// Of the best request, or zero.
    pub opt_io: u32,
    /// Of what is discarded, if the operator said so.
    pub discard: Option<u32>,
}

impl BlockProps {
    /// Decides the sizes.
    pub fn sizes(&self) -> Result<BlockSizes, DiskPropError> {
        let size = |given: Size, name, default| match given.0 {
            0 => Ok(default),
            size if size.is_power_of_two() && (SECTOR..=MAX_BLOCK).contains(&size) => Ok(size),
            _ => Err(DiskPropError::Power(name)),
        };
        let logical = size(self.logical_block_size, "logical_block_size", SECTOR)?;
        let physical = size(self.physical_block_size, "physical_block_size", SECTOR)?;
        if logical > physical {
            return Err(DiskPropError::Physical);
        }
        let multiple = |given: Size, name| match u32::try_from(given.0) {
            Ok(size) if given.0.is_multiple_of(logical) => Ok(size),
            _ => Err(DiskPropError::Multiple(name)),
        };
        let discard = (self.discard_granularity != ANY)
            .then(|| multiple(self.discard_granularity, "discard_granularity"))
            .transpose()?;
        Ok(BlockSizes {
            logical: logical as u32,
            physical: physical as u32,
            min_io: multiple(self.min_io_size, "min_io_size")?,
            opt_io: multiple(self.opt_io_size, "opt_io_size")?,
            discard,
        })
    }

    /// Has the back end do as the properties say.
    pub fn apply(&self, backend: &Backend) {
        backend.set_write_cache(self.write_cache.resolve(backend.write_cache()));
    }
}

impl BlockSizes {
    /// Tells what the properties have become.
    pub fn tell(&self, slots: &mut dyn Slots) {
        slots.settle("logical_block_size", self.logical.into());
        slots.settle("physical_block_size", self.physical.into());
        if let Some(granularity) = self.discard {
            slots.settle("discard_granularity", granularity.into());
        }
    }
}

impl DiskProps {
    /// Has the back end do as the properties say.
    pub fn apply(&self, backend: &Backend) {
        let drive = backend.error_policy();
        backend.set_error_policy(ErrorPolicy {
            read: self.rerror.resolve(drive.read),
            write: self.werror.resolve(drive.write),
        });
        self.block.apply(backend);
    }
}

/// Cylinders, heads, sectors of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Cylinders.
    pub cylinders: u32,
    /// Heads.
    pub heads: u32,
    /// Sectors of a track.
    pub sectors: u32,
}

impl GeometryProps {
    /// The geometry, or that of a disk of so many bytes; `limits` are the largest numbers.
    pub fn decide(&self, len: u64, limits: Geometry) -> Result<Geometry, DiskPropError> {
        if (self.cyls, self.heads, self.secs) == (0, 0, 0) {
            return Ok(Geometry::of(len));
        }
        for (value, what, max) in [
            (self.cyls, "cyls", limits.cylinders),
            (self.heads, "heads", limits.heads),
            (self.secs, "secs", limits.sectors),
        ] {
            if value == 0 || value > max {
                return Err(DiskPropError::Geometry { what, max });
            }
        }
        Ok(Geometry { cylinders: self.cyls, heads: self.heads, sectors: self.secs })
    }
}

impl Geometry {
    /// Tells what the properties have become.
    pub fn tell(&self, slots: &mut dyn Slots) {
        slots.settle("cyls", self.cylinders.into());
        slots.settle("heads", self.heads.into());
        slots.settle("secs", self.sectors.into());
    }

    /// What a disk of so many bytes has unless told otherwise.
    pub fn of(len: u64) -> Self {
        const HEADS: u32 = 16;
        const SECTORS: u32 = 63;
        let cylinders = len / SECTOR / u64::from(HEADS * SECTORS);
        Geometry { cylinders: cylinders.clamp(2, 16383) as u32, heads: HEADS, sectors: SECTORS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(logical: u64, physical: u64, min_io: u64) -> Result<BlockSizes, String> {
        let props = BlockProps {
            logical_block_size: Size(logical),
            physical_block_size: Size(physical),
            min_io_size: Size(min_io),
            ..BlockProps::default()
        };
        props.sizes().map_err(|error| error.to_string())
    }

    /// Messages of QEMU 10.0.
    #[test]
    fn sizes_must_fit_each_other() {
        let plain = BlockSizes { logical: 512, physical: 512, min_io: 0, opt_io: 0, discard: None };
        assert_eq!(sizes(0, 0, 0), Ok(plain));
        assert_eq!(sizes(4096, 4096, 8192).unwrap().min_io, 8192);
        let power = "parameter logical_block_size must be a power of 2 between 512 and 2097152";
        assert_eq!(sizes(700, 0, 0), Err(power.into()));
        let physical = "logical_block_size > physical_block_size not supported";
        assert_eq!(sizes(4096, 512, 0), Err(physical.into()));
        assert_eq!(sizes(4096, 0, 0), Err(physical.into()));
        let multiple = "min_io_size must be a multiple of logical_block_size";
        assert_eq!(sizes(0, 0, 100), Err(multiple.into()));
    }
}
