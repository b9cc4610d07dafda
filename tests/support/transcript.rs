//! Text that a process prints, collected by a thread and waited for by tests.

use anyhow::{Result, bail};
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Default)]
struct Collected {
    text: String,
    closed: bool,
}

/// Everything printed so far, and a place in it up to which it was read.
#[derive(Clone, Default)]
pub(crate) struct Transcript {
    shared: Arc<(Mutex<Collected>, Condvar)>,
    read: usize,
}

impl Transcript {
    /// Collects from `source` until it ends.
    pub(crate) fn collect(mut source: impl Read + Send + 'static) -> Self {
        let transcript = Self::default();
        let writer = transcript.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // An error on a pipe means the same as its end: no more text.
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..count]).replace('\r', "");
                writer.lock().text.push_str(&text);
                writer.shared.1.notify_all();
            }
            writer.lock().closed = true;
            writer.shared.1.notify_all();
        });
        transcript
    }

    fn lock(&self) -> MutexGuard<'_, Collected> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that was printed.
    pub(crate) fn text(&self) -> String {
        self.lock().text.clone()
    }

    /// Waits for `wanted` and returns what was printed up to and with it,
    /// since the end of the last match.
    pub(crate) fn expect(&mut self, wanted: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let unread = &state.text[self.read..];
            if let Some(place) = unread.find(wanted) {
                let end = place + wanted.len();
                let matched = unread[..end].to_owned();
                self.read += end;
                return Ok(matched);
            }
            let remaining = deadline.saturating_duration_since(Instant::now());
            if state.closed || remaining.is_zero() {
                let why = if state.closed { "the output ended" } else { "time ran out" };
                bail!("{why} before {wanted:?}; the last output was:\n{}", tail(unread));
            }
            state = self
                .shared
                .1
                .wait_timeout(state, remaining)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits until no more text can come.
    pub(crate) fn to_end(&self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        while !state.closed {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                bail!("the output did not end; the last of it was:\n{}", tail(&state.text));
            }
            state = self
                .shared
                .1
                .wait_timeout(state, remaining)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(state.text.clone())
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    #[test]
    fn a_match_consumes_up_to_its_end() {
        let mut transcript = Transcript::collect(&b"one\r\ntwo\r\ntwo again\r\n"[..]);
        assert_eq!(transcript.expect("two", SOON).unwrap(), "one\ntwo");
        assert_eq!(transcript.expect("two", SOON).unwrap(), "\ntwo");
        assert_eq!(transcript.to_end(SOON).unwrap(), "one\ntwo\ntwo again\n");
    }

    #[test]
    fn missing_text_is_an_error_that_shows_what_came_instead() {
        let mut transcript = Transcript::collect(&b"something else\n"[..]);
        let error = transcript.expect("wanted", SOON).unwrap_err().to_string();
        assert!(error.contains("the output ended") && error.contains("something else"), "{error}");
    }
}
