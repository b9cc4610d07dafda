//! Where drivers notify queues (4.1.4.4). No lock of the device's is taken.

use std::sync::Arc;

use base::memory::{IoHandler, Region};

use crate::virtio::VirtQueue;

/// A place for each queue, in memory.
pub(super) struct NotifyPages {
    pub queues: Vec<Arc<VirtQueue>>,
    pub stride: u64,
}

impl IoHandler for NotifyPages {
    fn read(&self, _: u64, _: u8) -> u64 {
        0
    }

    fn write(&self, offset: u64, _: u8, _: u64) {
        let index = usize::try_from(offset / self.stride).ok();
        if let Some(queue) = index.and_then(|index| self.queues.get(index)) {
            queue.kick();
        }
    }
}

/// One port, to which the number of the queue is written.
pub(super) struct NotifyPort(Vec<Arc<VirtQueue>>);

impl NotifyPort {
    pub fn region(queues: &[Arc<VirtQueue>]) -> Region {
        Region::io("virtio-pci-notify-pio", 4, Arc::new(NotifyPort(queues.to_vec())))
    }
}

impl IoHandler for NotifyPort {
    fn read(&self, _: u64, _: u8) -> u64 {
        0
    }

    fn write(&self, _: u64, _: u8, value: u64) {
        if let Some(queue) = self.0.get(value as u16 as usize) {
            queue.kick();
        }
    }
}
