//! The bus between local APICs and I/O APICs.

use std::sync::{Arc, Weak};

use base::interrupt::{
    ApicBus, ApicMessage, BROADCAST, DeliveryMode, DestinationMode, EoiListener, MsiMessage,
    MsiSink,
};
use parking_lot::RwLock;

use super::lapic::LocalApic;

/// Destination shorthands of the interrupt command register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shorthand {
    None,
    Myself,
    All,
    Others,
}

impl Shorthand {
    pub fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Shorthand::None,
            1 => Shorthand::Myself,
            2 => Shorthand::All,
            _ => Shorthand::Others,
        }
    }
}

/// All local APICs of a machine.
#[derive(Default)]
pub struct ApicFabric {
    apics: RwLock<Vec<Arc<LocalApic>>>,
    listeners: RwLock<Vec<Weak<dyn EoiListener>>>,
}

impl ApicFabric {
    /// A bus with nobody on it yet.
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

    pub(super) fn send(&self, from: &LocalApic, message: &ApicMessage, shorthand: Shorthand) {
        let apics = self.apics.read();
        let to = |wanted: &dyn Fn(bool) -> bool| {
            for apic in apics.iter().filter(|apic| wanted(std::ptr::eq(&***apic, from))) {
                apic.accept(message);
            }
        };
        match shorthand {
            Shorthand::None => self.deliver(*message),
            Shorthand::Myself => to(&|own| own),
            Shorthand::All => to(&|_| true),
            Shorthand::Others => to(&|own| !own),
        }
    }

    pub(super) fn end_of_interrupt(&self, vector: u8) {
        let listeners: Vec<_> = self.listeners.read().iter().filter_map(Weak::upgrade).collect();
        listeners.iter().for_each(|listener| listener.end_of_interrupt(vector));
    }
}

impl MsiSink for ApicFabric {
    fn send(&self, message: MsiMessage) {
        self.deliver(ApicMessage::from_msi(message));
    }
}

impl ApicBus for ApicFabric {
    fn deliver(&self, message: ApicMessage) {
        let apics = self.apics.read();
        let selected = apics.iter().filter(|apic| apic.selected(&message));
        let lowest = message.delivery == DeliveryMode::LowestPriority
            && (message.mode == DestinationMode::Logical || message.destination == BROADCAST);
        if lowest {
            if let Some(apic) = selected.min_by_key(|apic| apic.priority()) {
                apic.accept(&message);
            }
        } else {
            selected.for_each(|apic| apic.accept(&message));
        }
    }

    fn subscribe_eoi(&self, listener: Weak<dyn EoiListener>) {
        self.listeners.write().push(listener);
    }
}
