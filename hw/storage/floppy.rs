//! `floppy`: drives that the operator puts on the floppy disk controller.

use std::sync::{Arc, Weak};

use base::device::WeakShared;
use base::props::Props;
use block::backend::{Drive as BackendUser, Use};

use super::ata::channel::sectors;
use super::fdc::formats::DriveKind;
use super::fdc::{DRIVES, Fdc};
use super::props::{DiskPropError, DiskProps};
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

/// The device picks its place itself.
const PICK: u32 = u32::MAX;
/// What a drive is whose disk tells nothing.
const FALLBACK: DriveKind = DriveKind::Extended3;

/// `floppy`
#[derive(Debug, Props)]
pub struct FloppyProps {
    #[prop(flatten)]
    disk: DiskProps,
    /// Place on the controller.
    #[prop(default = PICK)]
    unit: u32,
    #[prop(name = "drive-type")]
    drive_type: DriveType,
}

/// Why a drive cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FloppyError {
    /// There are not so many places.
    #[error("Can't create floppy unit {0}, bus supports only {DRIVES} units")]
    NoSuchPlace(u32),
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
    let place = match props.unit {
        PICK => (0..DRIVES).find(|&place| !fdc.lock().is_taken(place)).unwrap_or(DRIVES - 1),
        unit if unit as usize >= DRIVES => return Err(FloppyError::NoSuchPlace(unit).into()),
        unit => unit as usize,
    };
    if fdc.lock().is_taken(place) {
        return Err(FloppyError::Taken(place).into());
    }
    let sizes = props.disk.sizes().map_err(FloppyError::from)?;
    if (sizes.logical, sizes.physical) != (512, 512) {
        return Err(FloppyError::NotASector.into());
    }
    let id = props.disk.drive.as_ref();
    let backend = id.map(|id| registry::drive(slots, "floppy", id)).transpose()?;
    let mut listener = None;
    if let Some(backend) = &backend {
        let hears = Arc::new(Listener { fdc: Arc::downgrade(&fdc), place });
        let weak = Arc::downgrade(&hears);
        let weak: Weak<dyn BackendUser> = weak;
        let identity = slots.identity();
        let what = Use {
            id: identity.id,
            path: identity.path,
            needs_medium: false,
            must_write: false,
            writes: true,
            resizes: true,
            shares_writes: props.disk.share_rw,
        };
        backend.plug(what, Some(weak))?;
        props.disk.apply(backend);
        listener = Some(hears as Arc<dyn Send + Sync>);
    }
    let disk = backend.as_ref().and_then(sectors);
    let kind = match props.drive_type {
        DriveType::High3 => Some(DriveKind::High3),
        DriveType::Extended3 => Some(DriveKind::Extended3),
        DriveType::High5 => Some(DriveKind::High5),
        DriveType::Auto => Some(disk.and_then(DriveKind::for_disk).unwrap_or(FALLBACK)),
        DriveType::None => None,
    };
    fdc.lock().attach(place, kind.unwrap_or(FALLBACK), backend, listener);
    if let Some(kind) = kind {
        slots.tell(Fact::Floppy(FloppyFact { place, kind }));
    }
    if let Some(index) = props.disk.bootindex {
        let path = format!("/pci@i0cf8/isa@1/fdc@03f0/floppy@{place}");
        slots.tell(Fact::Bootable { index, path });
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
