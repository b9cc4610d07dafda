//! What a device may ask of the machine as a whole.

use std::sync::Arc;

/// A wish of the guest that concerns the whole machine. Taken note of at once, carried out later on
/// the main loop, when no device is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Reset everything.
    Reset,
    /// Power off (ACPI S5, or whatever the platform has).
    PowerOff,
    /// Leave with an exit status (a debugging aid).
    Exit(i32),
    /// Suspend to RAM (ACPI S3).
    Suspend,
    /// Suspend to disk (ACPI S4): power off, but say why.
    SuspendToDisk,
    /// Wake up from S3, if that is where the machine is.
    WakeUp(WakeReason),
    /// The guest says that it has crashed.
    Panicked,
    /// A watchdog has waited for a sign of life in vain.
    WatchdogExpired,
    /// The guest says that it has crashed and loads a crash kernel.
    CrashLoaded,
    /// What ran in firmware's stead is done; the kernel is to start.
    StartKernel,
}

impl Request {
    /// Whether the processors do not simply go on from where they are when this was asked for.
    pub fn ends_the_run(self) -> bool {
        match self {
            Request::Reset
            | Request::PowerOff
            | Request::Exit(_)
            | Request::Suspend
            | Request::SuspendToDisk
            | Request::StartKernel => true,
            Request::WakeUp(_)
            | Request::Panicked
            | Request::WatchdogExpired
            | Request::CrashLoaded => false,
        }
    }
}

/// What wakes a machine up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeReason {
    /// The alarm of the real-time clock.
    Rtc,
    /// The power-management timer.
    Timer,
    /// The operator.
    Operator,
}

/// Takes requests; may be called with a device's lock held.
#[derive(Clone)]
pub struct RequestSink(Arc<dyn Fn(Request) + Send + Sync>);

impl RequestSink {
    /// A sink that calls `take`, which must not call devices.
    pub fn new(take: impl Fn(Request) + Send + Sync + 'static) -> Self {
        RequestSink(Arc::new(take))
    }
    /// A sink for tests and boards that ignore requests.
    pub fn ignore() -> Self {
        Self::new(|_| ())
    }
    /// Asks.
    pub fn send(&self, request: Request) {
        (self.0)(request);
    }
}
