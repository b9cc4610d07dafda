//! `ide-hd`, `ide-cf` and `ide-cd`: drives that the operator puts on the channels of an IDE controller.

use std::sync::{Arc, Weak};

use base::device::{Shared, WeakShared};
use base::props::Props;
use block::backend::{Backend, Drive as BackendUser, Use};

use super::ata::channel::{Channel, PLACES, sectors};
use super::ata::drive::{Config, Drive, Kind};
use super::geometry::{self, Translation, TranslationChoice};
use super::piix3_ide::{CHANNELS, Piix3Ide};
use super::props::{BlockSizes, DiskPropError, DiskProps, Geometry, GeometryProps};
use crate::registry::{self, DeviceError, Fact, Slots};

/// Bytes of a sector of IDE disks.
const SECTOR: u32 = 512;
/// The device picks its place itself.
const PICK: u32 = u32::MAX;

/// What all IDE drives have.
#[derive(Debug, Props)]
pub struct DriveProps {
    #[prop(flatten)]
    disk: DiskProps,
    /// Revision of the firmware.
    ver: Option<String>,
    /// World wide name.
    wwn: u64,
    /// Serial number.
    serial: Option<String>,
    /// Model.
    model: Option<String>,
}

/// Where they are.
#[derive(Debug, Props)]
pub struct PlaceProps {
    /// Place on the channel.
    #[prop(default = PICK)]
    unit: u32,
    /// Without effect: nothing happens too fast for the installer of Windows 2000.
    #[prop(name = "win2k-install-hack")]
    win2k_install_hack: bool,
}

/// `ide-cd`
#[derive(Debug, Props)]
pub struct CdProps {
    #[prop(flatten)]
    drive: DriveProps,
    #[prop(flatten)]
    place: PlaceProps,
}

/// What those with a geometry have.
#[derive(Debug, Props)]
pub struct ChsProps {
    #[prop(flatten)]
    drive: DriveProps,
    #[prop(flatten)]
    geometry: GeometryProps,
    #[prop(name = "bios-chs-trans")]
    bios_chs_trans: TranslationChoice,
}

/// `ide-cf`
#[derive(Debug, Props)]
pub struct CfProps {
    #[prop(flatten)]
    chs: ChsProps,
    #[prop(flatten)]
    place: PlaceProps,
}

/// `ide-hd`
#[derive(Debug, Props)]
pub struct HdProps {
    #[prop(flatten)]
    chs: ChsProps,
    rotation_rate: u16,
    #[prop(flatten)]
    place: PlaceProps,
}

/// Why a drive cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdeError {
    /// Channels are short.
    #[error("Can't create IDE unit {0}, bus supports only {PLACES} units")]
    NoSuchPlace(u32),
    /// Another drive is there.
    #[error("IDE unit {0} is in use")]
    Taken(usize),
    /// Disks are not removable.
    #[error("No drive specified")]
    NoDrive,
    /// Disks have sectors of 512 bytes.
    #[error("{0} must be {SECTOR} for ide")]
    NotASector(&'static str),
    /// Its sizes.
    #[error(transparent)]
    Disk(#[from] DiskPropError),
}

/// A disk, as CMOS memory describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdeDisk {
    /// Its channel.
    pub channel: usize,
    /// Its place there.
    pub place: usize,
    /// Cylinders, heads and sectors.
    pub geometry: Geometry,
    /// What firmware makes of them.
    pub translation: Translation,
}

/// Adds an `ide-hd`.
pub fn add_disk(props: &HdProps, slots: &mut dyn Slots) -> Result<(), DeviceError> {
    let HdProps { chs, rotation_rate, place } = props;
    add_with_geometry("ide-hd", Kind::Disk, chs, place, *rotation_rate, slots)
}

/// Adds an `ide-cf`.
pub fn add_compact_flash(props: &CfProps, slots: &mut dyn Slots) -> Result<(), DeviceError> {
    add_with_geometry("ide-cf", Kind::CompactFlash, &props.chs, &props.place, 0, slots)
}

