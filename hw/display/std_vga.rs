//! The standard adapters: a VGA with Bochs' extension, on the PCI bus (`VGA`), there without what
//! only one adapter of a machine can have (`secondary-vga`), without a VGA (`bochs-display`), and on
//! the ISA bus (`isa-vga`). "PCI VGA with Bochs VBE" and its kin in QEMU's specifications.

use std::sync::Arc;

use base::clock::Clocks;
use base::device::{self, Shared};
use base::memory::{RamBlock, RamError, Region};
use base::props::{Props, Size};
use ui::{Consoles, Place};

use super::edid::Edid;
use super::vga::{Head, MMIO_SIZE, Shows, Vga, VgaConfig, VgaRegions, WINDOW_START};
use crate::isa::IsaBus;
use crate::pci::rom::{self, RomError};
use crate::pci::{Bar, BarKind, ConfigSpace, Identity, PciBus, PciDevice, PciError, PciProps, ids};

/// Images of expansion ROMs.
const VGA_ROM: &str = "vgabios-stdvga.bin";
const BOCHS_ROM: &str = "vgabios-bochs-display.bin";
const ISA_ROM: &str = "vgabios.bin";

/// Limits of memory, in MiB.
const MEMORY_MIB: (u32, u32) = (1, 512);
const MIB: u64 = 1 << 20;
const BOCHS_MEMORY: (u64, u64) = (4 * MIB, 256 * MIB);
/// Where an ISA adapter has its memory.
const ISA_FRAMEBUFFER: u64 = 0xe000_0000;

const VGA_CLASS: u32 = 0x03_0000;
const OTHER_DISPLAY_CLASS: u32 = 0x03_8000;

/// Which BARs there are.
const FRAMEBUFFER_BAR: usize = 0;
const MMIO_BAR: usize = 2;

/// What can be said about the monitor.
#[derive(Debug, Props)]
pub struct MonitorProps {
    /// It can be asked what it is.
    #[prop(default = true)]
    pub edid: bool,
    /// The width that it prefers; its own choice if zero.
    pub xres: u32,
    /// The height.
    pub yres: u32,
    /// The largest width that it shows; any if zero.
    pub xmax: u32,
    /// The largest height.
    pub ymax: u32,
    /// In thousandths of a Hertz; the monitor's own choice if zero.
    pub refresh_rate: u32,
}

impl MonitorProps {
    fn monitor(&self) -> Option<Edid> {
        let MonitorProps { edid, xres, yres, xmax, ymax, refresh_rate } = *self;
        edid.then_some(Edid {
            width: xres,
            height: yres,
            max_width: xmax,
            max_height: ymax,
            refresh_rate,
            millimetres: None,
        })
    }
}

/// Properties of `VGA`.
#[derive(Debug, Props)]
pub struct StdVgaProps {
    /// Those that `secondary-vga` has too.
    #[prop(flatten)]
    pub rest: SecondaryVgaProps,
    /// There are registers in memory.
    #[prop(default = true)]
    pub mmio: bool,
    /// Saved state has a name that does not tell its place.
    #[prop(name = "global-vmstate")]
    pub global_vmstate: bool,
}

/// Properties of `secondary-vga`.
#[derive(Debug, Props)]
pub struct SecondaryVgaProps {
    /// Place on the bus, and ROM.
    #[prop(flatten)]
    pub pci: PciProps,
    /// The monitor.
    #[prop(flatten)]
    pub monitor: MonitorProps,
    /// MiB of memory.
    #[prop(default = 16)]
    pub vgamem_mb: u32,
    /// Registers beyond those of VGA and Bochs.
    #[prop(name = "qemu-extended-regs", default = true)]
    pub extended: bool,
}

/// Properties of `bochs-display`.
#[derive(Debug, Props)]
pub struct BochsDisplayProps {
    /// Place on the bus, and ROM.
    #[prop(flatten)]
    pub pci: PciProps,
    /// The monitor.
    #[prop(flatten)]
    pub monitor: MonitorProps,
    /// Bytes of memory.
    #[prop(default = Size(16 * MIB))]
    pub vgamem: Size,
}

/// Properties of `isa-vga`.
#[derive(Debug, Props)]
pub struct IsaVgaProps {
    /// MiB of memory.
    #[prop(default = 8)]
    pub vgamem_mb: u32,
}

