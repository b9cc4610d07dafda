//! A monitor's end of a character device.

use std::sync::{Arc, OnceLock};

use base::chardev::{CharClient, CharPort, Chardev, ChardevError, OutQueue};
use parking_lot::Mutex;

/// While so much output waits for a client that does not read, none of its input is taken.
const OUTPUT_HIGH_WATER: usize = 64 << 10;
/// How much input is taken at a time.
const INPUT_SIZE: usize = 4096;

/// The port, once it is attached, and the output that waits for it.
#[derive(Default)]
pub(crate) struct Port {
    port: OnceLock<CharPort>,
    out: Mutex<OutQueue>,
}

impl Port {
    /// Attaches `client`, whose port this is. Returns whether somebody is connected already.
    pub fn attach(
        &self,
        chardev: &Chardev,
        client: Arc<dyn CharClient>,
    ) -> Result<bool, ChardevError> {
        let port = chardev.attach(client)?;
        let port = self.port.get_or_init(|| port);
        Ok(port.is_connected())
    }

    /// The port; absent only while it is being attached.
    pub fn get(&self) -> Option<&CharPort> {
        self.port.get()
    }

    pub fn send(&self, bytes: &[u8]) {
        if let Some(port) = self.get() {
            self.out.lock().send(port, bytes);
        }
    }

    pub fn can_receive(&self) -> usize {
        if self.out.lock().len() < OUTPUT_HIGH_WATER { INPUT_SIZE } else { 0 }
    }

    pub fn write_ready(&self) {
        if let Some(port) = self.get() {
            self.out.lock().flush(port);
            port.accept_input();
        }
    }

    /// Nobody will read what is waiting.
    pub fn disconnected(&self) {
        *self.out.lock() = OutQueue::default();
    }
}
