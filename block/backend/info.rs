//! What `-drive` tells of a drive besides its image.

use super::ErrorPolicy;

/// `if=`: what a drive is to be connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Interface {
    #[default]
    None,
    Ide,
    Scsi,
    Floppy,
    Pflash,
    Mtd,
    Sd,
    Virtio,
    Xen,
}

impl Interface {
    const NAMES: [(&'static str, Interface); 9] = [
        ("none", Interface::None),
        ("ide", Interface::Ide),
        ("scsi", Interface::Scsi),
        ("floppy", Interface::Floppy),
        ("pflash", Interface::Pflash),
        ("mtd", Interface::Mtd),
        ("sd", Interface::Sd),
        ("virtio", Interface::Virtio),
        ("xen", Interface::Xen),
    ];

    /// The interface of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, interface)| *interface)
    }

    /// The name in `if=`.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, known)| *known == self).map_or("none", |(name, _)| name)
    }

    /// Bus and unit of an index.
    pub fn at_index(self, index: u32) -> (u32, u32) {
        match self.units() {
            Some(units) => (index / units, index % units),
            None => (0, index),
        }
    }

    /// Units on one bus; none if there is only one bus, of any length.
    pub fn units(self) -> Option<u32> {
        match self {
            Interface::Ide => Some(2),
            Interface::Scsi => Some(7),
            _ => None,
        }
    }
}

/// `media=`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Media {
    #[default]
    Disk,
    Cdrom,
}

/// What `-drive` tells of a drive besides its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveInfo {
    /// What it is connected to.
    pub interface: Interface,
    /// The bus there.
    pub bus: u32,
    /// The place on the bus.
    pub unit: u32,
    /// What kind of drive.
    pub media: Media,
    /// Whether its media can not be written.
    pub read_only: bool,
    /// Whether writes may be done before they survive a power cut.
    pub write_cache: bool,
    /// What failures lead to.
    pub policy: ErrorPolicy,
    /// Whether `-drive` made it, so that it goes when its device goes.
    pub legacy: bool,
}

impl Default for DriveInfo {
    fn default() -> Self {
        Self {
            interface: Interface::None,
            bus: 0,
            unit: 0,
            media: Media::Disk,
            read_only: false,
            write_cache: true,
            policy: ErrorPolicy::default(),
            legacy: false,
        }
    }
}

impl DriveInfo {
    /// The name of a drive that the operator gave none.
    pub fn name(&self) -> String {
        let Self { interface, bus, unit, media, .. } = *self;
        let name = interface.name();
        match (interface.units(), media) {
            (Some(_), Media::Disk) => format!("{name}{bus}-hd{unit}"),
            (Some(_), Media::Cdrom) => format!("{name}{bus}-cd{unit}"),
            (None, _) => format!("{name}{unit}"),
        }
    }
}
