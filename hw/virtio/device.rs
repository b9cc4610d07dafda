//! What all devices have in common, whatever their transport: status, features, queues.

use std::sync::Arc;

use base::state::State;

use super::features::{self, status};
use super::{ToDriver, VirtQueue};

/// What makes a device one of its kind. Its queues are served by workers of its own
/// ([`VirtQueue::on_kick`]), which do not come through here.
pub trait Model: Send {
    /// What it offers, given what rings and transport do.
    fn features(&self, common: u64) -> u64;
    /// Its configuration; always of the same length.
    fn config(&self) -> Vec<u8>;
    /// The driver writes to its configuration, inside of it.
    fn write_config(&mut self, at: usize, bytes: &[u8]) {
        let _ = (at, bytes);
    }
    /// The driver is ready; these features were negotiated.
    fn activate(&mut self, features: u64);
    /// Chains of a queue that wait for something to happen are dropped.
    fn queue_reset(&mut self, index: u16) {
        let _ = index;
    }
    /// Back to the state after power-up. Chains that wait for something to happen are dropped.
    fn reset(&mut self);
    /// The whole function is reset, not only the device by its driver; [`Self::reset`] was called.
    fn power_up(&mut self) {}
    /// The device was taken off its bus: it ends what it has under way, for which it may wait, and lets
    /// go of its back ends.
    fn unplug(&mut self) {}
}

/// Registers of any device.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
pub struct VirtioState {
    status: u8,
    /// The status before the reset that may still be under way.
    before: u8,
    /// What the driver has accepted.
    features: u64,
    /// The model works with what was negotiated.
    active: bool,
}

/// A device as its transport sees it.
pub struct Virtio {
    model: Box<dyn Model>,
    queues: Vec<Arc<VirtQueue>>,
    driver: Arc<ToDriver>,
    /// Features of rings and transport that are offered.
    common: u64,
    st: VirtioState,
}

impl Virtio {
    /// A device that offers `common` features besides its own.
    pub fn new(
        model: Box<dyn Model>,
        queues: Vec<Arc<VirtQueue>>,
        driver: Arc<ToDriver>,
        common: u64,
    ) -> Self {
        Virtio { model, queues, driver, common, st: VirtioState::default() }
    }

    /// A queue.
    pub fn queue(&self, index: u16) -> Option<&Arc<VirtQueue>> {
        self.queues.get(usize::from(index))
    }

    /// All queues.
    pub fn queues(&self) -> &[Arc<VirtQueue>] {
        &self.queues
    }

    /// The way to the driver.
    pub fn driver(&self) -> &ToDriver {
        &self.driver
    }

    /// What is offered to drivers of all kinds.
    pub fn offered(&self) -> u64 {
        self.model.features(self.common)
    }

    /// What the driver has accepted.
    pub fn accepted(&self) -> u64 {
        self.st.features
    }

    /// The driver accepts features; what was not offered is left out, and once negotiated nothing
    /// changes.
    pub fn accept(&mut self, features: u64) {
        if self.st.status & status::FEATURES_OK == 0 {
            self.st.features = features & self.offered();
        }
    }

    /// The status, as the driver reads it. After a reset it is not zero before the device has given
    /// back all memory (2.4.1).
    pub fn status(&self) -> u8 {
        if self.st.status == 0 && self.queues.iter().any(|queue| queue.in_flight() > 0) {
            return self.st.before;
        }
        let broken = if self.driver.is_broken() { status::NEEDS_RESET } else { 0 };
        self.st.status | broken
    }

    /// The driver sets the status.
    pub fn set_status(&mut self, value: u8) {
        if value == 0 {
            return self.reset();
        }
        let was = self.st.status;
        self.st.status = value & !status::NEEDS_RESET;
        if self.st.status & status::DRIVER_OK & !was != 0 {
            self.activate();
        }
    }

    /// The device goes to work. Legacy drivers may notify without having said that they are ready.
    pub fn activate(&mut self) {
        if std::mem::replace(&mut self.st.active, true) {
            return;
        }
        self.model.activate(self.st.features);
        self.driver.set_ready(true);
        // Buffers may have been made available before.
        self.queues.iter().filter(|queue| queue.is_enabled()).for_each(|queue| queue.kick());
    }

    /// The driver stops the device without a reset: it has switched bus mastering off.
    pub fn stop(&mut self) {
        self.st.status &= !status::DRIVER_OK;
        self.st.active = false;
        self.driver.set_ready(false);
    }

    /// The driver resets one queue; it has been reset when nothing of it is in flight any more.
    pub fn reset_queue(&mut self, index: u16) {
        if let Some(queue) = self.queues.get(usize::from(index)) {
            self.model.queue_reset(index);
            queue.reset();
        }
    }

    /// Back to the state after power-up.
    pub fn reset(&mut self) {
        let before = self.st.status | self.st.before;
        self.st = VirtioState { before, ..VirtioState::default() };
        self.driver.set_ready(false);
        self.driver.set_broken(false);
        self.model.reset();
        self.queues.iter().for_each(|queue| queue.reset());
    }

    /// The whole function is reset.
    pub fn power_up(&mut self) {
        self.reset();
        self.model.power_up();
    }

    /// The device was taken off its bus.
    pub fn unplug(&mut self) {
        self.driver.set_ready(false);
        self.model.unplug();
    }

    /// Bytes of configuration.
    pub fn config_len(&self) -> usize {
        self.model.config().len()
    }

    /// Reads configuration; beyond its end there are ones.
    pub fn read_config(&self, at: usize, size: u8) -> u64 {
        let config = self.model.config();
        (0..usize::from(size))
            .rev()
            .fold(0, |value, i| value << 8 | u64::from(config.get(at + i).copied().unwrap_or(0xff)))
    }

    /// Writes configuration; what is beyond its end is dropped.
    pub fn write_config(&mut self, at: usize, size: u8, value: u64) {
        if at + usize::from(size) <= self.config_len() {
            self.model.write_config(at, &value.to_le_bytes()[..usize::from(size.min(8))]);
        }
    }

    /// What legacy drivers are offered.
    pub fn offered_legacy(&self) -> u64 {
        self.offered() & u64::from(u32::MAX)
    }

    /// What drivers of version 1 are offered.
    pub fn offered_modern(&self) -> u64 {
        self.offered() & !features::LEGACY_ONLY
    }
}
