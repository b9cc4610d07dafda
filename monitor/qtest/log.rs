//! `-qtest-log`: every line with the time since the client connected.

use std::fs::File;
use std::io::{self, Write};

use parking_lot::Mutex;

use base::clock::{ClockKind, Clocks, SECOND};

/// Where the conversation is written down.
pub struct Log {
    clocks: Clocks,
    state: Mutex<State>,
}

struct State {
    output: Option<Box<dyn Write + Send>>,
    since: i64,
}

impl Log {
    /// Standard error without a path, nothing for `none`, else a new file.
    pub fn open(path: Option<&str>, clocks: &Clocks) -> io::Result<Self> {
        let output: Option<Box<dyn Write + Send>> = match path {
            None => Some(Box::new(io::stderr())),
            Some("none") => None,
            Some(path) => Some(Box::new(File::create(path)?)),
        };
        Ok(Log { clocks: clocks.clone(), state: Mutex::new(State { output, since: 0 }) })
    }

    /// Something happened; times count from here.
    pub(super) fn note(&self, what: &str) {
        let now = self.clocks.now(ClockKind::Host);
        self.state.lock().since = now;
        self.write('I', now, what);
    }

    pub(super) fn received(&self, line: &str) {
        self.write('R', self.clocks.now(ClockKind::Host), line);
    }

    pub(super) fn sent(&self, line: &str) {
        self.write('S', self.clocks.now(ClockKind::Host), line);
    }

    fn write(&self, kind: char, now: i64, text: &str) {
        let mut state = self.state.lock();
        let passed = now - state.since;
        let (sign, time) = if passed == 0 { ("", now) } else { ("+", passed) };
        let (seconds, micros) = (time / SECOND, time % SECOND / 1000);
        if let Some(output) = &mut state.output {
            // A log that cannot be written is not worth ending a test for.
            let _ = writeln!(output, "[{kind} {sign}{seconds}.{micros:06}] {text}");
        }
    }
}
