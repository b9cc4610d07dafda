//! The devices that an operator can add, by type name: from here come `-device`, its help and its
//! errors. What makes a device of each type is in a file by kind.

mod display;
mod error;
mod input;
mod legacy;
mod misc;
mod network;
mod slots;
mod storage;
mod usb;

use std::collections::BTreeMap;

use base::object::Property;
use base::props::{PropInput, PropSpec, Props, help_text};

pub use self::error::DeviceError;
pub use self::slots::{Fact, Identity, Slots, Worker};
pub use self::storage::drive;

use crate::char::pci_serial::PciSerialProps;
use crate::display::cirrus::{CirrusProps, IsaCirrusProps};
use crate::display::ramfb::RamfbProps;
use crate::display::std_vga::{BochsDisplayProps, IsaVgaProps, SecondaryVgaProps, StdVgaProps};
use crate::misc::debug_exit::DebugExitProps;
use crate::misc::edu::EduProps;
use crate::misc::pci_testdev::PciTestdevProps;
use crate::misc::pvpanic::{PvpanicPciProps, PvpanicProps};
use crate::misc::vmgenid::VmGenIdProps;
use crate::net::e1000::E1000Props;
use crate::net::ne2k::Ne2kProps;
use crate::net::pcnet::PcnetProps;
use crate::net::rtl8139::Rtl8139Props;
use crate::storage::floppy::FloppyProps;
use crate::storage::ide::{CdProps, CfProps, HdProps};
use crate::usb::props::{HubProps, KeyboardProps, MouseProps, TabletProps};
use crate::usb::uhci::UhciProps;
use crate::usb::xhci::{NecXhciProps, XhciProps};
use crate::virtio::gpu::GpuPciProps;
use crate::watchdog::i6300esb::I6300EsbProps;

/// What a device is plugged into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusKind {
    /// Nothing.
    None,
    /// ISA.
    Isa,
    /// PCI.
    Pci,
    /// A channel of an IDE controller.
    Ide,
    /// The floppy disk controller.
    Floppy,
    /// USB.
    Usb,
}

impl BusKind {
    /// As messages name it.
    pub fn name(self) -> Option<&'static str> {
        match self {
            BusKind::None => None,
            BusKind::Isa => Some("ISA"),
            BusKind::Pci => Some("PCI"),
            BusKind::Ide => Some("IDE"),
            BusKind::Floppy => Some("floppy-bus"),
            BusKind::Usb => Some("usb-bus"),
        }
    }

    /// The type from which devices on it descend, unless they say otherwise.
    const fn parent(self) -> &'static str {
        match self {
            BusKind::Isa => "isa-device",
            BusKind::Pci => "pci-device",
            BusKind::Ide => "ide-device",
            BusKind::Usb => "usb-hid",
            BusKind::Floppy | BusKind::None => "device",
        }
    }
}

/// Headings of the listing of all devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Category {
    Bridge,
    Usb,
    Storage,
    Network,
    Input,
    Display,
    Misc,
    Watchdog,
}

impl Category {
    fn heading(self) -> &'static str {
        match self {
            Category::Bridge => "Controller/Bridge/Hub devices:",
            Category::Usb => "USB devices:",
            Category::Storage => "Storage devices:",
            Category::Network => "Network devices:",
            Category::Input => "Input devices:",
            Category::Display => "Display devices:",
            Category::Misc => "Misc devices:",
            Category::Watchdog => "Watchdog devices:",
        }
    }
}

type Done = Result<(), DeviceError>;

/// A property and what it is to be.
pub type Setting<'a> = (&'a str, PropInput<'a>);