fn add_with_geometry(
    owner: &'static str,
    kind: Kind,
    props: &ChsProps,
    place: &PlaceProps,
    rotation_rate: u16,
    slots: &mut dyn Slots,
) -> Result<(), DeviceError> {
    let drive = &props.drive;
    let seat = Seat::choose(place, slots)?;
    let id = drive.disk.block.drive.as_ref().ok_or(IdeError::NoDrive)?;
    let backend = registry::drive(slots, owner, id)?;
    let sizes = drive.disk.block.sizes().map_err(IdeError::from)?;
    let granularity = sizes.discard.unwrap_or(SECTOR);
    let sizes = BlockSizes { discard: Some(granularity), ..sizes };
    if granularity != 0 && granularity != SECTOR {
        return Err(IdeError::NotASector("discard_granularity").into());
    }
    if sizes.logical != SECTOR {
        return Err(IdeError::NotASector("logical_block_size").into());
    }
    let listener = seat.take(kind, drive, &backend, slots)?;
    let chosen = geometry::choose(&backend, &props.geometry, props.bios_chs_trans);
    let (geometry, translation) =
        chosen.inspect_err(|_| backend.unplug()).map_err(IdeError::from)?;
    let cfg = Config {
        geometry,
        physical_block_exponent: (sizes.physical / sizes.logical).trailing_zeros() as u8,
        rotation_rate,
        trim: granularity != 0,
        write_cache: backend.write_cache(),
        ..seat.config(kind, drive)
    };
    sizes.tell(slots);
    geometry.tell(slots);
    slots.settle("bios-chs-trans", TranslationChoice::from(translation).as_str().into());
    seat.attach(cfg, Some(backend), Some(listener), slots);
    slots.tell(Fact::IdeDisk(IdeDisk {
        channel: seat.channel,
        place: seat.place,
        geometry,
        translation,
    }));
    seat.tell_boot_index(drive, slots);
    Ok(())
}

/// Adds an `ide-cd`.
pub fn add_cdrom(props: &CdProps, slots: &mut dyn Slots) -> Result<(), DeviceError> {
    let drive = &props.drive;
    let seat = Seat::choose(&props.place, slots)?;
    let sizes = drive.disk.block.sizes().map_err(IdeError::from)?;
    let backend = match &drive.disk.block.drive {
        Some(id) => registry::drive(slots, "ide-cd", id)?,
        None => slots.empty_drive(),
    };
    let listener = seat.take(Kind::Cdrom, drive, &backend, slots)?;
    BlockSizes { discard: sizes.discard.or(Some(SECTOR)), ..sizes }.tell(slots);
    seat.attach(seat.config(Kind::Cdrom, drive), Some(backend), Some(listener), slots);
    seat.tell_boot_index(drive, slots);
    Ok(())
}

/// Where a drive goes.
struct Seat {
    ide: Shared<Piix3Ide>,
    channel: usize,
    place: usize,
}

impl Seat {
    /// The place that properties name. Drives that name no channel go to the last one.
    fn choose(props: &PlaceProps, slots: &dyn Slots) -> Result<Self, DeviceError> {
        let ide = slots.ide().clone();
        let channel = slots.ide_channel().unwrap_or(CHANNELS - 1);
        let taken =
            |place| ide.lock().channel(channel).is_none_or(|channel| channel.is_taken(place));
        let place = match props.unit {
            PICK => usize::from(taken(0)),
            unit if unit as usize >= PLACES => return Err(IdeError::NoSuchPlace(unit).into()),
            unit => unit as usize,
        };
        if taken(place) {
            return Err(IdeError::Taken(place).into());
        }
        Ok(Seat { ide, channel, place })
    }

