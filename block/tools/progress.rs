//! How far a job has come: as QEMU prints it, and on SIGUSR1; for people at a terminal, with rate and time
//! left.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;

use super::output::Output;
use super::text;

/// What has been done, in hundredths of a percent; shared with who waits for the signal.
type Done = Arc<AtomicU64>;

/// The progress of one job.
pub(super) struct Progress {
    shown: bool,
    terminal: bool,
    total: u64,
    done: u64,
    last: f64,
    began: Instant,
    percent: Done,
    _watcher: Option<OwnedFd>,
}

/// How much further it must be for another line.
const STEP: f64 = 1.0;

impl Progress {
    /// Of a job of `total` bytes.
    pub(super) fn new(shown: bool, total: u64, output: &mut Output<'_>) -> Self {
        let percent = Done::default();
        let _watcher = watch_signal(percent.clone());
        let mut progress = Self {
            shown,
            terminal: output.is_terminal(),
            total,
            done: 0,
            last: 0.0,
            began: Instant::now(),
            percent,
            _watcher,
        };
        progress.print(0.0, output);
        progress
    }

    /// Whether anybody sees it.
    pub(super) fn is_shown(&self) -> bool {
        self.shown
    }

    /// Now it is known how much there is to do.
    pub(super) fn set_total(&mut self, total: u64) {
        self.total = total;
    }

    /// More bytes are done.
    pub(super) fn advance(&mut self, bytes: u64, output: &mut Output<'_>) {
        self.done += bytes;
        let percent = self.done as f64 * 100.0 / self.total.max(1) as f64;
        self.show(percent.min(100.0), output);
    }

    /// So much of all is done, from 0 to 1. The very beginning shows, too.
    pub(super) fn set(&mut self, part: f64, output: &mut Output<'_>) {
        if part == 0.0 {
            return self.print(0.0, output);
        }
        self.show(part * 100.0, output);
    }

    fn show(&mut self, percent: f64, output: &mut Output<'_>) {
        if percent - self.last > STEP || percent >= 100.0 {
            self.print(percent, output);
        }
    }

    /// All is done.
    pub(super) fn finish(mut self, output: &mut Output<'_>) {
        self.print(100.0, output);
        self.end(output);
    }

    /// No more is to come, wherever it has stopped.
    pub(super) fn end(self, output: &mut Output<'_>) {
        if self.shown {
            output.print("\n");
        }
    }

    fn print(&mut self, percent: f64, output: &mut Output<'_>) {
        self.last = percent;
        self.percent.store((percent * 100.0) as u64, Ordering::Relaxed);
        if !self.shown {
            return;
        }
        output.print(&format!("    ({percent:.2}/100%)"));
        if self.terminal {
            output.print(&self.pace());
        }
        output.print("\r");
        output.flush();
    }

    /// `  230 MiB/s, 0:12 left`
    fn pace(&self) -> String {
        let took = self.began.elapsed();
        if self.done == 0 || took < Duration::from_millis(500) {
            return String::new();
        }
        let rate = self.done as f64 / took.as_secs_f64();
        let left = self.total.saturating_sub(self.done) as f64 / rate.max(1.0);
        let (minutes, seconds) = (left as u64 / 60, left as u64 % 60);
        format!("  {}/s, {minutes}:{seconds:02} left    ", text::size(rate as u64))
    }
}

/// Tells on standard error how far it is whenever SIGUSR1 comes, until the end of the pipe that is
/// returned is dropped. Without the thread, only the signal goes unanswered.
fn watch_signal(percent: Done) -> Option<OwnedFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGUSR1);
    // Threads started from here on leave the signal to the watcher.
    signals.thread_block().ok()?;
    let signals = SignalFd::new(&signals).ok()?;
    let (end, ours) = nix::unistd::pipe().ok()?;
    let watch = move || loop {
        let mut wait = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(end.as_fd(), PollFlags::POLLIN),
        ];
        if poll(&mut wait, PollTimeout::NONE).is_err() || wait[1].any() != Some(false) {
            return;
        }
        if signals.read_signal().is_ok() {
            eprintln!("    ({:.2}/100%)", percent.load(Ordering::Relaxed) as f64 / 100.0);
        }
    };
    std::thread::Builder::new().name("progress".into()).spawn(watch).ok()?;
    Some(ours)
}
