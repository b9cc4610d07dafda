//! Interrupts on their way into the kernel.

use std::sync::{Arc, OnceLock, Weak};

use base::interrupt::{ApicBus, ApicMessage, EoiListener, IntAck, MsiMessage, MsiSink, Trigger};
use base::irq::IrqSink;
use kvm_bindings::kvm_msi;
use kvm_ioctls::VmFd;
use parking_lot::{Mutex, RwLock};

use super::routes::{PINS, Routes};
use crate::signals::{Signals, request};

/// The inputs of the 8259 pair and the I/O APIC in the kernel: global system interrupts.
pub struct KernelPins {
    pub(super) fd: Arc<VmFd>,
}

impl IrqSink for KernelPins {
    fn set_irq(&self, n: u32, level: bool) {
        if n < PINS {
            // Fails for numbers without a route only, and all below `PINS` have one.
            let _ = self.fd.set_irq_line(n, level);
        }
    }
}

/// The bus to local APICs in the kernel.
pub struct KernelApics {
    pub(super) fd: Arc<VmFd>,
    pub(super) routes: Arc<Mutex<Routes>>,
    listeners: RwLock<Vec<Weak<dyn EoiListener>>>,
}

impl KernelApics {
    pub(super) fn new(fd: Arc<VmFd>, routes: Arc<Mutex<Routes>>) -> Arc<Self> {
        Arc::new(KernelApics { fd, routes, listeners: RwLock::default() })
    }

    pub(super) fn end_of_interrupt(&self, vector: u8) {
        for listener in self.listeners.read().iter().filter_map(Weak::upgrade) {
            listener.end_of_interrupt(vector);
        }
    }
}

impl MsiSink for KernelApics {
    fn send(&self, message: MsiMessage) {
        let msi = kvm_msi {
            address_lo: message.address as u32,
            address_hi: (message.address >> 32) as u32,
            data: message.data,
            ..Default::default()
        };
        // A message that no processor takes is lost, as on a real bus.
        let _ = self.fd.signal_msi(msi);
    }
}

impl ApicBus for KernelApics {
    fn deliver(&self, message: ApicMessage) {
        self.send(message.to_msi());
    }

    fn subscribe_eoi(&self, listener: Weak<dyn EoiListener>) {
        self.listeners.write().push(listener);
    }

    /// The kernel reports the end of those interrupts that a route says are level-triggered. Others
    /// need no route: they are delivered one by one.
    fn route_changed(&self, gsi: u32, message: Option<ApicMessage>) {
        if gsi >= PINS {
            return;
        }
        let level = message.filter(|message| message.trigger == Trigger::Level);
        let mut routes = self.routes.lock();
        if routes.set_pin(gsi, level.map(ApicMessage::to_msi)) {
            // The table cannot outgrow the kernel's limit; the guest's part of it is `PINS` long.
            let _ = routes.commit(&self.fd);
        }
    }
}

/// The output of an 8259 pair outside the kernel, wired to the boot processor, whose local APIC is
/// inside.
pub struct PicLine {
    pub(super) signals: Arc<Signals>,
    pic: OnceLock<Arc<dyn IntAck>>,
}

impl PicLine {
    /// The line to the processor with this mailbox.
    pub fn new(signals: Arc<Signals>) -> Arc<Self> {
        Arc::new(PicLine { signals, pic: OnceLock::new() })
    }

    /// Connects the acknowledge cycle, once.
    pub fn connect_pic(&self, pic: Arc<dyn IntAck>) {
        // The wiring of a machine does not change: a second connection is the same one again.
        let _ = self.pic.set(pic);
    }

    /// The vector of the interrupt that the processor takes now.
    pub(super) fn acknowledge(&self) -> Option<u8> {
        Some(self.pic.get()?.acknowledge())
    }
}

impl IrqSink for PicLine {
    fn set_irq(&self, _: u32, level: bool) {
        if level {
            self.signals.post(request::INTR);
        } else {
            self.signals.take(request::INTR);
        }
    }
}
