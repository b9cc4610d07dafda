//! Display adapters.

use base::memory::Dma;
use ui::Place as HeadPlace;

use super::{Done, Identity, Setting, Slots, parse};
use crate::display::ramfb::{Ramfb, RamfbProps};
use crate::display::std_vga::{
    self, BochsDisplayProps, IsaVgaProps, SecondaryVgaProps, Sockets, StdVgaProps, VgaError,
};
use crate::virtio::gpu::{self, GpuPciProps};

/// Calls `plug` with what the machine offers to a display adapter.
fn with_sockets(
    slots: &dyn Slots,
    plug: impl FnOnce(&Sockets<'_>) -> Result<(), VgaError>,
) -> Done {
    let Identity { id, path } = slots.identity();
    plug(&Sockets {
        pci: slots.pci(),
        isa: slots.isa(),
        consoles: slots.consoles(),
        place: HeadPlace { device: id, path, head: 0 },
        clocks: slots.clocks(),
        watch_stores: &|memory| slots.watch_stores(memory),
    })?;
    Ok(())
}

pub(super) fn std_vga(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let mut props: StdVgaProps = parse("VGA", settings)?;
    with_sockets(slots, |sockets| std_vga::plug_vga(&mut props, sockets))
}

pub(super) fn virtio_gpu_pci(settings: &[Setting<'_>], slots: &mut dyn Slots) -> Done {
    let props: GpuPciProps = parse("virtio-gpu-pci", settings)?;
    let Identity { id, path } = slots.identity();
    let sockets = gpu::Sockets {
        bus: slots.pci(),
        msi: slots.msi(),
        event_loop: slots.main_loop().clone(),
        consoles: slots.consoles(),
        place: HeadPlace { device: id, path, head: 0 },
    };
    Ok(gpu::plug(&props, sockets)?)
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
    let mut device = None;
    with_sockets(slots, |sockets| {
        device = Some(std_vga::plug_isa(&props, sockets)?);
        Ok(())
    })?;
    device.into_iter().for_each(|device| slots.add(device));
    Ok(())
}
