//! A function on the bus: the shell that joins a model, its configuration space and its BARs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use base::device::{AnyDevice, Device};
use base::irq::{IrqLine, IrqSink};
use base::memory::{Dma, Region};
use parking_lot::Mutex;

use super::bus::PciBus;
use super::config::{BarKind, ConfigSpace, ROM_BAR, reg};

/// A model with configuration registers of its own.
pub trait PciDevice: Device {
    /// The guest wrote `size` bytes at `offset`; `config` already shows the result.
    fn config_written(&mut self, config: &mut ConfigSpace, offset: usize, size: u8) {
        let _ = (config, offset, size);
    }
    /// The device was taken off its bus: it ends what it has under way, for which it may wait, and lets
    /// go of its back ends.
    fn unplugged(&mut self) {}
    /// The guest is about to read `size` bytes at `offset` of `config`.
    fn config_reading(&mut self, config: &mut ConfigSpace, offset: usize, size: u8) {
        let _ = (config, offset, size);
    }
}

/// A [`PciDevice`] of any type, with its lock.
trait AnyPciDevice: AnyDevice {
    fn config_write(&self, config: &Mutex<ConfigSpace>, offset: usize, size: u8, value: u32);
    fn config_reading(&self, config: &Mutex<ConfigSpace>, offset: usize, size: u8);
    fn unplugged(&self);
}

impl<D: PciDevice> AnyPciDevice for Mutex<D> {
    fn config_write(&self, config: &Mutex<ConfigSpace>, offset: usize, size: u8, value: u32) {
        let mut device = self.lock();
        let mut config = config.lock();
        config.write(offset, size, value);
        device.config_written(&mut config, offset, size);
    }
    fn unplugged(&self) {
        self.lock().unplugged();
    }
    fn config_reading(&self, config: &Mutex<ConfigSpace>, offset: usize, size: u8) {
        let mut device = self.lock();
        device.config_reading(&mut config.lock(), offset, size);
    }
}

/// What a function's model is connected to.
#[derive(Clone)]
pub struct PciWires {
    /// The function's INTx pin.
    pub intx: IrqLine,
    /// Access to guest memory, while bus mastering is enabled.
    pub dma: Dma,
}

struct MappedBar {
    number: usize,
    region: Region,
    /// The container that shows the region now, and where.
    place: Option<(Region, u64)>,
}

/// A function's place on the bus and what it is connected to there.
pub(super) struct Seat {
    pub bus: Weak<PciBus>,
    pub devfn: u8,
    pub intx: Arc<Intx>,
    pub dma: Dma,
}

/// A function plugged into a bus.
pub struct PciFunction {
    name: String,
    /// The id that the operator gave it.
    id: OnceLock<String>,
    devfn: u8,
    config: Mutex<ConfigSpace>,
    /// The configuration space after power-up.
    pristine: ConfigSpace,
    device: Arc<dyn AnyPciDevice>,
    bars: Mutex<Vec<MappedBar>>,
    /// Whether it is on its bus; changes with the lock of `bars` held.
    attached: AtomicBool,
    intx: Arc<Intx>,
    dma: Dma,
    bus: Weak<PciBus>,
}

/// The INTx pin: the level the model drives, and whether the guest lets it through.
pub(super) struct Intx {
    bus: Weak<PciBus>,
    devfn: u8,
    pin: u8,
    /// Level driven by the model, whether the guest has disabled the pin, level shown to the bus.
    levels: Mutex<(bool, bool, bool)>,
}

impl Intx {
    pub(super) fn new(bus: Weak<PciBus>, devfn: u8, pin: u8) -> Arc<Self> {
        Arc::new(Intx { bus, devfn, pin, levels: Mutex::new((false, false, false)) })
    }

    fn update(&self, change: impl FnOnce(&mut bool, &mut bool)) {
        let mut levels = self.levels.lock();
        let (driven, disabled, shown) = &mut *levels;
        change(driven, disabled);
        let level = *driven && !*disabled;
        if level != *shown && self.pin > 0 {
            *shown = level;
            if let Some(bus) = self.bus.upgrade() {
                bus.set_intx(self.devfn, self.pin, level);
            }
        }
    }

    fn driven(&self) -> bool {
        self.levels.lock().0
    }
}

impl IrqSink for Intx {
    fn set_irq(&self, _: u32, level: bool) {
        self.update(|driven, _| *driven = level);
    }
}

