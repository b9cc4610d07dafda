//! What the machine as a whole is doing.

use block::backend::Event as BlockEvent;

use net::netdev::NetEvent;

use crate::config::OnWatchdog;

/// The machine's state, as `query-status` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum RunState {
    /// Not started yet (`-S`).
    #[default]
    PreLaunch,
    Running,
    Paused,
    /// Suspended to RAM.
    Suspended,
    /// Powered off, but kept because of `-no-shutdown`.
    Shutdown,
    GuestPanicked,
    /// Stopped by a watchdog.
    Watchdog,
    /// A disk request failed, and the operator wants that to stop the machine.
    IoError,
    /// A processor failed in a way that cannot be continued from.
    InternalError,
}

impl RunState {
    /// All states.
    pub const ALL: &'static [RunState] = &[
        RunState::PreLaunch,
        RunState::Running,
        RunState::Paused,
        RunState::Suspended,
        RunState::Shutdown,
        RunState::GuestPanicked,
        RunState::Watchdog,
        RunState::IoError,
        RunState::InternalError,
    ];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            RunState::PreLaunch => "prelaunch",
            RunState::Running => "running",
            RunState::Paused => "paused",
            RunState::Suspended => "suspended",
            RunState::Shutdown => "shutdown",
            RunState::GuestPanicked => "guest-panicked",
            RunState::Watchdog => "watchdog",
            RunState::IoError => "io-error",
            RunState::InternalError => "internal-error",
        }
    }

    /// Whether guest time runs. A suspended machine's clock runs: timers wake it up.
    pub fn runs(self) -> bool {
        matches!(self, RunState::Running | RunState::Suspended)
    }

    /// Whether only a reset brings the machine back to life.
    pub fn needs_reset(self) -> bool {
        matches!(self, RunState::Shutdown | RunState::GuestPanicked | RunState::InternalError)
    }
}

/// Why the machine shuts down or resets, as events name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Cause {
    HostQmpQuit,
    HostQmpSystemReset,
    HostSignal,
    HostUi,
    GuestShutdown,
    GuestReset,
    GuestPanic,
}

impl Cause {
    /// All causes.
    pub const ALL: &'static [Cause] = &[
        Cause::HostQmpQuit,
        Cause::HostQmpSystemReset,
        Cause::HostSignal,
        Cause::HostUi,
        Cause::GuestShutdown,
        Cause::GuestReset,
        Cause::GuestPanic,
    ];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Cause::HostQmpQuit => "host-qmp-quit",
            Cause::HostQmpSystemReset => "host-qmp-system-reset",
            Cause::HostSignal => "host-signal",
            Cause::HostUi => "host-ui",
            Cause::GuestShutdown => "guest-shutdown",
            Cause::GuestReset => "guest-reset",
            Cause::GuestPanic => "guest-panic",
        }
    }

    /// Whether the guest did it.
    pub fn by_guest(self) -> bool {
        matches!(self, Cause::GuestShutdown | Cause::GuestReset | Cause::GuestPanic)
    }
}

/// What monitors tell their clients.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum VmEvent {
    Stop,
    Resume,
    Shutdown(Cause),
    Reset(Cause),
    PowerDown,
    Suspend,
    SuspendDisk,
    WakeUp,
    /// `pause`, `poweroff` or `run`: what is done about the panic.
    GuestPanicked(&'static str),
    GuestCrashLoaded,
    /// A watchdog expired; what is done about it.
    Watchdog(OnWatchdog),
    /// A device has gone.
    DeviceDeleted {
        /// Its id, if it had one and is no part of another.
        id: Option<String>,
        /// Its path.
        path: String,
    },
    /// The guest set its clock; seconds off the host's.
    RtcChange(i64),
    /// A network card lets other frames through than before.
    NicRxFilterChanged {
        /// Its id, or a name that was made up.
        name: String,
        /// Its path.
        path: String,
    },
    /// Something happened to the connection of a network.
    Net(NetEvent),
    /// Something happened to a disk.
    Block(BlockEvent),
    /// Something happened to a viewer.
    Vnc(ui::vnc::Event),
}
