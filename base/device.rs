//! Device models and the shell around them.
//!
//! A model is a plain struct with `&mut self` handlers: it never sees its own lock. The shell (the
//! functions here) owns the lock and connects the model to regions, timers and interrupt inputs.
//! Whoever calls a model holds its lock for the length of one handler; a model may set interrupt
//! lines, arm timers and use DMA from its handlers, none of which come back to it.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::clock::{ClockKind, Clocks, Timer};
use crate::irq::{IrqLine, IrqSink};
use crate::memory::{AccessSizes, IoHandler, RamBlock, Region};

/// A model together with its lock.
pub type Shared<D> = Arc<Mutex<D>>;

/// A reference to a [`Shared`] model that does not keep it alive.
pub type WeakShared<D> = Weak<Mutex<D>>;

/// A device model.
pub trait Device: Send + 'static {
    /// The guest reads `size` bytes at `offset` into the model's region number `region`.
    fn read(&mut self, region: u32, offset: u64, size: u8) -> u64;
    /// The guest writes `size` bytes at `offset` into the model's region number `region`.
    fn write(&mut self, region: u32, offset: u64, size: u8, value: u64);
    /// Returns to the state after power-up. Called with the VM stopped.
    fn reset(&mut self);
}

/// Makes a shared model that needs a reference to itself, for timers and interrupt inputs.
pub fn share<D>(make: impl FnOnce(&WeakShared<D>) -> D) -> Shared<D> {
    Arc::new_cyclic(|me| Mutex::new(make(me)))
}

/// What the bus needs of any model, whatever its type.
pub trait AnyDevice: Send + Sync {
    /// See [`Device::reset`].
    fn reset(&self);
}

impl<D: Device> AnyDevice for Mutex<D> {
    fn reset(&self) {
        self.lock().reset();
    }
}

struct DeviceIo<D> {
    device: Shared<D>,
    region: u32,
    sizes: AccessSizes,
}

impl<D: Device> IoHandler for DeviceIo<D> {
    fn read(&self, offset: u64, size: u8) -> u64 {
        self.device.lock().read(self.region, offset, size)
    }
    fn write(&self, offset: u64, size: u8, value: u64) {
        self.device.lock().write(self.region, offset, size, value);
    }
    fn sizes(&self) -> AccessSizes {
        self.sizes
    }
}

/// A region of registers answered by a model; `number` tells the model which of its regions it is.
pub fn region<D: Device>(
    device: &Shared<D>,
    number: u32,
    name: &str,
    size: u64,
    sizes: AccessSizes,
) -> Region {
    Region::io(name, size, Arc::new(DeviceIo { device: device.clone(), region: number, sizes }))
}

/// Memory that a model may stand in for: loads come from `block` while the region is in ROM mode, all
/// else reaches the model.
pub fn rom_region<D: Device>(
    device: &Shared<D>,
    number: u32,
    block: Arc<RamBlock>,
    sizes: AccessSizes,
) -> Region {
    let io = DeviceIo { device: device.clone(), region: number, sizes };
    Region::rom_device(block, Arc::new(io))
}

/// A timer that calls a method of a model.
pub fn timer<D: Send + 'static>(
    device: &WeakShared<D>,
    clocks: &Clocks,
    kind: ClockKind,
    expired: impl Fn(&mut D) + Send + Sync + 'static,
) -> Timer {
    let device = device.clone();
    clocks.timer(kind, move || {
        if let Some(device) = device.upgrade() {
            expired(&mut device.lock());
        }
    })
}

struct Input<D, F> {
    device: WeakShared<D>,
    changed: F,
}

impl<D: Send, F: Fn(&mut D, u32, bool) + Send + Sync> IrqSink for Input<D, F> {
    fn set_irq(&self, n: u32, level: bool) {
        if let Some(device) = self.device.upgrade() {
            (self.changed)(&mut device.lock(), n, level);
        }
    }
}

/// The interrupt inputs of a model, to make [`IrqLine`]s for.
pub fn inputs<D: Send + 'static>(
    device: &Shared<D>,
    changed: impl Fn(&mut D, u32, bool) + Send + Sync + 'static,
) -> Arc<dyn IrqSink> {
    Arc::new(Input { device: Arc::downgrade(device), changed })
}

/// A line to input `n` of a model.
pub fn input_line<D: Send + 'static>(
    device: &Shared<D>,
    n: u32,
    changed: impl Fn(&mut D, u32, bool) + Send + Sync + 'static,
) -> IrqLine {
    IrqLine::new(inputs(device, changed), n)
}
