//! Properties that all virtio devices on the PCI bus have, and what follows from them.

use base::props::{OnOffAuto, Props};

use crate::pci::{Identity, PciError, PciProps, ids};
use crate::virtio::features;

/// Means that there is a vector for each queue and one for configuration.
pub(super) const ENOUGH: u32 = u32::MAX;

/// What a kind of device is, to the PCI bus.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Number of the kind (virtio 1.2, 5).
    pub id: u16,
    /// PCI device id of transitional devices.
    pub transitional: u16,
    /// PCI class.
    pub class: u32,
    /// The expansion ROM that such devices have unless told otherwise.
    pub rom: Option<&'static str>,
}

impl Kind {
    pub(super) fn identity(&self, interfaces: Interfaces, class: u32) -> Identity {
        let (device, revision, subsystem) = if interfaces.legacy {
            (self.transitional, 0, self.id)
        } else {
            (ids::QUMRANET_VIRTIO_MODERN + self.id, 1, ids::QUMRANET_DEFAULT_SUBSYSTEM)
        };
        Identity {
            vendor: ids::QUMRANET,
            device,
            revision,
            class: if class == 0 { self.class } else { class << 8 },
            subsystem: Some((ids::QUMRANET, subsystem)),
            interrupt_pin: 1,
        }
    }
}

/// Which registers a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interfaces {
    /// Those of legacy drivers.
    pub legacy: bool,
    /// Those of version 1.
    pub modern: bool,
}

impl Interfaces {
    /// Both.
    pub const TRANSITIONAL: Self = Interfaces { legacy: true, modern: true };
    /// Version 1 alone.
    pub const NON_TRANSITIONAL: Self = Interfaces { legacy: false, modern: true };
}

/// Properties of the type that has both interfaces unless told otherwise.
#[derive(Debug, Props)]
pub struct InterfaceProps {
    /// Has no registers for legacy drivers.
    #[prop(name = "disable-legacy")]
    pub disable_legacy: OnOffAuto,
    /// Has no registers of version 1.
    #[prop(name = "disable-modern")]
    pub disable_modern: bool,
}

impl InterfaceProps {
    /// What is left.
    pub fn interfaces(&self) -> Interfaces {
        Interfaces {
            // On a bus that is not PCI Express, legacy drivers are provided for.
            legacy: !self.disable_legacy.resolve(false),
            modern: !self.disable_modern,
        }
    }

    /// What is left of a device for which there never were legacy drivers: only that both interfaces
    /// are switched off has an effect.
    pub fn modern(&self) -> Interfaces {
        let Interfaces { legacy, modern } = self.interfaces();
        Interfaces { legacy: false, modern: legacy || modern }
    }
}

/// Why a device could not be plugged.
#[derive(Debug, thiserror::Error)]
pub enum VirtioPciError {
    /// Both interfaces are switched off.
    #[error(
        "device cannot work as neither modern nor legacy mode is enabled\n\
         Set either disable-modern or disable-legacy to off"
    )]
    NoInterface,
    /// There is no IOMMU for legacy drivers.
    #[error("VIRTIO_F_IOMMU_PLATFORM was supported by neither legacy nor transitional device")]
    Platform,
    /// A property that asks for what is not there.
    #[error("{0}=on is not supported by this build")]
    Missing(&'static str),
    /// The bus refuses.
    #[error(transparent)]
    Pci(#[from] PciError),
}

/// Properties of virtio devices on the PCI bus.
#[derive(Clone, Debug, Props)]
pub struct VirtioPciProps {
    /// Place on the bus.
    #[prop(flatten)]
    pub pci: PciProps,
    /// Offers VIRTIO_F_ANY_LAYOUT.
    #[prop(default = true)]
    pub any_layout: bool,
    /// Address translation, for PCI Express.
    pub ats: bool,
    /// Offers VIRTIO_F_EVENT_IDX.
    #[prop(default = true)]
    pub event_idx: bool,
    /// Requests are used in the order in which they were made available.
    pub in_order: bool,
    /// Offers VIRTIO_F_INDIRECT_DESC.
    #[prop(default = true)]
    pub indirect_desc: bool,
    /// Offers VIRTIO_F_ACCESS_PLATFORM.
    pub iommu_platform: bool,
    /// Has no effect: all state is saved.
    #[prop(name = "migrate-extra", default = true)]
    pub migrate_extra: bool,
    /// Queues can be notified by a port, too.
    #[prop(name = "modern-pio-notify")]
    pub modern_pio_notify: bool,
    /// Offers VIRTIO_F_NOTIFY_ON_EMPTY.
    #[prop(default = true)]
    pub notify_on_empty: bool,
    /// Offers VIRTIO_F_RING_PACKED.
    pub packed: bool,
    /// Each queue is notified in a page of its own.
    #[prop(name = "page-per-vq")]
    pub page_per_vq: bool,
    /// Offers VIRTIO_F_RING_RESET.
    #[prop(default = true)]
    pub queue_reset: bool,
}

/// Properties of those with as many queues as the machine has use for.
#[derive(Clone, Debug, Props)]
pub struct QueueProps {
    /// Has no effect: notifications never wait.
    #[prop(default = true)]
    pub ioeventfd: bool,
    /// How many MSI-X vectors there are.
    #[prop(default = ENOUGH)]
    pub vectors: u32,
}

impl VirtioPciProps {
    /// Refuses what can not be.
    pub(super) fn check(&self, interfaces: Interfaces) -> Result<(), VirtioPciError> {
        if !interfaces.legacy && !interfaces.modern {
            return Err(VirtioPciError::NoInterface);
        }
        if self.iommu_platform && interfaces.legacy {
            return Err(VirtioPciError::Platform);
        }
        for (name, on) in [("iommu_platform", self.iommu_platform), ("in_order", self.in_order)] {
            if on {
                return Err(VirtioPciError::Missing(name));
            }
        }
        Ok(())
    }

    /// What rings and transport offer.
    pub(super) fn common_features(&self, interfaces: Interfaces) -> u64 {
        let mut offered = features::ANY_LAYOUT * u64::from(self.any_layout);
        for (on, feature) in [
            (self.event_idx, features::EVENT_IDX),
            (self.indirect_desc, features::INDIRECT_DESC),
            (self.notify_on_empty, features::NOTIFY_ON_EMPTY),
            (interfaces.legacy, features::BAD_FEATURE),
            (interfaces.modern, features::VERSION_1),
            (interfaces.modern && self.packed, features::RING_PACKED),
            (interfaces.modern && self.queue_reset, features::RING_RESET),
        ] {
            if on {
                offered |= feature;
            }
        }
        offered
    }
}
