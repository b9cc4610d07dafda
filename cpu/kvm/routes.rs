//! Interrupt routes: what a global system interrupt does inside the kernel.

use std::collections::BTreeMap;

use base::interrupt::MsiMessage;
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;

use super::error::KvmError;

/// Inputs of the I/O APIC; messages have numbers from here on.
pub(super) const PINS: u32 = 24;

/// What one interrupt leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Pin { chip: u32, pin: u32 },
    Message(MsiMessage),
}

impl Route {
    fn entry(&self, gsi: u32) -> kvm_irq_routing_entry {
        let (type_, u) = match *self {
            Route::Pin { chip: irqchip, pin } => (
                KVM_IRQ_ROUTING_IRQCHIP,
                kvm_irq_routing_entry__bindgen_ty_1 {
                    irqchip: kvm_irq_routing_irqchip { irqchip, pin },
                },
            ),
            Route::Message(message) => (
                KVM_IRQ_ROUTING_MSI,
                kvm_irq_routing_entry__bindgen_ty_1 {
                    msi: kvm_irq_routing_msi {
                        address_lo: message.address as u32,
                        address_hi: (message.address >> 32) as u32,
                        data: message.data,
                        ..Default::default()
                    },
                },
            ),
        };
        kvm_irq_routing_entry { gsi, type_, u, ..Default::default() }
    }
}

/// The routing table.
#[derive(Default)]
pub(super) struct Routes {
    table: BTreeMap<u32, Vec<Route>>,
}

impl Routes {
    /// The wires of a PC: each of the sixteen ISA interrupts goes to the 8259 pair and to the I/O
    /// APIC, where the timer (interrupt 0) takes the place of the cascade (input 2).
    pub fn pc() -> Self {
        let mut table = BTreeMap::new();
        for gsi in 0..PINS {
            let mut routes = Vec::new();
            match gsi {
                2 => {}
                0..8 => routes.push(Route::Pin { chip: KVM_IRQCHIP_PIC_MASTER, pin: gsi }),
                8..16 => routes.push(Route::Pin { chip: KVM_IRQCHIP_PIC_SLAVE, pin: gsi - 8 }),
                _ => {}
            }
            match gsi {
                0 => routes.push(Route::Pin { chip: KVM_IRQCHIP_IOAPIC, pin: 2 }),
                2 => {}
                _ => routes.push(Route::Pin { chip: KVM_IRQCHIP_IOAPIC, pin: gsi }),
            }
            table.insert(gsi, routes);
        }
        Routes { table }
    }

    /// Sets what an input of the I/O APIC outside of the kernel means. Returns whether that changed
    /// anything.
    pub fn set_pin(&mut self, gsi: u32, message: Option<MsiMessage>) -> bool {
        let new: Vec<_> = message.map(Route::Message).into_iter().collect();
        let old = self.table.insert(gsi, new.clone());
        old.unwrap_or_default() != new
    }

    /// Gives a message a number.
    pub fn add_message(&mut self, message: MsiMessage) -> u32 {
        let gsi = (PINS..).find(|gsi| !self.table.contains_key(gsi)).unwrap_or(PINS);
        self.table.insert(gsi, vec![Route::Message(message)]);
        gsi
    }

    /// Changes or takes back the message behind a number.
    pub fn set_message(&mut self, gsi: u32, message: Option<MsiMessage>) {
        match message {
            Some(message) => self.table.insert(gsi, vec![Route::Message(message)]),
            None => self.table.remove(&gsi),
        };
    }

    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let pairs =
            self.table.iter().flat_map(|(gsi, routes)| routes.iter().map(|r| r.entry(*gsi)));
        pairs.collect()
    }

    /// Tells the kernel.
    pub fn commit(&self, fd: &VmFd) -> Result<(), KvmError> {
        let routing = KvmIrqRouting::from_entries(&self.entries())
            .map_err(|_| KvmError::Missing("that many interrupt routes"))?;
        fd.set_gsi_routing(&routing).map_err(KvmError::ioctl("KVM_SET_GSI_ROUTING"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_is_input_2_of_the_io_apic() {
        let routes = Routes::pc();
        let of = |gsi: u32| routes.table[&gsi].clone();
        let pin = |chip, pin| Route::Pin { chip, pin };
        assert_eq!(of(0), [pin(KVM_IRQCHIP_PIC_MASTER, 0), pin(KVM_IRQCHIP_IOAPIC, 2)]);
        assert_eq!(of(2), []);
        assert_eq!(of(12), [pin(KVM_IRQCHIP_PIC_SLAVE, 4), pin(KVM_IRQCHIP_IOAPIC, 12)]);
        assert_eq!(of(23), [pin(KVM_IRQCHIP_IOAPIC, 23)]);
    }

    #[test]
    fn messages_get_the_lowest_free_number() {
        let mut routes = Routes::default();
        let message = MsiMessage { address: 0xfee0_0000, data: 0x41 };
        assert_eq!(routes.add_message(message), PINS);
        assert_eq!(routes.add_message(message), PINS + 1);
        routes.set_message(PINS, None);
        assert_eq!(routes.add_message(message), PINS);
        assert!(routes.set_pin(3, Some(message)));
        assert!(!routes.set_pin(3, Some(message)), "nothing new");
    }
}