/// A type of device.
pub struct DeviceType {
    /// Its name.
    pub name: &'static str,
    /// The type from which it descends.
    pub parent: &'static str,
    /// The type of the part that is not its transport, where QEMU tells the two apart.
    pub part: Option<&'static str>,
    /// Another name for it.
    pub alias: Option<&'static str>,
    /// What it is plugged into.
    pub bus: BusKind,
    /// Whether it stays for as long as the machine exists, although its bus is one where others come
    /// and go: adapters have legacy ports and memory.
    pub stays: bool,
    /// Under which heading it is listed.
    pub category: Category,
    desc: Option<&'static str>,
    specs: fn() -> &'static [PropSpec],
    snapshot: fn(&'static str, &[Setting<'_>]) -> Vec<Property>,
    realize: fn(&[Setting<'_>], &mut dyn Slots) -> Done,
}

impl DeviceType {
    /// Its properties.
    pub fn specs(&self) -> &'static [PropSpec] {
        (self.specs)()
    }

    /// The listing of its properties.
    pub fn help(&self) -> String {
        help_text(self.name, self.specs())
    }

    /// The properties of a device with these settings, for the object tree.
    pub fn snapshot(&self, settings: &[Setting<'_>]) -> Vec<Property> {
        (self.snapshot)(self.name, settings)
    }

    /// Makes a device with these properties, set in order, and plugs it.
    pub fn realize(&self, settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
        (self.realize)(settings, slots)
    }

    fn line(&self) -> String {
        let bus = self.bus.name().map(|bus| format!(", bus {bus}")).unwrap_or_default();
        let alias = self.alias.map(|alias| format!(", alias \"{alias}\"")).unwrap_or_default();
        let desc = self.desc.map(|desc| format!(", desc \"{desc}\"")).unwrap_or_default();
        format!("name \"{}\"{bus}{alias}{desc}\n", self.name)
    }
}

/// All types.
pub fn all() -> &'static [DeviceType] {
    TYPES
}

/// All types of a category, by name.
pub fn of_category(category: Category) -> impl Iterator<Item = &'static DeviceType> {
    TYPES.iter().filter(move |kind| kind.category == category)
}

/// The type of this name, or of this alias.
pub fn find(name: &str) -> Option<&'static DeviceType> {
    TYPES.iter().find(|device| device.name == name || device.alias == Some(name))
}

/// The listing of all types.
pub fn listing() -> String {
    let mut by_category: BTreeMap<Category, Vec<String>> = BTreeMap::new();
    for kind in TYPES {
        by_category.entry(kind.category).or_default().push(kind.line());
    }
    let sections = by_category.into_iter().map(|(category, mut lines)| {
        lines.sort_unstable();
        format!("{}\n{}", category.heading(), lines.concat())
    });
    sections.collect::<Vec<_>>().join("\n")
}

