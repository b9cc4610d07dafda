//! `floppy`: drives that the operator puts on the floppy disk controller.

use std::sync::{Arc, Weak};

use base::device::WeakShared;
use base::props::Props;
use block::backend::{Drive as BackendUser, Use};

use super::ata::channel::sectors;
use super::fdc::formats::DriveKind;
use super::fdc::{DRIVES, Fdc};
use super::props::{BlockProps, DiskPropError};
use crate::registry::{self, DeviceError, Fact, Slots};

base::prop_enum! {
    /// Kind of a drive.
    pub enum DriveType: "FloppyDriveType", "Floppy drive type (144/288/120/none/auto)" {
        /// That for which the disk was made that is inside.
        Auto = "auto",
        /// 1.44 MB.
        High3 = "144",
        /// 2.88 MB.
        Extended3 = "288",
        /// 1.2 MB.
        High5 = "120",
        /// No drive, to firmware.
        None = "none",
    }
}

impl DriveType {
    /// The kind of drive, if it is one, and not left open.
    pub fn kind(self) -> Option<DriveKind> {
        match self {
            DriveType::Auto | DriveType::None => None,
            DriveType::High3 => Some(DriveKind::High3),
            DriveType::Extended3 => Some(DriveKind::Extended3),
            DriveType::High5 => Some(DriveKind::High5),
        }
    }
}

impl From<Option<DriveKind>> for DriveType {
    fn from(kind: Option<DriveKind>) -> Self {
        match kind {
            None => DriveType::None,
            Some(DriveKind::High3) => DriveType::High3,
            Some(DriveKind::Extended3) => DriveType::Extended3,
            Some(DriveKind::High5) => DriveType::High5,
        }
    }
}

/// What the controller takes a drive for that firmware is to know nothing of.
const UNKNOWN: DriveKind = DriveKind::Extended3;
/// The device picks its place itself.
const PICK: u32 = u32::MAX;

/// `floppy`
#[derive(Debug, Props)]
pub struct FloppyProps {
    /// Place on the controller.
    #[prop(default = PICK)]
    unit: u32,
    #[prop(flatten)]
    block: BlockProps,
    #[prop(name = "drive-type")]
    drive_type: DriveType,
}

/// Why a drive cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FloppyError {
    /// There are not so many places.
    #[error("Can't create floppy unit {0}, bus supports only {DRIVES} units")]
    NoSuchPlace(usize),
    /// Another drive is there.
    #[error("Floppy unit {0} is in use")]
    Taken(usize),
    /// Sectors have 512 bytes.
    #[error("Physical and logical block size must be 512 for floppy")]
    NotASector,
    /// Its sizes.
    #[error(transparent)]
    Disk(#[from] DiskPropError),
}

/// A drive as firmware's tables describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloppyFact {
    /// Its place.
    pub place: usize,
    /// Its kind.
    pub kind: DriveKind,
}

/// Adds a `floppy`.
pub fn add(props: &FloppyProps, slots: &mut dyn Slots) -> Result<(), DeviceError> {
    let fdc = slots.fdc().clone();
    let taken = |place| fdc.lock().is_taken(place);
    let place = match props.unit {
        PICK => (0..DRIVES).find(|&place| !taken(place)).unwrap_or(DRIVES),
        unit => unit as usize,
    };
    if place >= DRIVES {
        return Err(FloppyError::NoSuchPlace(place).into());
    }
    if taken(place) {
        return Err(FloppyError::Taken(place).into());
    }
    let sizes = props.block.sizes().map_err(FloppyError::from)?;
    if (sizes.logical, sizes.physical) != (512, 512) {
        return Err(FloppyError::NotASector.into());
    }
    let backend = match &props.block.drive {
        Some(id) => registry::drive(slots, "floppy", id)?,
        None => slots.empty_drive(),
    };
    let listener = Arc::new(Listener { fdc: Arc::downgrade(&fdc), place });
    let weak = Arc::downgrade(&listener);
    let weak: Weak<dyn BackendUser> = weak;
    let identity = slots.identity();
    let what = Use {
        id: identity.id,
        path: identity.path,
        needs_medium: false,
        must_write: false,
        writes: true,
        resizes: true,
        shares_writes: props.block.share_rw,
    };
    backend.plug(what, Some(weak))?;
    props.block.apply(&backend);
    let kind = match props.drive_type {
        DriveType::Auto => {
            let disk = sectors(&backend).and_then(DriveKind::for_disk);
            disk.or_else(|| fdc.lock().fallback())
        }
        given => given.kind(),
    };
    fdc.lock().attach(place, kind.unwrap_or(UNKNOWN), backend, Some(listener));
    sizes.tell(slots);
    slots.settle("unit", place.into());
    slots.settle("drive-type", DriveType::from(kind).as_str().into());
    if let Some(kind) = kind {
        slots.tell(Fact::Floppy(FloppyFact { place, kind }));
    }
    Ok(())
}

/// Hears what the operator does to a drive's disk.
struct Listener {
    fdc: WeakShared<Fdc>,
    place: usize,
}

impl BackendUser for Listener {
    fn is_removable(&self) -> bool {
        true
    }

    fn medium_changed(&self, _: bool) {
        self.resized();
    }

    fn resized(&self) {
        if let Some(fdc) = self.fdc.upgrade() {
            fdc.lock().medium_changed(self.place);
        }
    }
}
