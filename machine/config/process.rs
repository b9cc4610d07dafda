//! How the process behaves: what ends it, what it may do, how it speaks.

use base::prop_enum;

prop_enum! {
    /// What a reset by the guest does.
    pub enum OnReboot: "RebootAction", "" {
        /// Resets the machine.
        Reset = "reset",
        /// Ends as on power-off.
        Shutdown = "shutdown",
    }
}

prop_enum! {
    /// What power-off by the guest does.
    pub enum OnShutdown: "ShutdownAction", "" {
        /// Ends the program.
        Poweroff = "poweroff",
        /// Stops the machine and stays.
        Pause = "pause",
    }
}

prop_enum! {
    /// What a panic of the guest does.
    pub enum OnPanic: "PanicAction", "" {
        /// Ends as on power-off.
        Shutdown = "shutdown",
        /// Stops the machine.
        Pause = "pause",
        /// Ends with a failure status.
        ExitFailure = "exit-failure",
        /// Nothing.
        None = "none",
    }
}

prop_enum! {
    /// What an expired watchdog does.
    pub enum OnWatchdog: "WatchdogAction", "" {
        /// Resets the machine.
        Reset = "reset",
        /// Asks the guest to power off.
        Shutdown = "shutdown",
        /// Powers off.
        Poweroff = "poweroff",
        /// Stops the machine.
        Pause = "pause",
        /// Prints a message.
        Debug = "debug",
        /// Nothing.
        None = "none",
        /// Injects a non-maskable interrupt.
        InjectNmi = "inject-nmi",
    }
}

/// `-no-reboot`, `-no-shutdown`, `-action`, `-watchdog-action`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// On reset by the guest.
    pub reboot: OnReboot,
    /// On power-off by the guest.
    pub shutdown: OnShutdown,
    /// On a panic of the guest.
    pub panic: OnPanic,
    /// On an expired watchdog.
    pub watchdog: OnWatchdog,
}

/// How the process itself behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessConfig {
    /// `-daemonize`
    pub daemonize: bool,
    /// `-pidfile`
    pub pidfile: Option<String>,
    /// `-run-with`
    pub run_with: RunWith,
    /// `-sandbox`, if on
    pub sandbox: Option<Sandbox>,
    /// `-add-fd`
    pub fds: Vec<AddFd>,
}

/// `-run-with`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunWith {
    /// Whether memory is given back after the process has ended.
    pub async_teardown: bool,
    /// The directory to change root to.
    pub chroot: Option<String>,
    /// The user to become.
    pub user: Option<RunAs>,
}

/// A user to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The user's name, whose other groups come along.
    pub name: Option<String>,
}

/// `-sandbox on`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Whether obsolete system calls are denied.
    pub deny_obsolete: bool,
    /// Whether becoming another user is denied.
    pub elevate: SandboxElevate,
    /// Whether new processes are denied.
    pub deny_spawn: bool,
    /// Whether setting affinity and priorities is denied.
    pub deny_resource_control: bool,
}

prop_enum! {
    /// Whether becoming another user is denied.
    pub enum SandboxElevate: "str", "" {
        /// Allowed.
        Allow = "allow",
        /// Denied.
        Deny = "deny",
        /// Denied to this process, allowed to those it starts.
        Children = "children",
    }
}

/// `-add-fd`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddFd {
    /// The descriptor, inherited.
    pub fd: i32,
    /// The set it joins.
    pub set: u64,
    /// A remark that monitors show.
    pub opaque: Option<String>,
}

/// `-msg`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// Whether messages begin with the time.
    pub timestamp: bool,
    /// Whether messages begin with the guest's name.
    pub guest_name: bool,
}

/// `-overcommit`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overcommit {
    /// Whether memory is locked.
    pub mem_lock: MemLock,
    /// Whether guests may put host CPUs to sleep.
    pub cpu_pm: bool,
}

prop_enum! {
    /// Whether memory is locked.
    pub enum MemLock: "str", "" {
        /// No.
        Off = "off",
        /// All of it, at once.
        On = "on",
        /// What is touched.
        OnFault = "on-fault",
    }
}
