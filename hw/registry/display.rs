//! Display adapters.

use base::memory::Dma;
use ui::Place as HeadPlace;

use super::{DeviceError, Done, Identity, Setting, Slots, parse};
use crate::display::cirrus::{self, CirrusProps, IsaCirrusProps};
use crate::display::ramfb::{Ramfb, RamfbProps};
use crate::display::std_vga::{
    self, BochsDisplayProps, IsaVgaProps, SecondaryVgaProps, Sockets, StdVgaProps,
};
use crate::virtio::gpu::{self, GpuPciProps};

/// Calls `plug` with what the machine offers to a display adapter.
fn with_sockets<T, E: Into<DeviceError>>(
    slots: &dyn Slots,
    plug: impl FnOnce(&Sockets<'_>) -> Result<T, E>,
) -> Result<T, DeviceError> {
    let Identity { id, path } = slots.identity();
    plug(&Sockets {
        pci: slots.pci(),
        isa: slots.isa(),
        consoles: slots.consoles(),
        place: HeadPlace { device: id, path, head: 0 },
        clocks: slots.clocks(),
        watch_stores: &|memory| slots.watch_stores(memory),
    })
    .map_err(Into::into)
}

/// What it offers to one on virtio.
fn gpu_sockets(slots: &dyn Slots) -> gpu::Sockets<'_> {
    let Identity { id, path } = slots.identity();
    gpu::Sockets {
        bus: slots.pci(),
        msi: slots.msi(),
        event_loop: slots.main_loop().clone(),
        consoles: slots.consoles(),
        place: HeadPlace { device: id, path, head: 0 },
    }
}

pub(super) fn std_vga(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let mut props: StdVgaProps = parse("VGA", settings)?;
    with_sockets(slots, |sockets| std_vga::plug_vga(&mut props, sockets))
}

pub(super) fn virtio_gpu_pci(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: GpuPciProps = parse("virtio-gpu-pci", settings)?;
    Ok(gpu::plug(&props, gpu_sockets(slots))?)
}

pub(super) fn virtio_vga(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let mut props: GpuPciProps = parse("virtio-vga", settings)?;
    let sockets = gpu_sockets(slots);
    with_sockets(slots, |legacy| gpu::plug_vga(&mut props, sockets, legacy))
}

pub(super) fn ramfb(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let _: RamfbProps = parse("ramfb", settings)?;
    let (memory, roms) = (Dma::new(slots.memory().clone()), slots.pci().rom_files());
    let device = Ramfb::create(memory, slots.fw_cfg(), roms)?;
    let Identity { id, path } = slots.identity();
    slots.consoles().add("ramfb", HeadPlace { device: id, path, head: 0 }, device.clone());
    slots.add(device);
    Ok(())
}

pub(super) fn secondary_vga(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: SecondaryVgaProps = parse("secondary-vga", settings)?;
    with_sockets(slots, |sockets| std_vga::plug_secondary(&props, sockets))
}

pub(super) fn bochs_display(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let mut props: BochsDisplayProps = parse("bochs-display", settings)?;
    with_sockets(slots, |sockets| std_vga::plug_bochs(&mut props, sockets))
}

pub(super) fn isa_vga(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: IsaVgaProps = parse("isa-vga", settings)?;
    let device = with_sockets(slots, |sockets| std_vga::plug_isa(&props, sockets))?;
    slots.add(device);
    Ok(())
}

pub(super) fn cirrus_vga(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: CirrusProps = parse("cirrus-vga", settings)?;
    with_sockets(slots, |sockets| cirrus::plug_pci(&props, sockets))
}

pub(super) fn isa_cirrus_vga(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: IsaCirrusProps = parse("isa-cirrus-vga", settings)?;
    let device = with_sockets(slots, |sockets| cirrus::plug_isa(&props, sockets))?;
    slots.add(device);
    Ok(())
}
