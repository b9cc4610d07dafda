//! A client of the QEMU Machine Protocol.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

/// A connection in command mode.
pub struct Qmp {
    reader: BufReader<UnixStream>,
    greeting: Value,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Reads the greeting and negotiates capabilities.
    pub fn new(stream: UnixStream) -> Result<Self> {
        let reader = BufReader::new(stream);
        let mut qmp = Self { reader, greeting: Value::Null, events: VecDeque::new() };
        qmp.greeting = qmp.receive()?;
        if qmp.greeting["QMP"].is_null() {
            bail!("not a QMP greeting: {}", qmp.greeting);
        }
        qmp.execute("qmp_capabilities")?;
        Ok(qmp)
    }

    /// The connection, for those who pass descriptors by it.
    pub fn stream(&self) -> &UnixStream {
        self.reader.get_ref()
    }

    /// The server's greeting.
    pub fn greeting(&self) -> &Value {
        &self.greeting
    }

    /// Executes a command without arguments.
    pub fn execute(&mut self, command: &str) -> Result<Value> {
        self.execute_with(command, json!({}))
    }

    /// Executes a command; an error reply becomes `class: description`.
    pub fn execute_with(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let reply = self.call(&json!({ "execute": command, "arguments": arguments }))?;
        match reply.get("error") {
            None => Ok(reply["return"].clone()),
            Some(error) => {
                let text = |key: &str| error[key].as_str().unwrap_or("?").to_owned();
                Err(anyhow!("{}: {}", text("class"), text("desc")))
            }
        }
    }

    /// Runs a command of the human monitor and returns its text.
    pub fn hmp(&mut self, command: &str) -> Result<String> {
        let reply =
            self.execute_with("human-monitor-command", json!({ "command-line": command }))?;
        Ok(reply.as_str().unwrap_or_default().replace('\r', ""))
    }

    /// Sends any object and returns the whole reply to it.
    pub fn call(&mut self, request: &Value) -> Result<Value> {
        let stream = self.reader.get_mut();
        stream.write_all(format!("{request}\n").as_bytes()).context("cannot send to QMP")?;
        loop {
            let message = self.receive()?;
            if message.get("event").is_none() {
                return Ok(message);
            }
            self.events.push_back(message);
        }
    }

    /// Waits for an event; events before it are dropped.
    pub fn wait_event(&mut self, name: &str) -> Result<Value> {
        loop {
            let message = match self.events.pop_front() {
                Some(event) => event,
                None => self.receive().with_context(|| format!("waiting for {name}"))?,
            };
            if message["event"] == name {
                return Ok(message);
            }
        }
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line).context("no answer from QMP")? == 0 {
            bail!("the QMP connection was closed");
        }
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }
}
