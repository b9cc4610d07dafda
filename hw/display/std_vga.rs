//! The standard adapter: a VGA with Bochs' extension on the PCI bus.

use std::sync::Arc;

use base::clock::Clocks;
use base::device;
use base::memory::RamError;
use base::props::Props;
use ui::{Consoles, Place};

use super::edid::Edid;
use super::vga::{Head, Vga, VgaConfig, VgaRegions, WINDOW_START};
use crate::isa::IsaBus;
use crate::pci::{Bar, BarKind, ConfigSpace, Identity, PciBus, PciDevice, PciError, PciProps, ids};

/// Image of the expansion ROM.
const ROM: &str = "vgabios-stdvga.bin";
/// Limits of memory, in MiB.
const MEMORY_MIB: std::ops::RangeInclusive<u32> = 1..=512;

const IDENTITY: Identity = Identity {
    vendor: ids::TEACHING,
    device: ids::TEACHING_VGA,
    revision: 2,
    class: 0x03_0000,
    subsystem: Some((ids::QUMRANET, ids::QUMRANET_DEFAULT_SUBSYSTEM)),
    interrupt_pin: 0,
};

/// Properties of `VGA`.
#[derive(Debug, Props)]
pub struct StdVgaProps {
    /// Place on the bus, and ROM.
    #[prop(flatten)]
    pub pci: PciProps,
    /// MiB of memory.
    #[prop(default = 16)]
    pub vgamem_mb: u32,
    /// There are registers in memory.
    #[prop(default = true)]
    pub mmio: bool,
    /// Registers beyond those of VGA and Bochs.
    #[prop(name = "qemu-extended-regs", default = true)]
    pub extended: bool,
    /// The monitor can be asked what it is.
    #[prop(default = true)]
    pub edid: bool,
    /// The width that the monitor prefers; its own choice if zero.
    pub xres: u32,
    /// The height.
    pub yres: u32,
    /// The largest width that the monitor shows; its own choice if zero.
    pub xmax: u32,
    /// The largest height.
    pub ymax: u32,
    /// In thousandths of a Hertz; the monitor's own choice if zero.
    pub refresh_rate: u32,
    /// Saved state has a name that does not tell its place.
    #[prop(name = "global-vmstate")]
    pub global_vmstate: bool,
}

/// Why there is no adapter.
#[derive(Debug, thiserror::Error)]
pub enum VgaError {
    /// Its place on the bus, or its ROM.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// Its memory.
    #[error(transparent)]
    Memory(#[from] RamError),
}

/// What an adapter is plugged into.
pub struct Sockets<'a> {
    /// The PCI bus.
    pub pci: &'a PciBus,
    /// Legacy ports and memory.
    pub isa: &'a IsaBus,
    /// Where its head goes.
    pub consoles: &'a Consoles,
    /// What its head is called.
    pub place: Place,
    /// The clocks.
    pub clocks: &'a Clocks,
}

/// Plugs a `VGA`.
pub fn plug(props: &mut StdVgaProps, sockets: &Sockets<'_>) -> Result<(), VgaError> {
    props.pci.romfile.get_or_insert_with(|| ROM.into());
    let memory = memory_size(props.vgamem_mb);
    let edid = props.edid.then(|| Edid { preferred: (1280, 800) });
    let vga = Vga::new(VgaConfig { memory, edid, extended: props.extended })?;
    let mut config = ConfigSpace::new(&IDENTITY);
    let framebuffer = BarKind::Memory32 { prefetchable: true };
    config.add_bar(0, Bar { kind: framebuffer, size: memory.into() });
    if props.mmio {
        let registers = BarKind::Memory32 { prefetchable: false };
        config.add_bar(2, Bar { kind: registers, size: 0x1000 });
    }
    let device = device::share(|_| vga);
    let regions = VgaRegions::of(&device);
    let mut bars = vec![(0, regions.framebuffer)];
    if props.mmio {
        bars.push((2, regions.mmio));
    }
    sockets.pci.plug("VGA", &props.pci, config, |_| (device.clone(), bars))?;
    regions.ports.iter().for_each(|(at, region)| sockets.isa.place(region, *at));
    sockets.isa.place_memory_over(&regions.window, WINDOW_START);
    let head: Arc<Head<Vga>> = Head::new(&device, sockets.clocks);
    sockets.consoles.add("VGA", sockets.place.clone(), head);
    Ok(())
}

fn memory_size(mib: u32) -> u32 {
    mib.clamp(*MEMORY_MIB.start(), *MEMORY_MIB.end()).next_power_of_two() << 20
}

impl PciDevice for Vga {}
