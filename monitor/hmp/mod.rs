//! The human monitor: commands for people at a `(qemu) ` prompt.

mod block;
mod command;
mod display;
mod info;
mod input;
mod memory;
mod readline;
mod tree;
mod user_net;
mod vnc;
mod words;

use std::sync::Arc;

use base::chardev::{CharClient, CharEvent, Chardev, ChardevError};
use parking_lot::Mutex;

use crate::port::Port;
use crate::target::Target;
pub(crate) use command::{Context, about, execute};
use readline::Readline;

const PROMPT: &str = "(qemu) ";

/// A prompt for people.
struct Session {
    target: Arc<Target>,
    port: Port,
    state: Mutex<State>,
}

struct State {
    line: Readline,
    /// The processor that commands are about.
    cpu: usize,
    /// Whether the person at a shared terminal speaks to the monitor at present.
    focused: bool,
    /// Whether the greeting has been shown to whoever is connected.
    greeted: bool,
}

/// Serves a prompt on a character device.
pub fn serve(target: &Arc<Target>, chardev: &Chardev) -> Result<(), ChardevError> {
    let state = State { line: Readline::new(PROMPT), cpu: 0, focused: true, greeted: false };
    let session = Arc::new(Session {
        target: target.clone(),
        port: Port::default(),
        state: Mutex::new(state),
    });
    if session.port.attach(chardev, session.clone())? {
        session.greet();
    }
    Ok(())
}

impl Session {
    /// Shows the greeting, or only the prompt to who has seen it, once somebody is looking.
    fn greet(&self) {
        let mut state = self.state.lock();
        if !state.focused || self.port.get().is_none() {
            return;
        }
        let greeting = if state.greeted {
            String::new()
        } else {
            let (version, _) = Target::version();
            format!("QEMU {version} monitor - type 'help' for more information\r\n")
        };
        state.greeted = true;
        let shown = greeting + &state.line.show();
        drop(state);
        self.port.send(shown.as_bytes());
    }
}

impl CharClient for Session {
    fn can_receive(&self) -> usize {
        self.port.can_receive()
    }

    fn receive(&self, bytes: &[u8]) {
        for &byte in bytes {
            let mut echo = String::new();
            let complete = |line: &str| command::complete(&self.target, line);
            let entered = self.state.lock().line.push(byte, &mut echo, complete);
            self.port.send(echo.as_bytes());
            if let Some(line) = entered {
                // Not locked while a command runs.
                let context = Context::new(&self.target, self.state.lock().cpu);
                let printed = execute(&context, &line);
                let mut state = self.state.lock();
                state.cpu = context.cpu.get();
                let prompt = state.line.show();
                drop(state);
                self.port.send((printed + &prompt).as_bytes());
            }
        }
    }

    fn event(&self, event: CharEvent) {
        match event {
            CharEvent::Opened => {
                self.state.lock().greeted = false;
                self.greet();
            }
            CharEvent::Closed => self.port.disconnected(),
            CharEvent::FocusGained => {
                self.state.lock().focused = true;
                self.greet();
            }
            CharEvent::FocusLost => {
                let greeted = {
                    let mut state = self.state.lock();
                    state.focused = false;
                    state.greeted
                };
                if greeted {
                    // The prompt's line is complete.
                    self.port.send(b"\r\n");
                }
            }
            CharEvent::Break => {}
        }
    }

    fn write_ready(&self) {
        self.port.write_ready();
    }
}
