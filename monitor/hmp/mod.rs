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
use base::event_loop::LoopHandle;
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
    /// Whether the greeting has been shown to whoever is connected, and a prompt after it.
    greeted: bool,
    prompted: bool,
    /// Whether the machine was told to end from here: nothing is asked for after that.
    quit: bool,
}

/// Serves a prompt on a character device. Who is connected already is greeted at once, and prompted
/// when `main_loop` runs: a machine that cannot be made has nothing to ask.
pub fn serve(
    target: &Arc<Target>,
    chardev: &Chardev,
    main_loop: &LoopHandle,
) -> Result<(), ChardevError> {
    let state = State {
        line: Readline::new(PROMPT),
        cpu: 0,
        focused: true,
        greeted: false,
        prompted: false,
        quit: false,
    };
    let session = Arc::new(Session {
        target: target.clone(),
        port: Port::default(),
        state: Mutex::new(state),
    });
    if session.port.attach(chardev, session.clone())? {
        session.introduce();
        main_loop.schedule(move || session.prompt_first());
    }
    Ok(())
}

impl Session {
    /// Shows the greeting, to who has not seen it, once somebody is looking.
    fn introduce(&self) {
        let mut state = self.state.lock();
        if state.greeted || !state.focused || self.port.get().is_none() {
            return;
        }
        state.greeted = true;
        drop(state);
        let (version, _) = Target::version();
        let greeting = format!("QEMU {version} monitor - type 'help' for more information\r\n");
        self.port.send(greeting.as_bytes());
    }

    /// Shows the greeting, or only the prompt to who has seen it.
    fn greet(&self) {
        self.introduce();
        let mut state = self.state.lock();
        if state.greeted && state.focused && !state.quit {
            state.prompted = true;
            let prompt = state.line.show();
            drop(state);
            self.port.send(prompt.as_bytes());
        }
    }

    /// Shows the prompt that belongs to the greeting, if it has not been shown.
    fn prompt_first(&self) {
        let is_due = {
            let state = self.state.lock();
            state.greeted && !state.prompted
        };
        if is_due {
            self.greet();
        }
    }
}

impl CharClient for Session {
    fn can_receive(&self) -> usize {
        self.port.can_receive()
    }

    fn receive(&self, bytes: &[u8]) {
        self.prompt_first();
        for &byte in bytes {
            let mut echo = String::new();
            let complete = |line: &str| command::complete(&self.target, line);
            let entered = {
                let mut state = self.state.lock();
                if state.quit {
                    return;
                }
                state.line.push(byte, &mut echo, complete)
            };
            self.port.send(echo.as_bytes());
            if let Some(line) = entered {
                // Not locked while a command runs.
                let context = Context::new(&self.target, self.state.lock().cpu);
                let printed = execute(&context, &line);
                let mut state = self.state.lock();
                state.cpu = context.cpu.get();
                state.quit = context.quits.get();
                let prompt = if state.quit { String::new() } else { state.line.show() };
                drop(state);
                self.port.send((printed + &prompt).as_bytes());
            }
        }
    }

    fn event(&self, event: CharEvent) {
        match event {
            CharEvent::Opened => {
                {
                    let mut state = self.state.lock();
                    (state.greeted, state.prompted) = (false, false);
                }
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