    /// Takes the back end, as the drive's kind needs it.
    fn take(
        &self,
        kind: Kind,
        props: &DriveProps,
        backend: &Arc<Backend>,
        slots: &dyn Slots,
    ) -> Result<Arc<Listener>, DeviceError> {
        let identity = slots.identity();
        let writes = kind != Kind::Cdrom;
        let listener = Arc::new(Listener {
            ide: Arc::downgrade(&self.ide),
            channel: self.channel,
            place: self.place,
            removable: !writes,
        });
        let what = Use {
            id: identity.id,
            path: identity.path,
            needs_medium: writes,
            must_write: writes,
            writes,
            resizes: true,
            shares_writes: props.disk.block.share_rw,
        };
        let weak = Arc::downgrade(&listener);
        let weak: Weak<dyn BackendUser> = weak;
        backend.plug(what, Some(weak))?;
        props.disk.apply(backend);
        Ok(listener)
    }

    /// What the drive is; without names given, those that QEMU gives.
    fn config(&self, kind: Kind, props: &DriveProps) -> Config {
        let model = match kind {
            Kind::Cdrom => "QEMU DVD-ROM",
            Kind::CompactFlash => "QEMU MICRODRIVE",
            Kind::Disk | Kind::Nothing => "QEMU HARDDISK",
        };
        let number = self.channel * PLACES + self.place + 1;
        Config {
            serial: props.serial.clone().unwrap_or_else(|| format!("QM{number:05}")),
            model: props.model.clone().unwrap_or_else(|| model.into()),
            version: props.ver.clone().unwrap_or_else(|| "2.5+".into()),
            wwn: props.wwn,
            ..Config::plain(kind)
        }
    }

    fn attach(
        &self,
        cfg: Config,
        backend: Option<Arc<Backend>>,
        listener: Option<Arc<Listener>>,
        slots: &mut dyn Slots,
    ) {
        slots.settle("unit", self.place.into());
        slots.settle("serial", cfg.serial.as_str().into());
        slots.settle("ver", cfg.version.as_str().into());
        let drive = Drive::new(cfg, backend.as_ref().and_then(sectors));
        if let Some(channel) = self.ide.lock().channel(self.channel) {
            let listener = listener.map(|listener| listener as Arc<dyn Send + Sync>);
            channel.attach(self.place, drive, backend, listener);
        }
    }

    /// Tells firmware's name of the drive, if it has a place among what is booted from.
    fn tell_boot_index(&self, props: &DriveProps, slots: &mut dyn Slots) {
        if let Some(index) = props.disk.bootindex {
            let path = format!("/pci@i0cf8/ide@1,1/drive@{}/disk@{}", self.channel, self.place);
            slots.tell(Fact::Bootable { index, path });
        }
    }
}

/// Hears what the operator does to a drive's medium.
struct Listener {
    ide: WeakShared<Piix3Ide>,
    channel: usize,
    place: usize,
    removable: bool,
}

impl Listener {
    fn with<T>(&self, act: impl FnOnce(&mut Channel) -> T) -> Option<T> {
        let ide = self.ide.upgrade()?;
        let mut ide = ide.lock();
        ide.channel(self.channel).map(act)
    }

    fn ask(&self, question: impl FnOnce(&mut Drive) -> bool) -> bool {
        self.with(|channel| channel.drive(self.place).is_some_and(question)).unwrap_or(false)
    }
}

impl BackendUser for Listener {
    fn is_removable(&self) -> bool {
        self.removable
    }

    fn has_tray(&self) -> bool {
        self.removable
    }

    fn is_tray_open(&self) -> bool {
        self.ask(|drive| drive.is_tray_open())
    }

    fn is_locked(&self) -> bool {
        self.ask(|drive| drive.is_tray_locked())
    }

    fn medium_changed(&self, loaded: bool) {
        self.with(|channel| channel.medium_changed(self.place, loaded));
    }

    fn eject_requested(&self, force: bool) {
        self.with(|channel| {
            if let Some(drive) = channel.drive(self.place) {
                drive.eject_requested(force);
            }
        });
    }

    fn resized(&self) {
        self.with(|channel| channel.resized(self.place));
    }
}
