//! A visitor's thread: requests one after the other, until one becomes a WebSocket or nobody asks any
//! more. Whatever the visitor does or leaves undone, only this thread waits for it, and not for long.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::input::KeyCode;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;

use super::front::{self, Channel, Outcome, Report};
use super::relay::{MonitorPipe, Relay, TerminalPipe};
use super::server::{Server, Visitor};
use super::typing;
use crate::vnc::Endpoint;
use crate::wire::{Wire, WireError};

/// How long a request may take from its first byte to its last, and the wait for the first request.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How long nobody may ask anything.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// How long an answer may take to be taken.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Between two keys of a text.
const KEY_PACE: Duration = Duration::from_millis(10);

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Vnc(#[from] crate::vnc::VncError),
    #[error("the visitor took too long")]
    TooLong,
}

type Result<T> = std::result::Result<T, ConnectionError>;

/// A visitor's connection.
pub struct Connection {
    pub wire: Wire,
    pub ends: (Endpoint, Endpoint),
    pub server: Arc<Server>,
    pub visitor: Arc<Visitor>,
    /// What has come and is not understood yet.
    pub input: Vec<u8>,
}

impl Connection {
    /// Serves the visitor until one of both has enough.
    pub fn serve(mut self) -> Result<()> {
        let mut limit = REQUEST_LIMIT;
        while let Some(outcome) = self.next_request(limit)? {
            limit = IDLE_LIMIT;
            match outcome {
                Outcome::Answer(answer) => self.send(answer)?,
                Outcome::Last(answer) => return self.send(answer),
                Outcome::Report(report) => {
                    if !self.is_welcome()? {
                        return Ok(());
                    }
                    let report = match report {
                        Report::Machine => self.server.machine(),
                        Report::Figures => self.server.figures(),
                    };
                    self.send(front::json(200, &report))?;
                }
                Outcome::Type(length) => {
                    if !self.is_welcome()? {
                        return Ok(());
                    }
                    let text = self.body(length)?;
                    self.type_text(&text)?;
                }
                Outcome::Open(channel, answer) => {
                    if !self.is_welcome()? {
                        return Ok(());
                    }
                    return self.open(channel, answer);
                }
            }
        }
        Ok(())
    }

    /// Whether there is room for one more who knows the token; else that is said.
    fn is_welcome(&mut self) -> Result<bool> {
        let welcome = self.server.welcome(&self.visitor);
        if !welcome {
            self.send(front::error(503, "Too many connections: see connections=."))?;
        }
        Ok(welcome)
    }

    /// What comes of the next request; nothing if there is none.
    fn next_request(&mut self, patience: Duration) -> Result<Option<Outcome>> {
        let mut deadline = Instant::now() + patience;
        loop {
            if let Some((length, outcome)) = self.server.front().receive(&self.input) {
                self.input.drain(..length);
                return Ok(Some(outcome));
            }
            let started = !self.input.is_empty();
            match self.receive(deadline) {
                Ok(()) => {}
                Err(ConnectionError::Wire(WireError::Closed) | ConnectionError::TooLong)
                    if !started =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
            if !started && !self.input.is_empty() {
                deadline = Instant::now() + REQUEST_LIMIT;
            }
        }
    }

    fn body(&mut self, length: usize) -> Result<String> {
        let deadline = Instant::now() + REQUEST_LIMIT;
        while self.input.len() < length {
            self.receive(deadline)?;
        }
        let body: Vec<u8> = self.input.drain(..length).collect();
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Takes what comes, once something does.
    fn receive(&mut self, deadline: Instant) -> Result<()> {
        if !wait(&self.wire, PollFlags::POLLIN, deadline)? {
            return Err(ConnectionError::TooLong);
        }
        self.wire.receive(&mut self.input)?;
        // Encryption may have something to say of its own.
        self.wire.flush()?;
        Ok(())
    }

    fn send(&mut self, mut bytes: Vec<u8>) -> Result<()> {
        let deadline = Instant::now() + ANSWER_LIMIT;
        self.wire.send(&mut bytes);
        self.wire.flush()?;
        while self.wire.is_sending() {
            if !wait(&self.wire, PollFlags::POLLOUT, deadline)? {
                return Err(ConnectionError::TooLong);
            }
            self.wire.flush()?;
        }
        Ok(())
    }

    /// Types as fast as guests can follow. A visitor who goes ends it.
    fn type_text(&mut self, text: &str) -> Result<()> {
        let server = self.server.clone();
        let input = server.input();
        let (chords, missing) = typing::chords(server.keymap(), text);
        let mut typed = 0;
        for chord in &chords {
            if !input.is_running() {
                break;
            }
            let down = chord.iter().map(|&key| (key, true));
            let strokes: Vec<(KeyCode, bool)> =
                down.chain(chord.iter().rev().map(|&key| (key, false))).collect();
            for (key, down) in strokes {
                input.key(None, key, down);
                std::thread::sleep(KEY_PACE);
            }
            typed += 1;
            if wait(&self.wire, PollFlags::POLLIN, Instant::now())? {
                self.receive(Instant::now())?;
            }
        }
        if typed < chords.len() {
            return self.send(front::error(409, "The guest does not run."));
        }
        let missing: String = missing.iter().collect();
        self.send(front::json(200, &json!({ "typed": typed, "missing": missing })))
    }

    fn open(mut self, channel: Channel, answer: Vec<u8>) -> Result<()> {
        let server = self.server.clone();
        if !self.input.is_empty() {
            // Nobody may speak before the answer (RFC 6455, section 4.1).
            return self.send(front::error(400, ""));
        }
        match channel {
            Channel::Screen(number) => {
                let Ok(console) = server.console(number) else {
                    return self.send(front::error(404, "There is no such screen."));
                };
                self.send(answer)?;
                self.wire.framed();
                Ok(server.screens().serve(self.wire, self.ends, console)?)
            }
            Channel::Terminal(id) => {
                let Some(terminal) = server.terminal(&id) else {
                    return self.send(front::error(404, "There is no such terminal."));
                };
                self.send(answer)?;
                self.wire.framed();
                Relay::new(self.wire, TerminalPipe::new(&terminal)?).run()
            }
            Channel::Monitor(kind) => {
                self.send(answer)?;
                self.wire.framed();
                let (ours, theirs) = UnixStream::pair()?;
                server.host().serve_monitor(kind, theirs);
                Relay::new(self.wire, MonitorPipe::new(ours)?).run()
            }
        }
    }
}

/// Waits until the socket is ready; says whether it is.
fn wait(wire: &Wire, wanted: PollFlags, deadline: Instant) -> Result<bool> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(wire.as_fd(), wanted)];
    match poll(&mut fds, left) {
        Ok(count) => Ok(count > 0),
        // Whoever asked will ask again.
        Err(Errno::EINTR) => Ok(true),
        Err(error) => Err(io::Error::from(error).into()),
    }
}
