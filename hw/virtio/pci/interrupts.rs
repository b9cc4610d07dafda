//! Interrupts of a device on the PCI bus: messages, or the INTx pin with a register that says why.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use base::irq::IrqLine;
use base::memory::IoHandler;
use parking_lot::Mutex;

use crate::pci::Msix;
use crate::virtio::Interrupts;
use crate::virtio::queue::NO_VECTOR;

/// Reasons, in the ISR register (4.1.4.5).
const QUEUE: u8 = 1;
const CONFIG: u8 = 2;

/// The sending end.
pub(super) struct PciInterrupts {
    intx: IrqLine,
    msix: Option<Arc<Msix>>,
    config_vector: AtomicU16,
    /// Why the pin is driven, which it is while there is a reason.
    isr: Mutex<u8>,
}

impl PciInterrupts {
    pub fn new(intx: IrqLine, msix: Option<Arc<Msix>>) -> Self {
        let config_vector = AtomicU16::new(NO_VECTOR);
        PciInterrupts { intx, msix, config_vector, isr: Mutex::new(0) }
    }

    pub fn msix(&self) -> Option<&Arc<Msix>> {
        self.msix.as_ref()
    }

    pub fn uses_messages(&self) -> bool {
        self.msix.as_ref().is_some_and(|msix| msix.enabled())
    }

    pub fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::Relaxed)
    }

    pub fn set_config_vector(&self, vector: u16) {
        self.config_vector.store(self.valid(vector), Ordering::Relaxed);
    }

    /// The vector, or none if there is none of this number.
    pub fn valid(&self, vector: u16) -> u16 {
        let known = self.msix.as_ref().is_some_and(|msix| vector < msix.vectors());
        if known { vector } else { NO_VECTOR }
    }

    /// Why the device interrupts; it stops doing so.
    pub fn take_isr(&self) -> u8 {
        let mut isr = self.isr.lock();
        self.intx.lower();
        std::mem::take(&mut *isr)
    }

    pub fn reset(&self) {
        self.take_isr();
        self.config_vector.store(NO_VECTOR, Ordering::Relaxed);
    }

    fn send(&self, reason: u8, vector: u16) {
        if let Some(msix) = self.msix.as_ref().filter(|msix| msix.enabled()) {
            return msix.notify(vector);
        }
        let mut isr = self.isr.lock();
        *isr |= reason;
        self.intx.raise();
    }
}

impl Interrupts for Arc<PciInterrupts> {
    fn queue(&self, vector: u16) {
        self.send(QUEUE, vector);
    }

    fn config(&self) {
        self.send(QUEUE | CONFIG, self.config_vector());
    }
}

/// The ISR register; reading it is the acknowledgement.
pub(super) struct IsrPort(pub Arc<PciInterrupts>);

impl IoHandler for IsrPort {
    fn read(&self, offset: u64, _: u8) -> u64 {
        if offset == 0 { self.0.take_isr().into() } else { 0 }
    }

    fn write(&self, _: u64, _: u8, _: u64) {}
}
