//! Disks and drives.

use std::sync::Arc;

use base::props::{DriveId, LinkId, PropError, Props};
use block::backend::{Backend, Interface};

use super::{DeviceError, Done, Fact, Setting, Slots, Worker, parse};
use crate::storage::floppy::{self, FloppyProps};
use crate::storage::ide::{self, CdProps, CfProps, HdProps};
use crate::virtio::blk::{Blk, BlkProps, Placement};
use crate::virtio::pci::{InterfaceProps, Interfaces, Place, QueueProps, VirtioPciProps};

/// The disk of a device's `drive` property. The device takes it with [`Backend::plug`].
pub fn drive(
    slots: &dyn Slots,
    owner: &'static str,
    id: &DriveId,
) -> Result<Arc<Backend>, DeviceError> {
    let found = slots.drive(&id.0)?;
    let missing = || PropError::no_such_backend(owner, "drive", &id.0);
    let backend = found.ok_or_else(missing)?;
    if backend.is_used() {
        return Err(DeviceError::DriveInUse {
            id: id.0.clone(),
            by_board: backend.info().interface != Interface::None,
        });
    }
    Ok(backend)
}

/// Properties of block devices of any form but the one that is told its interfaces.
#[derive(Debug, Props)]
pub(super) struct VirtioBlkProps {
    #[prop(flatten)]
    blk: BlkProps,
    /// Class and subclass, if not the usual.
    class: u32,
    #[prop(flatten)]
    pci: VirtioPciProps,
    #[prop(flatten)]
    queues: QueueProps,
}

#[derive(Debug, Props)]
pub(super) struct VirtioBlkPciProps {
    #[prop(flatten)]
    rest: VirtioBlkProps,
    #[prop(flatten)]
    interfaces: InterfaceProps,
}

pub(super) fn virtio_blk_pci(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "virtio-blk-pci";
    let props: VirtioBlkPciProps = parse(name, settings)?;
    virtio_blk(name, props.interfaces.interfaces(), &props.rest, slots)
}

pub(super) fn virtio_blk_transitional(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "virtio-blk-pci-transitional";
    virtio_blk(name, Interfaces::TRANSITIONAL, &parse(name, settings)?, slots)
}

pub(super) fn virtio_blk_non_transitional(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let name = "virtio-blk-pci-non-transitional";
    virtio_blk(name, Interfaces::NON_TRANSITIONAL, &parse(name, settings)?, slots)
}

fn virtio_blk(
    type_name: &'static str,
    interfaces: Interfaces,
    props: &VirtioBlkProps,
    slots: &mut dyn Slots,
) -> Done {
    let VirtioBlkProps { blk, class, pci, queues } = props;
    let id = blk.disk.block.drive.as_ref().ok_or(DeviceError::NoDrive)?;
    let backend = drive(slots, "virtio-blk-device", id)?;
    let worker = match &blk.iothread {
        Some(LinkId(id)) => slots.io_thread(id).ok_or_else(|| DeviceError::NoThread(id.clone()))?,
        None => Worker { event_loop: slots.main_loop().clone(), keeper: None },
    };
    let placement = Placement {
        bus: slots.pci(),
        place: Place {
            type_name,
            interfaces,
            class: *class,
            vectors: queues.vectors,
            props: pci,
            beside: None,
        },
        identity: slots.identity(),
        worker,
        processors: slots.processors(),
        msi: slots.msi(),
    };
    let function = Blk::plug(placement, blk, backend)?;
    if let Ok(sizes) = blk.disk.block.sizes() {
        sizes.tell(slots);
    }
    if let Some(index) = blk.disk.bootindex {
        slots.tell(Fact::bootable(index, &function, "scsi", "disk@0,0"));
    }
    Ok(())
}

pub(super) fn ide_hd(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: HdProps = parse("ide-hd", settings)?;
    ide::add_disk(&props, slots)
}

pub(super) fn ide_cf(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: CfProps = parse("ide-cf", settings)?;
    ide::add_compact_flash(&props, slots)
}

pub(super) fn ide_cd(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: CdProps = parse("ide-cd", settings)?;
    ide::add_cdrom(&props, slots)
}

pub(super) fn floppy(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: FloppyProps = parse("floppy", settings)?;
    floppy::add(&props, slots)
}
