//! Signals as a source of events.
//!
//! A signal reaches the loop only if no thread has it unblocked: the program calls
//! [`block_signals`] before it starts threads. Child processes are not affected, since the
//! standard library gives them an empty mask.

use std::io;

use nix::sys::signal::SigSet;
pub use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::{LoopHandle, Watch};

/// A signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalInfo {
    /// Which one.
    pub signal: Signal,
    /// The process that sent it, zero if the kernel did.
    pub pid: u32,
}

/// Blocks signals in this thread and in those that it starts from now on.
pub fn block_signals(signals: &[Signal]) -> io::Result<()> {
    Ok(set_of(signals).thread_block()?)
}

fn set_of(signals: &[Signal]) -> SigSet {
    signals.iter().copied().collect()
}

impl LoopHandle {
    /// Blocks `signals` in this thread and calls `handler` on the loop's thread when one arrives,
    /// until the returned watch is dropped.
    pub fn on_signals(
        &self,
        signals: &[Signal],
        handler: impl Fn(SignalInfo) + Send + Sync + 'static,
    ) -> io::Result<Watch> {
        block_signals(signals)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let fd = std::sync::Arc::new(SignalFd::with_flags(&set_of(signals), flags)?);
        let source = fd.clone();
        let watch = self.watch(source, move |_| {
            while let Ok(Some(info)) = fd.read_signal() {
                let number = i32::try_from(info.ssi_signo).ok();
                if let Some(signal) = number.and_then(|n| Signal::try_from(n).ok()) {
                    handler(SignalInfo { signal, pid: info.ssi_pid });
                }
            }
        });
        watch.want_read(true)?;
        Ok(watch)
    }
}
