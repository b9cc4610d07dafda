//! Output of a front end that has no flow control of its own towards the guest.

use std::collections::VecDeque;

use super::CharPort;

/// Keeps what the back end does not accept yet, in order.
///
/// Call [`flush`](Self::flush) from [`CharClient::write_ready`](super::CharClient::write_ready).
#[derive(Default)]
pub struct OutQueue(VecDeque<u8>);

impl OutQueue {
    /// Sends `bytes` after what is still waiting.
    pub fn send(&mut self, port: &CharPort, bytes: &[u8]) {
        let accepted = if self.0.is_empty() { port.write(bytes) } else { 0 };
        self.0.extend(&bytes[accepted..]);
    }

    /// Offers what is waiting.
    pub fn flush(&mut self, port: &CharPort) {
        while !self.0.is_empty() {
            let (front, _) = self.0.as_slices();
            let (offered, accepted) = (front.len(), port.write(front));
            self.0.drain(..accepted);
            if accepted < offered {
                return;
            }
        }
    }

    /// How much is waiting, for whoever wants to stop producing.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether everything has been accepted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