/// Why there is no adapter.
#[derive(Debug, thiserror::Error)]
pub enum VgaError {
    /// Its place on the bus, or its ROM.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// Its ROM.
    #[error(transparent)]
    Rom(#[from] RomError),
    /// Its memory.
    #[error(transparent)]
    Memory(#[from] RamError),
    /// It would have too little memory, or too much.
    #[error("bochs-display: video memory too {0}")]
    BochsMemory(&'static str),
    /// The chip can not have this much.
    #[error("Invalid cirrus_vga ram size '{0}'")]
    CirrusMemory(u32),
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
    /// Has the guest's stores to memory noticed.
    pub watch_stores: &'a dyn Fn(&Arc<RamBlock>),
}

/// What makes a PCI adapter.
struct Plan<'a> {
    name: &'a str,
    pci: &'a PciProps,
    class: u32,
    config: VgaConfig,
    mmio: bool,
}

/// Plugs a `VGA`.
pub fn plug_vga(props: &mut StdVgaProps, sockets: &Sockets<'_>) -> Result<(), VgaError> {
    let SecondaryVgaProps { pci, monitor, vgamem_mb, extended } = &mut props.rest;
    pci.romfile.get_or_insert_with(|| VGA_ROM.into());
    let (device, regions) = plug(
        Plan {
            name: "VGA",
            pci,
            class: VGA_CLASS,
            config: VgaConfig {
                memory: memory_size(*vgamem_mb),
                edid: monitor.monitor(),
                extended: *extended,
                legacy: true,
            },
            mmio: props.mmio,
        },
        sockets,
    )?;
    place_legacy(&regions.ports, &regions.window, sockets);
    show("VGA", &device, sockets);
    Ok(())
}

/// Plugs a `secondary-vga`.
pub fn plug_secondary(props: &SecondaryVgaProps, sockets: &Sockets<'_>) -> Result<(), VgaError> {
    let plan = Plan {
        name: "secondary-vga",
        pci: &props.pci,
        class: OTHER_DISPLAY_CLASS,
        config: VgaConfig {
            memory: memory_size(props.vgamem_mb),
            edid: props.monitor.monitor(),
            extended: props.extended,
            legacy: true,
        },
        mmio: true,
    };
    let (device, _) = plug(plan, sockets)?;
    show("secondary-vga", &device, sockets);
    Ok(())
}

/// Plugs a `bochs-display`.
pub fn plug_bochs(props: &mut BochsDisplayProps, sockets: &Sockets<'_>) -> Result<(), VgaError> {
    let BochsDisplayProps { pci, monitor, vgamem } = props;
    pci.romfile.get_or_insert_with(|| BOCHS_ROM.into());
    let memory = match vgamem.0 {
        bytes if bytes < BOCHS_MEMORY.0 => return Err(VgaError::BochsMemory("small")),
        bytes if bytes > BOCHS_MEMORY.1 => return Err(VgaError::BochsMemory("big")),
        bytes => bytes.next_power_of_two() as u32,
    };
    let config = VgaConfig { memory, edid: monitor.monitor(), extended: true, legacy: false };
    let (name, class) = ("bochs-display", OTHER_DISPLAY_CLASS);
    let (device, _) = plug(Plan { name, pci, class, config, mmio: true }, sockets)?;
    show(name, &device, sockets);
    Ok(())
}

/// Plugs an `isa-vga`.
pub fn plug_isa(props: &IsaVgaProps, sockets: &Sockets<'_>) -> Result<Shared<Vga>, VgaError> {
    let memory = memory_size(props.vgamem_mb);
    let config = VgaConfig { memory, edid: None, extended: false, legacy: true };
    let vga = Vga::new(config)?;
    rom::give_to_firmware(ISA_ROM, true, sockets.pci.rom_files())?;
    let device = device::share(|_| vga);
    let regions = VgaRegions::of(&device);
    place_legacy(&regions.ports, &regions.window, sockets);
    sockets.isa.place_memory(&regions.framebuffer, ISA_FRAMEBUFFER);
    show("isa-vga", &device, sockets);
    Ok(device)
}

fn plug(plan: Plan<'_>, sockets: &Sockets<'_>) -> Result<(Shared<Vga>, VgaRegions), VgaError> {
    let size = plan.config.memory.into();
    let mut space = ConfigSpace::new(&Identity {
        vendor: ids::TEACHING,
        device: ids::TEACHING_VGA,
        revision: 2,
        class: plan.class,
        subsystem: Some((ids::QUMRANET, ids::QUMRANET_DEFAULT_SUBSYSTEM)),
        interrupt_pin: 0,
    });
    let memory = |prefetchable, size| Bar { kind: BarKind::Memory32 { prefetchable }, size };
    space.add_bar(FRAMEBUFFER_BAR, memory(true, size));
    if plan.mmio {
        space.add_bar(MMIO_BAR, memory(false, MMIO_SIZE));
    }
    let vga = Vga::new(plan.config)?;
    let device = device::share(|_| vga);
    let regions = VgaRegions::of(&device);
    let mut bars = vec![(FRAMEBUFFER_BAR, regions.framebuffer.clone())];
    if plan.mmio {
        bars.push((MMIO_BAR, regions.mmio.clone()));
    }
    sockets.pci.plug(plan.name, plan.pci, space, |_| (device.clone(), bars))?;
    Ok((device, regions))
}

/// Gives an adapter the ports and the window of a VGA.
pub fn place_legacy(ports: &[(u64, Region)], window: &Region, sockets: &Sockets<'_>) {
    ports.iter().for_each(|(at, region)| sockets.isa.place(region, *at));
    sockets.isa.place_memory_over(window, WINDOW_START);
}

/// Gives an adapter a console.
pub fn show<D: Shows>(label: &str, device: &Shared<D>, sockets: &Sockets<'_>) {
    (sockets.watch_stores)(device.lock().memory());
    let head: Arc<Head<D>> = Head::new(device, sockets.clocks);
    sockets.consoles.add(label, sockets.place.clone(), head);
}

fn memory_size(mib: u32) -> u32 {
    mib.clamp(MEMORY_MIB.0, MEMORY_MIB.1).next_power_of_two() << 20
}

impl PciDevice for Vga {}
