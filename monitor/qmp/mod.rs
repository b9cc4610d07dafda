//! The QEMU Machine Protocol: a greeting, negotiation, commands and events.

mod commands;
mod events;
mod fds;
mod schema;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::chardev::{CharClient, CharEvent, Chardev, ChardevError};
use base::trace_event;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::json::{self, Stream};
use crate::port::Port;
use crate::qapi::{ErrorClass, Qapi, QmpError, Type};
use crate::target::Target;
use commands::COMMANDS;
pub(crate) use commands::block as block_commands;
pub(crate) use commands::display as display_commands;
pub(crate) use commands::vnc as vnc_commands;
pub(crate) use events::Listeners;

/// A command: the function behind it, and its types.
struct Command {
    name: &'static str,
    run: fn(&Call<'_>, Map<String, Value>) -> Result<Value, QmpError>,
    /// The types of its argument and of its result.
    types: fn() -> (Type, Type),
}

/// What a command's function gets besides its argument.
struct Call<'a> {
    target: &'a Arc<Target>,
    session: &'a Session,
}

/// A client's connection; it outlives clients, who come one after the other.
struct Session {
    target: Arc<Target>,
    /// Whether answers are indented.
    pretty: bool,
    port: Port,
    input: Mutex<Stream>,
    /// Whether the client has been through negotiation.
    negotiated: AtomicBool,
    /// Whether the client may use `exec-oob`.
    out_of_band: AtomicBool,
    fds: fds::Passed,
}

/// Serves QMP on a character device.
pub fn serve(target: &Arc<Target>, chardev: &Chardev, pretty: bool) -> Result<(), ChardevError> {
    let session = Arc::new(Session {
        target: target.clone(),
        pretty,
        port: Port::default(),
        input: Mutex::default(),
        negotiated: AtomicBool::new(false),
        out_of_band: AtomicBool::new(false),
        fds: fds::Passed::default(),
    });
    target.listeners.add(&session);
    if session.port.attach(chardev, session.clone())? {
        session.greet();
    }
    Ok(())
}

impl Session {
    fn greet(&self) {
        self.negotiated.store(false, Ordering::Relaxed);
        self.out_of_band.store(false, Ordering::Relaxed);
        *self.input.lock() = Stream::default();
        let version = commands::version().write();
        self.send(&json!({"QMP": {"version": version, "capabilities": ["oob"]}}));
    }

    fn send(&self, message: &Value) {
        let bytes = if self.pretty { json::pretty(message) } else { json::line(message) };
        self.port.send(&bytes);
    }

    /// Sends an event to a client that is past negotiation.
    fn tell(&self, event: &Value) {
        if self.negotiated.load(Ordering::Relaxed) {
            self.send(event);
        }
    }

    /// Answers one message.
    fn answer(&self, message: Result<Value, String>) {
        let mut id = None;
        if let Ok(request) = &message {
            trace_event!(handle_qmp_command, "req: {request}");
        }
        let result = match message {
            Ok(Value::Object(request)) => self.execute(request, &mut id),
            Ok(_) => Err(QmpError::new("QMP input must be a JSON object")),
            Err(problem) => Err(QmpError::new(problem)),
        };
        let mut reply = Map::new();
        match result {
            Ok(value) => reply.insert("return".into(), value),
            Err(error) => {
                let class = format!("{:?}", error.class);
                // What follows is for people.
                let description = error.description.lines().next().unwrap_or_default();
                reply.insert("error".into(), json!({"class": class, "desc": description}))
            }
        };
        if let Some(id) = id {
            reply.insert("id".into(), id);
        }
        let reply = reply.into();
        trace_event!(monitor_qmp_respond, "resp: {reply}");
        self.send(&reply);
    }

    fn execute(
        &self,
        mut request: Map<String, Value>,
        id: &mut Option<Value>,
    ) -> Result<Value, QmpError> {
        *id = request.remove("id");
        let out_of_band =
            self.out_of_band.load(Ordering::Relaxed) && request.contains_key("exec-oob");
        let verb = if out_of_band { "exec-oob" } else { "execute" };
        let name = request.remove(verb);
        let arguments = request.remove("arguments");
        if let Some(member) = request.keys().next() {
            return Err(QmpError::new(format!("QMP input member '{member}' is unexpected")));
        }
        let name = match name {
            Some(Value::String(name)) => name,
            Some(_) => {
                return Err(QmpError::new(format!("QMP input member '{verb}' must be a string")));
            }
            None => return Err(QmpError::new("QMP input lacks member 'execute'")),
        };
        let arguments = match arguments {
            Some(Value::Object(arguments)) => arguments,
            Some(_) => {
                return Err(QmpError::new("QMP input member 'arguments' must be an object"));
            }
            None => Map::new(),
        };
        self.dispatch(&name, arguments, out_of_band)
    }

    fn dispatch(
        &self,
        name: &str,
        arguments: Map<String, Value>,
        out_of_band: bool,
    ) -> Result<Value, QmpError> {
        let not_found = |text: String| Err(QmpError::of(ErrorClass::CommandNotFound, text));
        match (self.negotiated.load(Ordering::Relaxed), name == "qmp_capabilities") {
            (false, false) => {
                return not_found(
                    "Expecting capabilities negotiation with 'qmp_capabilities'".into(),
                );
            }
            (true, true) => {
                return not_found(
                    "Capabilities negotiation is already complete, command ignored".into(),
                );
            }
            _ => {}
        }
        let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
            return not_found(format!("The command {name} has not been found"));
        };
        if out_of_band {
            return Err(QmpError::new(format!("The command {name} does not support OOB")));
        }
        (command.run)(&Call { target: &self.target, session: self }, arguments)
    }
}

impl CharClient for Session {
    fn can_receive(&self) -> usize {
        self.port.can_receive()
    }

    fn receive(&self, bytes: &[u8]) {
        // Not locked while commands run: those lead to events, and perhaps to a hang-up.
        let messages = self.input.lock().push(bytes);
        messages.into_iter().for_each(|message| self.answer(message));
    }

    fn event(&self, event: CharEvent) {
        match event {
            CharEvent::Opened if self.port.get().is_some() => self.greet(),
            CharEvent::Closed => {
                self.negotiated.store(false, Ordering::Relaxed);
                self.port.disconnected();
            }
            _ => {}
        }
    }

    fn write_ready(&self) {
        self.port.write_ready();
    }
}
