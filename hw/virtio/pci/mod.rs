//! Virtio devices on the PCI bus (virtio 1.2, 4.1): the registers of version 1 behind vendor
//! capabilities in BAR 4, those of legacy drivers in BAR 0, MSI-X in BAR 1; laid out as QEMU does it.

mod interrupts;
mod layout;
mod legacy;
mod modern;
mod notify;
mod props;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use base::device::{self, Device, Shared};
use base::interrupt::MsiSink;
use base::memory::{AccessSizes, Dma, Region};
use base::state::State;

use super::features::status;
use super::{Model, ToDriver, VirtQueue, Virtio};
use crate::pci::{
    Bar, BarKind, ConfigSpace, MAX_VECTORS, Msix, PciBus, PciDevice, PciFunction, reg,
};

pub use props::{InterfaceProps, Interfaces, Kind, QueueProps, VirtioPciError, VirtioPciProps};

use interrupts::{IsrPort, PciInterrupts};
use layout::{LEGACY_BAR, Layout, Span, Structure};
use notify::{NotifyPages, NotifyPort};

/// Where another half of the function has its memory.
const BESIDE_BAR: usize = 0;

/// Regions that the device answers with its lock held.
const LEGACY: u32 = 0;
const COMMON: u32 = 1;
const CONFIG: u32 = 2;

/// What a device's model works with.
pub struct Wiring {
    /// Its queues, by number.
    pub queues: Vec<Arc<VirtQueue>>,
    /// The way to the driver.
    pub driver: Arc<ToDriver>,
    /// Guest memory.
    pub dma: Dma,
}

/// The size of a device's parts.
pub struct Shape {
    /// Descriptors of each queue.
    pub queue_sizes: Vec<u16>,
    /// Bytes of configuration.
    pub config_len: usize,
}

/// Another device's half of the same function.
pub struct Beside {
    /// What is behind its first BAR, as 32-bit prefetchable memory.
    pub memory: Region,
    /// What is at the start of the structures' BAR.
    pub registers: Region,
}

/// Which device goes where.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Name of its type.
    pub type_name: &'a str,
    /// Which registers it has.
    pub interfaces: Interfaces,
    /// Class and subclass, or 0 for the kind's own.
    pub class: u32,
    /// How many MSI-X vectors there are, as `vectors` says it.
    pub vectors: u32,
    /// The rest of its transport.
    pub props: &'a VirtioPciProps,
    /// What else the function is.
    pub beside: Option<&'a Beside>,
}

/// Registers of the transport.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct VirtioPciState {
    device_select: u32,
    driver_select: u32,
    /// As the driver wrote them.
    driver_features: [u32; 2],
    queue_select: u16,
}

/// A device of any kind on the PCI bus.
pub struct VirtioPci {
    virtio: Virtio,
    interrupts: Arc<PciInterrupts>,
    layout: Layout,
    st: VirtioPciState,
}

impl VirtioPci {
    /// Plugs a device. `build` makes the model, which appoints the workers of its queues.
    pub fn plug(
        bus: &PciBus,
        kind: &Kind,
        place: Place<'_>,
        shape: &Shape,
        msi: Arc<dyn MsiSink>,
        build: impl FnOnce(&Wiring) -> Box<dyn Model>,
    ) -> Result<Arc<PciFunction>, VirtioPciError> {
        let Place { type_name: name, interfaces, class, vectors, props, beside } = place;
        props.check(interfaces)?;
        let mut config = ConfigSpace::new(&kind.identity(interfaces, class));
        config.allow_device_registers();
        let layout = Layout::new(props, interfaces, beside.is_some());
        layout.add_capabilities(&mut config);
        let vectors = match vectors {
            props::ENOUGH => shape.queue_sizes.len() as u32 + 1,
            vectors => vectors,
        };
        let msix = match vectors {
            0 => None,
            vectors if vectors <= u32::from(MAX_VECTORS) => {
                Some(Msix::add(&mut config, name, vectors as u16, layout.msix_bar(), msi))
            }
            vectors => {
                base::warn_report!("unable to init msix vectors to {vectors}");
                None
            }
        };
        let legacy_size = legacy::bar_size(shape.config_len);
        if interfaces.legacy {
            config.add_bar(LEGACY_BAR, Bar { kind: BarKind::Io, size: legacy_size });
        }
        if let Some(beside) = beside {
            let kind = BarKind::Memory32 { prefetchable: true };
            config.add_bar(BESIDE_BAR, Bar { kind, size: beside.memory.size() as u64 });
        }
        let function = bus.plug_with_rom(name, &props.pci, kind.rom, config, |wires| {
            let (msix, msix_region) = msix.unzip();
            let interrupts = Arc::new(PciInterrupts::new(wires.intx, msix));
            let driver = Arc::new(ToDriver::new(Box::new(interrupts.clone())));
            let queue = |(index, &size)| VirtQueue::new(index, size, &wires.dma, &driver);
            let queues: Vec<_> = (0..).zip(&shape.queue_sizes).map(queue).collect();
            let wiring = Wiring { queues, driver, dma: wires.dma };
            let model = build(&wiring);
            let Wiring { queues, driver, .. } = wiring;
            let virtio =
                Virtio::new(model, queues.clone(), driver, props.common_features(interfaces));
            let st = VirtioPciState::default();
            let interrupts_too = interrupts.clone();
            let device =
                device::share(|_| VirtioPci { virtio, interrupts: interrupts_too, layout, st });
            let mut bars: Vec<_> =
                msix_region.into_iter().map(|region| (layout.msix_bar(), region)).collect();
            if interfaces.legacy {
                let region = locked(&device, LEGACY, name, legacy_size);
                bars.push((LEGACY_BAR, region));
            }
            if interfaces.modern {
                let bar = modern_bar(&device, name, layout, &queues, interrupts);
                if let Some(beside) = beside {
                    bar.add(&beside.registers, 0, 0);
                }
                bars.push((layout.modern_bar(), bar));
            }
            bars.extend(beside.map(|beside| (BESIDE_BAR, beside.memory.clone())));
            if layout.notify_port {
                bars.push((layout.notify_port_bar(), NotifyPort::region(&queues)));
            }
            (device, bars)
        })?;
        Ok(function)
    }

