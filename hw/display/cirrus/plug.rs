//! How the adapter gets onto a bus.

use base::device::{self, Shared};
use base::props::Props;

use super::{APERTURE_SIZE, Cirrus, MMIO_SIZE, Regions};
use crate::display::std_vga::{Sockets, VgaError, place_legacy, show};
use crate::pci::rom;
use crate::pci::{Bar, BarKind, ConfigSpace, Identity, PciProps, ids};

const ROM: &str = "vgabios-cirrus.bin";
const VGA_CLASS: u32 = 0x03_0000;
/// MiB of memory that the chip can have.
const MEMORY: [u32; 3] = [4, 8, 16];

/// What both adapters have.
#[derive(Debug, Props)]
pub struct CommonProps {
    /// MiB of memory.
    #[prop(default = 4)]
    pub vgamem_mb: u32,
    /// There is a blitter.
    #[prop(default = true)]
    pub blitter: bool,
}

/// Properties of `cirrus-vga`.
#[derive(Debug, Props)]
pub struct CirrusProps {
    /// Place on the bus, and ROM.
    #[prop(flatten)]
    pub pci: PciProps,
    /// The adapter.
    #[prop(flatten)]
    pub common: CommonProps,
    /// Saved state has a name that does not tell its place.
    #[prop(name = "global-vmstate")]
    pub global_vmstate: bool,
}

/// Properties of `isa-cirrus-vga`.
#[derive(Debug, Props)]
pub struct IsaCirrusProps {
    /// The adapter.
    #[prop(flatten)]
    pub common: CommonProps,
}

fn make(common: &CommonProps) -> Result<Shared<Cirrus>, VgaError> {
    let mib = common.vgamem_mb;
    if !MEMORY.contains(&mib) {
        return Err(VgaError::CirrusMemory(mib));
    }
    let cirrus = Cirrus::new(mib << 20, common.blitter)?;
    Ok(device::share(|_| cirrus))
}

/// Plugs a `cirrus-vga`.
pub fn plug_pci(props: &CirrusProps, sockets: &Sockets<'_>) -> Result<(), VgaError> {
    let mut space = ConfigSpace::new(&Identity {
        vendor: ids::CIRRUS,
        device: ids::CIRRUS_GD5446,
        revision: 0,
        class: VGA_CLASS,
        subsystem: Some((ids::QUMRANET, ids::QUMRANET_DEFAULT_SUBSYSTEM)),
        interrupt_pin: 0,
    });
    let memory = |prefetchable, size| Bar { kind: BarKind::Memory32 { prefetchable }, size };
    space.add_bar(0, memory(true, APERTURE_SIZE));
    space.add_bar(1, memory(false, MMIO_SIZE));
    let device = make(&props.common)?;
    let Regions { ports, window, aperture, mmio } = Regions::of(&device);
    let bars = vec![(0, aperture), (1, mmio)];
    let mut pci = props.pci.clone();
    pci.romfile.get_or_insert_with(|| ROM.into());
    sockets.pci.plug("cirrus-vga", &pci, space, |_| (device.clone(), bars))?;
    place_legacy(&ports, &window, sockets);
    show("cirrus-vga", &device, sockets);
    Ok(())
}

/// Plugs an `isa-cirrus-vga`.
pub fn plug_isa(props: &IsaCirrusProps, sockets: &Sockets<'_>) -> Result<Shared<Cirrus>, VgaError> {
    let device = make(&props.common)?;
    rom::give_to_firmware(ROM, true, sockets.pci.rom_files())?;
    let regions = Regions::of(&device);
    place_legacy(&regions.ports, &regions.window, sockets);
    show("isa-cirrus-vga", &device, sockets);
    Ok(device)
}
