//! The test protocol: lines that read and write memory and ports, move the clock, and watch
//! interrupts, so that devices can be tested without a processor.

mod command;
mod log;

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use base::chardev::{CharClient, CharEvent, Chardev, ChardevError};
use base::object::Object;
use parking_lot::Mutex;

use crate::port::Port;
use crate::target::Target;
pub use log::Log;

/// Longest line that is collected; what is beyond has lost its meaning.
const MAX_LINE: usize = 64 << 20;

/// A connection for tests.
struct Server {
    target: Arc<Target>,
    /// Whether the guest's clock is moved by commands.
    owns_clock: bool,
    port: Port,
    log: Log,
    input: Mutex<Vec<u8>>,
    /// Whose interrupts are reported.
    intercepted: Mutex<Option<(Arc<Object>, Side)>>,
    /// Interrupts that have been reported as raised.
    raised: Mutex<BTreeSet<u32>>,
    this: Weak<Server>,
}

/// What of a device is watched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Inputs,
    Outputs,
}

/// Serves the test protocol on a character device.
pub fn serve(
    target: &Arc<Target>,
    chardev: &Chardev,
    log: Log,
    owns_clock: bool,
) -> Result<(), ChardevError> {
    let server = Arc::new_cyclic(|this| Server {
        target: target.clone(),
        owns_clock,
        port: Port::default(),
        log,
        input: Mutex::default(),
        intercepted: Mutex::default(),
        raised: Mutex::default(),
        this: this.clone(),
    });
    if server.port.attach(chardev, server.clone())? {
        server.event(CharEvent::Opened);
    }
    Ok(())
}

impl Server {
    fn send(&self, line: &str) {
        self.log.sent(line);
        self.port.send(format!("{line}\n").as_bytes());
    }

    /// An interrupt input that is being watched has been driven.
    fn irq_driven(&self, n: u32, level: bool) {
        let mut raised = self.raised.lock();
        let changed = if level { raised.insert(n) } else { raised.remove(&n) };
        if changed {
            self.send(&format!("IRQ {} {n}", if level { "raise" } else { "lower" }));
        }
    }
}

impl CharClient for Server {
    fn can_receive(&self) -> usize {
        self.port.can_receive()
    }

    fn receive(&self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            // Not locked while a command runs.
            let Some(line) = collect(&mut self.input.lock(), piece) else { continue };
            self.log.received(&line);
            let answer = self.execute(&line);
            self.send(&answer);
        }
    }

    fn event(&self, event: CharEvent) {
        match event {
            CharEvent::Opened if self.port.get().is_some() => {
                self.input.lock().clear();
                self.raised.lock().clear();
                self.log.note("OPENED");
            }
            CharEvent::Closed => {
                self.log.note("CLOSED");
                self.port.disconnected();
            }
            _ => {}
        }
    }

    fn write_ready(&self) {
        self.port.write_ready();
    }
}

/// Adds a piece that may end a line; returns the line if it does.
fn collect(input: &mut Vec<u8>, piece: &[u8]) -> Option<String> {
    match piece.strip_suffix(b"\n") {
        Some(end) => {
            input.extend(end);
            Some(String::from_utf8_lossy(&std::mem::take(input)).into_owned())
        }
        None => {
            input.extend(piece);
            input.truncate(MAX_LINE);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_pieces() {
        let mut input = Vec::new();
        assert_eq!(collect(&mut input, b"inb "), None);
        assert_eq!(collect(&mut input, b"0x70\n"), Some("inb 0x70".into()));
        assert_eq!(collect(&mut input, b"\n"), Some(String::new()));
    }
}