    /// Looks whether the guest lets the device use memory: without, it does no work.
    fn follow_command(&mut self, config: &ConfigSpace) {
        let master = config.u16(reg::COMMAND) & reg::COMMAND_MASTER != 0;
        if !master && self.virtio.status() & status::DRIVER_OK != 0 {
            self.virtio.stop();
        }
    }
}

fn locked(device: &Shared<VirtioPci>, number: u32, name: &str, size: u64) -> Region {
    device::region(device, number, name, size, AccessSizes::UP_TO_DWORD)
}

/// The four structures of version 1.
fn modern_bar(
    device: &Shared<VirtioPci>,
    name: &str,
    layout: Layout,
    queues: &[Arc<VirtQueue>],
    interrupts: Arc<PciInterrupts>,
) -> Region {
    let bar = Region::container(name, layout.modern_size().into());
    let named = |what: &str| format!("virtio-pci-{what}-{name}");
    let Span { at, len } = layout.span(Structure::Common);
    bar.add(&locked(device, COMMON, &named("common"), len), at, 0);
    let Span { at, len } = layout.span(Structure::Isr);
    bar.add(&Region::io(&named("isr"), len, Arc::new(IsrPort(interrupts))), at, 0);
    let Span { at, len } = layout.span(Structure::Config);
    bar.add(&locked(device, CONFIG, &named("device"), len), at, 0);
    let Span { at, len } = layout.span(Structure::Notify);
    let pages = NotifyPages { queues: queues.to_vec(), stride: layout.notify_stride().into() };
    bar.add(&Region::io(&named("notify"), len, Arc::new(pages)), at, 0);
    bar
}

impl Device for VirtioPci {
    fn read(&mut self, region: u32, offset: u64, size: u8) -> u64 {
        match region {
            LEGACY => self.legacy_read(offset, size),
            COMMON => self.common_read(offset),
            _ => self.virtio.read_config(offset as usize, size),
        }
    }

    fn write(&mut self, region: u32, offset: u64, size: u8, value: u64) {
        match region {
            LEGACY => self.legacy_write(offset, size, value),
            COMMON => self.common_write(offset, value as u32),
            _ => self.virtio.write_config(offset as usize, size, value),
        }
    }

    fn reset(&mut self) {
        self.virtio.power_up();
        self.interrupts.reset();
        if let Some(msix) = self.interrupts.msix() {
            msix.reset();
        }
        self.st = VirtioPciState::default();
    }
}

impl PciDevice for VirtioPci {
    fn config_written(&mut self, config: &mut ConfigSpace, offset: usize, size: u8) {
        if let Some(msix) = self.interrupts.msix() {
            msix.follow(config);
        }
        self.follow_command(config);
        if let Some(access) = self.layout.access(config, offset, size) {
            let value = config.read(self.layout.access_data(), access.size);
            self.window_write(access.offset, access.size, value);
        }
    }

    fn unplugged(&mut self) {
        self.virtio.unplug();
    }

    fn config_reading(&mut self, config: &mut ConfigSpace, offset: usize, size: u8) {
        if let Some(access) = self.layout.access(config, offset, size) {
            let value = self.window_read(access.offset, access.size);
            for (i, byte) in value.to_le_bytes().into_iter().take(access.size.into()).enumerate() {
                config.set_u8(self.layout.access_data() + i, byte);
            }
        }
    }
}

/// BAR 4 by way of configuration space (4.1.4.9), for drivers that can not reach memory yet.
impl VirtioPci {
    fn window_read(&mut self, offset: u64, size: u8) -> u32 {
        let value = match self.layout.structure(offset) {
            Some((Structure::Common, inside)) => self.common_read(inside),
            Some((Structure::Isr, _)) => self.interrupts.take_isr().into(),
            Some((Structure::Config, inside)) => self.virtio.read_config(inside as usize, size),
            Some((Structure::Notify, _)) | None => 0,
        };
        value as u32
    }

    fn window_write(&mut self, offset: u64, size: u8, value: u32) {
        match self.layout.structure(offset) {
            Some((Structure::Common, inside)) => self.common_write(inside, value),
            Some((Structure::Isr, _)) | None => {}
            Some((Structure::Config, inside)) => {
                self.virtio.write_config(inside as usize, size, value.into());
            }
            Some((Structure::Notify, inside)) => {
                let queue = inside / u64::from(self.layout.notify_stride());
                self.kick(queue as u16);
            }
        }
    }

    fn kick(&self, queue: u16) {
        if let Some(queue) = self.virtio.queue(queue) {
            queue.kick();
        }
    }
}
