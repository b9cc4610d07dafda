//! The debug console: a port whose bytes go to a character device.

use base::chardev::{CharClient, CharPort, Chardev, ChardevError, OutQueue};
use base::device::{self, Device, Shared, WeakShared};
use base::memory::{AccessSizes, Region};
use std::sync::Arc;

/// Where the port is unless told otherwise.
pub const DEFAULT_PORT: u64 = 0xe9;
/// What the port reads as, by which guests know it.
pub const READBACK: u64 = 0xe9;

/// The console.
pub struct Debugcon {
    readback: u64,
    port: Option<CharPort>,
    queue: OutQueue,
}

impl Debugcon {
    /// A console on a character device, and its port.
    pub fn create(
        readback: u64,
        chardev: &Chardev,
    ) -> Result<(Shared<Self>, Region), ChardevError> {
        let queue = OutQueue::default();
        let console = device::share(|_| Debugcon { readback, port: None, queue });
        let port = chardev.attach(Arc::new(Client(Arc::downgrade(&console))))?;
        console.lock().port = Some(port);
        let region = device::region(&console, 0, "isa-debugcon", 1, AccessSizes::BYTE);
        Ok((console, region))
    }
}

impl Device for Debugcon {
    fn read(&mut self, _: u32, _: u64, _: u8) -> u64 {
        self.readback
    }
    fn write(&mut self, _: u32, _: u64, _: u8, value: u64) {
        if let Some(port) = &self.port {
            self.queue.send(port, &[value as u8]);
        }
    }
    fn reset(&mut self) {}
}

struct Client(WeakShared<Debugcon>);

impl CharClient for Client {
    fn can_receive(&self) -> usize {
        0
    }
    fn receive(&self, _: &[u8]) {}
    fn write_ready(&self) {
        if let Some(console) = self.0.upgrade() {
            let console = &mut *console.lock();
            if let Some(port) = &console.port {
                console.queue.flush(port);
            }
        }
    }
}