impl PciFunction {
    pub(super) fn new<D: PciDevice>(
        seat: Seat,
        name: &str,
        config: ConfigSpace,
        device: Arc<Mutex<D>>,
        bars: Vec<(usize, Region)>,
    ) -> Self {
        let Seat { bus, devfn, intx, dma } = seat;
        let bars = bars
            .into_iter()
            .map(|(number, region)| MappedBar { number, region, place: None })
            .collect();
        dma.set_enabled(false);
        PciFunction {
            name: name.into(),
            id: OnceLock::new(),
            devfn,
            pristine: config.clone(),
            config: Mutex::new(config),
            device,
            bars: Mutex::new(bars),
            attached: AtomicBool::new(true),
            intx,
            dma,
            bus,
        }
    }

    /// The type name of the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The operator calls it so. To be called once.
    pub fn set_id(&self, id: &str) {
        self.id.get_or_init(|| id.into());
    }

    /// How messages call it: model, and id if it has one.
    pub(super) fn shown_name(&self) -> String {
        match self.id.get() {
            Some(id) => format!("{},id={id}", self.name),
            None => self.name.clone(),
        }
    }

    /// How traces call it: model, and the place on the root bus.
    pub(super) fn trace_name(&self) -> String {
        format!("{} 00:{:02x}.{:x}", self.name, self.devfn >> 3, self.devfn & 7)
    }

    /// Slot and function number.
    pub fn devfn(&self) -> u8 {
        self.devfn
    }

    /// A configuration read.
    pub fn config_read(&self, offset: usize, size: u8) -> u32 {
        self.device.config_reading(&self.config, offset, size);
        let mut config = self.config.lock();
        let status = config.u16(reg::STATUS) & !reg::STATUS_INTERRUPT;
        let pending = if self.intx.driven() { reg::STATUS_INTERRUPT } else { 0 };
        config.set_u16(reg::STATUS, status | pending);
        config.read(offset, size)
    }

    /// A configuration write, with all that follows from it.
    pub fn config_write(&self, offset: usize, size: u8, value: u32) {
        self.device.config_write(&self.config, offset, size, value);
        self.apply();
    }

    /// Looks at the space as firmware-like code of the board does: a copy.
    pub fn config(&self) -> ConfigSpace {
        self.config.lock().clone()
    }

    /// Back to the state after power-up.
    pub fn reset(&self) {
        *self.config.lock() = self.pristine.clone();
        self.device.reset();
        // Models with registers of their own look at all of them again.
        self.device.config_write(&self.config, 0, 4, 0);
        self.apply();
    }

    /// Takes the function off the bus: it reaches nothing any more, and nothing reaches it.
    pub(super) fn detach(&self) {
        let mut bars = self.bars.lock();
        self.attached.store(false, Ordering::Relaxed);
        self.dma.set_enabled(false);
        self.intx.update(|_, disabled| *disabled = true);
        for bar in bars.iter_mut() {
            if let Some((container, _)) = bar.place.take() {
                container.remove(&bar.region);
            }
        }
    }

    /// Has a function that was taken off its bus end what it has under way. May wait.
    pub fn release(&self) {
        self.device.unplugged();
    }

    /// Makes bus mastering, INTx and regions follow the configuration registers.
    fn apply(&self) {
        // Held until the regions have moved, so that of two racing writes the later one wins.
        let mut bars = self.bars.lock();
        if !self.attached.load(Ordering::Relaxed) {
            return;
        }
        let (command, addresses) = {
            let config = self.config.lock();
            let addresses: Vec<_> = bars
                .iter()
                .map(|bar| {
                    let kind = config.bars().get(bar.number).copied().flatten()?.kind;
                    Some((kind == BarKind::Io, config.bar_address(bar.number)?))
                })
                .collect();
            (config.u16(reg::COMMAND), addresses)
        };
        self.dma.set_enabled(command & reg::COMMAND_MASTER != 0);
        self.intx.update(|_, disabled| *disabled = command & reg::COMMAND_INTX_DISABLE != 0);
        let Some(bus) = self.bus.upgrade() else { return };
        for (bar, address) in bars.iter_mut().zip(addresses) {
            let place = address
                .map(|(io, at)| (if io { bus.io().clone() } else { bus.memory().clone() }, at));
            let was = bar.place.as_ref().map(|(_, at)| *at);
            if was == place.as_ref().map(|(_, at)| *at) {
                continue;
            }
            if let Some((container, _)) = bar.place.take() {
                container.remove(&bar.region);
            }
            if let Some((container, at)) = place {
                container.add(&bar.region, at, if bar.number == ROM_BAR { 2 } else { 1 });
                bar.place = Some((container, at));
            }
        }
    }
}
