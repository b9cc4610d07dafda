//! The common configuration structure of version 1 (4.1.4.3). A register answers at its own offset,
//! whatever the width of the access.

use super::VirtioPci;
use crate::virtio::features::RING_RESET;
use crate::virtio::queue::{NO_VECTOR, QueueState};

mod at {
    pub const DEVICE_SELECT: u64 = 0;
    pub const DEVICE_FEATURES: u64 = 4;
    pub const DRIVER_SELECT: u64 = 8;
    pub const DRIVER_FEATURES: u64 = 12;
    pub const CONFIG_VECTOR: u64 = 16;
    pub const QUEUES: u64 = 18;
    pub const STATUS: u64 = 20;
    pub const GENERATION: u64 = 21;
    pub const QUEUE_SELECT: u64 = 22;
    pub const QUEUE_SIZE: u64 = 24;
    pub const QUEUE_VECTOR: u64 = 26;
    pub const QUEUE_ENABLE: u64 = 28;
    pub const QUEUE_NOTIFY_OFFSET: u64 = 30;
    pub const DESCRIPTORS: u64 = 32;
    pub const DRIVER_AREA: u64 = 40;
    pub const DEVICE_AREA: u64 = 48;
    pub const LAST_AREA: u64 = 52;
    pub const QUEUE_RESET: u64 = 58;
}

impl VirtioPci {
    pub(super) fn common_read(&self, offset: u64) -> u64 {
        let queue = self.virtio.queue(self.st.queue_select);
        let queue_state = || queue.map(|queue| queue.state()).unwrap_or_default();
        let half = |value: u64, select: u32| match select {
            0 | 1 => value >> (32 * select) & u64::from(u32::MAX),
            _ => 0,
        };
        match offset {
            at::DEVICE_SELECT => self.st.device_select.into(),
            at::DEVICE_FEATURES => half(self.virtio.offered_modern(), self.st.device_select),
            at::DRIVER_SELECT => self.st.driver_select.into(),
            at::DRIVER_FEATURES => self
                .st
                .driver_features
                .get(self.st.driver_select as usize)
                .copied()
                .unwrap_or(0)
                .into(),
            at::CONFIG_VECTOR => self.interrupts.config_vector().into(),
            at::QUEUES => self.virtio.queues().len() as u64,
            at::STATUS => self.virtio.status().into(),
            at::GENERATION => self.virtio.driver().generation().into(),
            at::QUEUE_SELECT => self.st.queue_select.into(),
            at::QUEUE_SIZE => queue_state().size.into(),
            at::QUEUE_VECTOR => queue.map_or(NO_VECTOR, |queue| queue.vector()).into(),
            at::QUEUE_ENABLE => queue_state().enabled.into(),
            at::QUEUE_NOTIFY_OFFSET => self.st.queue_select.into(),
            at::DESCRIPTORS..=at::LAST_AREA => area_half(&mut queue_state(), offset)
                .map_or(0, |(area, shift)| *area >> shift & u64::from(u32::MAX)),
            // One while a queue that was reset still has chains.
            at::QUEUE_RESET => {
                queue.is_some_and(|queue| !queue.is_enabled() && queue.in_flight() > 0).into()
            }
            _ => 0,
        }
    }

    pub(super) fn common_write(&mut self, offset: u64, value: u32) {
        match offset {
            at::DEVICE_SELECT => self.st.device_select = value,
            at::DRIVER_SELECT => self.st.driver_select = value,
            at::DRIVER_FEATURES => {
                if let Some(half) = self.st.driver_features.get_mut(self.st.driver_select as usize)
                {
                    *half = value;
                    let [low, high] = self.st.driver_features.map(u64::from);
                    self.virtio.accept(high << 32 | low);
                }
            }
            at::CONFIG_VECTOR => self.interrupts.set_config_vector(value as u16),
            at::STATUS => self.set_status(value as u8),
            at::QUEUE_SELECT => self.st.queue_select = value as u16,
            _ => self.queue_write(offset, value),
        }
    }

    /// The driver sets the status; zero resets the device and what of the transport belongs to it.
    pub(super) fn set_status(&mut self, status: u8) {
        self.virtio.set_status(status);
        if status == 0 {
            self.interrupts.reset();
            self.st = super::VirtioPciState::default();
        }
    }

    fn queue_write(&mut self, offset: u64, value: u32) {
        let index = self.st.queue_select;
        let Some(queue) = self.virtio.queue(index) else { return };
        match offset {
            at::QUEUE_SIZE => {
                let max = queue.max_size();
                queue.configure(|st| {
                    if (1..=u32::from(max)).contains(&value) {
                        st.size = value as u16;
                    }
                });
            }
            at::QUEUE_VECTOR => queue.set_vector(self.interrupts.valid(value as u16)),
            at::QUEUE_ENABLE if value == 1 => queue.enable(self.virtio.accepted()),
            at::QUEUE_ENABLE => base::guest_error!("wrong value for queue_enable {value:x}"),
            at::QUEUE_RESET if value == 1 && self.virtio.accepted() & RING_RESET != 0 => {
                self.virtio.reset_queue(index);
            }
            at::DESCRIPTORS..=at::LAST_AREA => queue.configure(|st| {
                if let Some((area, shift)) = area_half(st, offset) {
                    *area = *area & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift;
                }
            }),
            _ => {}
        }
    }
}

/// The address that a register is a half of, and which half.
fn area_half(st: &mut QueueState, offset: u64) -> Option<(&mut u64, u32)> {
    let area = match offset & !7 {
        at::DESCRIPTORS => &mut st.descriptors,
        at::DRIVER_AREA => &mut st.driver_area,
        at::DEVICE_AREA => &mut st.device_area,
        _ => return None,
    };
    match offset & 7 {
        0 => Some((area, 0)),
        4 => Some((area, 32)),
        _ => None,
    }
}
