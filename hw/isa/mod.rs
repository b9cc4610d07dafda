//! The ISA bus: sixteen interrupts, a space of ports, and one of memory.

pub mod port92;
pub mod ports;

use base::irq::{IrqLine, IrqSink};
use base::memory::Region;
use std::sync::Arc;

/// Number of ISA interrupts.
pub const IRQS: u32 = 16;

/// What an ISA device is plugged into.
pub struct IsaBus {
    ports: Region,
    memory: Region,
    irqs: Vec<IrqLine>,
}

impl IsaBus {
    /// A bus with these ports, this memory, and these interrupt inputs.
    pub fn new(ports: Region, memory: Region, inputs: &Arc<dyn IrqSink>) -> Self {
        IsaBus { ports, memory, irqs: (0..IRQS).map(|n| IrqLine::new(inputs.clone(), n)).collect() }
    }

    /// The line of interrupt `n`; an unconnected one if there is no such interrupt.
    pub fn irq(&self, n: u32) -> IrqLine {
        self.irqs.get(n as usize).cloned().unwrap_or_default()
    }

    /// Places a device's ports.
    pub fn place(&self, ports: &Region, at: u64) {
        self.ports.add(ports, at, 0);
    }

    /// Places a device's memory.
    pub fn place_memory(&self, memory: &Region, at: u64) {
        self.memory.add(memory, at, 0);
    }

    /// Places memory over other memory that is there already.
    pub fn place_memory_over(&self, memory: &Region, at: u64) {
        self.memory.add(memory, at, 1);
    }

    /// Places ports over others that are there already.
    pub fn place_over(&self, ports: &Region, at: u64) {
        self.ports.add(ports, at, 1);
    }
}
