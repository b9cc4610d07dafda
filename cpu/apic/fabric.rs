//! What connects the local APICs with each other and with the I/O APICs.

use std::sync::{Arc, Weak};

use base::interrupt::{
    ApicBus, ApicMessage, BROADCAST, DeliveryMode, DestinationMode, EoiListener, MsiMessage,
    MsiSink,
};
use base::trace_event;
use parking_lot::RwLock;

use super::core::{ApicCore, Ipi, Recipients};
use super::lapic::LocalApic;

/// All local APICs of a machine.
#[derive(Default)]
pub struct ApicFabric {
    apics: RwLock<Vec<Arc<LocalApic>>>,
    listeners: RwLock<Vec<Weak<dyn EoiListener>>>,
}

impl ApicFabric {
    /// A bus without processors.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn add(&self, apic: Arc<LocalApic>) {
        self.apics.write().push(apic);
    }

    /// The APICs, in the order they were added.
    pub fn apics(&self) -> Vec<Arc<LocalApic>> {
        self.apics.read().clone()
    }

    pub(super) fn broadcast_eoi(&self, vector: u8) {
        for listener in self.listeners.read().iter().filter_map(Weak::upgrade) {
            listener.end_of_interrupt(vector);
        }
    }

    /// Delivers `message` to the APIC with this ID. Returns whether there is one that takes it.
    pub(super) fn deliver_to(&self, id: u32, message: ApicMessage) -> bool {
        let apics = self.apics.read();
        let apic = apics.iter().find(|apic| apic.id() == id);
        apic.is_some_and(|apic| apic.offer(&message, |core| core.is_selected(id, message.mode)))
    }

    pub(super) fn send_ipi(&self, ipi: &Ipi, sender: u32) {
        let message = match ipi.recipients {
            Recipients::Destination => return self.deliver(ipi.message),
            _ => ApicMessage { destination: BROADCAST, ..ipi.message },
        };
        for apic in self.apics.read().iter() {
            if !(apic.id() == sender && ipi.recipients == Recipients::Others) {
                apic.offer(&message, |core| core.is_selected(message.destination, message.mode));
            }
        }
    }

    /// Lowest-priority delivery: to the focus processor if there is one, otherwise to the processor
    /// with the lowest arbitration priority (SDM vol. 3, 12.6.2.4).
    fn arbitrate(&self, message: &ApicMessage) {
        let apics = self.apics.read();
        let candidate = |core: &ApicCore| {
            let selected = core.is_selected(message.destination, message.mode);
            (selected && core.arbitrates()).then(|| (!core.is_focus(message.vector), core.apr()))
        };
        let ranked = apics.iter().filter_map(|apic| Some((apic.look(candidate)?, apic)));
        if let Some((_, winner)) = ranked.min_by_key(|(rank, _)| *rank) {
            winner.offer(message, |_| true);
        }
    }
}

impl MsiSink for ApicFabric {
    fn send(&self, message: MsiMessage) {
        self.deliver(ApicMessage::from_msi(message));
    }
}

impl ApicBus for ApicFabric {
    fn deliver(&self, message: ApicMessage) {
        trace_event!(
            apic_deliver_irq,
            "dest {} dest_mode {} delivery_mode {} vector {} trigger_mode {}",
            message.destination,
            message.mode as u8,
            message.delivery as u8,
            message.vector,
            message.trigger as u8
        );
        if message.delivery == DeliveryMode::LowestPriority {
            return self.arbitrate(&message);
        }
        if message.mode == DestinationMode::Physical && message.destination != BROADCAST {
            self.deliver_to(message.destination, message);
            return;
        }
        for apic in self.apics.read().iter() {
            apic.offer(&message, |core| core.is_selected(message.destination, message.mode));
        }
    }

    fn subscribe_eoi(&self, listener: Weak<dyn EoiListener>) {
        self.listeners.write().push(listener);
    }
}
