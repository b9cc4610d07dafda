//! `virtio-vga`: the graphics adapter and a VGA in one function. The first head shows what the VGA
//! does until a driver gives it something else, and again after the device was reset.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::device;
use base::memory::Region;
use ui::{Adapter, Cursor, Damage, SizeWish, Surface, TextScreen};

use super::{GpuError, GpuPciProps, Head, VGA_KIND, connect};
use crate::display::std_vga::{self, place_legacy};
use crate::display::vga::{self, MMIO_SIZE, Shows, Vga, VgaConfig, VgaRegions};
use crate::virtio::pci::Beside;

const NAME: &str = "virtio-vga";
const ROM: &str = "vgabios-virtio.bin";
/// What there is of the VGA's registers in memory: its monitor is the other half's.
const REGISTERS: Range<u64> = 0x400..0x608;
/// Bytes of the VGA's memory.
const MEMORY: u32 = 8 << 20;

/// Plugs a `virtio-vga`.
pub fn plug_vga(
    props: &mut GpuPciProps,
    sockets: super::Sockets<'_>,
    legacy: &std_vga::Sockets<'_>,
) -> Result<(), GpuError> {
    props.pci.pci.romfile.get_or_insert_with(|| ROM.into());
    let config = VgaConfig { memory: MEMORY, edid: None, extended: true, legacy: true };
    let vga = Vga::new(config).map_err(std_vga::VgaError::from)?;
    let vga = device::share(|_| vga);
    let VgaRegions { ports, window, mmio, framebuffer } = VgaRegions::of(&vga);
    let (at, len) = (REGISTERS.start, REGISTERS.end - REGISTERS.start);
    let registers = Region::container("vga.mmio", MMIO_SIZE.into());
    registers.add(&Region::alias("vga.mmio", &mmio, at, len.into()), at, 0);
    let beside = Beside { memory: framebuffer, registers };
    let place = props.place(NAME, Some(&beside));
    let (consoles, name) = (sockets.consoles, sockets.place.clone());
    let mut heads = connect(&VGA_KIND, &props.gpu, place, sockets, Some(vga.clone()))?.into_iter();
    place_legacy(&ports, &window, legacy);
    (legacy.watch_stores)(vga.lock().memory());
    if let Some(virtio) = heads.next() {
        let vga = vga::Head::new(&vga, legacy.clocks);
        let both = VgaHead { vga, virtio, driven: AtomicBool::new(false) };
        consoles.add(NAME, name.clone(), Arc::new(both));
    }
    for (n, head) in (1..).zip(heads) {
        consoles.add(NAME, ui::Place { head: n, ..name.clone() }, Arc::new(head));
    }
    Ok(())
}

/// The first head.
struct VgaHead {
    vga: Arc<vga::Head<Vga>>,
    virtio: Head,
    /// Whether the driver's picture was drawn last.
    driven: AtomicBool,
}

impl VgaHead {
    fn is_driven(&self) -> bool {
        self.virtio.screen.lock().is_driven()
    }
}

impl Adapter for VgaHead {
    fn refresh(&self, surface: &mut Surface, full: bool) -> Damage {
        let driven = self.is_driven();
        let full = full || self.driven.swap(driven, Ordering::AcqRel) != driven;
        if driven {
            return self.virtio.refresh(surface, full);
        }
        let damage = self.vga.refresh(surface, full);
        // Until one of both shows something, the screen is a head that is not used.
        if self.vga.has_begun() { damage } else { self.virtio.refresh(surface, full) }
    }

    fn cursor(&self) -> Cursor {
        if self.is_driven() { self.virtio.cursor() } else { Cursor::default() }
    }

    fn text(&self) -> Option<TextScreen> {
        if self.is_driven() { None } else { self.vga.text() }
    }

    fn takes_wishes(&self) -> bool {
        true
    }

    fn wish_size(&self, wish: SizeWish) {
        self.virtio.wish_size(wish);
    }
}
