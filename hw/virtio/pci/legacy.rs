//! The registers of legacy drivers (4.1.4.10). With MSI-X switched on, two more registers come before
//! the device's configuration.

use super::VirtioPci;
use crate::virtio::queue::NO_VECTOR;

mod at {
    pub const DEVICE_FEATURES: u64 = 0;
    pub const DRIVER_FEATURES: u64 = 4;
    pub const QUEUE_PAGE: u64 = 8;
    pub const QUEUE_SIZE: u64 = 12;
    pub const QUEUE_SELECT: u64 = 14;
    pub const NOTIFY: u64 = 16;
    pub const STATUS: u64 = 18;
    pub const ISR: u64 = 19;
    pub const CONFIG_VECTOR: u64 = 20;
    pub const QUEUE_VECTOR: u64 = 22;
    pub const CONFIG: u64 = 20;
    pub const CONFIG_BEHIND_VECTORS: u64 = 24;
}

/// Queues begin at pages, and so do their used rings.
const PAGE_SHIFT: u32 = 12;
const PAGE: u64 = 1 << PAGE_SHIFT;

/// A driver that accepts this has not looked at what there is, and is given nothing.
const BAD_FEATURE: u64 = crate::virtio::features::BAD_FEATURE;

/// The size of the BAR of a device with so many bytes of configuration.
pub(super) fn bar_size(config_len: usize) -> u64 {
    (at::CONFIG_BEHIND_VECTORS + config_len as u64).next_power_of_two()
}

impl VirtioPci {
    fn legacy_config(&self) -> u64 {
        if self.interrupts.uses_messages() { at::CONFIG_BEHIND_VECTORS } else { at::CONFIG }
    }

    pub(super) fn legacy_read(&mut self, offset: u64, size: u8) -> u64 {
        let config = self.legacy_config();
        if offset >= config {
            return self.virtio.read_config((offset - config) as usize, size);
        }
        let queue = self.virtio.queue(self.st.queue_select);
        match offset {
            at::DEVICE_FEATURES => self.virtio.offered_legacy(),
            at::DRIVER_FEATURES => self.virtio.accepted() & u64::from(u32::MAX),
            at::QUEUE_PAGE => queue.map_or(0, |queue| queue.state().descriptors >> PAGE_SHIFT),
            at::QUEUE_SIZE => queue.map_or(0, |queue| queue.state().size).into(),
            at::QUEUE_SELECT => self.st.queue_select.into(),
            at::STATUS => self.virtio.status().into(),
            at::ISR => self.interrupts.take_isr().into(),
            at::CONFIG_VECTOR => self.interrupts.config_vector().into(),
            at::QUEUE_VECTOR => queue.map_or(NO_VECTOR, |queue| queue.vector()).into(),
            _ => u64::MAX,
        }
    }

    pub(super) fn legacy_write(&mut self, offset: u64, size: u8, value: u64) {
        let config = self.legacy_config();
        if offset >= config {
            return self.virtio.write_config((offset - config) as usize, size, value);
        }
        match offset {
            at::DRIVER_FEATURES => {
                let features = value & u64::from(u32::MAX);
                self.virtio.accept(if features & BAD_FEATURE != 0 { 0 } else { features });
            }
            at::QUEUE_PAGE => self.place_queue(value & u64::from(u32::MAX)),
            at::QUEUE_SELECT => self.st.queue_select = value as u16,
            at::NOTIFY => {
                // Legacy drivers may use the device before they say that they are ready (3.1.2).
                self.virtio.activate();
                self.kick(value as u16);
            }
            at::STATUS => self.set_status(value as u8),
            at::CONFIG_VECTOR => self.interrupts.set_config_vector(value as u16),
            at::QUEUE_VECTOR => {
                if let Some(queue) = self.virtio.queue(self.st.queue_select) {
                    queue.set_vector(self.interrupts.valid(value as u16));
                }
            }
            _ => {}
        }
    }

    /// The driver says where a queue is, all parts of which follow each other (2.7.2). At page zero
    /// is none: the driver has gone.
    fn place_queue(&mut self, page: u64) {
        if page == 0 {
            return self.set_status(0);
        }
        let Some(queue) = self.virtio.queue(self.st.queue_select) else { return };
        queue.configure(|st| {
            let size = u64::from(st.size);
            st.descriptors = page << PAGE_SHIFT;
            st.driver_area = st.descriptors + 16 * size;
            st.device_area = (st.driver_area + 6 + 2 * size).next_multiple_of(PAGE);
        });
        queue.enable(self.virtio.accepted());
    }
}
