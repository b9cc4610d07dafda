//! Global system interrupts: one wire per number, fanned out to the 8259 pair and the I/O APIC.

use std::sync::Arc;

use base::irq::{IrqSink, Probe};

/// The number of global system interrupts with one I/O APIC.
pub const GSI_COUNT: u32 = 24;

/// I/O APIC pin of the timer interrupt, whose ISA number is 0.
const TIMER_PIN: u32 = 2;

/// Interrupts of one 8259.
const PIC_PINS: u32 = 8;

/// The inputs of the two 8259s, for tests to watch and drive one by one.
pub struct PicPins {
    /// The first one's.
    pub primary: Arc<Probe>,
    /// The second one's.
    pub secondary: Arc<Probe>,
}

/// The second 8259's inputs, by number of its pins.
struct SecondaryPins(Arc<dyn IrqSink>);

impl IrqSink for SecondaryPins {
    fn set_irq(&self, n: u32, level: bool) {
        self.0.set_irq(n + PIC_PINS, level);
    }
}

impl PicPins {
    /// The pins in front of the pair.
    pub fn new(pair: &Arc<dyn IrqSink>) -> Self {
        let secondary = Arc::new(SecondaryPins(pair.clone()));
        PicPins {
            primary: Arc::new(Probe::new(pair.clone())),
            secondary: Arc::new(Probe::new(secondary)),
        }
    }
}

impl IrqSink for PicPins {
    fn set_irq(&self, n: u32, level: bool) {
        match n.checked_sub(PIC_PINS) {
            None => self.primary.set_irq(n, level),
            Some(n) => self.secondary.set_irq(n, level),
        }
    }
}

/// Fans interrupts 0 to 15 out to both controllers, and the rest to the I/O APIC.
pub struct GsiFanout {
    pic: Arc<dyn IrqSink>,
    ioapic: Arc<Probe>,
}

/// The I/O APIC's inputs, by number of the interrupt.
struct IoapicPins(Arc<dyn IrqSink>);

impl IrqSink for IoapicPins {
    fn set_irq(&self, n: u32, level: bool) {
        self.0.set_irq(if n == 0 { TIMER_PIN } else { n }, level);
    }
}

impl GsiFanout {
    /// A fan-out to these controllers.
    pub fn new(pic: Arc<dyn IrqSink>, ioapic: Arc<dyn IrqSink>) -> Arc<Self> {
        Arc::new(GsiFanout { pic, ioapic: Arc::new(Probe::new(Arc::new(IoapicPins(ioapic)))) })
    }

    /// The side of the I/O APIC, for tests to watch and drive.
    pub fn ioapic_inputs(&self) -> Arc<Probe> {
        self.ioapic.clone()
    }
}

impl IrqSink for GsiFanout {
    fn set_irq(&self, n: u32, level: bool) {
        if n < 16 {
            self.pic.set_irq(n, level);
        }
        self.ioapic.set_irq(n, level);
    }
}
