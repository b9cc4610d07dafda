//! Stores that are going to be taken back.
//!
//! While a processor has a [`Trial`], its stores take the slow path, which notes what they replace;
//! devices are not reached.

use std::sync::Arc;

use base::memory::RamBlock;

use crate::Cpu;

/// Bytes that were replaced.
struct Store {
    ram: Arc<RamBlock>,
    offset: u64,
    old: Vec<u8>,
}

/// What a processor stored since the trial began.
#[derive(Default)]
pub(crate) struct Trial {
    stores: Vec<Store>,
    /// A device was to be accessed: what was loaded from it is not what it would have answered.
    pub device: bool,
}

impl Trial {
    /// `len` bytes at `offset` of `ram` are about to be replaced.
    pub fn note(&mut self, ram: &Arc<RamBlock>, offset: u64, len: usize) {
        let mut old = vec![0; len];
        ram.read(offset, &mut old);
        self.stores.push(Store { ram: ram.clone(), offset, old });
    }

    /// What is now where there were stores.
    pub fn stored(&self) -> Vec<Vec<u8>> {
        let now = |store: &Store| {
            let mut bytes = vec![0; store.old.len()];
            store.ram.read(store.offset, &mut bytes);
            bytes
        };
        self.stores.iter().map(now).collect()
    }

    /// Puts back what was replaced.
    pub fn take_back(&self) {
        for store in self.stores.iter().rev() {
            store.ram.write(store.offset, &store.old);
        }
    }
}

impl Cpu {
    /// From here on, stores are noted.
    pub(crate) fn begin_trial(&mut self) {
        self.mmu.tlb.write.clear();
        self.trial = Some(Box::default());
    }

    /// Whether `phys` (A20 applied) may not be accessed because stores are noted, and it is a device.
    pub(super) fn trial_forbids(&mut self, phys: u64, write: bool) -> bool {
        if self.trial.is_none() {
            return false;
        }
        self.ram_page(phys).is_none_or(|page| write && !page.writable)
            && self.trial_forbids_devices()
    }

    /// Whether devices may not be accessed because stores are noted. One was to be.
    pub(crate) fn trial_forbids_devices(&mut self) -> bool {
        self.trial.as_mut().map(|trial| trial.device = true).is_some()
    }
}
