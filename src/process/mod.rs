//! What becomes of the process around the machine: going to the background, giving up rights,
//! system calls that it may no longer make, memory that stays put.
//!
//! Three steps, as in QEMU: [`Setting::prepare`] before the first thread and before anything is
//! opened for the machine, [`Setting::settle`] when the machine is ready and only runs from there
//! on, and what [`Setting`] undoes when it is dropped.

mod daemon;
mod identity;
mod pid_file;
mod sandbox;
mod teardown;

use machine::config::{ConfigError, MachineConfig, MemLock, Overcommit};
use nix::libc;
use nix::sys::mman::{MlockAllFlags, mlockall};

use daemon::Daemon;
pub use identity::find_user;
use pid_file::PidFile;

/// The process as the command line wants it.
pub struct Setting<'a> {
    config: &'a MachineConfig,
    daemon: Option<Daemon>,
    _pid_file: Option<PidFile>,
}

fn failed(what: &str, error: impl Into<std::io::Error>) -> ConfigError {
    ConfigError::new(format!("{what}: {}", base::report::strerror(&error.into())))
}

impl<'a> Setting<'a> {
    /// Does what has to come before everything else. There must be one thread only. With
    /// `-daemonize` this returns in the child; the parent ends when the child is ready.
    pub fn prepare(config: &'a MachineConfig) -> Result<Self, ConfigError> {
        let process = &config.process;
        let daemon = process.daemonize.then(Daemon::detach).transpose();
        let daemon = daemon.map_err(|error| failed("cannot go to the background", error))?;
        if let Some(name) = &config.identity.process {
            set_name(name)?;
        }
        if process.run_with.async_teardown {
            teardown::start()
                .map_err(|error| failed("cannot start asynchronous teardown", error))?;
        }
        if let Some(rules) = &process.sandbox {
            let becomes_another = process.run_with.user.is_some();
            sandbox::confine(rules, becomes_another)?;
        }
        let pid_file = process.pidfile.as_deref().map(PidFile::create).transpose()?;
        lock_memory(&config.overcommit)?;
        Ok(Setting { config, daemon, _pid_file: pid_file })
    }

    /// Gives up what only setting up the machine needed.
    pub fn settle(&mut self) -> Result<(), ConfigError> {
        let run_with = &self.config.process.run_with;
        if let Some(directory) = &run_with.chroot {
            identity::change_root(directory)?;
        }
        if let Some(user) = &run_with.user {
            identity::become_user(user)?;
            if let Some(rules) = &self.config.process.sandbox {
                sandbox::forbid_elevation(rules)?;
            }
        }
        match self.daemon.take() {
            Some(daemon) => daemon.ready().map_err(|error| failed("cannot detach", error)),
            None => Ok(()),
        }
    }
}

/// `-name process=`
fn set_name(name: &str) -> Result<(), ConfigError> {
    let text = std::ffi::CString::new(name);
    let text = text.map_err(|_| ConfigError::new("a process name cannot contain a zero byte"))?;
    nix::sys::prctl::set_name(&text).map_err(|error| failed("cannot set the process name", error))
}

/// `-overcommit mem-lock=`: all memory of the process, present and future.
fn lock_memory(overcommit: &Overcommit) -> Result<(), ConfigError> {
    let all = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE;
    let flags = match overcommit.mem_lock {
        MemLock::Off => return Ok(()),
        MemLock::On => all,
        // mlock(2): pages are locked as they are faulted in.
        MemLock::OnFault => all | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT),
    };
    mlockall(flags).map_err(|error| {
        base::error_report!("mlockall: {}", base::report::strerror(&error.into()));
        ConfigError::new("locking memory failed")
    })
}

/// The name of a process, as its own command line has it.
pub fn name_of(pid: u32) -> String {
    match std::fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(line) => {
            let name = line.split(|byte| *byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(name).into_owned()
        }
        Err(_) => "<unknown process>".into(),
    }
}