fn parse<P: Props + Default>(
    owner: &'static str,
    settings: &[Setting<'_>],
) -> Result<P, DeviceError> {
    let mut props = P::default();
    for &(name, input) in settings {
        props.set(owner, name, input).map_err(|source| match input {
            PropInput::Global(value) => DeviceError::Global {
                owner,
                name: name.into(),
                value: value.into(),
                source: source.into(),
            },
            _ => source.into(),
        })?;
    }
    Ok(props)
}

#[derive(Debug, Props)]
struct NoProps {}

/// In the table: see [`DeviceType::stays`].
const STAYS: bool = true;

macro_rules! types {
    ($($name:literal $(alias $alias:literal)? $(of $part:literal)? $(is $parent:literal)?, $bus:ident $($word:ident)?, $category:ident, $desc:expr, $props:ty, $realize:path;)*) => {
        /// All types.
        const TYPES: &[DeviceType] = &[$(DeviceType {
            name: $name,
            parent: [$($parent,)? BusKind::$bus.parent()][0],
            part: [$(Some($part),)? None][0],
            alias: [$(Some($alias),)? None][0],
            bus: BusKind::$bus,
            stays: [$($word,)? false][0],
            category: Category::$category,
            desc: $desc,
            specs: <$props as Props>::specs,
            snapshot: |owner, settings| {
                let props: Result<$props, _> = parse(owner, settings);
                props.map(|props| Property::snapshot(&props)).unwrap_or_default()
            },
            realize: $realize,
        }),*];
    };
}

types! {
    "VGA" is "pci-vga", Pci STAYS, Display, None, StdVgaProps, display::std_vga;
    "bochs-display", Pci, Display, None, BochsDisplayProps, display::bochs_display;
    "cirrus-vga", Pci STAYS, Display, Some("Cirrus CLGD 54xx VGA"), CirrusProps, display::cirrus_vga;
    "e1000" alias "e1000-82540em" is "e1000-base", Pci, Network, Some("Intel Gigabit Ethernet"), E1000Props, network::e1000;
    "edu", Pci, Misc, None, EduProps, misc::edu;
    "floppy", Floppy, Storage, Some("virtual floppy drive"), FloppyProps, storage::floppy;
    "i6300esb", Pci, Watchdog, Some("Intel 6300ESB"), I6300EsbProps, misc::i6300esb;
    "ib700", Isa, Watchdog, Some("iBASE 700"), NoProps, misc::ib700;
    "ide-cd", Ide, Storage, Some("virtual IDE CD-ROM"), CdProps, storage::ide_cd;
    "ide-cf", Ide, Storage, Some("virtual CompactFlash card"), CfProps, storage::ide_cf;
    "ide-hd", Ide, Storage, Some("virtual IDE disk"), HdProps, storage::ide_hd;
    "isa-cirrus-vga", Isa, Display, None, IsaCirrusProps, display::isa_cirrus_vga;
    "isa-debug-exit", Isa, Misc, None, DebugExitProps, misc::isa_debug_exit;
    "isa-debugcon", Isa, Misc, None, legacy::DebugconProps, legacy::isa_debugcon;
    "isa-parallel", Isa, Input, None, legacy::ParallelProps, legacy::isa_parallel;
    "isa-serial", Isa, Input, None, legacy::SerialProps, legacy::isa_serial;
    "isa-vga", Isa, Display, None, IsaVgaProps, display::isa_vga;
    "ne2k_pci", Pci, Network, None, Ne2kProps, network::ne2k_pci;
    "nec-usb-xhci" is "pci-xhci", Pci, Usb, None, NecXhciProps, usb::nec_usb_xhci;
    "pc-testdev", Isa, Misc, None, NoProps, misc::pc_testdev;
    "pcnet", Pci, Network, None, PcnetProps, network::pcnet;
    "pci-serial", Pci, Input, None, PciSerialProps, legacy::pci_serial;
    "pci-testdev", Pci, Misc, Some("PCI Test Device"), PciTestdevProps, misc::pci_testdev;
    "piix3-usb-uhci" is "pci-uhci-usb", Pci, Usb, None, UhciProps, usb::piix3_usb_uhci;
    "pvpanic", Isa, Misc, None, PvpanicProps, misc::pvpanic;
    "pvpanic-pci", Pci, Misc, None, PvpanicPciProps, misc::pvpanic_pci;
    "ramfb" is "dynamic-sysbus-device", None, Display, Some("ram framebuffer standalone device"), RamfbProps, display::ramfb;
    "rtl8139", Pci, Network, None, Rtl8139Props, network::rtl8139;
    "secondary-vga" is "pci-vga", Pci, Display, None, SecondaryVgaProps, display::secondary_vga;
    "qemu-xhci" is "pci-xhci", Pci, Usb, None, XhciProps, usb::qemu_xhci;
    "usb-hub" is "usb-device", Usb, Bridge, None, HubProps, usb::usb_hub;
    "usb-kbd", Usb, Input, None, KeyboardProps, usb::usb_kbd;
    "usb-mouse", Usb, Input, None, MouseProps, usb::usb_mouse;
    "usb-tablet", Usb, Input, None, TabletProps, usb::usb_tablet;
    "virtio-blk-pci" alias "virtio-blk" of "virtio-blk-device" is "virtio-blk-pci-base", Pci, Storage, None, storage::VirtioBlkPciProps, storage::virtio_blk_pci;
    "virtio-blk-pci-non-transitional" of "virtio-blk-device" is "virtio-blk-pci-base", Pci, Storage, None, storage::VirtioBlkProps, storage::virtio_blk_non_transitional;
    "virtio-blk-pci-transitional" of "virtio-blk-device" is "virtio-blk-pci-base", Pci, Storage, None, storage::VirtioBlkProps, storage::virtio_blk_transitional;
    "virtio-gpu-pci" alias "virtio-gpu" of "virtio-gpu-device" is "virtio-gpu-pci-base-type", Pci, Display, None, GpuPciProps, display::virtio_gpu_pci;
    "virtio-keyboard-pci" alias "virtio-keyboard" of "virtio-keyboard-device" is "virtio-keyboard-pci-base-type", Pci, Input, None, input::VirtioKeyboardProps, input::virtio_keyboard;
    "virtio-mouse-pci" alias "virtio-mouse" of "virtio-mouse-device" is "virtio-mouse-pci-base-type", Pci, Input, None, input::VirtioPointerProps, input::virtio_mouse;
    "virtio-net-pci" alias "virtio-net" of "virtio-net-device" is "virtio-net-pci-base", Pci, Network, None, network::VirtioNetPciProps, network::virtio_net_pci;
    "virtio-net-pci-non-transitional" of "virtio-net-device" is "virtio-net-pci-base", Pci, Network, None, network::VirtioNetProps, network::virtio_net_non_transitional;
    "virtio-net-pci-transitional" of "virtio-net-device" is "virtio-net-pci-base", Pci, Network, None, network::VirtioNetProps, network::virtio_net_transitional;
    "virtio-tablet-pci" alias "virtio-tablet" of "virtio-tablet-device" is "virtio-tablet-pci-base-type", Pci, Input, None, input::VirtioPointerProps, input::virtio_tablet;
    "virtio-vga" of "virtio-gpu-device" is "virtio-vga-base-type", Pci STAYS, Display, None, GpuPciProps, display::virtio_vga;
    "vmcoreinfo", None, Misc, None, NoProps, misc::vmcoreinfo;
    "vmgenid", None, Misc, None, VmGenIdProps, misc::vmgenid;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of QEMU 10.0's listings.
    #[test]
    fn types_are_listed() {
        let text = listing();
        assert!(text.starts_with(
            "Controller/Bridge/Hub devices:\nname \"usb-hub\", bus usb-bus\n\nUSB devices:\n"
        ));
        assert!(text.contains(
            "\n\nStorage devices:\nname \"floppy\", bus floppy-bus, desc \"virtual floppy drive\"\n"
        ));
        assert!(text.contains("\n\nInput devices:\nname \"isa-parallel\", bus ISA\n"), "{text}");
        assert!(text.contains("\n\nNetwork devices:\nname \"e1000\", bus PCI, alias"), "{text}");
        assert!(text.contains("\n\nMisc devices:\nname \"edu\", bus PCI\n"));
        assert!(text.contains("name \"pci-testdev\", bus PCI, desc \"PCI Test Device\"\n"));
        assert!(text.contains("name \"vmcoreinfo\"\nname \"vmgenid\"\n\nWatchdog devices:\n"));
        assert!(text.ends_with("name \"ib700\", bus ISA, desc \"iBASE 700\"\n"));
        let help = find("isa-debug-exit").map(DeviceType::help).unwrap_or_default();
        assert!(help.contains("  iobase=<uint32>        -  (default: 1281)\n"));
        assert_eq!(
            find("vmcoreinfo").map(DeviceType::help).as_deref(),
            Some("There are no options for vmcoreinfo.\n")
        );
        assert!(find("nonsense").is_none());
    }
}
